import tracemalloc

import numpy as np
import pytest
from scipy import stats

from wsfast import distance
from wsfast.distance import QUANTILES, permanova, spread


def population(counts=(3, 1, 7, 5), d=4, signal=1.0):
    rng = np.random.default_rng([len(counts), d])
    labels = rng.permutation(np.repeat(np.arange(len(counts)), counts)) * 3 + 2
    x = rng.standard_normal((len(labels), d)) + signal * labels[:, None] / len(counts)
    return x, labels


def andersons(x, labels):
    """Anderson 2001, eq. 1 to 4: sums of squared distances, pair by pair."""
    n, tasks = len(x), np.unique(labels)
    square = ((x[:, None] - x[None]) ** 2).sum(axis=2)
    total = square[np.triu_indices(n, 1)].sum() / n
    within = 0.0
    for task in tasks:
        own = np.flatnonzero(labels == task)
        within += square[np.ix_(own, own)][np.triu_indices(len(own), 1)].sum() / len(own)
    between = total - within
    return between / (len(tasks) - 1) / (within / (n - len(tasks))), between / total


@pytest.mark.parametrize(("counts", "d"), [((3, 1, 7, 5), 4), ((2, 2), 1), ((20,) * 6, 9)])
def test_it_is_andersons_formula(counts, d):
    x, labels = population(counts, d)
    f, r2 = andersons(x, labels)
    found = permanova(x @ x.T, labels)
    assert found["pseudo_f"] == pytest.approx(f, rel=1e-9)
    assert found["r2"] == pytest.approx(r2, rel=1e-9)
    assert "p" not in found


def test_in_one_dimension_it_is_analysis_of_variance():
    x, labels = population(d=1, signal=0.3)
    want = stats.f_oneway(*(x[labels == task, 0] for task in np.unique(labels))).statistic
    assert permanova(x @ x.T, labels)["pseudo_f"] == pytest.approx(want, rel=1e-9)


def test_p_is_the_share_of_labelings_that_explain_as_much():
    """Four networks, two a task: a third of all labelings splits them like this one."""
    x = np.array([[0.0], [0.1], [1.0], [1.1]])
    found = permanova(x @ x.T, np.array([0, 0, 1, 1]), permutations=3000)
    assert found["p"] == pytest.approx(1 / 3, abs=0.03)


def test_labelings_that_explain_the_same_are_ties_whatever_the_order_of_their_sums():
    """Twelve networks of two kinds: only 20 x 20 of 924 labelings mix them more evenly than this one."""
    x = np.random.default_rng(1).standard_normal((2, 5))[[0, 0, 1, 1] * 3]
    found = permanova(x @ x.T, np.repeat([0, 1], 6), permutations=3000)
    assert found["p"] == pytest.approx(1 - 400 / 924, abs=0.03)


def test_signal_noise_and_the_seed():
    x, labels = population((12,) * 5, signal=1.0)
    assert permanova(x @ x.T, labels, 199)["p"] == 1 / 200
    x, labels = population((12,) * 5, signal=0.0)
    found = permanova(x @ x.T, labels, 199)
    assert found["p"] > 0.02
    assert found["r2"] == pytest.approx(found["r2_chance"], abs=0.1)
    assert permanova(x @ x.T, labels, 199) == found
    assert permanova(x @ x.T, labels, 199, seed=1) != found


def test_r2_by_chance_is_its_mean_over_labelings():
    x, labels = population()
    rng = np.random.default_rng(0)
    mean = np.mean([permanova(x @ x.T, rng.permutation(labels))["r2"] for _ in range(3000)])
    assert permanova(x @ x.T, labels)["r2_chance"] == 3 / 15 == pytest.approx(mean, abs=0.01)


def test_memory_does_not_grow_with_the_square_of_a_task_times_the_labelings(monkeypatch):
    labels = np.repeat([0, 1], [400, 5])
    x = np.random.default_rng(0).standard_normal((405, 3))
    kernel = x @ x.T
    at_once = permanova(kernel, labels, 50)
    monkeypatch.setattr(distance, "_ENTRIES", 400 * 400)
    tracemalloc.start()
    try:
        assert permanova(kernel, labels, 50) == at_once
        assert tracemalloc.get_traced_memory()[1] < 4 * kernel.nbytes
    finally:
        tracemalloc.stop()


def test_p_under_the_null_is_uniform():
    labels = np.repeat(np.arange(4), 5)
    p = []
    for seed in range(200):
        x = np.random.default_rng(seed).standard_normal((20, 3))
        p.append(permanova(x @ x.T, labels, 39, seed)["p"])
    assert np.mean(np.array(p) <= 0.1) == pytest.approx(0.1, abs=0.06)
    assert np.mean(p) == pytest.approx(0.51, abs=0.06)


def test_networks_that_are_all_alike():
    found = permanova(np.full((6, 6), 0.1), np.repeat([0, 1], 3), 49)
    assert (found["pseudo_f"], found["r2"], found["p"]) == (None, None, 1)
    twins = permanova(np.kron(np.eye(2), np.ones((3, 3))), np.repeat([0, 1], 3), 49)
    assert (twins["pseudo_f"], twins["r2"]) == (None, 1)


def test_too_few():
    for labels in (np.zeros(4, int), np.arange(4)):
        with pytest.raises(ValueError, match=r"want at least 2 tasks and a task with 2 networks, got 4 networks"):
            permanova(np.eye(4), labels)


def test_spread_by_hand():
    kernel = np.array([[1, 0.9, 0.1, 0.3], [0.9, 1, 0.2, 0.4], [0.1, 0.2, 1, 0.5], [0.3, 0.4, 0.5, 1]])
    found = spread(kernel, np.array([7, 7, 1, 1]))
    np.testing.assert_allclose(found["within"], np.quantile([0.1, 0.5], QUANTILES))
    np.testing.assert_allclose(found["between"], np.quantile([0.9, 0.7, 0.8, 0.6], QUANTILES))
