"""Kernel ridge: one-hot least squares for thousands of labelings of the same networks at once, and regression."""

from collections.abc import Iterator, Sequence
from contextlib import closing

import numpy as np
from scipy import linalg

from . import cluster
from .centred import CentredKernel
from .kernels.numba.classifier import class_sums
from .kernels.numba.threads import unordered

PENALTIES = (1e-3, 1e-2, 1e-1, 1.0)  # in units of the centred kernel's mean diagonal
COLUMNS, LABELINGS = 64, 32  # a block's sums stay in the second cache, and so do the columns that all labelings read


class KernelRidge(CentredKernel):
    """Ridge regression of one-hot labels on the centred feature space of a kernel, as scikit-learn's RidgeClassifier.

    kernel [n, n] of the training networks. For every labeling one of `penalties` is chosen by leave-one-out squared
    error, in closed form and on the training networks alone. All labelings share the inverses A of the
    penalised kernel, and one-hot labels turn the product A Y into sums of A's rows: n^2 additions a labeling, whatever
    the number of classes.
    """

    def __init__(self, kernel: np.ndarray, penalties: Sequence[float] = PENALTIES):
        super().__init__(kernel)
        n = len(kernel)
        self.solvers = []
        for penalty in penalties:
            factor, _ = linalg.cho_factor(self.train + penalty * np.eye(n), lower=True)
            lower = np.tril(linalg.lapack.dpotri(factor, lower=1)[0])
            inverse = lower + np.tril(lower, -1).T
            # A network's leverage is 1 - penalty inverse_ii, and 1/n for the intercept; its residual is penalty coef_i.
            kept = np.maximum(penalty * np.diag(inverse) - 1 / n, 1e-12)
            self.solvers.append((penalty, inverse, penalty / kept))

    def fit(self, labels: np.ndarray, classes: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """labels int [n], or [P, n] for P labelings -> (coef [P, n, C], intercept [P, C], penalty [P])."""
        labels, share = self._checked(labels, classes)
        chosen = self._chosen(labels, share)
        coef = np.empty((*labels.shape, classes))
        for k, (_, inverse, _) in enumerate(self.solvers):
            own = np.flatnonzero(chosen == k)
            for rows, columns, dual in _products(inverse, labels[own], share[own]):
                coef[own[rows], columns] = dual.transpose(0, 2, 1)
        return coef, share, np.array([penalty for penalty, _, _ in self.solvers])[chosen]

    def regress(self, target: np.ndarray) -> tuple[np.ndarray, np.ndarray, float]:
        """target float [n] -> (coef [n, 1], intercept [1], penalty) as `decision` takes them."""
        mean = target.mean()
        duals = [inverse @ (target - mean) for _, inverse, _ in self.solvers]
        errors = [((d * spread) ** 2).sum() for d, (_, _, spread) in zip(duals, self.solvers, strict=True)]
        chosen = int(np.argmin(errors))
        return duals[chosen][:, None], np.array([mean]), self.solvers[chosen][0]

    def accuracies(self, across: np.ndarray, train: np.ndarray, test: np.ndarray, classes: int) -> np.ndarray:
        """The test accuracy of each of P labelings, the classifier fitted anew for each, its penalty included: [P].

        across [m, n]: kernel of the test networks against the training ones; train int [P, n], test int [P, m]: the
        labelings of both, classes 0 .. C - 1. The same predictions as `fit` and `decision` for one labeling at a time.
        """
        train, share = self._checked(train, classes)
        chosen, across = self._chosen(train, share), self.centre(across)
        right = np.zeros(len(train))
        for k, (_, inverse, _) in enumerate(self.solvers):
            own = np.flatnonzero(chosen == k)
            if len(own):
                for rows, columns, scores in _products(inverse @ across.T, train[own], share[own]):
                    found = (scores + share[own[rows], :, None]).argmax(axis=1)
                    right[own[rows]] += (found == test[own[rows], columns]).sum(axis=1)
        return right / len(across)

    def _checked(self, labels: np.ndarray, classes: int) -> tuple[np.ndarray, np.ndarray]:
        """Labelings [P, n] and each class's share of them [P, C]."""
        labels, n = np.atleast_2d(labels), len(self.train)
        if labels.shape[1] != n or labels.min() < 0 or labels.max() >= classes:
            raise ValueError(
                f"KernelRidge: want labels [P, {n}] in 0..{classes - 1}, got {labels.shape} in "
                f"{labels.min()}..{labels.max()}"
            )
        return labels, np.stack([np.bincount(row, minlength=classes) for row in labels]) / n

    def _chosen(self, labels: np.ndarray, share: np.ndarray) -> np.ndarray:
        """The place in `solvers` of each labeling's least leave-one-out squared error: [P]."""
        errors = np.zeros((len(self.solvers), len(labels), -(-len(self.train) // COLUMNS)))
        for error, (_, inverse, spread) in zip(errors, self.solvers, strict=True):
            for rows, columns, dual in _products(inverse, labels, share):
                left_out = dual * spread[columns]
                error[rows, columns.start // COLUMNS] = np.einsum("pcj,pcj->p", left_out, left_out)
        return errors.sum(axis=2).argmin(axis=0)  # summed in one order, whichever block came first


def accuracies_on_cluster(
    ridge: KernelRidge, across: np.ndarray, train: np.ndarray, test: np.ndarray, classes: int, address: str | None
) -> np.ndarray:
    """KernelRidge.accuracies, the labelings shared out over a Ray cluster. The inverses are those of `ridge`."""
    tasks = cluster.processors(address)
    step = max(LABELINGS, -(-len(train) // tasks))  # every task multiplies the inverses by `across`
    shared = cluster.share(address, ridge), cluster.share(address, across)
    calls = (
        (p, (*shared, train[p], test[p], classes)) for p in (slice(i, i + step) for i in range(0, len(train), step))
    )
    out = np.empty(len(train))
    with closing(cluster.run(KernelRidge.accuracies, calls, address, told=lambda p: f"permuted labelings {p}")) as done:
        for p, found in done:
            out[p] = found
    return out


def _products(matrix: np.ndarray, labels: np.ndarray, share: np.ndarray) -> Iterator[tuple[slice, slice, np.ndarray]]:
    """matrix^T Y of every labeling's one-hot targets less their mean, in blocks: (labelings, columns, [p, C, columns]).

    matrix [n, m], labels [P, n], share [P, C].
    """
    whole = matrix.sum(axis=0)

    def block(at: tuple[slice, slice]) -> np.ndarray:
        rows, columns = at
        sums = -share[rows, :, None] * whole[columns]
        class_sums(np.ascontiguousarray(matrix[:, columns]), labels[rows], sums)
        return sums

    blocks = [
        (slice(p, p + LABELINGS), slice(j, j + COLUMNS))
        for j in range(0, matrix.shape[1], COLUMNS)
        for p in range(0, len(labels), LABELINGS)
    ]
    for (rows, columns), sums in unordered(block, blocks):
        yield rows, columns, sums
