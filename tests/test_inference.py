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


def test_the_papers_rnn_retrieval_is_not_established():
    """3 or 4 errors among 80 queries."""
    for errors, p in ((3, 0.428), (4, 0.629)):
        assert inference.p_error_at_least(errors, 80, 0.05) == pytest.approx(p, abs=0.001)
    assert inference.smallest_n(3, 80, 0.05) > 80
    assert inference.smallest_n(4, 80, 0.05) is None  # 5 % is no error below 5 %


def test_two_sided_by_hand():
    """One head of ten, or none, or nine, or ten."""
    assert inference.p_chance_two_sided(9, 10, 0.5) == pytest.approx(22 / 1024)
    assert inference.p_chance_two_sided(1, 10, 0.5) == pytest.approx(22 / 1024)
    assert inference.p_chance_two_sided(5, 10, 0.5) == 1


def test_mcnemar_by_hand():
    """Ten discordant pairs, two of one kind: 2 (1 + 10 + 45) / 1024. SAS's and R's textbook tables beside it."""
    assert inference.p_mcnemar(2, 8) == inference.p_mcnemar(8, 2) == pytest.approx(112 / 1024)
    assert inference.p_mcnemar(0, 0) == inference.p_mcnemar(5, 5) == 1
    assert inference.p_mcnemar(0, 6) == pytest.approx(2 / 64)
    assert inference.p_mcnemar(86, 150) == pytest.approx(3.716e-5, rel=1e-3)  # approval ratings, Agresti 1990
    with pytest.raises(ValueError, match=r"want counts of at least 0, got -1 and 2"):
        inference.p_mcnemar(-1, 2)


@pytest.mark.parametrize("level", [0.05, 0.05 / 3])
@pytest.mark.parametrize(("errors", "n"), [(0, 7), (15, 400), (3, 80), (1, 1000), (2, 59), (19, 400), (39, 800)])
def test_smallest_n_by_trying_every_n(errors, n, level):
    m = np.arange(1, 200_000)
    most = -(-m * errors // n)
    enough = stats.binom.cdf(most, m, 0.05) <= level
    assert inference.smallest_n(errors, n, 0.05, level) == m[enough.argmax()]


@pytest.mark.parametrize("alpha", [0.02, 0.3, 0.8])
def test_smallest_n_of_every_small_count(alpha):
    m = np.arange(1, 20_000)
    for n in range(1, 25):
        for errors in range(int(0.9 * alpha * n) + 1):
            for level in (0.01, 0.5):
                enough = stats.binom.cdf(-(-m * errors // n), m, alpha) <= level
                assert enough.any()
                assert inference.smallest_n(errors, n, alpha, level) == m[enough.argmax()]


def test_smallest_n_of_a_rate_just_below_alpha():
    """Millions of networks, not tried one by one; beyond a billion, none."""
    for errors, n, alpha in ((399, 8000, 0.05), (1, 30, 0.0334)):
        needed = inference.smallest_n(errors, n, alpha)
        assert 5e6 < needed < 5e7
        p = [inference.p_error_at_least(-(-m * errors // n), m, alpha) for m in (needed - 1, needed)]
        assert p[1] <= 0.05 < p[0]
    assert inference.smallest_n(1, 30, 0.03334) is None
    assert inference.smallest_n(0, 30, 1e-9) is None


def test_smallest_n_without_errors_is_the_rule_of_three():
    assert inference.smallest_n(0, 1, 0.05) == 59
    assert inference.smallest_n(0, 1, 0.01) == 299
    assert inference.smallest_n(0, 1, 0.5, 0.5) == 1
    assert inference.smallest_n(1, 2, 0.5) is None


def test_bootstrap_by_task():
    """Tasks of one network each: nearly the exact interval. Errors that share a task: a much wider one."""
    right, alone = np.arange(400) % 5 > 0, np.arange(400)
    low, high = inference.bootstrap_by_task(right, alone)
    np.testing.assert_allclose((low, high), stats.binom.ppf([0.025, 0.975], 400, 0.8) / 400, atol=0.008)
    tasks = np.repeat(np.arange(20), 20)
    wide = inference.bootstrap_by_task(tasks % 5 > 0, tasks)
    assert wide[1] - wide[0] > 3 * (high - low)
    assert inference.bootstrap_by_task(right, np.zeros(400, int)) == (0.8, 0.8)
    assert inference.bootstrap_by_task(np.ones(9, bool), np.arange(9)) == (1, 1)
    assert inference.bootstrap_by_task(right, alone) == (low, high)
    assert inference.bootstrap_by_task(right, alone, seed=1) != (low, high)


def test_bootstrap_weighs_tasks_by_their_networks():
    """Nine right of a task of nine, one wrong of a task of one: draws are 1, 0.9 or 0."""
    right, tasks = np.arange(10) < 9, np.array([4] * 9 + [7])
    assert inference.bootstrap_by_task(right, tasks) == (0, 1)
    assert inference.bootstrap_by_task(right, tasks, level=0.2) == (0.9, 0.9)


def test_bootstrap_of_a_mean_is_in_its_units():
    values, tasks = np.array([-3.0, -1, 7, 7]), np.array([5, 5, 2, 2])
    assert inference.bootstrap_by_task(values, tasks) == (-2, 7)
    moved = inference.bootstrap_by_task(10 * values + 1, tasks)
    assert moved == (-19, 71)


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
