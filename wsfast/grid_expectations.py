"""What the grid is expected to show, written down before it was run, and what its numbers say to each."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from scipy import stats

from .grid_features import ORDERLESS
from .inference import clopper_pearson

CONFIRMED, REFUTED, OPEN = "confirmed", "refuted", "not decided"
RESAMPLES = 2000
NEAR = 0.05  # of an accuracy over chance: no more may be left, or a wide interval would pass for being at chance
SAME = 0.01  # of an accuracy: rounding in another order may turn a network that was all but undecided
Cells = dict[tuple[str, str, str, bool], dict[str, Any]]  # (column, features, protocol, shuffled) -> its cell
Interval = tuple[float, float]
Found = tuple[float, Interval, str]  # estimate, 95 % interval, verdict


@dataclass(frozen=True)
class Expectation:
    """says: the sentence that is confirmed or refuted; quantity: what was measured; judge(cells, columns)."""

    says: str
    quantity: str
    judge: Callable[[Cells, list[dict[str, Any]]], Found]


def judged(cells: Sequence[dict[str, Any]], columns: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """Every expectation with its estimate, 95 % interval and verdict: grid.json's "expectations".

    cells: column, features, protocol, shuffled, errors, n, accuracy, chance; of classification also by_task, a list of
    accuracies. columns: name, barrier: {"naive": {"by_task": a list}}. A verdict is "not decided" where the interval
    allows both. What nothing is drawn for, a change by shuffling, has the range over its cells for an interval.
    """
    known = {(c["column"], c["features"], c["protocol"], c["shuffled"]): c for c in cells}
    rows = []
    for e in EXPECTATIONS:
        value, interval, verdict = e.judge(known, list(columns))
        rows.append({"says": e.says, "quantity": e.quantity, "value": value, "ci95": list(interval)})
        rows[-1]["verdict"] = verdict
    return rows


def positive(value: float, interval: Interval) -> Found:
    """Confirmed where the whole interval is above 0, refuted where none of it is."""
    low, high = interval
    return value, interval, CONFIRMED if low > 0 else REFUTED if high <= 0 else OPEN


def difference(a: dict[str, Any], b: dict[str, Any]) -> tuple[float, Interval]:
    """Accuracy of cell a less that of b, with an interval of at least 95 % however the two depend on each other.

    From exact intervals of 97.5 % each (Bonferroni).
    """
    (a_low, a_high), (b_low, b_high) = (clopper_pearson(c["n"] - c["errors"], c["n"], 0.975) for c in (a, b))
    return a["accuracy"] - b["accuracy"], (a_low - b_high, a_high - b_low)


def _better(a: tuple[str, str], b: tuple[str, str]) -> Callable[[Cells, list[dict[str, Any]]], Found]:
    """Classification of (column, features) a is better than that of b."""
    return lambda cells, _: positive(*difference(*(cells[(*key, "classification", False)] for key in (a, b))))


def _above_chance(cells: Cells, _: list[dict[str, Any]]) -> Found:
    cell = cells["standard", "chain", "classification", False]
    low, high = clopper_pearson(cell["n"] - cell["errors"], cell["n"])
    chance = cell["chance"]
    return positive(cell["accuracy"] - chance, (low - chance, high - chance))


def _together(cells: Cells, columns: list[dict[str, Any]]) -> Found:
    """Kendall's tau of the columns' barriers and raw accuracies is below 0; tasks resampled."""
    barriers = np.array([c["barrier"]["naive"]["by_task"] for c in columns])
    raw = np.array([cells[c["name"], "raw", "classification", False]["by_task"] for c in columns])
    if barriers.shape != raw.shape:
        raise ValueError(f"grid: want barriers and accuracies of the same tasks, got {barriers.shape}, {raw.shape}")
    rng, tasks = np.random.default_rng(0), raw.shape[1]
    drawn = [np.arange(tasks), *rng.integers(0, tasks, (RESAMPLES, tasks))]
    tau = [_tau(barriers[:, some].mean(axis=1), raw[:, some].mean(axis=1)) for some in drawn]
    low, high = np.quantile(tau[1:], [0.025, 0.975])
    _, _, verdict = positive(-tau[0], (-float(high), -float(low)))
    return tau[0], (float(low), float(high)), verdict


def _tau(x: np.ndarray, y: np.ndarray) -> float:
    """Kendall's tau-b, 0 where one of the two is constant."""
    return 0.0 if np.ptp(x) == 0 or np.ptp(y) == 0 else float(stats.kendalltau(x, y).statistic)


def _unmoved(cells: Cells, _: list[dict[str, Any]]) -> Found:
    """The interval is the range over all cells: the same networks are tested, nothing was drawn."""
    moved = [
        cells[column, features, protocol, True]["accuracy"] - cell["accuracy"]
        for (column, features, protocol, shuffled), cell in cells.items()
        if features in ORDERLESS and not shuffled
    ]
    largest = max(moved, key=abs)
    return largest, (min(moved), max(moved)), CONFIRMED if abs(largest) <= SAME else REFUTED


def _at_chance(cells: Cells, _: list[dict[str, Any]]) -> Found:
    """All columns' networks together, against the mean of their chances; confirmed where at most NEAR can be left."""
    own = [cell for (_, *what), cell in cells.items() if what == ["raw", "classification", True]]
    n, right = sum(c["n"] for c in own), sum(c["n"] - c["errors"] for c in own)
    chance = sum(c["n"] * c["chance"] for c in own) / n
    low, high = clopper_pearson(right, n)
    verdict = REFUTED if not low <= chance <= high else CONFIRMED if high <= chance + NEAR else OPEN
    return right / n - chance, (low - chance, high - chance), verdict


_RAW, _ALIGNED, _CHAIN = (("standard", features) for features in ("raw", "aligned", "chain"))
_ZERO, _QUARTER, _ONE = ((f"W-asym {kappa}", "raw") for kappa in ("0", "0.25", "1"))
_DIFFERENCE = "difference of accuracies"
EXPECTATIONS = (
    Expectation("chain features tell the tasks of standard networks apart", "accuracy over chance", _above_chance),
    Expectation("chain features do it better than raw weights", _DIFFERENCE, _better(_CHAIN, _RAW)),
    Expectation("raw weights work better on W-asym 1 than on standard networks", _DIFFERENCE, _better(_ONE, _RAW)),
    Expectation("raw weights get better from kappa 0 to 0.25", _DIFFERENCE, _better(_QUARTER, _ZERO)),
    Expectation("raw weights get better from kappa 0.25 to 1", _DIFFERENCE, _better(_ONE, _QUARTER)),
    Expectation("of standard networks, aligned raw weights do better than raw", _DIFFERENCE, _better(_ALIGNED, _RAW)),
    Expectation("of standard networks, chains do better than aligned", _DIFFERENCE, _better(_CHAIN, _ALIGNED)),
    Expectation("columns with lower barriers have better raw weights", "Kendall's tau", _together),
    Expectation("shuffled units: chains and statistics do not move", "largest change of accuracy", _unmoved),
    Expectation("shuffled units: raw weights fall to chance", "accuracy over chance", _at_chance),
)
