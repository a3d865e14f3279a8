"""The linear weight classifier: which task was this network trained on?"""

from typing import Any, Self

import numpy as np
from sklearn.base import BaseEstimator, ClassifierMixin

from . import backends
from .chains import chain_factor, feature_kernel
from .reference.classifier import initial_head, visiting_order
from .ridge import KernelRidge
from .weights import WeightSet

PAPER_LR, PAPER_MOMENTUM, PAPER_EPOCHS, PAPER_DECAY_AFTER = 1e-3, 0.9, 10, 6


class WeightClassifier(ClassifierMixin, BaseEstimator):
    """A linear classifier on vec(G) of a chain, solved in the dual (scikit-learn's conventions).

    chain: l, from 1. features: "chain", "chain_unit" (unit columns), "raw" (the layer alone), or "precomputed": X is
    then a kernel, [n, n] to fit and [m, n] to predict. solver: "ridge" (default), one-hot least squares on the centred
    kernel, cosine-scaled, penalty by leave-one-out error; "sgd", the recipe of arXiv 2208.04369: softmax regression on
    the unscaled Gram, batch size 1, lr 1e-3, momentum 0.9, 10 epochs, lr x 0.1 after 6, torch's initial weights drawn
    from `seed` ("raw" and "precomputed" start at zero). Followed in N coefficients a class, it is the same trajectory
    as on the d^2 weights themselves. seed, backend: of the "sgd" solver and the features.

    After fit: classes_ [C], coef_ [n, C] (dual), intercept_ [C].
    """

    def __init__(
        self, chain: int = 1, features: str = "chain", solver: str = "ridge", seed: int = 0, backend: str | None = None
    ):
        self.chain = chain
        self.features = features
        self.solver = solver
        self.seed = seed
        self.backend = backend

    def fit(self, X: Any, y: Any = None) -> Self:
        """X: WeightSet, or kernel [n, n]; y: int [n], the set's labels where None. Diverged networks are refused."""
        if self.solver not in ("ridge", "sgd"):
            raise ValueError(f"WeightClassifier: solver must be ridge or sgd, got {self.solver!r}")
        kernel = self._kernel(X, X)
        y = self._labels(X, y, len(kernel))
        if kernel.shape[0] != kernel.shape[1]:
            raise ValueError(f"WeightClassifier: fit wants a square kernel, got {kernel.shape}")
        self.classes_, labels = np.unique(y, return_inverse=True)
        if len(self.classes_) < 2:
            raise ValueError("WeightClassifier: want at least 2 classes, got 1")
        self.train_ = None if self.features == "precomputed" else X
        if self.solver == "ridge":
            self.ridge_ = KernelRidge(kernel)
            coef, intercept, penalty = self.ridge_.fit(labels, len(self.classes_))
            self.coef_, self.intercept_, self.penalty_ = coef[0], intercept[0], float(penalty[0])
        else:
            self._fit_sgd(kernel, labels)
        return self

    def _fit_sgd(self, kernel: np.ndarray, labels: np.ndarray) -> None:
        classes = len(self.classes_)
        b0 = np.zeros(classes)
        self.head_ = None
        if self.features in ("chain", "chain_unit"):
            d = self._factor(self.train_).shape[1]
            self.head_, b0 = initial_head(d * d, classes, self.seed)
        offset = self._offset(self.train_, len(kernel))
        lr = PAPER_LR * 0.1 ** (np.arange(PAPER_EPOCHS) >= PAPER_DECAY_AFTER)
        order = visiting_order(len(kernel), PAPER_EPOCHS, self.seed)
        solve = backends.load("dual_sgd", self.backend).dual_sgd
        self.coef_, self.intercept_ = solve(kernel, labels, offset, b0, order, lr, PAPER_MOMENTUM)

    def _factor(self, zoo: Any) -> np.ndarray:
        return chain_factor(zoo, self.chain, column_normalize=self.features == "chain_unit", backend=self.backend)

    def _offset(self, zoo: Any, n: int) -> np.ndarray:
        """<w0, vec G_i> of each network: [n, C], one Gram at a time."""
        if self.head_ is None:
            return np.zeros((n, len(self.classes_)))
        factors = self._factor(zoo).astype(np.float64)
        return np.stack([(x @ x.T).ravel() @ self.head_ for x in factors])

    def decision_function(self, X: Any) -> np.ndarray:
        """Logits (sgd) or ridge scores of each class: [m, C]."""
        kernel = self._kernel(X, self.train_)
        if self.solver == "ridge":
            return self.ridge_.decision(kernel, self.coef_, self.intercept_)
        return kernel @ self.coef_ + self._offset(X, len(kernel)) + self.intercept_

    def predict(self, X: Any) -> np.ndarray:
        """The most likely class of each network: [m]."""
        return self.classes_[self.decision_function(X).argmax(axis=1)]

    def score(self, X: Any, y: Any = None, sample_weight: Any = None) -> float:
        """Share of networks whose class is found; y: the set's labels where None."""
        right = self.predict(X) == self._labels(X, y, None)
        return float(np.average(right, weights=sample_weight))

    def _kernel(self, X: Any, train: Any) -> np.ndarray:
        if self.features == "precomputed":
            kernel = np.asarray(X, np.float64)
        else:
            if not isinstance(X, WeightSet):
                raise TypeError(
                    f"WeightClassifier: want a WeightSet, got {type(X).__name__} (or features='precomputed')"
                )
            bad = int(X.diverged.sum())
            if bad:
                raise ValueError(f"WeightClassifier: {bad} of {len(X)} networks diverged (use zoo[~zoo.diverged])")
            kernel = feature_kernel(
                self.features,
                X,
                None if X is train else train,
                self.chain,
                cosine=self.solver == "ridge" or self.features == "raw",
                backend=self.backend,
            )
        if kernel.ndim != 2 or not np.isfinite(kernel).all():
            raise ValueError(f"WeightClassifier: want a finite kernel [m, n], got shape {kernel.shape}")
        return kernel

    def _labels(self, X: Any, y: Any, n: int | None) -> np.ndarray:
        if y is None:
            if not isinstance(X, WeightSet):
                raise ValueError("WeightClassifier: a precomputed kernel needs labels y")
            return X.labels
        y = np.asarray(y)
        if n is not None and y.shape != (n,):
            raise ValueError(f"WeightClassifier: want one label a network, got {n} networks and labels of {y.shape}")
        return y
