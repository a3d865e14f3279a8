"""What an error count allows one to say: intervals, exact p-values, power, corrections for several tests."""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from scipy import special, stats

MOST_NETWORKS = 10**9  # that a power calculation asks for


def _counts(name: str, errors: int, n: int) -> None:
    if n < 1 or not 0 <= errors <= n:
        raise ValueError(f"{name}: want 0 <= errors <= n and n >= 1, got errors={errors}, n={n}")


def clopper_pearson(errors: int, n: int, level: float = 0.95) -> tuple[float, float]:
    """Exact two-sided confidence interval of a binomial rate (Clopper and Pearson 1934)."""
    _counts("clopper_pearson", errors, n)
    tail = (1 - level) / 2
    low = 0.0 if errors == 0 else float(stats.beta.ppf(tail, errors, n - errors + 1))
    high = 1.0 if errors == n else float(stats.beta.ppf(1 - tail, errors + 1, n - errors))
    return low, high


def wilson(errors: int, n: int, level: float = 0.95) -> tuple[float, float]:
    """Wilson's score interval of a binomial rate (Wilson 1927)."""
    _counts("wilson", errors, n)
    z, p = float(stats.norm.ppf((1 + level) / 2)), errors / n
    centre = (p + z * z / (2 * n)) / (1 + z * z / n)
    half = z / (1 + z * z / n) * np.sqrt(p * (1 - p) / n + z * z / (4 * n * n))
    return max(0.0, float(centre - half)), min(1.0, float(centre + half))


def p_error_at_least(errors: int, n: int, alpha: float) -> float:
    """Exact one-sided p-value of "the error rate is alpha or more": P(Binomial(n, alpha) <= errors).

    A small one establishes an error rate below alpha.
    """
    _counts("p_error_at_least", errors, n)
    return float(stats.binom.cdf(errors, n, alpha))


def p_chance(errors: int, n: int, chance: float) -> float:
    """Exact one-sided p-value of guessing: P(Binomial(n, chance) >= right answers)."""
    _counts("p_chance", errors, n)
    return float(stats.binom.sf(n - errors - 1, n, chance))


def p_chance_two_sided(errors: int, n: int, chance: float) -> float:
    """Exact two-sided p-value of guessing: all counts that are no more likely than the one seen (SciPy's binomtest)."""
    _counts("p_chance_two_sided", errors, n)
    return float(stats.binomtest(n - errors, n, chance).pvalue)


def p_mcnemar(only_first: int, only_second: int) -> float:
    """McNemar's paired test, exact and two-sided: two classifiers err equally often on the same networks.

    only_first, only_second: networks that one of them alone gets wrong, binomial(their sum, 1/2) under the hypothesis
    (McNemar 1947; Edwards's chi-square is its approximation). 1 where there are none.
    """
    if min(only_first, only_second) < 0:
        raise ValueError(f"p_mcnemar: want counts of at least 0, got {only_first} and {only_second}")
    n = only_first + only_second
    return p_chance_two_sided(only_first, n, 0.5) if n else 1.0


def smallest_n(errors: int, n: int, alpha: float, level: float = 0.05) -> int | None:
    """Power: the fewest test networks that would establish an error rate below alpha, had they the rate errors / n.

    The smallest m for which p_error_at_least(ceil(m errors / n), m, alpha) <= level; with no errors log(level) /
    log(1 - alpha), rounded up. None where the rate is alpha or more, as no number of networks would do, or so little
    below it that over 10^9 would be needed.
    """
    _counts("smallest_n", errors, n)
    if errors / n >= alpha:
        return None
    if errors == 0:
        needed = 1 + int(stats.nbinom.ppf(1 - level, 1, alpha))
        return needed if needed <= MOST_NETWORKS else None

    def p(k: Any, m: Any) -> Any:
        """P(Binomial(m, alpha) <= k), also where m is no integer."""
        return special.betainc(m - k, k + 1.0, 1 - alpha)

    # k errors are made by up to k n / errors networks: too few of them up to some k, but for the rounding enough after
    last = MOST_NETWORKS * errors // n + 1
    k = _first(lambda k: p(k, k * (n / errors)) <= level, 0, last)
    some = np.arange(k, min(k + errors, last + 1))  # every `errors`-th needs no rounding
    enough = p(some, some * n // errors) <= level
    if not enough.any():
        return None
    k = int(some[enough.argmax()])
    needed = _first(lambda m: p(k, m) <= level, max(k, (k - 1) * n // errors), k * n // errors)
    return needed if needed <= MOST_NETWORKS else None


def _first(holds: Callable[[int], Any], below: int, last: int) -> int:
    """The first integer past `below` for which something holds that holds for all later ones, at most `last`."""
    while last - below > 1:
        middle = (below + last) // 2
        below, last = (below, middle) if holds(middle) else (middle, last)
    return last


def bootstrap_by_task(
    values: np.ndarray, tasks: np.ndarray, resamples: int = 2000, seed: int = 0, level: float = 0.95
) -> tuple[float, float]:
    """Percentile interval of a mean under resampling of whole tasks (Field and Welsh 2007, cluster bootstrap).

    values [n], bool for an accuracy; tasks int [n]. Networks of one task share its difficulty and are not independent;
    tasks are. With few tasks it is narrower than it should be, and has no width where all tasks are equal.
    """
    codes, drawn = draw_tasks(tasks, resamples, seed)
    n, sums = np.bincount(codes), np.bincount(codes, weights=values)
    return percentiles(drawn @ sums / (drawn @ n), level)


def draw_tasks(tasks: np.ndarray, resamples: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """(each network's task as 0 .. T - 1, int [n]; how often each task is drawn, int [resamples, T])."""
    codes = np.unique(tasks, return_inverse=True)[1]
    count = codes.max() + 1
    return codes, np.random.default_rng(seed).multinomial(count, np.full(count, 1 / count), size=resamples)


def percentiles(resampled: np.ndarray, level: float = 0.95) -> tuple[float, float]:
    """The middle `level` of a resampled statistic."""
    low, high = np.quantile(resampled, [(1 - level) / 2, (1 + level) / 2])
    return float(low), float(high)


def holm(p_values: Sequence[float]) -> list[float]:
    """Holm's adjusted p-values (Holm 1979), in the order given."""
    p = np.asarray(p_values, np.float64)
    order = np.argsort(p, kind="stable")
    adjusted = np.minimum(1, np.maximum.accumulate(p[order] * np.arange(len(p), 0, -1)))
    out = np.empty_like(p)
    out[order] = adjusted
    return [float(v) for v in out]


def p_permutation(observed: float, permuted: np.ndarray) -> float:
    """(b + 1) / (B + 1), b of B permuted statistics being at least as large as the observed one."""
    return float((np.sum(np.asarray(permuted) >= observed) + 1) / (len(permuted) + 1))
