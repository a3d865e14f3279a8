"""Distances within and between tasks, and whether they differ: PERMANOVA (Anderson 2001, Austral Ecology 26, 32-46)."""

from typing import Any

import numpy as np

from .inference import p_permutation

QUANTILES = (0.05, 0.25, 0.5, 0.75, 0.95)
_PERMUTATION = 4  # the stream of shuffled labelings
_ENTRIES = 1 << 22  # of the largest task's blocks of the kernel that are read at a time


def permanova(kernel: np.ndarray, labels: np.ndarray, permutations: int = 0, seed: int = 0) -> dict[str, Any]:
    """One-way permutational analysis of variance on the distances d_ij^2 = K_ii + K_jj - 2 K_ij of a kernel [N, N].

    pseudo_f = (SS_between / (T - 1)) / (SS_within / (N - T)), None where nothing varies within tasks; r2 = SS_between /
    SS_total, None where all networks are alike, and r2_chance its mean over shuffled labels, (T - 1) / (N - 1). p = (b
    + 1) / (B + 1) over shuffled labels, only where permutations are asked for. For a cosine kernel the distances are
    those between Grams of unit norm. ValueError for fewer than two tasks or no task with two networks.
    """
    codes = np.unique(labels, return_inverse=True)[1]
    counts = np.bincount(codes)
    n, tasks = len(codes), len(counts)
    if tasks < 2 or tasks == n:
        raise ValueError(
            f"permanova: want at least 2 tasks and a task with 2 networks, got {n} networks, {tasks} tasks"
        )
    order = np.argsort(codes, kind="stable")
    trace = float(np.trace(kernel))
    total = trace - float(kernel.sum()) / n
    kept = _explained(kernel, order[None], counts)[0]
    within = trace - kept
    tiny = 1e-12 * trace  # rounding; without it, ties between labelings of identical networks are broken at random
    out: dict[str, Any] = {
        "pseudo_f": (total - within) / (tasks - 1) / (within / (n - tasks)) if within > tiny else None,
        "r2": 1 - within / total if total > tiny else None,
        "r2_chance": (tasks - 1) / (n - 1),
    }
    if permutations:
        rng = np.random.default_rng([_PERMUTATION, seed])
        permuted, step = [], max(1, _ENTRIES // int(counts.max()) ** 2)
        for start in range(0, permutations, step):
            shuffled = np.stack([rng.permutation(n) for _ in range(min(step, permutations - start))])
            permuted.append(_explained(kernel, shuffled, counts))
        out |= {"permutations": permutations, "p": p_permutation(kept - tiny, np.concatenate(permuted))}
    return out


def _explained(kernel: np.ndarray, orders: np.ndarray, counts: np.ndarray) -> np.ndarray:
    """sum over tasks of (sum of the task's block of K) / its size, for networks dealt out in each order [P, N]: [P].

    SS_within is the trace of K less this, so it alone decides a permutation's place.
    """
    diagonal = np.diag(kernel)
    found = np.zeros(len(orders))
    for end, size in zip(np.cumsum(counts), counts, strict=True):
        own = orders[:, end - size : end]
        i, j = np.triu_indices(size, 1)
        found += (2 * kernel[own[:, i], own[:, j]].sum(axis=1) + diagonal[own].sum(axis=1)) / size
    return found


def spread(kernel: np.ndarray, labels: np.ndarray) -> dict[str, list[float]]:
    """Quantiles (5, 25, 50, 75, 95 %) of the cosine distances 1 - K_ij of pairs within and between tasks."""
    same, once = labels[:, None] == labels, np.triu(np.ones(kernel.shape, bool), 1)
    pairs = {"within": same & once, "between": ~same & once}
    return {name: np.quantile(1 - kernel[own], QUANTILES, overwrite_input=True).tolist() for name, own in pairs.items()}
