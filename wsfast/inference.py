"""What an error count allows one to say: intervals, exact p-values, corrections for several tests."""

from collections.abc import Sequence

import numpy as np
from scipy import stats


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
