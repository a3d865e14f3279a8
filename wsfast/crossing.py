"""Does a weight classifier trained on one set know the tasks of another? The paper's cross-network validation."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from . import backends, inference, provenance
from .chains import chain_shape, feature_kernel
from .classifier import reads_cosines
from .events import Progress
from .protocols import CLASSIFIERS, Outcome, classify, fit, rank, retrieval_split
from .result import Result
from .rows import RESAMPLES, counts
from .seeds import whole_seed
from .starts import splits, starts
from .table import TITLES, chance, interval, percent
from .trained_on import same_data
from .weights import WeightSet, usable

SCHEMA = 1
SAME = {
    True: "both sets were trained on the same data",
    False: "the sets' data differ under the same names (samples, split or labels, or one is cut from more tasks):\n"
    "a drop need not come from the networks",
    None: "whether both sets were trained on the same data is not known (an imported one does not say)",
}
PROTOCOLS: dict[str, Any] = {"classification": classify, "retrieval": rank}  # the test of a model on parts of a set
SETS = ("a", "b")


@dataclass
class CrossResult(Result):
    """What cross found: numbers as in cross.json."""

    FILES = ("cross.json", "cross.svg")

    def table(self) -> str:
        return table(self.numbers)

    def drawn(self) -> str:
        from .figures import crossing

        return crossing(self.numbers)


def cross(
    a: Any,
    b: Any,
    *,
    features: str = "chain",
    classifier: str = CLASSIFIERS[0],
    seed: int = 0,
    backend: str | None = None,
    device: str = "cpu",
    progress: bool | None = None,
) -> CrossResult:
    """Train the weight classifier on one set, test it on another of the same tasks (arXiv 2208.04369, section 4).

    a, b: WeightSets or the folders of stored ones; hidden widths may differ, the chains' Grams may not. For every chain
    that both have, classification and retrieval, in both directions: the classifier learns from one set's training part
    and is tested on the other's test part, split as in a study; beside it the classifier of the tested set itself, on
    the same networks. Networks that start from the same weights (one seed, task and repeat in both sets) are never on
    both sides. features: of `wsfast.chains.FEATURES`. classifier: as study. seed: of both splits. Diverged networks are
    left out.

    numbers: a, b (network, data, networks, diverged, seed); same_data, whether both sets were generated on the same
    samples, split and labels under these names (None where an imported set does not say); cells, a dict each: chain,
    protocol, trained_on, tested_on ("a" or "b"), n, errors, accuracy, chance, ci95, bootstrap95; where the two sets
    differ also drop (in accuracy, against the tested set's own classifier), only_cross and only_within (networks that
    one classifier alone gets wrong), p_mcnemar, and p_holm over the chains. ValueError for tasks of other names or
    Grams of another shape.
    """
    if classifier not in CLASSIFIERS:
        raise ValueError(f"cross: classifier must be one of {', '.join(CLASSIFIERS)}, got {classifier!r}")
    seed = whole_seed("cross", seed)
    given = {key: _opened(zoo) for key, zoo in zip(SETS, (a, b), strict=True)}
    sets = {key: usable(f"cross: {key}", zoo) for key, zoo in given.items()}
    _same_tasks(sets)
    chains = _same_chains(sets, features)
    labels = {key: zoo.labels for key, zoo in sets.items()}
    parts: dict[str, dict[str, tuple[np.ndarray, ...]]] = {
        "classification": _classification_splits(sets, seed),
        "retrieval": {key: retrieval_split(labels[key], seed) for key in SETS},
    }
    cells: list[dict[str, Any]] = []
    with Progress("cross", len(chains), "chain", progress) as said:
        for chain in chains:
            options: dict[str, Any] = {"chain": chain, "backend": backend, "device": device}
            options["cosine"] = reads_cosines(classifier, features)
            kernel = {(key, key): feature_kernel(features, sets[key], **options) for key in SETS}
            kernel["a", "b"] = feature_kernel(features, sets["a"], sets["b"], **options)
            kernel["b", "a"] = kernel["a", "b"].T
            for protocol, test in PROTOCOLS.items():
                outcomes: dict[tuple[str, str], Outcome] = {}
                for trained in SETS:
                    train = parts[protocol][trained][0]
                    model = fit(kernel[trained, trained], labels[trained], train, seed, classifier)
                    for tested in SETS:
                        across, asked = kernel[tested, trained][:, train], parts[protocol][tested][1:]
                        outcomes[trained, tested] = test(model, across, labels[tested], *asked)
                cells += _cells({"chain": chain, "protocol": protocol}, outcomes, seed)
            said.advance()
            said.finished(chain=chain)
    _holm(cells)
    about = {key: _about(given[key], len(sets[key])) for key in SETS}
    how = {"features": features, "classifier": classifier, "split_seed": seed, "tasks": len(np.unique(labels["a"]))}
    how |= {"same_data": same_data(list(sets.values())), "backend": backends.choose(backend, device)}
    return CrossResult({"schema": SCHEMA, **about, **how, **provenance.record(device), "cells": cells})


def _opened(zoo: Any) -> Any:
    return WeightSet.open(zoo) if isinstance(zoo, (str, Path)) else zoo


def _same_tasks(sets: dict[str, WeightSet]) -> None:
    """A label must mean the same task in both, and both must have networks of every task."""
    names = [zoo.task_names for zoo in sets.values()]
    if names[0] != names[1]:
        k = next((k for k, (x, y) in enumerate(zip(*names, strict=False)) if x != y), min(map(len, names)))
        x, y = (repr(n[k]) if k < len(n) else "nothing" for n in names)
        raise ValueError(
            f"cross: label {k} means {x} in a and {y} in b (want the same tasks in the same order; an imported set's "
            "are named by dataclasses.replace(zoo, task_names=...))"
        )
    found = [set(zoo.labels.tolist()) for zoo in sets.values()]
    if found[0] != found[1]:
        raise ValueError(
            f"cross: only one of the sets has usable networks of the tasks {sorted(found[0] ^ found[1])} (want both)"
        )


def _same_chains(sets: dict[str, WeightSet], features: str) -> range:
    """The chains that both have; ValueError with the shapes where one's features differ in shape."""
    chains = range(1, min(len(zoo.network.chains) for zoo in sets.values()) + 1)
    for chain in chains:
        shapes = [chain_shape(features, zoo, chain) for zoo in sets.values()]
        if shapes[0] != shapes[1]:
            a, b = (
                f"{' x '.join(map(str, shape))} in {key} ({zoo.network.name})"
                for shape, (key, zoo) in zip(shapes, sets.items(), strict=True)
            )
            raise ValueError(f"cross: chain {chain} is {a} and {b}: a classifier of one cannot read the other")
    return chains


