"""Hypothesis-training-testing on a weight set: every chain, both protocols, the controls, the verdict."""

import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property, partial
from itertools import product
from operator import index
from typing import Any

import numpy as np

from . import cluster, provenance
from .chains import cosines, feature_kernel, features_of
from .classifier import reads_cosines
from .controls import A_A_NETWORKS, against_chance, large_enough, split_one_task
from .distance import permanova, spread
from .events import Progress
from .initial import untrained
from .layer_statistics import layer_statistics, parameters_up_to, statistics_kernel
from .protocols import (
    CLASSIFIERS,
    Kernel,
    classification,
    classification_split,
    permutation_test,
    retrieval_split,
    seen_from,
)
from .published import add_published
from .result import Result
from .rows import LEVEL, RESAMPLES, SPLIT_SEEDS, Plan, control_row, correct, protocol_row, verdict
from .seeds import whole_seed
from .table import TITLES, table
from .weights import WeightSet, usable

SCHEMA = 1


@dataclass
class StudyResult(Result):
    """A study's numbers (to_dict, as in results.json) and what its figures are drawn from.

    kernel: the cosine kernel of the middle chain, float64 [N, N]; labels int [N]; curves: (features, chain, classifier)
    -> CMC; loss: training loss [N, epochs], empty for imported sets.
    """

    FILES = ("results.json", "report.html")
    kernel: np.ndarray
    kernel_chain: int
    labels: np.ndarray
    curves: dict[tuple[str, int, str], np.ndarray] = field(default_factory=dict)
    loss: np.ndarray = field(default_factory=lambda: np.empty((0, 0)))

    def table(self) -> str:
        return table(self.numbers)

    def drawn(self) -> str:
        from .report import report_html

        return report_html(self)


class _Features:
    """The N x N kernels of a set as a classifier reads them, one at a time."""

    def __init__(self, zoo: WeightSet, classifier: str, **where: Any) -> None:
        self.zoo, self.classifier, self.where = zoo, classifier, where

    @cached_property
    def statistics(self) -> np.ndarray:
        return layer_statistics(self.zoo)

    def kernel(self, features: str, chain: int) -> Kernel:
        if features == "statistics":
            return partial(statistics_kernel, self.statistics[:, : parameters_up_to(self.zoo, chain)])
        cosine = reads_cosines(self.classifier, features)
        return feature_kernel(features, self.zoo, chain=chain, cosine=cosine, **self.where)


