"""The paper's two test protocols (arXiv 2208.04369, Algorithm 1) on a precomputed kernel, and a permutation test."""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from . import cluster
from .classifier import WeightClassifier
from .inference import p_permutation
from .pairs import cosines
from .reference.retrieval import cmc, mean_average_precision, ranking
from .ridge import accuracies_on_cluster

CLASSIFIERS = ("logistic", "ridge", "sgd")  # the first is a study's default
TRAIN_SHARE, QUERY_SHARE = 0.6, 0.2
_CLASSIFICATION, _RETRIEVAL, _PERMUTATION = range(3)  # each draws from a stream of its own
Kernel = np.ndarray | Callable[[np.ndarray], np.ndarray]  # [N, N], or what gives it from the training positions [n]


@dataclass(frozen=True)
class Outcome:
    """What a protocol counted: wrong bool [n], tasks int [n] of each test network, and extra scores (rank5, map, ...).

    chance: share that these answers get right, on average, where tasks are dealt out to the test networks at random
    (Cohen 1960); 1 / T where every task has as many of them. curve: a retrieval's cumulative match characteristic.
    """

    wrong: np.ndarray
    tasks: np.ndarray
    chance: float
    extra: dict[str, Any] = field(default_factory=dict)
    curve: np.ndarray | None = None

    @property
    def n(self) -> int:
        return len(self.wrong)

    @property
    def errors(self) -> int:
        return int(self.wrong.sum())

    @property
    def accuracy(self) -> float:
        return 1 - self.errors / self.n


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
        raise ValueError(f"retrieval: want at least 4 tasks (two to train on, two unseen), got {len(tasks)}")
    query, gallery = [], []
    for task in tasks[cut:]:
        own = rng.permutation(np.flatnonzero(labels == task))
        asked = max(1, round(QUERY_SHARE * len(own)))
        if len(own) - asked < 1:
            raise ValueError(f"retrieval: task {task} has {len(own)} usable networks, want at least 2")
        query.append(own[:asked])
        gallery.append(own[asked:])
    return np.flatnonzero(np.isin(labels, tasks[:cut])), np.concatenate(query), np.concatenate(gallery)


def classifier(solver: str, seed: int) -> WeightClassifier:
    """The weight classifier of all protocols and controls."""
    return WeightClassifier(features="precomputed", solver=solver, seed=seed)


def seen_from(kernel: Kernel, train: np.ndarray) -> np.ndarray:
    """The kernel [N, N] of features that the networks at `train` scale, if any do."""
    return kernel(train) if callable(kernel) else kernel


def classification(kernel: Kernel, labels: np.ndarray, seed: int = 0, solver: str = CLASSIFIERS[0]) -> Outcome:
    """Train on 60 % of every task's networks, test on the rest. labels int [N]."""
    train, test = classification_split(labels, seed)
    kernel = seen_from(kernel, train)
    return classify(fit(kernel, labels, train, seed, solver), kernel[:, train], labels, test)


def fit(kernel: np.ndarray, labels: np.ndarray, train: np.ndarray, seed: int, solver: str) -> WeightClassifier:
    """The classifier trained on the networks at `train` of kernel [N, N], labels int [N]."""
    return classifier(solver, seed).fit(kernel[np.ix_(train, train)], labels[train])


def classify(model: WeightClassifier, across: np.ndarray, labels: np.ndarray, test: np.ndarray) -> Outcome:
    """The networks at `test` of a set, labels int [M]; across [M, n]: their kernel with the model's training ones."""
    return _counted(model.predict(across[test]), labels[test])


def permutation_test(
    kernel: np.ndarray,
    labels: np.ndarray,
    permutations: int,
    seed: int = 0,
    engine: str = "local",
    address: str | None = None,
) -> dict[str, Any]:
    """Classification by ridge against shuffled labelings, training and penalty anew for each.

    Labels are shuffled among the training and among the test networks: the split takes as many of every task as in
    the observed labeling, where a free shuffle would leave the test with the fewer the more trained, below chance.
    Ridge whatever classifier a study uses: one factorisation serves every labeling. Observed and permuted accuracy are
    therefore both ridge's. p_permutation = (b + 1) / (B + 1). engine, address: as generate; a task has a share
    of the labelings.
    """
    train, test = classification_split(labels, seed)
    across = kernel[np.ix_(test, train)]
    model = classifier("ridge", seed).fit(kernel[np.ix_(train, train)], labels[train])
    observed = float((model.predict(across) == labels[test]).mean())
    rng = np.random.default_rng([_PERMUTATION, seed])
    codes = np.searchsorted(model.classes_, labels)
    trained, tested = (rng.permuted(np.tile(codes[part], (permutations, 1)), axis=1) for part in (train, test))
    arguments = across, trained, tested, len(model.classes_)
    if cluster.checked("permutation_test", engine, address):
        permuted = accuracies_on_cluster(model.ridge_, *arguments, address)
    else:
        permuted = model.ridge_.accuracies(*arguments)
    return {
        "permutations": permutations,
        "permutation_classifier": "ridge",
        "permutation_accuracy": observed,
        "permuted_accuracy": float(permuted.mean()),
        "p_permutation": p_permutation(observed, permuted),
    }


def retrieval(kernel: Kernel, labels: np.ndarray, seed: int = 0, solver: str = CLASSIFIERS[0]) -> Outcome:
    """Rank the gallery of unseen tasks for each query.

    solver: cosine between the logits of a classifier (one of CLASSIFIERS) trained on the other tasks; or "cosine": the
    kernel itself, nothing learned. A query is wrong where its nearest gallery network has another task. extra: rank5,
    rank10, map.
    """
    train, query, gallery = retrieval_split(labels, seed)
    kernel = seen_from(kernel, train)
    if solver == "cosine":
        norm = np.sqrt(np.diag(kernel))
        similarity = cosines(kernel[np.ix_(query, gallery)], norm[query], norm[gallery])
        return _ranked(similarity, labels[query], labels[gallery])
    return rank(fit(kernel, labels, train, seed, solver), kernel[:, train], labels, query, gallery)


def rank(
    model: WeightClassifier, across: np.ndarray, labels: np.ndarray, query: np.ndarray, gallery: np.ndarray
) -> Outcome:
    """Rank a set's gallery for each of its queries by the cosine of a model's logits; arguments as `classify`."""
    q, g = (_unit(model.decision_function(across[part])) for part in (query, gallery))
    return _ranked(q @ g.T, labels[query], labels[gallery])


def _ranked(similarity: np.ndarray, asked: np.ndarray, stored: np.ndarray) -> Outcome:
    curve = cmc(similarity, asked, stored)
    extra = {
        "rank5": float(curve[min(5, len(curve)) - 1]),
        "rank10": float(curve[min(10, len(curve)) - 1]),
        "map": mean_average_precision(similarity, asked, stored),
    }
    return _counted(stored[ranking(similarity)[:, 0]], asked, extra=extra, curve=curve)


def _counted(found: np.ndarray, tasks: np.ndarray, **scores: Any) -> Outcome:
    n, (names, codes) = len(tasks), np.unique(np.concatenate([found, tasks]), return_inverse=True)
    answered, had = (np.bincount(part, minlength=len(names)) for part in (codes[:n], codes[n:]))
    return Outcome(found != tasks, tasks, float(answered @ had) / n**2, **scores)


def _unit(x: np.ndarray) -> np.ndarray:
    norm = np.linalg.norm(x, axis=1, keepdims=True)
    return x / np.where(norm > 0, norm, 1)
