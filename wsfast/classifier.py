"""The linear weight classifier: which task was this network trained on?"""

import math
from typing import Any, Self

import numpy as np
from scipy.special import softmax
from sklearn.base import BaseEstimator, ClassifierMixin
from sklearn.utils import Tags
from sklearn.utils.metaestimators import available_if
from sklearn.utils.validation import check_is_fitted

from . import backends
from .chains import CHAINS, chain_factor, factor_shape, feature_kernel
from .logistic import KernelLogistic
from .primal import primal_head, primal_sgd
from .reference.classifier import visiting_order
from .ridge import KernelRidge
from .seeds import whole_seed
from .weights import WeightSet

SOLVERS = ("logistic", "ridge", "sgd", "sgd-primal")
RUN = 256 << 20  # bytes of chain factors at a time
PAPER_LR, PAPER_MOMENTUM, PAPER_EPOCHS, PAPER_DECAY_AFTER = 1e-3, 0.9, 10, 6


def reads_cosines(solver: str, features: str) -> bool:
    """Whether a solver's kernel has every network at unit length. The paper's recipe takes Grams as they are."""
    return solver != "sgd" or features == "raw"  # raw layers have no other kernel


class WeightClassifier(ClassifierMixin, BaseEstimator):
    """A linear classifier on vec(G) of a chain (scikit-learn's conventions).

    chain: l, from 1. features: "chain", "chain_unit" (unit columns), "chain_folded" (BatchNorm folded in), "raw" (the
    layer alone), or "precomputed": X is then a kernel, [n, n] to fit and [m, n] to predict. solver:

    - "logistic" (default): softmax regression on the centred, cosine-scaled kernel, L2 penalty by cross-validation
      inside the training networks, its folds drawn from `seed`.
    - "ridge": one-hot least squares on the same kernel, penalty by leave-one-out error.
    - "sgd": the recipe of arXiv 2208.04369, Algorithm 1: softmax regression on the unscaled Gram, batch size 1,
      lr 1e-3, momentum 0.9, 10 epochs, lr x 0.1 after 6, torch's initial weights drawn from `seed` ("raw" and
      "precomputed" start at zero). Followed in N coefficients a class, it is the same trajectory as on the d^2 weights.
    - "sgd-primal": that recipe on the d^2 weights themselves, in float32; chains only. Of the set, which may be stored
      and larger than memory, it holds 256 MiB of chain factors at a time and their weights.

    backend: of the features and of both "sgd" solvers.

    Precomputed kernels go through scikit-learn's cross_val_score and GridSearchCV, which cut both their axes.

    After fit: classes_ [C]; coef_ [n, C], dual, or float32 [C, d, d] of "sgd-primal"; intercept_ [C]; penalty_ of
    "logistic" and "ridge", in units of the centred kernel's mean diagonal.
    """

    def __init__(
        self, chain: int = 1, features: str = "chain", solver: str = "logistic", seed: int = 0,
        backend: str | None = None,
    ):  # fmt: skip
        self.chain = chain
        self.features = features
        self.solver = solver
        self.seed = seed
        self.backend = backend

    def __sklearn_tags__(self) -> Tags:
        tags = super().__sklearn_tags__()
        tags.input_tags.pairwise = self.features == "precomputed"
        return tags

    def fit(self, X: Any, y: Any = None) -> Self:
        """X: WeightSet, or kernel [n, n]; y: int [n], the set's labels where None. Diverged networks are refused.

        ValueError too where "sgd-primal" would need over 4 GiB of weights, or SGD diverges.
        """
        if self.solver not in SOLVERS:
            raise ValueError(f"WeightClassifier: solver must be one of {', '.join(SOLVERS)}, got {self.solver!r}")
        whole_seed("WeightClassifier", self.seed)
        if self.solver == "sgd-primal":
            self._fit_primal(X, y)
            return self
        kernel = self._kernel(X, X)
        if kernel.shape[0] != kernel.shape[1]:
            raise ValueError(f"WeightClassifier: fit wants a square kernel, got {kernel.shape}")
        labels = self._encoded(X, y, len(kernel))
        self.train_ = None if self.features == "precomputed" else X
        classes = len(self.classes_)
        if self.solver == "sgd":
            self._fit_sgd(kernel, labels)
        elif self.solver == "ridge":
            self.ridge_ = KernelRidge(kernel)
            coef, intercept, penalty = self.ridge_.fit(labels, classes)
            self.coef_, self.intercept_, self.penalty_ = coef[0], intercept[0], float(penalty[0])
        else:
            self.logistic_ = KernelLogistic(kernel)
            self.coef_, self.intercept_, self.penalty_ = self.logistic_.fit(labels, classes, self.seed)
        return self

    def _fit_sgd(self, kernel: np.ndarray, labels: np.ndarray) -> None:
        classes = len(self.classes_)
        b0 = np.zeros(classes)
        self.head_ = None
        if self.train_ is not None and self.features != "raw":
            self.head_, b0 = primal_head(factor_shape(self.train_.network, self.chain)[0], classes, self.seed)
        solve = backends.load("dual_sgd", self.backend).dual_sgd
        self._keep(*solve(kernel, labels, self._offset(self.train_, len(kernel)), b0, *self._schedule(len(kernel))))

    def _fit_primal(self, X: Any, y: Any) -> None:
        if self.features not in CHAINS:
            raise ValueError(
                f"WeightClassifier: sgd-primal wants features {', '.join(CHAINS)}, got {self.features!r} (use sgd)"
            )
        self._check_set(X)
        labels = self._encoded(X, y, len(X))
        a, b = primal_head(factor_shape(X.network, self.chain)[0], len(self.classes_), self.seed)
        ops, run = backends.load("head", self.backend), self._run(X)
        schedule = self._schedule(len(X))
        self._keep(*primal_sgd(ops, lambda rows: self._factor(X[rows]), run, labels, a, b, *schedule))

    def _schedule(self, n: int) -> tuple[np.ndarray, np.ndarray, float]:
        """The paper's order of visits, learning rates and momentum."""
        lr = PAPER_LR * 0.1 ** (np.arange(PAPER_EPOCHS) >= PAPER_DECAY_AFTER)
        return visiting_order(n, PAPER_EPOCHS, self.seed), lr, PAPER_MOMENTUM

    def _keep(self, coef: np.ndarray, intercept: np.ndarray) -> None:
        if not (np.isfinite(coef).all() and np.isfinite(intercept).all()):
            raise ValueError(f"WeightClassifier: {self.solver} diverged on these weights (use solver='logistic')")
        self.coef_, self.intercept_ = coef, intercept

    def _run(self, zoo: Any) -> int:
        """How many networks' chain factors are held at a time."""
        return max(1, RUN // (4 * math.prod(factor_shape(zoo.network, self.chain))))

    def _factor(self, zoo: Any) -> np.ndarray:
        return chain_factor(zoo, self.chain, **CHAINS[self.features], backend=self.backend)

    def _offset(self, zoo: Any, n: int) -> np.ndarray:
        """<A_0, G_i> of each network, A_0 the start: [n, C]."""
        return np.zeros((n, len(self.classes_))) if self.head_ is None else self._head(zoo, self.head_)

    def _head(self, zoo: Any, a: np.ndarray) -> np.ndarray:
        """<A_c, G_i> of each network: [N, C], a run of networks at a time."""
        head = backends.load("head", self.backend).head
        run = self._run(zoo)
        return np.concatenate([head(self._factor(zoo[i : i + run]), a) for i in range(0, len(zoo), run)])

    def decision_function(self, X: Any) -> np.ndarray:
        """Logits (scores of "ridge") of each class: [m, C]; scikit-learn's NotFittedError before fit."""
        check_is_fitted(self, "coef_")
        if self.solver == "sgd-primal":
            self._check_set(X)
            return self._head(X, self.coef_) + self.intercept_
        kernel = self._kernel(X, self.train_)
        if kernel.shape[1] != len(self.coef_):
            raise ValueError(
                f"WeightClassifier: want a kernel [m, {len(self.coef_)}] with the training networks, got {kernel.shape}"
            )
        if self.solver == "sgd":
            return kernel @ self.coef_ + self._offset(X, len(kernel)) + self.intercept_
        model = self.ridge_ if self.solver == "ridge" else self.logistic_
        return model.decision(kernel, self.coef_, self.intercept_)

    @available_if(lambda self: self.solver != "ridge")
    def predict_proba(self, X: Any) -> np.ndarray:
        """Probability of each class: [m, C]; "ridge" has none."""
        return softmax(self.decision_function(X), axis=1)

    def predict(self, X: Any) -> np.ndarray:
        """The most likely class of each network: [m]."""
        found = self.decision_function(X).argmax(axis=1)  # first: it tells whether there was a fit
        return self.classes_[found]

    def score(self, X: Any, y: Any = None, sample_weight: Any = None) -> float:
        """Share of networks whose class is found; y: the set's labels where None."""
        found = self.predict(X)
        return float(np.average(found == self._labels(X, y, len(found)), weights=sample_weight))

    def _kernel(self, X: Any, train: Any) -> np.ndarray:
        if self.features == "precomputed":
            kernel = np.asarray(X, np.float64)
        else:
            self._check_set(X)
            kernel = feature_kernel(
                self.features,
                X,
                None if X is train else train,
                self.chain,
                cosine=reads_cosines(self.solver, self.features),
                backend=self.backend,
                device=backends.home(self.backend),
            )
        if kernel.ndim != 2 or not len(kernel) or not np.isfinite(kernel).all():
            wild = np.count_nonzero(~np.isfinite(kernel))
            raise ValueError(
                f"WeightClassifier: want a finite kernel [m, n], got {kernel.shape} with {wild} entries that are not"
            )
        return kernel

    def _check_set(self, X: Any) -> None:
        if not isinstance(X, WeightSet):
            raise TypeError(f"WeightClassifier: want a WeightSet, got {type(X).__name__} (or features='precomputed')")
        if not len(X):
            raise ValueError("WeightClassifier: want one network or more, got an empty set")
        bad = int(X.diverged.sum())
        if bad:
            raise ValueError(f"WeightClassifier: {bad} of {len(X)} networks diverged (use zoo[~zoo.diverged])")

    def _encoded(self, X: Any, y: Any, n: int) -> np.ndarray:
        """Labels as 0 .. C - 1, the classes they stand for kept in classes_."""
        self.classes_, labels = np.unique(self._labels(X, y, n), return_inverse=True)
        if len(self.classes_) < 2:
            raise ValueError("WeightClassifier: want at least 2 classes, got 1")
        return labels

    def _labels(self, X: Any, y: Any, n: int) -> np.ndarray:
        if y is None:
            if not isinstance(X, WeightSet):
                raise ValueError("WeightClassifier: a precomputed kernel needs labels y")
            return X.labels
        y = np.asarray(y)
        if y.shape != (n,):
            raise ValueError(f"WeightClassifier: want one label a network, got {n} networks and labels of {y.shape}")
        return y