def study(
    zoo: WeightSet,
    *,
    alpha: float = 0.05,
    classifier: str = CLASSIFIERS[0],
    permutations: int = 199,
    controls: Mapping[str, WeightSet] | None = None,
    quick: bool = False,
    seed: int = 0,
    backend: str | None = None,
    device: str = "cpu",
    memory: int | None = None,
    engine: str = "local",
    address: str | None = None,
    progress: bool | None = None,
) -> StudyResult:
    """Do networks of one task have similar weights, across seeds? Hypothesis-training-testing (arXiv 2208.04369).

    For every chain and every feature (chain Gram; of unit columns; with BatchNorm folded in, where the network has it;
    raw layer; per-layer statistics, standardised over the training part, for distances over all networks):
    classification within tasks and retrieval on unseen tasks, learned and by plain cosine, with exact intervals and
    p-values, intervals by resampling tasks and PERMANOVA on the distances; for the chain Gram and for plain cosine, the
    spread over 5 split seeds. Controls: A/A and untrained networks, which must be at chance.

    alpha: the error below which the paper accepts. classifier: "logistic" (penalty by cross-validation within the
    training networks), "ridge", or "sgd" for the paper's recipe, from zero weights and on Grams as they are where the
    others read them at unit length. permutations: shuffled labelings for PERMANOVA and for
    the chain cells' classification, there by ridge, trained anew for each. controls: name -> weight set whose tasks are
    classified beside the others, to see what the features read (made with TaskSet.regrouped or TaskSet.shuffled);
    nothing is demanded of them. quick: one split seed, no permutations, no resampling. seed: the first of the splits.
    backend, device, memory (bytes for weights in hand, half of what is free where None): of the features, as
    chain_kernel; a stored set may be larger than memory. engine, address: as generate, of the features' kernels and of
    the ridge classifiers' shuffled labelings. Diverged networks are left out and counted, and so are tasks with fewer
    than two usable ones; the A/A control is skipped where no task has four.

    Networks must come from runs of their own: a copy, or another moment of one run, is found by its very weights. Of
    four tasks retrieval learns two, too few to rank by: take five or more.

    ValueError for sets with too few tasks or networks, an alpha outside (0, 1), or one that always answering a single
    task would meet.
    """
    start = time.perf_counter()
    alpha, permutations, seed = float(alpha), index(permutations), index(seed)  # NumPy's numbers are not JSON's
    finite = usable("study", zoo)
    good = _in_company("study", finite)
    check(good.labels, alpha, classifier, permutations, seed)
    if not zoo.network.chains:
        raise ValueError(f"study: {zoo.network.name} declares no chain")
    others = {name: _control_set(name, other) for name, other in (controls or {}).items()}
    seeds, resamples = (range(seed, seed + 1), 0) if quick else (range(seed, seed + SPLIT_SEEDS), RESAMPLES)
    plan = Plan(alpha, classifier, 0 if quick else permutations, seeds, resamples)
    chains = range(1, len(zoo.network.chains) + 1)
    middle = chains[len(chains) // 2]
    cells, distances, must, informative = [], [], [], []
    curves: dict[tuple[str, int, str], np.ndarray] = {}
    kernel = np.empty((0, 0))
    asked = (*features_of(zoo.network), "statistics")
    steps = (len(asked) + 1) * len(chains) + sum(len(other.network.chains) for other in others.values())
    cluster.checked("study", engine, address)
    machines: dict[str, Any] = {"engine": engine, "address": address}
    features_at: dict[str, Any] = {"backend": backend, "device": device, "memory": memory, **machines}
    with Progress("study", steps, "kernel", progress) as said:
        of = _Features(good, classifier, **features_at)
        for features, chain in product(asked, chains):
            k = of.kernel(features, chain)
            where = {"features": features, "chain": chain}
            own = []
            for protocol, solver in plan.protocols:
                again = features == "chain" or solver == "cosine"  # the others' fits would double a study's time
                row, curve = protocol_row(k, good.labels, protocol, solver, plan, seeds if again else seeds[:1])
                own.append(where | row)
                if curve is not None:
                    curves[features, chain, solver] = curve
            every = seen_from(k, np.arange(len(good)))
            norm = np.sqrt(np.diag(every))
            cosine = every if reads_cosines(classifier, features) else cosines(every, norm, norm)
            distances.append(where | permanova(cosine, good.labels, plan.permutations, seed))
            distances[-1] |= spread(cosine, good.labels)
            if features == "chain":
                if plan.permutations:
                    own[0] |= permutation_test(cosine, good.labels, plan.permutations, seed, **machines)
                if len(large_enough(good.labels)):
                    halves, left_out = split_one_task(every, good.labels, seed, classifier)
                    must.append(control_row("A/A", chain, halves, plan) | against_chance(halves))
                    must[-1]["tasks_left_out"] = left_out
                if chain == middle:
                    kernel = cosine
            cells += own
            said.advance()
            said.finished(features=TITLES[features], chain=chain)
        for name, other in {"untrained": untrained(good), **others}.items():
            of = _Features(other, classifier, **features_at)
            for chain in range(1, len(other.network.chains) + 1):
                found = classification(of.kernel("chain", chain), other.labels, seed, classifier)
                row = control_row(name, chain, found, plan)
                if name == "untrained":
                    must.append(row | against_chance(found))
                else:
                    informative.append(row | {"train_accuracy": _train_accuracy(other)})
                said.advance()
                said.finished(control=name, chain=chain)
    correct(cells, alpha)
    add_published(cells, zoo.network.name, zoo.info.get("data", "unknown"))
    numbers = {
        **_about(zoo, finite, good, plan, others, time.perf_counter() - start),
        "cells": cells,
        "distances": distances,
        "controls": must,
        "informative_controls": informative,
        "verdict": verdict(cells, must, alpha),
    }
    return StudyResult(numbers, kernel, middle, good.labels, curves, good.records.get("loss_curve", np.empty((0, 0))))


def check(labels: np.ndarray, alpha: float, classifier: str, permutations: int, seed: int) -> None:
    """ValueError for what a study of networks with these labels [N] cannot meet, before anything is computed."""
    if not 0 < alpha < 1:
        raise ValueError(f"study: alpha must be in (0, 1), got {alpha}")
    if classifier not in CLASSIFIERS:
        raise ValueError(f"study: classifier must be one of {', '.join(CLASSIFIERS)}, got {classifier!r}")
    if permutations < 0:
        raise ValueError(f"study: permutations must be at least 0, got {permutations}")
    _, query, _ = retrieval_split(labels, whole_seed("study", seed))
    _, test = classification_split(labels, seed)
    for protocol, asked in (("classification", labels[test]), ("retrieval", labels[query])):
        tasks, counts = np.unique(asked, return_counts=True)
        if (len(asked) - counts.max()) / len(asked) < alpha:
            raise ValueError(
                f"study: {counts.max()} of the {len(asked)} networks that {protocol} tests are of task "
                f"{tasks[counts.argmax()]}: always answering it errs less than alpha = {alpha:g} (want tasks of more "
                "equal size, more of them, or a smaller alpha)"
            )


def _in_company(what: str, zoo: WeightSet) -> WeightSet:
    """The set without tasks of which it has one network only; ValueError where no other is left."""
    _, task, counts = np.unique(zoo.labels, return_inverse=True, return_counts=True)
    kept = counts[task] > 1
    if not kept.any():
        raise ValueError(f"{what}: want tasks of at least 2 usable networks, got one of each (generate more repeats)")
    return zoo if kept.all() else zoo[kept]


def _control_set(name: str, zoo: WeightSet) -> WeightSet:
    if name in ("A/A", "untrained"):
        raise ValueError(f"study: control {name!r}: the name is taken (choose another)")
    what = f"study: control {name!r}"
    good = _in_company(what, usable(what, zoo))
    tasks = np.unique(good.labels)
    if len(tasks) < 2:
        raise ValueError(f"{what}: want at least 2 tasks, got {len(tasks)}")
    return good


def _skipped(good: WeightSet, plan: Plan, others: Mapping[str, WeightSet]) -> list[str]:
    """The parts of a study that were left out, in words."""
    parts = {
        "permutation tests": plan.permutations,
        "further split seeds": len(plan.seeds) > 1,
        "bootstrap by task": plan.resamples,
        f"A/A control (no task has {A_A_NETWORKS} usable networks)": len(large_enough(good.labels)),
        "controls with networks of their own": others,
    }
    return [name for name, done in parts.items() if not done]


def _train_accuracy(good: WeightSet) -> dict[str, float] | None:
    accuracy = good.records.get("train_accuracy", np.empty(0))
    return {"mean": float(accuracy.mean()), "min": float(accuracy.min())} if len(accuracy) else None


def _about(
    zoo: WeightSet, finite: WeightSet, good: WeightSet, plan: Plan, others: Mapping[str, WeightSet], seconds: float
) -> dict[str, Any]:
    info, networks = zoo.info, np.unique(zoo.labels, return_counts=True)[1]
    tasks = len(np.unique(good.labels))
    generate_s = info.get("generate_s", 0.0)
    controls_s = sum(z.info.get("generate_s", 0.0) for z in others.values())
    made: dict[str, Any] = {k: info[k] for k in ("recipe", "source", "data_options", "threads") if k in info}
    return {
        "schema": SCHEMA,
        "network": zoo.network.name,
        "shape": list(zoo.network.input_shape),
        "options": {k: list(v) if isinstance(v, tuple) else v for k, v in zoo.network.options.items()},
        "data": info.get("data", "unknown"),
        "networks": len(zoo),
        "diverged": len(zoo) - len(finite),
        "tasks": tasks,
        "tasks_left_out": len(networks) - tasks,
        "repeats": int(networks.max()),
        "seed": info.get("seed"),
        "split_seed": plan.seeds[0],
        "alpha": plan.alpha,
        "level": LEVEL,
        "classifier": plan.classifier,
        "permutations": plan.permutations,
        "skipped": _skipped(good, plan, others),
        "backend": info.get("backend", "unknown"),
        "precision": info.get("precision", "unknown"),
        **made,
        **provenance.record(),
        "train_accuracy": _train_accuracy(good),
        "timing": {
            "generate_s": generate_s,
            "networks_per_s": info.get("networks_per_s"),
            "controls_s": controls_s,
            "study_s": seconds,
            "total_s": generate_s + controls_s + seconds,
        },
    }
