"""Hypothesis-training-testing on a weight set: every chain, both protocols, the controls, the verdict."""

import json
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from tqdm import tqdm

from . import inference, provenance
from .chains import FEATURES, TITLES, feature_kernel
from .files import writable_folder, write_whole
from .generation import untrained
from .protocols import Outcome, classification, retrieval, split_one_task
from .table import families, table
from .weights import WeightSet

SCHEMA = 1
LEVEL = 0.05  # of every test; alpha is the size of error that is tested


@dataclass
class StudyResult:
    """A study's numbers (to_dict, as in results.json) and what its figures are drawn from.

    kernel: the cosine kernel of the middle chain, float64 [N, N]; labels int [N]; curves: (features, chain, classifier)
    -> CMC; loss: training loss [N, epochs], empty for imported sets.
    """

    numbers: dict[str, Any]
    kernel: np.ndarray
    kernel_chain: int
    labels: np.ndarray
    curves: dict[tuple[str, int, str], np.ndarray] = field(default_factory=dict)
    loss: np.ndarray = field(default_factory=lambda: np.empty((0, 0)))

    def to_dict(self) -> dict[str, Any]:
        """The content of results.json."""
        return self.numbers

    def table(self) -> str:
        """The cells, controls and verdict as text."""
        return table(self.numbers)

    def save(self, out: str | Path) -> Path:
        """Write results.json and report.html into a folder, each whole or not at all; returns the report's path."""
        from .report import report_html

        folder = writable_folder(out)
        write_whole(folder / "report.html", report_html(self))
        write_whole(folder / "results.json", json.dumps(self.numbers, indent=1, allow_nan=False) + "\n")
        return folder / "report.html"


