"""One-to-one matches between the units of two networks, and groups of units that answer alike."""

import numpy as np
from scipy.optimize import linear_sum_assignment
from sklearn.cluster import SpectralCoclustering
from threadpoolctl import threadpool_limits


def semi_matching(scores: np.ndarray) -> np.ndarray:
    """Every unit's best partner, whoever else has it: scores [P, U, V] -> int64 [P, U] (Li et al. 2016)."""
    return scores.argmax(axis=2)


def matching(scores: np.ndarray) -> np.ndarray:
    """The one-to-one partners with the largest sum of scores: [P, U, V], U at most V -> int64 [P, U].

    ValueError where there are more units than partners.
    """
    if scores.shape[1] > scores.shape[2]:
        raise ValueError(f"matching: {scores.shape[1]} units want as many partners, got {scores.shape[2]}")
    found = [linear_sum_assignment(s, maximize=True)[1] for s in scores]
    return np.array(found, np.int64).reshape(scores.shape[:2])


def scores_of(scores: np.ndarray, partners: np.ndarray) -> np.ndarray:
    """Each unit's score with its partner: [P, U]."""
    return np.take_along_axis(scores, partners[:, :, None], axis=2)[:, :, 0]


def clustered(r: np.ndarray, count: int, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Groups of units of both networks, from their correlations r [U, V]: labels int64 [U] and [V], 0 .. count - 1.

    Spectral clustering of the bipartite graph [[0, R], [R^T, 0]] with R = max(r, 0) (Li et al. 2016, section 3.4), as
    scikit-learn's SpectralCoclustering solves it. Units that correlate with nobody have the label -1. ValueError where
    fewer than `count` units of either network are left.
    """
    weights = np.maximum(r, 0).astype(np.float64)
    rows, columns = (np.flatnonzero(weights.sum(axis=axis) > 0) for axis in (1, 0))
    if not 2 <= count <= min(len(rows), len(columns)):
        most = min(len(rows), len(columns))
        raise ValueError(f"clustered: count must be 2..{most}, the units that correlate with any, got {count}")
    with threadpool_limits(1):  # for so few units OpenMP's threads cost twenty times what they do
        found = SpectralCoclustering(count, random_state=seed % 2**32).fit(weights[np.ix_(rows, columns)])
    labels = np.full(len(r), -1), np.full(r.shape[1], -1)
    labels[0][rows], labels[1][columns] = found.row_labels_, found.column_labels_
    return labels


def described(r: np.ndarray, own: np.ndarray, other: np.ndarray) -> list[dict[str, float]]:
    """Of every cluster: units, balance (the smaller network's share over the larger's, 1 is even, 0 one-sided), and
    r, the mean over its pairs of units of both networks (nan where it is one-sided)."""
    rows = []
    for label in range(max(own.max(), other.max()) + 1):
        a, b = own == label, other == label
        sizes = int(a.sum()), int(b.sum())
        mean = float(r[np.ix_(a, b)].mean()) if min(sizes) else float("nan")
        rows.append({"units": sum(sizes), "balance": min(sizes) / max(*sizes, 1), "r": mean})
    return rows
