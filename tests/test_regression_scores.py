import numpy as np
import pytest
from scipy import stats
from sklearn.metrics import r2_score

from wsfast.inference import draw_tasks
from wsfast.regression_scores import _r2, _tau_b, scored


def case(n, tasks):
    rng = np.random.default_rng([n, tasks])
    truth = rng.integers(0, 9, n) / 9 + 3.0  # with ties, and far from zero
    return truth, np.round(truth + rng.standard_normal(n) / 3, 1), rng.permutation(np.arange(n) % tasks)


@pytest.mark.parametrize(("n", "tasks"), [(2, 2), (31, 1), (57, 5), (200, 20)])
def test_they_are_scipys_and_scikit_learns(n, tasks):
    truth, found, labels = case(n, tasks)
    s = scored(truth, found, labels, resamples=50)
    assert s["r2"] == pytest.approx(r2_score(truth, found), abs=1e-10)
    assert s["tau"] == pytest.approx(stats.kendalltau(truth, found).statistic, abs=1e-12)


def test_resamples_are_scores_of_resampled_networks():
    """Sums over tasks are those of the networks themselves, drawn and listed as often as their task."""
    truth, found, labels = case(60, 6)
    codes, drawn = draw_tasks(labels, 20, 3)
    r2, tau = _r2(truth, found, codes)(drawn), _tau_b(truth, found, codes)(drawn)
    for i, counts in enumerate(drawn):
        listed = np.repeat(np.arange(60), counts[codes])
        assert r2[i] == pytest.approx(r2_score(truth[listed], found[listed]), abs=1e-10)
        assert tau[i] == pytest.approx(stats.kendalltau(truth[listed], found[listed]).statistic, abs=1e-12)
    s = scored(truth, found, labels, resamples=20, seed=3)
    assert s["r2_95"] == pytest.approx(np.quantile(r2, [0.025, 0.975]).tolist())
    assert s["tau_95"] == pytest.approx(np.quantile(tau, [0.025, 0.975]).tolist())


def test_networks_are_drawn_where_there_is_one_task():
    truth, found, _ = case(40, 1)
    assert scored(truth, found, np.zeros(40, int)) == scored(truth, found, np.arange(40))
    low, high = scored(truth, found, np.zeros(40, int))["tau_95"]
    assert low < scored(truth, found, np.zeros(40, int))["tau"] < high


def test_what_has_no_value_is_none():
    truth, found, labels = case(30, 3)
    constant = scored(truth, np.full(30, truth.mean()), labels)
    assert (constant["tau"], constant["tau_95"]) == (None, None)
    assert constant["r2"] == pytest.approx(0, abs=1e-12)
    same = scored(np.full(30, 0.1), found, labels)
    assert [same[k] for k in ("r2", "r2_95", "tau", "tau_95")] == [None] * 4
    perfect = scored(truth, 2 * truth, labels)
    assert perfect["tau"] == pytest.approx(1)
    assert perfect["r2"] < 0
