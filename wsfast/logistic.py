"""Kernel logistic classification: softmax regression with an L2 penalty chosen by cross-validation."""

from collections.abc import Callable

import numpy as np
from scipy import linalg

from .centred import CentredKernel
from .lbfgs import minimise

PENALTIES = (1.0, 1e-1, 1e-2, 1e-3, 1e-4)  # strong to weak, in units of the centred kernel's mean diagonal
FOLDS = 4
CHOOSING, SOLVING = 1e-2, 1e-4  # largest gradient in the solver's scaled variables: to choose a penalty, to fit with it


class KernelLogistic(CentredKernel):
    """Multinomial logistic regression on the centred feature space of a kernel, as scikit-learn's LogisticRegression.

    Minimises sum_i -log softmax(f_i)[y_i] + penalty / 2 sum_c ||w_c||^2 with f = <w, features> + b, b unpenalised, the
    features those of `train` (scikit-learn's C is 1 / penalty). kernel [n, n] of the training networks.

    Solved in the kernel's eigenbasis, features sqrt(values) vectors: a rotation, which the penalty does not see. One
    decomposition serves every fold too, since moving the origin changes nothing but b.
    """

    def __init__(self, kernel: np.ndarray):
        super().__init__(kernel)
        values, vectors = linalg.eigh(self.train, driver="evd")
        kept = values > np.finfo(np.float64).eps * np.trace(self.train)
        self.roots = np.sqrt(values[kept])
        self.features = vectors[:, kept] * self.roots

    def fit(self, labels: np.ndarray, classes: int, seed: int = 0) -> tuple[np.ndarray, np.ndarray, float]:
        """labels int [n] in 0 .. C - 1, each of them present -> (coef [n, C], intercept [C], penalty).

        The penalty is the one of PENALTIES with the least held-out log loss over FOLDS stratified folds drawn from
        `seed`; the path from strong to weak is left at the first that does worse. A network is held out only where
        others of its class train: the only one of a class always trains. Where no class has two, nothing can be held
        out and the strongest penalty is taken. RuntimeError where the solver does not converge.
        """
        labels = np.asarray(labels)
        if labels.shape != self.mean.shape or set(labels.tolist()) != set(range(classes)):
            raise ValueError(
                f"KernelLogistic: want one of the labels 0..{classes - 1} for each of {len(self.mean)} networks and "
                f"each label used, got {labels.shape} with {len(np.unique(labels))} distinct"
            )
        penalty, start = self._choose(labels, stratified_folds(labels, FOLDS, seed), classes)
        everyone = np.ones((len(labels), 1))
        weights = _solve(self.features, self.roots, labels, everyone, penalty, start.astype(np.float64), SOLVING)[:, 0]
        return (self.features / self.roots**2) @ weights[:-1], weights[-1], penalty

    def _choose(self, labels: np.ndarray, fold: np.ndarray, classes: int) -> tuple[float, np.ndarray]:
        """The penalty and the folds' mean solution under it [r + 1, 1, C], the final fit's start; in float32."""
        features, roots = self.features.astype(np.float32), self.roots.astype(np.float32)
        held = np.flatnonzero(fold >= 0)
        trains = fold[:, None] != np.arange(max(1, fold.max() + 1))
        weights = np.zeros((len(roots) + 1, trains.shape[1], classes), np.float32)
        if not len(held):
            return PENALTIES[0], weights
        chosen, least = (PENALTIES[0], weights), np.inf
        for penalty in PENALTIES:
            weights = _solve(features, roots, labels, trains.astype(np.float32), penalty, weights, CHOOSING)
            logits = _logits(features, weights)[held, fold[held]].astype(np.float64)
            right = np.take_along_axis(logits, labels[held, None], axis=1)[:, 0]
            loss = (np.logaddexp.reduce(logits, axis=1) - right).mean()
            if loss >= least:
                break
            chosen, least = (penalty, weights.mean(axis=1, keepdims=True)), loss
        return chosen


def stratified_folds(labels: np.ndarray, folds: int, seed: int) -> np.ndarray:
    """The fold that holds out each network, dealt class by class at random; -1 for the only one of a class: [n]."""
    rng = np.random.default_rng(seed)
    folds = min(folds, int(np.bincount(labels).max()))
    fold, dealt = np.full(len(labels), -1), 0
    for own in (np.flatnonzero(labels == c) for c in np.unique(labels)):
        if len(own) > 1:
            fold[rng.permutation(own)] = (dealt + np.arange(len(own))) % folds
            dealt += len(own)
    return fold


def _logits(features: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """features [n, r], weights [r + 1, F, C], the last row the intercepts -> [n, F, C]."""
    return np.tensordot(features, weights[:-1], 1) + weights[-1]


def _solve(
    features: np.ndarray,
    roots: np.ndarray,
    labels: np.ndarray,
    trains: np.ndarray,
    penalty: float,
    start: np.ndarray,
    tolerance: float,
) -> np.ndarray:
    """Weights [r + 1, F, C] of F regressions at once, of the networks where trains [n, F] is 1, from `start`.

    roots [r] are the features' norms. Every variable is scaled by the Hessian's diagonal in the eigenbasis, with one
    p (1 - p), the start's mean, in place of each network's own.
    """
    p = _softmax(_logits(features, start))[0]
    curvature = max(float((p * (1 - p)).mean()), 1e-6)
    diagonal = np.append(curvature * roots**2 + penalty, curvature * len(labels))
    scale = (1 / np.sqrt(diagonal)).astype(features.dtype)[:, None, None]
    scaled, gradient = minimise(_loss(features, labels, trains, penalty, scale), start / scale, tolerance)
    if gradient > tolerance:
        raise RuntimeError(
            f"KernelLogistic: stopped at penalty {penalty:g} with a gradient of {gradient:.1e}, wanted {tolerance:.0e} "
            "(use the ridge classifier)"
        )
    return scaled * scale


def _loss(
    features: np.ndarray, labels: np.ndarray, trains: np.ndarray, penalty: float, scale: np.ndarray
) -> Callable[[np.ndarray], tuple[float, np.ndarray]]:
    """The penalised log loss, summed over the F regressions, and its gradient, in the scaled variables."""
    rows = np.arange(len(labels))

    def loss(scaled: np.ndarray) -> tuple[float, np.ndarray]:
        weights = scaled * scale
        logits = _logits(features, weights)
        right = logits[rows, :, labels]
        p, log_total = _softmax(logits)
        value = float((trains * (log_total - right)).sum(dtype=np.float64))
        p[rows, :, labels] -= 1
        p *= trains[:, :, None]
        gradient = np.empty_like(weights)
        gradient[:-1] = np.tensordot(features, p, (0, 0))
        gradient[:-1] += penalty * weights[:-1]
        gradient[-1] = p.sum(axis=0)
        gradient *= scale
        return value + penalty / 2 * float(np.vdot(weights[:-1], weights[:-1])), gradient

    return loss


def _softmax(logits: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """(probabilities, log of the sum of exponentials) over the last axis."""
    top = logits.max(axis=-1, keepdims=True)
    p = np.exp(logits - top)
    total = p.sum(axis=-1, keepdims=True)
    p /= total
    return p, (np.log(total) + top)[..., 0]
