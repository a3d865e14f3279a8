"""The rows of a study's results: what each protocol and control counted, and what that allows one to say."""

from dataclasses import dataclass
from typing import Any

import numpy as np

from . import inference
from .controls import chance_verdict
from .protocols import Kernel, Outcome, classification, retrieval
from .table import families

LEVEL = 0.05  # of every test; alpha is the size of error that is tested
SPLIT_SEEDS, RESAMPLES = 5, 2000


@dataclass(frozen=True)
class Plan:
    """What a study computes, beyond one split and its counts."""

    alpha: float
    classifier: str
    permutations: int
    seeds: range  # of the splits; the first one's counts are tested, the others show how much they vary
    resamples: int

    @property
    def protocols(self) -> tuple[tuple[str, str], ...]:
        return ("classification", self.classifier), ("retrieval", self.classifier), ("retrieval", "cosine")


def protocol_row(
    kernel: Kernel, labels: np.ndarray, protocol: str, solver: str, plan: Plan, seeds: range
) -> tuple[dict[str, Any], np.ndarray | None]:
    """One protocol's counts and what they allow one to say, and its CMC where it ranks."""
    run = classification if protocol == "classification" else retrieval
    o, *again = [run(kernel, labels, seed, solver) for seed in seeds]
    row = {
        "protocol": protocol,
        "classifier": solver,
        **counts(o, plan.resamples, plan.seeds[0]),
        "wilson95": [1 - v for v in reversed(inference.wilson(o.errors, o.n))],
        "p_error_ge_alpha": inference.p_error_at_least(o.errors, o.n, plan.alpha),
        "paper_rule": "accept" if o.errors / o.n < plan.alpha else "reject",
        **o.extra,
    }
    if again:
        accuracy = [each.accuracy for each in (o, *again)]
        row["split_seeds"] = {
            "seeds": list(seeds),
            "mean": float(np.mean(accuracy)),
            "min": min(accuracy),
            "max": max(accuracy),
        }
    return row, o.curve


def control_row(name: str, chain: int, o: Outcome, plan: Plan) -> dict[str, Any]:
    found = counts(o, plan.resamples, plan.seeds[0])
    return {"control": name, "features": "chain", "chain": chain, "classifier": plan.classifier, **found}


def counts(o: Outcome, resamples: int, seed: int) -> dict[str, Any]:
    """What an outcome counted, its exact interval, and by resampling tasks where resamples is not 0."""
    found = {
        "n": o.n,
        "errors": o.errors,
        "accuracy": o.accuracy,
        "chance": o.chance,
        "ci95": [1 - v for v in reversed(inference.clopper_pearson(o.errors, o.n))],
        "p_chance": inference.p_chance(o.errors, o.n, o.chance),
        "tested_tasks": len(np.unique(o.tasks)),
    }
    if resamples:
        found["bootstrap95"] = list(inference.bootstrap_by_task(~o.wrong, o.tasks, resamples, seed))
    return found


def correct(cells: list[dict[str, Any]], alpha: float) -> None:
    """Holm over the chains of each (features, protocol, classifier), and the networks that a cell lacks.

    n_to_establish holds at LEVEL over the number of chains: enough for Holm, whatever the other chains show.
    """
    for family in families(cells).values():
        for cell, p in zip(family, inference.holm([c["p_error_ge_alpha"] for c in family]), strict=True):
            cell["p_holm"], cell["established"] = p, p <= LEVEL
            if not cell["established"]:
                cell["n_to_establish"] = inference.smallest_n(cell["errors"], cell["n"], alpha, LEVEL / len(family))


def verdict(cells: list[dict[str, Any]], controls: list[dict[str, Any]], alpha: float) -> dict[str, Any]:
    """The paper's rule and the honest one, for the chain features, over all chains at once.

    "All chains err less than alpha" is an intersection-union claim: it is established at LEVEL where every single test
    is, without correction. n_to_establish: test networks a chain that could, at the worst chain's error; None if none.
    """
    said: dict[str, Any] = {}
    for (features, protocol, classifier), family in families(cells).items():
        if features == "chain" and classifier != "cosine":
            worst = max(family, key=lambda c: c["p_error_ge_alpha"])
            said[protocol] = {
                "paper_rule": "accept" if all(c["paper_rule"] == "accept" for c in family) else "reject",
                "established": worst["p_error_ge_alpha"] <= LEVEL,
                "p": worst["p_error_ge_alpha"],
            }
            if not said[protocol]["established"]:
                said[protocol]["n_to_establish"] = inference.smallest_n(worst["errors"], worst["n"], alpha, LEVEL)
    return said | chance_verdict(controls, LEVEL)
