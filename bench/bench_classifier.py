"""The weight classifier beside scikit-learn's, on the same features, and the permutation test's thousand labelings.

A contender's error is its share of wrong answers on the test networks. The labelings' peers refit a few of them: their
time is of one labeling, to be multiplied.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pytest
from sklearn.linear_model import LogisticRegression, LogisticRegressionCV, RidgeClassifier, RidgeClassifierCV
from sklearn.svm import LinearSVC
from wsfast.reference.gram import chain_gram

from bench import peak
from bench.contest import OURS, Contender, Contest, record
from wsfast.logistic import FOLDS, PENALTIES, KernelLogistic
from wsfast.ridge import PENALTIES as RIDGE_PENALTIES
from wsfast.ridge import KernelRidge

D, R, SPREAD = 64, 4, 2.0
LIMIT = 0.5  # share of wrong answers; chance errs 1 - 1 / classes


@dataclass(frozen=True)
class Case:
    """classes x repeats networks, 60 % of each class train; labelings: 0 for the fit of one, by logistic regression."""

    classes: int
    repeats: int
    labelings: int

    def __str__(self) -> str:
        what = f"{self.labelings} labelings" if self.labelings else "one fit, penalty chosen"
        n = self.classes * self.repeats
        return f"{n} networks, {round(0.6 * n)} train, {self.classes} classes, {what}"


CASES = [Case(45, 40, 0), Case(50, 100, 1000)]


def shorter(case: Case) -> Case:
    return replace(case, repeats=10, labelings=case.labelings // 10)


class Study:
    """Chain factors around their class's; their Grams' triangles, centred and scaled, are the peers' features."""

    def __init__(self, case: Case) -> None:
        rng = np.random.default_rng(case.classes)
        self.labels = np.repeat(np.arange(case.classes), case.repeats)
        x = rng.standard_normal((case.classes, D, R))[self.labels]
        gram = chain_gram(x + SPREAD * rng.standard_normal(x.shape))
        upper = np.triu_indices(D)
        features = gram[:, *upper] * np.where(upper[0] == upper[1], 1, np.sqrt(2))
        features /= np.linalg.norm(features, axis=1, keepdims=True)
        self.train = np.arange(len(x)) % case.repeats < 0.6 * case.repeats
        self.kernel, self.across = (
            features[self.train] @ features[self.train].T,
            features[~self.train] @ features[self.train].T,
        )
        features -= features[self.train].mean(axis=0)
        self.features = features / np.sqrt((features[self.train] ** 2).sum() / self.train.sum())

    def error(self, model: Any) -> float:
        """Fits scikit-learn's model."""
        model.fit(self.features[self.train], self.labels[self.train])
        return float((model.predict(self.features[~self.train]) != self.labels[~self.train]).mean())


def one_fit(case: Case) -> Contest:
    study = Study(case)

    def ours() -> tuple[float, float]:
        model = KernelLogistic(study.kernel)
        coef, intercept, penalty = model.fit(study.labels[study.train], case.classes)
        found = model.decision(study.across, coef, intercept).argmax(axis=1)
        return float((found != study.labels[~study.train]).mean()), penalty

    error, penalty = ours()
    calls: dict[str, tuple[Callable[[], Any], str]] = {
        "LogisticRegression": (
            lambda: study.error(LogisticRegression(C=1 / penalty, max_iter=1000)),
            "our penalty given, no cross-validation",
        ),
        "LogisticRegressionCV": (
            lambda: study.error(LogisticRegressionCV(Cs=[1 / p for p in PENALTIES], cv=FOLDS, scoring="neg_log_loss")),
            "our penalties, as many folds",
        ),
        "LinearSVC": (lambda: study.error(LinearSVC()), "C = 1 given, no cross-validation"),
    }
    contenders = [Contender(OURS, ours, 1, f"penalty {penalty:g} cross-validated", error, error)]
    for name, (call, how) in calls.items():
        error = call()
        contenders.append(Contender(name, call, 1, how, error, error))
    return Contest("classifier", str(case), None, None, LIMIT, contenders)


def many_labelings(case: Case) -> Contest:
    study = Study(case)
    rng = np.random.default_rng(case.labelings)
    shuffled = [rng.permutation(study.labels) for _ in range(case.labelings - 1)]
    labelings = np.stack([study.labels, *shuffled])  # the observed one first: it tells whether the classifier works

    def ours() -> float:
        model = KernelRidge(study.kernel)
        right = model.accuracies(study.across, labelings[:, study.train], labelings[:, ~study.train], case.classes)
        return 1 - float(right[0])

    calls: dict[str, tuple[Callable[[], float], int, str]] = {
        OURS: (ours, case.labelings, f"{case.labelings} labelings, a penalty each"),
        "RidgeClassifierCV": (lambda: study.error(RidgeClassifierCV(RIDGE_PENALTIES)), 1, "1 labeling, a penalty each"),
        "RidgeClassifier": (lambda: study.error(RidgeClassifier()), 1, "1 labeling, penalty 1 given"),
    }
    contenders = []
    for name, (call, units, how) in calls.items():
        error = call()
        contenders.append(Contender(name, call, units, how, error, error))
    return Contest("labelings", str(case), None, None, LIMIT, contenders, rounds=3)


def contest(case: Case) -> Contest:
    return many_labelings(case) if case.labelings else one_fit(case)


@pytest.mark.parametrize("case", CASES, ids=str)
def test_classifier(benchmark: Any, case: Case) -> None:
    record(benchmark, contest(case), max(peak.sgemm().values()))