def _classification_splits(sets: dict[str, WeightSet], seed: int) -> dict[str, tuple[np.ndarray, ...]]:
    """(train, test) positions of each set; networks that start from the same weights are on one side in both."""
    found = splits([zoo.labels for zoo in sets.values()], starts(list(sets.values())), seed)
    for (key, zoo), (train, test) in zip(sets.items(), found, strict=True):
        if lacking := set(zoo.labels[train].tolist()) ^ set(zoo.labels[test].tolist()):
            raise ValueError(
                f"cross: the split that sets of one seed share leaves nothing to train on or to test of {key}'s tasks "
                f"{sorted(lacking)} (generate more repeats, or the sets from different seeds)"
            )
    return dict(zip(sets, found, strict=True))


def _cells(where: dict[str, Any], outcomes: dict[tuple[str, str], Outcome], seed: int) -> list[dict[str, Any]]:
    cells = []
    for tested in SETS:
        own = outcomes[tested, tested]
        for trained in SETS:
            o = outcomes[trained, tested]
            cell = where | {"trained_on": trained, "tested_on": tested, **counts(o, RESAMPLES, seed), **o.extra}
            if trained != tested:
                only_cross, only_within = int((o.wrong & ~own.wrong).sum()), int((own.wrong & ~o.wrong).sum())
                cell |= {"drop": own.accuracy - o.accuracy, "only_cross": only_cross, "only_within": only_within}
                cell["p_mcnemar"] = inference.p_mcnemar(only_cross, only_within)
            cells.append(cell)
    return cells


def families(cells: list[dict[str, Any]]) -> dict[tuple[str, str, str], list[dict[str, Any]]]:
    """The cells of each (protocol, tested_on, trained_on), one per chain; the tested set's own classifier first."""
    found: dict[tuple[str, str, str], list[dict[str, Any]]] = {}
    for cell in cells:
        found.setdefault((cell["protocol"], cell["tested_on"], cell["trained_on"]), []).append(cell)
    return dict(sorted(found.items(), key=lambda family: (*family[0][:2], family[0][1] != family[0][2])))


def _holm(cells: list[dict[str, Any]]) -> None:
    for family in families(cells).values():
        if "drop" in family[0]:
            for cell, p in zip(family, inference.holm([c["p_mcnemar"] for c in family]), strict=True):
                cell["p_holm"] = p


def _about(zoo: WeightSet, used: int) -> dict[str, Any]:
    return {
        "network": zoo.network.name,
        "data": zoo.info.get("data", "unknown"),
        "networks": len(zoo),
        "diverged": len(zoo) - used,
        "seed": zoo.info.get("seed"),
    }


def table(n: dict[str, Any]) -> str:
    """cross.json as text: a row for each protocol and pair of sets, a column per chain."""
    chains = sorted({c["chain"] for c in n["cells"]})
    lines = [f"{key}: {n[key]['networks']} x {n[key]['network']}, {n[key]['diverged']} diverged" for key in SETS]
    lines += [f"{n['tasks']} tasks, {TITLES[n['features']]}, {n['classifier']}", SAME[n["same_data"]], ""]
    lines.append(_row("protocol", "trained", "tested", "chance", [f"chain {c}" for c in chains]))
    for (protocol, tested, trained), family in families(n["cells"]).items():
        said = [f"{percent(c['accuracy'])} {interval(c['ci95'])}" for c in family]
        lines.append(_row(protocol, trained, tested, chance(family), said))
        if "drop" in family[0]:
            drops = [f"{percent(c['drop'])} (p = {c['p_holm']:.2g})" for c in family]
            lines.append(_row("  drop", "", "", "", drops))
    lines += [
        "",
        "accuracy in % [exact 95 % interval]; drop in points, against the tested set's own classifier on the same",
        "networks (p: McNemar's exact test, Holm over the chains)",
    ]
    return "\n".join(lines)


def _row(protocol: str, trained: str, tested: str, chance: str, values: list[str]) -> str:
    return f"{protocol:<15} {trained:<7} {tested:<7} {chance:>6} " + "".join(f"{v:>22}" for v in values)
