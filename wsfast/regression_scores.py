"""How good predictions of a number are: R^2 and Kendall's tau, with intervals by resampling tasks."""

from collections.abc import Callable
from typing import Any

import numpy as np

from .inference import draw_tasks, percentiles


def scored(
    truth: np.ndarray, found: np.ndarray, tasks: np.ndarray, resamples: int = 2000, seed: int = 0
) -> dict[str, Any]:
    """R^2 and Kendall's tau-b of predictions: r2, r2_95, tau, tau_95; None where they are not defined.

    truth, found float [n]; tasks int [n], which are drawn with replacement; of a single task the networks are.
    R^2 = 1 - sum (y - f)^2 / sum (y - mean y)^2 is 0 for the tested networks' own mean and negative for what is worse.
    tau-b counts pairs in the same order less pairs in the other, a tie being neither; it has no value where all
    predictions are equal, R^2 none where all of truth is. Resamples without a value are left out of the interval.
    """
    tasks = np.arange(len(truth)) if len(np.unique(tasks)) == 1 else tasks
    codes, drawn = draw_tasks(tasks, resamples, seed)
    whole = np.ones((1, drawn.shape[1]))
    out: dict[str, Any] = {}
    for name, statistic in (("r2", _r2(truth, found, codes)), ("tau", _tau_b(truth, found, codes))):
        value, again = float(statistic(whole)[0]), statistic(drawn)
        again = again[np.isfinite(again)]
        defined = np.isfinite(value)
        out |= {name: value if defined else None, f"{name}_95": list(percentiles(again)) if defined else None}
    return out


Statistic = Callable[[np.ndarray], np.ndarray]  # of how often every task was drawn [R, T] -> [R], nan where undefined


def _r2(truth: np.ndarray, found: np.ndarray, codes: np.ndarray) -> Statistic:
    y = truth - truth.mean()
    n, sums, squares, left = (np.bincount(codes, weights=v) for v in (np.ones_like(y), y, y * y, (truth - found) ** 2))

    def statistic(drawn: np.ndarray) -> np.ndarray:
        total = drawn @ squares - (drawn @ sums) ** 2 / (drawn @ n)
        varies = total > 1e-12 * (drawn @ squares)  # what rounding leaves of a constant
        return 1 - drawn @ left / np.where(varies, total, np.nan)

    return statistic


def _tau_b(truth: np.ndarray, found: np.ndarray, codes: np.ndarray) -> Statistic:
    """Sums over pairs of tasks of their networks' pairs; networks drawn twice are tied with themselves."""
    order = np.argsort(codes, kind="stable")
    starts = np.flatnonzero(np.diff(codes[order], prepend=-1))
    x, y = (np.sign(v[order, None] - v[order]) for v in (truth, found))

    def by_task(pairs: np.ndarray) -> np.ndarray:
        return np.add.reduceat(np.add.reduceat(pairs, starts, axis=0), starts, axis=1)

    agree, untied_x, untied_y = (by_task(pairs) for pairs in (x * y, x * x, y * y))

    def statistic(drawn: np.ndarray) -> np.ndarray:
        over, a, b = (((drawn @ m) * drawn).sum(axis=1) for m in (agree, untied_x, untied_y))
        product = a * b
        return over / np.sqrt(np.where(product > 0, product, np.nan))

    return statistic
