"""Hypothesis-training-testing on a weight set: every chain, both protocols, the controls, the verdict."""

import json
import os
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from tqdm import tqdm

from . import inference, provenance
from .chains import FEATURES, TITLES, feature_kernel
from .generation import untrained
from .protocols import Outcome, classification, retrieval, split_one_task
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


def writable_folder(out: str | Path) -> Path:
    """The folder, made if need be; OSError that says so where it cannot be written."""
    folder = Path(out).expanduser()
    try:
        folder.mkdir(parents=True, exist_ok=True)
        probe = folder / f".probe-{os.getpid()}"
        probe.touch()
        probe.unlink()
    except OSError as error:
        raise OSError(f"cannot write into {folder}: {error.strerror} (choose another folder with --out)") from error
    return folder


def write_whole(path: Path, text: str) -> None:
    """Write a file under another name, flush it, and rename it into place."""
    scratch = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        with scratch.open("w", encoding="utf-8") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        scratch.replace(path)
    finally:
        scratch.unlink(missing_ok=True)


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
    for family in _families(cells).values():
        for cell, p in zip(family, inference.holm([c["p_error_ge_alpha"] for c in family]), strict=True):
            cell["p_holm"], cell["established"] = p, p <= LEVEL


def _families(cells: list[dict[str, Any]]) -> dict[tuple[str, str, str], list[dict[str, Any]]]:
    found: dict[tuple[str, str, str], list[dict[str, Any]]] = {}
    for cell in cells:
        found.setdefault((cell["features"], cell["protocol"], cell["classifier"]), []).append(cell)
    return found


def _verdict(cells: list[dict[str, Any]], controls: list[dict[str, Any]]) -> dict[str, Any]:
    """The paper's rule and the honest one, for the chain features, over all chains at once.

    "All chains err less than alpha" is an intersection-union claim: it is established at LEVEL where every single test
    is, without correction.
    """
    verdict: dict[str, Any] = {}
    for (features, protocol, classifier), family in _families(cells).items():
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
    accuracy = accuracy[np.isfinite(accuracy)]
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
        "seed": info.get("seed", seed),
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


def table(numbers: dict[str, Any]) -> str:
    """results.json as a text table."""
    n = numbers
    lines = [
        f"{n['networks']} x {n['network']} on {n['data']}: {n['tasks']} tasks x {n['repeats']} repeats, "
        f"seed {n['seed']}, {n['diverged']} diverged and left out; {n['backend']} {n['precision']}",
        "",
        f"{'features':<20} {'protocol':<15} {'classifier':<10} "
        + "".join(f"{'chain ' + str(c):>24}" for c in _chains(n)),
    ]
    for (features, protocol, solver), family in _families(n["cells"]).items():
        row = f"{TITLES[features]:<20} {protocol:<15} {solver:<10} "
        lines.append(row + "".join(f"{_percent(c):>24}" for c in family))
    lines.append(f"{'chance':<20} {'classification':<15} {'':<10} {100 * n['cells'][0]['chance']:>12.1f}")
    for name in dict.fromkeys(c["control"] for c in n["controls"]):
        family = [c for c in n["controls"] if c["control"] == name]
        row = f"{'control: ' + name:<20} {'chance %.1f' % (100 * family[0]['chance']):<15} {'ridge':<10} "
        lines.append(row + "".join(f"{_percent(c):>24}" for c in family))
    lines += ["", "accuracy % [exact 95 % interval]; * an error below alpha is established (Holm over the chains)"]
    for protocol in ("classification", "retrieval"):
        v = n["verdict"][protocol]
        said = "established" if v["established"] else "not established"
        lines.append(
            f"{protocol}: the paper's rule says {v['paper_rule']}; an error below {n['alpha']:g} in "
            f"every chain is {said} (p = {v['p']:.2g})"
        )
    at = "at chance" if n["verdict"]["controls_at_chance"] else "NOT all at chance: do not trust the verdict"
    lines.append(f"controls: {at}")
    return "\n".join(lines)


def _chains(numbers: dict[str, Any]) -> list[int]:
    return sorted({c["chain"] for c in numbers["cells"]})


def _percent(cell: dict[str, Any]) -> str:
    low, high = cell["ci95"]
    star = "*" if cell.get("established") else " "
    return f"{100 * cell['accuracy']:.1f} [{100 * low:.1f}, {100 * high:.1f}]{star}"
