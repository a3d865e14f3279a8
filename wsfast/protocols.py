"""The paper's two test protocols (arXiv 2208.04369, Algorithm 1) and a control, on a precomputed kernel."""

from dataclasses import dataclass
from typing import Any

import numpy as np

from .classifier import WeightClassifier
from .inference import p_permutation
from .reference.retrieval import cmc, mean_average_precision

TRAIN_SHARE, QUERY_SHARE = 0.6, 0.2
_CLASSIFICATION, _RETRIEVAL, _PERMUTATION, _AA = range(4)  # each draws from a stream of its own


@dataclass(frozen=True)
class Outcome:
    """What a protocol counted: errors among n, and its extra scores (rank5, rank10, map, p_permutation)."""

    errors: int
    n: int
    chance: float
    extra: dict[str, Any]
    cmc: np.ndarray | None = None


def classification_split(labels: np.ndarray, seed: int, share: float = TRAIN_SHARE) -> tuple[np.ndarray, np.ndarray]:
    """(train, test) positions: `share` of every task's networks train, the rest test.

    ValueError naming the task where either side would be empty.
    """
    rng = np.random.default_rng([_CLASSIFICATION, seed])
    train, test = [], []
    for task in np.unique(labels):
        own = rng.permutation(np.flatnonzero(labels == task))
        cut = round(share * len(own))
        if not 0 < cut < len(own):
            raise ValueError(
                f"classification: task {task} has {len(own)} usable networks, the {share:.0%} split needs "
                "at least 2 (generate more repeats)"
            )
        train.append(own[:cut])
        test.append(own[cut:])
    return np.concatenate(train), np.concatenate(test)


def retrieval_split(labels: np.ndarray, seed: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """(train, query, gallery) positions: 60 % of the tasks train; of each other task 20 % query, 80 % are the gallery.

    ValueError where fewer than two tasks train or are unseen, or a task has too few networks.
    """
    rng = np.random.default_rng([_RETRIEVAL, seed])
    tasks = rng.permutation(np.unique(labels))
    cut = round(TRAIN_SHARE * len(tasks))
    if cut < 2 or len(tasks) - cut < 2:
        raise ValueError(f"retrieval: {len(tasks)} tasks are too few, want at least 4 (two to train on, two unseen)")
    query, gallery = [], []
    for task in tasks[cut:]:
        own = rng.permutation(np.flatnonzero(labels == task))
        asked = max(1, round(QUERY_SHARE * len(own)))
        if len(own) - asked < 1:
            raise ValueError(f"retrieval: task {task} has {len(own)} usable networks, want at least 2")
        query.append(own[:asked])
        gallery.append(own[asked:])
    return np.flatnonzero(np.isin(labels, tasks[:cut])), np.concatenate(query), np.concatenate(gallery)


def _classifier(solver: str, seed: int) -> WeightClassifier:
    return WeightClassifier(features="precomputed", solver=solver, seed=seed)


def classification(
    kernel: np.ndarray, labels: np.ndarray, seed: int = 0, solver: str = "ridge", permutations: int = 0
) -> Outcome:
    """Train on 60 % of every task's networks, test on the rest.

    kernel [N, N], labels int [N]. permutations: labelings shuffled over all networks, each with training (penalty
    included) from the start; extra then holds their accuracies' mean and p = (b + 1) / (B + 1).
    """
    train, test = classification_split(labels, seed)
    inside, across = kernel[np.ix_(train, train)], kernel[np.ix_(test, train)]
    model = _classifier(solver, seed).fit(inside, labels[train])
    errors = int((model.predict(across) != labels[test]).sum())
    extra: dict[str, Any] = {}
    if permutations:
        if solver != "ridge":
            raise ValueError("classification: the permutation test retrains the ridge classifier, not the paper's SGD")
        right = _permuted(model, across, labels, train, test, seed, permutations)
        extra = {
            "permutations": permutations,
            "permuted_accuracy": float(right.mean()),
            "p_permutation": p_permutation(1 - errors / len(test), right),
        }
    return Outcome(errors, len(test), 1 / len(model.classes_), extra)


def _permuted(
    model: WeightClassifier,
    across: np.ndarray,
    labels: np.ndarray,
    train: np.ndarray,
    test: np.ndarray,
    seed: int,
    permutations: int,
) -> np.ndarray:
    """Test accuracy under shuffled labels, the classifier trained anew for each: [permutations]."""
    rng = np.random.default_rng([_PERMUTATION, seed])
    codes = np.searchsorted(model.classes_, labels)
    right = []
    for start in range(0, permutations, 16):
        shuffled = np.stack([rng.permutation(codes) for _ in range(min(16, permutations - start))])
        coef, intercept, _ = model.ridge_.fit(shuffled[:, train], len(model.classes_))
        found = model.ridge_.decision(across, coef, intercept).argmax(axis=2)
        right.append((found == shuffled[:, test]).mean(axis=1))
    return np.concatenate(right)


def retrieval(kernel: np.ndarray, labels: np.ndarray, seed: int = 0, solver: str = "ridge") -> Outcome:
    """Rank the gallery of unseen tasks for each query.

    solver: "ridge" or "sgd": cosine between the logits of a classifier trained on the other tasks; "cosine": the kernel
    itself, nothing learned. An error is a query whose nearest gallery network has another task. extra: rank5, rank10,
    map.
    """
    train, query, gallery = retrieval_split(labels, seed)
    if solver == "cosine":
        norm = np.sqrt(np.diag(kernel))
        similarity = kernel[np.ix_(query, gallery)] / np.outer(norm[query], norm[gallery])
    else:
        model = _classifier(solver, seed).fit(kernel[np.ix_(train, train)], labels[train])
        q, g = (_unit(model.decision_function(kernel[np.ix_(part, train)])) for part in (query, gallery))
        similarity = q @ g.T
    curve = cmc(similarity, labels[query], labels[gallery])
    extra = {
        "rank5": float(curve[min(5, len(curve)) - 1]),
        "rank10": float(curve[min(10, len(curve)) - 1]),
        "map": mean_average_precision(similarity, labels[query], labels[gallery]),
    }
    errors = round((1 - curve[0]) * len(query))
    unseen = len(np.unique(labels[query]))
    return Outcome(errors, len(query), 1 / unseen, extra, curve)


def _unit(x: np.ndarray) -> np.ndarray:
    norm = np.linalg.norm(x, axis=1, keepdims=True)
    return x / np.where(norm > 0, norm, 1)


def split_one_task(kernel: np.ndarray, labels: np.ndarray, seed: int = 0) -> Outcome:
    """The A/A control: each task's networks, split at random into two pseudo-tasks, must not be told apart.

    The halves are random, so this finds leaks of the split and of the classifier, not modes within a task. Chance is
    one half; errors are summed over the tasks.
    """
    rng = np.random.default_rng([_AA, seed])
    errors = n = 0
    for task in np.unique(labels):
        own = rng.permutation(np.flatnonzero(labels == task))
        pseudo = np.arange(len(own)) % 2
        train, test = classification_split(pseudo, seed)
        model = _classifier("ridge", seed).fit(kernel[np.ix_(own[train], own[train])], pseudo[train])
        errors += int((model.predict(kernel[np.ix_(own[test], own[train])]) != pseudo[test]).sum())
        n += len(test)
    return Outcome(errors, n, 0.5, {})
