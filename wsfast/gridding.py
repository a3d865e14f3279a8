"""Is it the order of hidden units that breaks raw weights? Features against kinds of networks, in one grid."""

import time
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from scipy import stats

from . import backends, provenance
from .aligning import align
from .architectures import network
from .connecting import along_lines, draw_pairs
from .events import Progress
from .generation import generate
from .grid_expectations import judged
from .grid_features import kernels, sides
from .protocols import CLASSIFIERS, Kernel, Outcome, classification, retrieval
from .recipe import Recipe
from .reference.interpolate import barrier
from .result import Result
from .rows import RESAMPLES, counts
from .shared_start import shared_start
from .taskset import TaskSet
from .training import declared
from .weights import WeightSet

SCHEMA = 1
SLOWER = 0.4  # of the data's learning rate, with all of which a fourth of the W-asym 1 networks diverge on digits
COLUMNS: dict[str, tuple[str, dict[str, Any]]] = {  # network, its options
    "standard": ("mlp4", {}),
    "shared start": ("mlp4", {}),
    "W-asym 0": ("mlp4-wasym", {"kappa": 0.0}),
    "W-asym 0.25": ("mlp4-wasym", {"kappa": 0.25}),
    "W-asym 1": ("mlp4-wasym", {"kappa": 1.0}),
    "sigma-asym": ("mlp4-sigma", {}),
}
MIDDLE = np.array([0, 0.5, 1])


@dataclass
class Grid(Result):
    """numbers: as in grid.json."""

    FILES = ("grid.json", "grid.html")

    def table(self) -> str:
        from .grid_report import table

        return table(self.numbers)

    def drawn(self) -> str:
        from .grid_report import grid_html

        return grid_html(self.numbers)


def grid(
    tasks: TaskSet,
    *,
    repeats: int = 20,
    chain: int = 2,
    pairs: int = 5,
    classifier: str = CLASSIFIERS[0],
    seed: int = 0,
    width: int | None = None,
    recipe: Recipe | None = None,
    device: str = "cpu",
    threads: int | None = None,
    progress: bool | None = None,
) -> Grid:
    """Train standard and asymmetric mlp4s, and ask how well features of their weights tell the tasks apart.

    Columns: standard networks; the same from one initialisation shared by all tasks and repeats (`shared_start`);
    W-asymmetric with kappa 0, 0.25 and 1; sigma-asymmetric (Lim et al., NeurIPS 2024). Rows: raw weights, aligned to
    the set's first network, sorted by norm, per-layer statistics, chain, chain with unit columns, all of the layers of
    `chain` (`wsfast.grid_features.kernels`). Cells: classification and retrieval as in a study, with exact 95 %
    intervals. Of each column also the midpoint barrier of the test loss, of `pairs` pairs a task, as they came and
    aligned; aligned is None where no reordering keeps the function (sigma). Every cell is measured again on a copy with
    each network's hidden units in a random order.

    repeats: networks a task and column. classifier: as a study's, always on cosines. recipe: of all columns; where None
    the data's with 0.4 of its learning rate. seed: of networks, splits, pairs and orders. device: "cpu" or "cuda",
    where networks are trained and lines and chain kernels computed; the other features are the CPU's. threads: networks
    at a time there, all cores where None. Diverged networks are left out.

    numbers: columns (name, network, networks, diverged, test_accuracy, barrier), cells (column, features, protocol,
    shuffled, n, errors, accuracy, chance, ci95, ...), expectations (says, quantity, value, ci95, verdict). ValueError
    for settings that `generate`, the protocols or chains refuse, and columns without two usable networks of every task.
    """
    start = time.perf_counter()
    if classifier not in CLASSIFIERS:
        raise ValueError(f"grid: classifier must be one of {', '.join(CLASSIFIERS)}, got {classifier!r}")
    if repeats < 2 or pairs < 1:
        raise ValueError(f"grid: want 2 repeats and 1 pair or more, got {repeats} and {pairs}")
    symmetric = declared("grid", "mlp4", tasks, width)
    symmetric.chain(chain)  # refuses one that the network does not have, before anything is trained
    recipe = recipe or replace(tasks.recipe, lr=SLOWER * tasks.recipe.lr)
    if len(tasks) < 5:
        raise ValueError(
            f"grid: want at least 5 tasks, so that retrieval learns 3 (logits of 2 rank nothing), got {len(tasks)}"
        )
    columns, cells = [], []
    with Progress("grid", len(COLUMNS), "column", progress) as said:
        for name, (kind, options) in COLUMNS.items():
            net = network(kind, tasks.shape, tasks.classes, symmetric.groups["hidden1"], **options)
            how: dict[str, Any] = {"repeats": repeats, "seed": seed, "recipe": recipe}
            how |= {"device": device, "threads": threads}
            if name == "shared start":
                zoo = shared_start(net, tasks, **how)
            else:
                zoo = generate(net, tasks, progress=False, **how)
            good = _usable(name, zoo, len(tasks))
            test = float(good.records["test_accuracy"].mean())
            found = {"name": name, "network": kind, **options, "networks": len(zoo), "diverged": len(zoo) - len(good)}
            lift = _barriers(good, tasks, pairs, seed, device, threads)
            columns.append({**found, "test_accuracy": test, "barrier": lift})
            came = sides(good, symmetric)
            for shuffled, of in ((False, came), (True, came.shuffled(seed))):
                rows = kernels(of, came.whole[0], chain, device)
                cells += _cells(name, shuffled, rows, good.labels, classifier, seed)
            said.advance()
            said.finished(diverged=len(zoo) - len(good))
    numbers = {"schema": SCHEMA, "data": tasks.name, "tasks": len(tasks), "repeats": repeats, "chain": chain}
    numbers |= {"pairs": pairs, "classifier": classifier, "seed": seed, "recipe": recipe.to_dict()}
    numbers["width"] = symmetric.groups["hidden1"]
    numbers |= {"backend": backends.choose(None, device), **provenance.record(device)}
    numbers |= {"columns": columns, "cells": cells, "expectations": judged(cells, columns)}
    return Grid({**numbers, "seconds": time.perf_counter() - start})


