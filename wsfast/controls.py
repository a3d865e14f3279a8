"""Controls of a study: populations in which a task must not be found, and what they show when it is not."""

from typing import Any

import numpy as np

from .inference import clopper_pearson, holm, p_chance_two_sided
from .protocols import CLASSIFIERS, Outcome, classification

A_A_NETWORKS = 4  # a task's fewest: two halves, each with one network to train on and one to test
_SPLIT = 3  # the stream of random halves


def split_one_task(
    kernel: np.ndarray, labels: np.ndarray, seed: int = 0, solver: str = CLASSIFIERS[0]
) -> tuple[Outcome, int]:
    """The A/A control: each task's networks, split at random into two pseudo-tasks, must not be told apart.

    The halves are random, so this finds leaks of the split and of the classifier, not modes within a task. Chance is
    one half; the outcome holds all tasks' test networks. Returns it and how many tasks were left out for having fewer
    than 4 networks; ValueError where that leaves none.
    """
    rng = np.random.default_rng([_SPLIT, seed])
    tasks, used = np.unique(labels), large_enough(labels)
    if not len(used):
        raise ValueError(f"A/A control: want a task of at least {A_A_NETWORKS} usable networks (generate more repeats)")
    wrong, tested = [], []
    for task in used:
        own = rng.permutation(np.flatnonzero(labels == task))
        found = classification(kernel[np.ix_(own, own)], np.arange(len(own)) % 2, seed, solver)
        wrong.append(found.wrong)
        tested.append(np.full(found.n, task))
    return Outcome(np.concatenate(wrong), np.concatenate(tested), 0.5), len(tasks) - len(used)


def large_enough(labels: np.ndarray) -> np.ndarray:
    """The tasks that can be split in two."""
    tasks, counts = np.unique(labels, return_counts=True)
    return tasks[counts >= A_A_NETWORKS]


def against_chance(o: Outcome) -> dict[str, Any]:
    """Whether an outcome differs from guessing, in either direction, and by how much it still might.

    margin: the exact 95 % interval lies within chance -+ margin, so a larger deviation is excluded at that level.
    """
    low, high = (1 - v for v in reversed(clopper_pearson(o.errors, o.n)))
    return {
        "p_two_sided": p_chance_two_sided(o.errors, o.n, o.chance),
        "contains_chance": low <= o.chance <= high,
        "margin": max(high - o.chance, o.chance - low),
    }


def chance_verdict(controls: list[dict[str, Any]], level: float) -> dict[str, Any]:
    """controls_at_chance: none differs from chance (Holm over all); controls_margin: what could have been missed."""
    return {
        "controls_at_chance": min(holm([c["p_two_sided"] for c in controls])) > level,
        "controls_margin": max(c["margin"] for c in controls),
    }
