import numpy as np
import pytest
from scipy import stats

from wsfast import inference


@pytest.mark.parametrize(("errors", "n"), [(0, 1), (0, 80), (3, 720), (15, 400), (80, 80), (41, 80)])
def test_intervals_are_scipys(errors, n):
    peer = stats.binomtest(errors, n)
    for ours, method in ((inference.clopper_pearson, "exact"), (inference.wilson, "wilson")):
        for level in (0.95, 0.8):
            want = peer.proportion_ci(level, method=method)
            np.testing.assert_allclose(ours(errors, n, level), (want.low, want.high), atol=1e-12)
    low, high = inference.clopper_pearson(errors, n)
    assert low <= errors / n <= high


@pytest.mark.parametrize(("errors", "n"), [(0, 80), (3, 720), (15, 400), (400, 400)])
def test_p_values_are_scipys(errors, n):
    want = stats.binomtest(errors, n, 0.05, alternative="less").pvalue
    assert inference.p_error_at_least(errors, n, 0.05) == pytest.approx(want, rel=1e-9)
    want = stats.binomtest(n - errors, n, 0.02, alternative="greater").pvalue
    assert inference.p_chance(errors, n, 0.02) == pytest.approx(want, rel=1e-9)


def test_the_papers_own_counts():
    """Retrieval of CNN chain 2, 15 errors of 400: not established; unnormalised MLP layer 2, 2.4 % of 2,000: chance."""
    assert inference.p_error_at_least(15, 400, 0.05) == pytest.approx(0.15, abs=0.005)
    assert inference.p_chance(2000 - 48, 2000, 0.02) == pytest.approx(0.12, abs=0.01)
    assert inference.p_error_at_least(0, 80, 0.05) < 0.05 < inference.p_error_at_least(1, 80, 0.05)


def test_holm_by_hand():
    np.testing.assert_allclose(inference.holm([0.01, 0.04, 0.03]), [0.03, 0.06, 0.06])
    np.testing.assert_allclose(inference.holm([0.5, 0.9]), [1.0, 1.0])
    assert inference.holm([0.2]) == [0.2]


def test_permutation_p_counts_the_observed_one():
    assert inference.p_permutation(0.9, np.array([0.1, 0.2, 0.9])) == 0.5
    assert inference.p_permutation(0.9, np.zeros(199)) == 1 / 200


@pytest.mark.parametrize("call", [inference.clopper_pearson, inference.wilson])
@pytest.mark.parametrize(("errors", "n"), [(-1, 5), (6, 5), (0, 0)])
def test_impossible_counts(call, errors, n):
    with pytest.raises(ValueError, match=r"want 0 <= errors <= n"):
        call(errors, n)