def study(
    zoo: WeightSet,
    *,
    alpha: float = 0.05,
    classifier: str = "ridge",
    permutations: int = 199,
    seed: int = 0,
    backend: str | None = None,
    progress: bool | None = None,
) -> StudyResult:
    """Do networks of one task have similar weights, across seeds? Hypothesis-training-testing (arXiv 2208.04369).

    For every chain and three features (chain Gram, chain Gram of unit columns, raw layer): classification within tasks
    and retrieval on unseen tasks, learned and by plain cosine, with exact intervals and p-values. alpha: the error
    below which the paper accepts. classifier: "ridge", or "sgd" for the paper's recipe, which has no permutation test.
    permutations: shuffled labelings of the chain cells, each trained anew. seed: of the splits. Controls: A/A and
    untrained networks. Diverged networks are left out and counted.

    ValueError for sets with too few tasks or networks, or an alpha outside (0, 1).
    """
    if not 0 < alpha < 1:
        raise ValueError(f"study: alpha must be in (0, 1), got {alpha}")
    if classifier not in ("ridge", "sgd"):
        raise ValueError(f"study: classifier must be ridge or sgd, got {classifier!r}")
    if permutations < 0:
        raise ValueError(f"study: permutations must be at least 0, got {permutations}")
    start = time.perf_counter()
    diverged = int(zoo.diverged.sum())
    good = zoo[~zoo.diverged] if diverged else zoo
    if len(good) == 0:
        raise ValueError(f"study: all {len(zoo)} networks diverged (a smaller learning rate?)")
    chains = range(1, len(zoo.network.chains) + 1)
    middle = chains[len(chains) // 2]
    cells, controls, curves = [], [], {}
    kernel = np.empty((0, 0))
    steps = len(FEATURES) * len(chains) + len(chains)
    with tqdm(total=steps, desc="study", unit="kernel", disable=None if progress is None else not progress) as bar:
        for features in FEATURES:
            for chain in chains:
                bar.set_postfix_str(f"{TITLES[features]} {chain}")
                k = feature_kernel(features, good, chain=chain, backend=backend)
                shuffles = permutations if features == "chain" and classifier == "ridge" else 0
                for protocol, solver, outcome in _protocols(k, good.labels, seed, classifier, shuffles):
                    cells.append(_cell(features, chain, protocol, solver, outcome, alpha))
                    if outcome.cmc is not None:
                        curves[features, chain, solver] = outcome.cmc
                if features == "chain":
                    controls.append(_control("A/A", chain, split_one_task(k, good.labels, seed)))
                    if chain == middle:
                        kernel = k
                bar.update()
        random = untrained(good)
        for chain in chains:
            bar.set_postfix_str(f"untrained {chain}")
            k = feature_kernel("chain", random, chain=chain, backend=backend)
            controls.append(_control("untrained", chain, classification(k, good.labels, seed)))
            bar.update()
    _correct(cells)
    seconds = time.perf_counter() - start
    numbers = {
        **_about(zoo, diverged, alpha, classifier, permutations, seed, seconds),
        "cells": cells,
        "controls": controls,
        "verdict": _verdict(cells, controls),
    }
    return StudyResult(numbers, kernel, middle, good.labels, curves, good.records.get("loss_curve", np.empty((0, 0))))


def _protocols(
    kernel: np.ndarray, labels: np.ndarray, seed: int, solver: str, permutations: int
) -> Iterator[tuple[str, str, Outcome]]:
    yield "classification", solver, classification(kernel, labels, seed, solver, permutations)
    yield "retrieval", solver, retrieval(kernel, labels, seed, solver)
    yield "retrieval", "cosine", retrieval(kernel, labels, seed, "cosine")


def _cell(features: str, chain: int, protocol: str, solver: str, o: Outcome, alpha: float) -> dict[str, Any]:
    return {
        "features": features,
        "chain": chain,
        "protocol": protocol,
        "classifier": solver,
        "n": o.n,
        "errors": o.errors,
        "accuracy": 1 - o.errors / o.n,
        "chance": o.chance,
        "ci95": [1 - v for v in reversed(inference.clopper_pearson(o.errors, o.n))],
        "wilson95": [1 - v for v in reversed(inference.wilson(o.errors, o.n))],
        "p_error_ge_alpha": inference.p_error_at_least(o.errors, o.n, alpha),
        "p_chance": inference.p_chance(o.errors, o.n, o.chance),
        "paper_rule": "accept" if o.errors / o.n < alpha else "reject",
        **o.extra,
    }


def _control(name: str, chain: int, o: Outcome) -> dict[str, Any]:
    low, high = inference.clopper_pearson(o.errors, o.n)
    return {
        "control": name,
        "features": "chain",
        "chain": chain,
        "n": o.n,
        "errors": o.errors,
        "accuracy": 1 - o.errors / o.n,
        "chance": o.chance,
        "ci95": [1 - high, 1 - low],
        "p_chance": inference.p_chance(o.errors, o.n, o.chance),
    }


def _correct(cells: list[dict[str, Any]]) -> None:
    """Holm over the chains of each (features, protocol, classifier)."""
    for family in families(cells).values():
        for cell, p in zip(family, inference.holm([c["p_error_ge_alpha"] for c in family]), strict=True):
            cell["p_holm"], cell["established"] = p, p <= LEVEL


def _verdict(cells: list[dict[str, Any]], controls: list[dict[str, Any]]) -> dict[str, Any]:
    """The paper's rule and the honest one, for the chain features, over all chains at once.

    "All chains err less than alpha" is an intersection-union claim: it is established at LEVEL where every single test
    is, without correction.
    """
    verdict: dict[str, Any] = {}
    for (features, protocol, classifier), family in families(cells).items():
        if features == "chain" and classifier != "cosine":
            worst = max(c["p_error_ge_alpha"] for c in family)
            verdict[protocol] = {
                "paper_rule": "accept" if all(c["paper_rule"] == "accept" for c in family) else "reject",
                "established": worst <= LEVEL,
                "p": worst,
            }
    tests = [c["p_chance"] for c in controls]
    verdict["controls_at_chance"] = min(inference.holm(tests)) > LEVEL
    return verdict


def _about(
    zoo: WeightSet, diverged: int, alpha: float, classifier: str, permutations: int, seed: int, seconds: float
) -> dict[str, Any]:
    info = zoo.info
    generate_s = info.get("generate_s", 0.0)
    accuracy = zoo.records.get("train_accuracy", np.empty(0))
    if len(accuracy):
        accuracy = accuracy[~zoo.diverged]
    made: dict[str, Any] = {k: info[k] for k in ("recipe", "source", "threads") if k in info}
    return {
        "schema": SCHEMA,
        "network": zoo.network.name,
        "shape": list(zoo.network.input_shape),
        "options": {k: list(v) if isinstance(v, tuple) else v for k, v in zoo.network.options.items()},
        "data": info.get("data", "unknown"),
        "networks": len(zoo),
        "diverged": diverged,
        "tasks": len(np.unique(zoo.labels)),
        "repeats": int(zoo.repeats.max()) + 1,
        "seed": info.get("seed"),
        "split_seed": seed,
        "alpha": alpha,
        "level": LEVEL,
        "classifier": classifier,
        "permutations": permutations,
        "backend": info.get("backend", "unknown"),
        "precision": info.get("precision", "unknown"),
        **made,
        **provenance.record(),
        "train_accuracy": {"mean": float(accuracy.mean()), "min": float(accuracy.min())} if len(accuracy) else None,
        "timing": {
            "generate_s": generate_s,
            "networks_per_s": info.get("networks_per_s"),
            "study_s": seconds,
            "total_s": generate_s + seconds,
        },
    }
