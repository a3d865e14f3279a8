"""Kernel ridge classification, the well-conditioned default: one-hot least squares, many labelings at once."""

import numpy as np
from scipy import linalg

PENALTIES = (1e-3, 1e-2, 1e-1, 1.0)  # in units of the centred kernel's mean diagonal


class KernelRidge:
    """Ridge regression of one-hot labels on the centred feature space of a kernel, as scikit-learn's RidgeClassifier.

    kernel [n, n] of the training networks. The penalty is chosen among PENALTIES by leave-one-out squared error,
    in closed form and on the training networks alone. A factorisation is shared by all labelings.
    """

    def __init__(self, kernel: np.ndarray):
        self.mean = kernel.mean(axis=0)
        self.total = self.mean.mean()
        centred = kernel - self.mean - self.mean[:, None] + self.total
        n = len(centred)
        scale = max(np.trace(centred) / n, np.finfo(np.float64).tiny)
        self.solvers = []
        for penalty in PENALTIES:
            ridge = penalty * scale
            inverse = linalg.cho_solve(linalg.cho_factor(centred + ridge * np.eye(n), lower=True), np.eye(n))
            # A network's leverage is 1 - ridge inverse_ii, and 1/n for the intercept; its residual is ridge coef_i.
            kept = np.maximum(ridge * np.diag(inverse) - 1 / n, 1e-12)
            self.solvers.append((penalty, inverse, ridge / kept))

    def fit(self, labels: np.ndarray, classes: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """labels int [n], or [P, n] for P labelings -> (coef [P, n, C], intercept [P, C], penalty [P])."""
        labels = np.atleast_2d(labels)
        targets = (labels[:, :, None] == np.arange(classes)).astype(np.float64)
        intercept = targets.mean(axis=1)
        targets -= intercept[:, None]
        best, coef, penalty = np.full(len(labels), np.inf), np.zeros_like(targets), np.zeros(len(labels))
        flat = targets.transpose(1, 0, 2).reshape(len(targets[0]), -1)
        for value, inverse, spread in self.solvers:
            dual = (inverse @ flat).reshape(len(flat), len(labels), classes).transpose(1, 0, 2)
            left_out = dual * spread[:, None]
            error = (left_out**2).sum(axis=(1, 2))
            better = error < best
            best[better], coef[better], penalty[better] = error[better], dual[better], value
        return coef, intercept, penalty

    def decision(self, kernel: np.ndarray, coef: np.ndarray, intercept: np.ndarray) -> np.ndarray:
        """kernel [m, n] of new networks against the training ones -> scores [..., m, C]."""
        centred = kernel - kernel.mean(axis=1, keepdims=True) - self.mean + self.total
        return centred @ coef + intercept[..., None, :]