def _usable(name: str, zoo: WeightSet, tasks: int) -> WeightSet:
    good = zoo[~zoo.diverged]
    counts = np.bincount(good.labels, minlength=tasks)
    if counts.min() < 2:
        raise ValueError(
            f"grid: {name} has {counts.min()} usable networks of task {counts.argmin()}, "
            f"{len(zoo) - len(good)} of {len(zoo)} diverged (want 2: more repeats, a smaller learning rate)"
        )
    return good


def _cells(
    column: str, shuffled: bool, rows: dict[str, Kernel], labels: np.ndarray, classifier: str, seed: int
) -> list[dict[str, Any]]:
    cells = []
    for features, kernel in rows.items():
        for protocol, run in (("classification", classification), ("retrieval", retrieval)):
            o = run(kernel, labels, seed, classifier)
            where = {"column": column, "features": features, "protocol": protocol, "shuffled": shuffled}
            cells.append({**where, **counts(o, RESAMPLES, seed), "by_task": _by_task(o), **o.extra})
    return cells


def _by_task(o: Outcome) -> list[float]:
    """The accuracy of every task that was tested."""
    return [float(1 - o.wrong[o.tasks == task].mean()) for task in np.unique(o.tasks)]


def _barriers(
    zoo: WeightSet, tasks: TaskSet, pairs: int, seed: int, device: str, threads: int | None
) -> dict[str, dict[str, Any] | None]:
    drawn = draw_pairs(zoo.labels, pairs, seed)
    a, b = zoo[drawn[:, 0]], zoo[drawn[:, 1]]
    ends: dict[str, WeightSet | None] = {"naive": b, "aligned": align(b, a).zoo if zoo.network.groups else None}
    run = along_lines(zoo.network, tasks, MIDDLE, device=device, threads=threads)

    def measured(end: WeightSet) -> dict[str, Any]:
        found = np.empty((len(a), len(MIDDLE)))
        for some, curves in run(a, end):
            found[some] = curves[:, 1, 0]  # the test loss
        lift = barrier(found, MIDDLE)[1]
        by_task = [float(lift[a.labels == task].mean()) for task in np.unique(a.labels)]
        return {"mean": float(np.mean(by_task)), "ci95": _t_interval(by_task), "by_task": by_task}

    return {line: None if end is None else measured(end) for line, end in ends.items()}


def _t_interval(by_task: list[float]) -> list[float]:
    """Student's, over tasks: pairs of one task share networks."""
    spread = stats.sem(by_task)
    reach = stats.t.ppf(0.975, len(by_task) - 1) * spread
    return [float(np.mean(by_task) + sign * reach) for sign in (-1, 1)]
