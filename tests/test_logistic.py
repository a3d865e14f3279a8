import numpy as np
import pytest
from sklearn.linear_model import LogisticRegression

import wsfast
from wsfast import lbfgs, logistic
from wsfast.logistic import FOLDS, PENALTIES, KernelLogistic, stratified_folds


def population(n, classes, d=8, signal=1.0):
    """Points [n, d] that scatter around their class's centre, labels with every class at least twice, new points."""
    rng = np.random.default_rng([n, classes])
    labels = rng.permutation(np.arange(n) % classes)
    centres = signal * rng.standard_normal((classes, d))
    return centres[labels] + rng.standard_normal((n, d)), labels, rng.standard_normal((11, d))


@pytest.mark.parametrize(("n", "classes", "d"), [(30, 3, 8), (41, 2, 60), (50, 7, 1)])
@pytest.mark.parametrize("penalty", [1.0, 1e-2])
def test_it_is_scikit_learns(monkeypatch, n, classes, d, penalty):
    x, labels, new = population(n, classes, d)
    monkeypatch.setattr(logistic, "PENALTIES", (penalty,))
    monkeypatch.setattr(logistic, "SOLVING", 1e-7)
    model = KernelLogistic(x @ x.T)
    coef, intercept, used = model.fit(labels, classes)
    assert used == penalty
    root = np.sqrt(((x - x.mean(axis=0)) ** 2).sum() / n)
    pair = 2 if classes == 2 else 1  # scikit-learn's one vector w stands for the pair +-w/2, of half the penalty
    peer = LogisticRegression(C=pair / penalty, tol=1e-10, max_iter=10000).fit(x / root, labels)
    got = model.decision(new @ x.T, coef, intercept)
    got = got[:, 1] - got[:, 0] if classes == 2 else got - got.mean(axis=1, keepdims=True)
    np.testing.assert_allclose(got, peer.decision_function(new / root), rtol=1e-4, atol=1e-4)


def test_the_penalty_has_the_least_held_out_log_loss():
    x, labels, _ = population(90, 4, signal=0.7)
    fold = stratified_folds(labels, FOLDS, seed=5)
    root = np.sqrt(((x - x.mean(axis=0)) ** 2).sum() / 90)
    losses = []
    for penalty in PENALTIES:
        p = np.empty(90)
        for f in range(FOLDS):
            model = LogisticRegression(C=1 / penalty, tol=1e-8, max_iter=5000).fit(
                x[fold != f] / root, labels[fold != f]
            )
            p[fold == f] = model.predict_proba(x[fold == f] / root)[np.arange((fold == f).sum()), labels[fold == f]]
        losses.append(-np.log(p).mean())
    best = int(np.argmin(losses))
    assert 0 < best < len(PENALTIES) - 1  # a choice inside the path
    assert KernelLogistic(x @ x.T).fit(labels, 4, seed=5)[2] == PENALTIES[best]


def test_folds_are_stratified_and_drawn_from_the_seed():
    labels = np.repeat(np.arange(5), [8, 9, 2, 1, 5])
    fold = stratified_folds(labels, 4, seed=0)
    for c in range(5):
        counts = np.bincount(fold[(labels == c) & (fold >= 0)], minlength=4)
        assert counts.max() - counts.min() <= 1
        assert counts.sum() == (0 if c == 3 else (labels == c).sum())  # the only one of its class always trains
        assert c == 3 or counts.max() < counts.sum()  # others of its class train whenever one is held out
    sizes = np.bincount(fold[fold >= 0])
    assert sizes.max() - sizes.min() <= 1
    np.testing.assert_array_equal(fold, stratified_folds(labels, 4, seed=0))
    assert (fold != stratified_folds(labels, 4, seed=1)).any()
    assert stratified_folds(np.array([0, 1, 1]), 4, seed=0).max() == 1  # no more folds than networks in a class


@pytest.mark.parametrize("labels", [[0, 1], [1, 0, 2], [0, 1, 1], [0, 1, 1, 0, 1, 1, 2]])
def test_few_networks(labels):
    rng = np.random.default_rng(len(labels))
    x = rng.standard_normal((len(labels), 3)) + 20 * np.eye(3)[labels]
    model = KernelLogistic(x @ x.T)
    coef, intercept, penalty = model.fit(labels, max(labels) + 1)
    np.testing.assert_array_equal(model.decision(x @ x.T, coef, intercept).argmax(axis=1), labels)
    assert penalty in PENALTIES
    if max(np.bincount(labels)) == 1:
        assert penalty == PENALTIES[0]


@pytest.mark.parametrize(("n", "classes"), [(40, 2), (90, 5)])
def test_its_own_tolerance_is_close(monkeypatch, n, classes):
    x, labels, new = population(n, classes)
    model = KernelLogistic(x @ x.T)
    usual, exact = [], []
    for tolerance, scores in ((logistic.SOLVING, usual), (1e-7, exact)):
        monkeypatch.setattr(logistic, "SOLVING", tolerance)
        scores.append(model.decision(new @ x.T, *model.fit(labels, classes)[:2]))
    np.testing.assert_allclose(usual, exact, rtol=0, atol=1e-2 * np.abs(exact).max())


def test_reordered_networks_and_scaled_kernels_give_the_same(monkeypatch):
    monkeypatch.setattr(logistic, "SOLVING", 1e-7)
    x, labels, new = population(60, 3)
    model = KernelLogistic(x @ x.T)
    fitted = model.fit(labels, 3)
    scores = model.decision(new @ x.T, *fitted[:2])
    scaled = KernelLogistic(1e7 * x @ x.T)
    again = scaled.fit(labels, 3)
    assert again[2] == fitted[2]
    np.testing.assert_allclose(scaled.decision(1e7 * new @ x.T, *again[:2]), scores, rtol=1e-5, atol=1e-5)
    order = np.random.default_rng(0).permutation(60)
    moved = KernelLogistic(x[order] @ x[order].T)
    other = moved.fit(labels[order], 3)
    assert other[2] == fitted[2]
    np.testing.assert_allclose(moved.decision(new @ x[order].T, *other[:2]), scores, rtol=1e-5, atol=1e-5)
    swapped = model.fit(2 - labels, 3)  # class 0 called 2
    np.testing.assert_allclose(model.decision(new @ x.T, *swapped[:2])[:, ::-1], scores, rtol=1e-5, atol=1e-5)


def test_the_same_seed_gives_the_same_bits():
    x, labels, _ = population(50, 3, signal=0.3)
    first, second = (KernelLogistic(x @ x.T).fit(labels, 3, seed=1) for _ in range(2))
    np.testing.assert_array_equal(first[0], second[0])
    np.testing.assert_array_equal(first[1], second[1])


@pytest.mark.parametrize("kernel", [np.zeros((7, 7)), np.full((7, 7), 0.3)])
def test_networks_that_are_all_alike_leave_the_classes_shares(kernel):
    labels = np.array([0, 1, 1, 1, 2, 2, 0])
    model = wsfast.WeightClassifier(features="precomputed").fit(kernel, labels)
    np.testing.assert_allclose(model.predict_proba(kernel[:2]), [[2 / 7, 3 / 7, 2 / 7]] * 2, rtol=1e-5)


def test_a_rank_of_one_is_enough_for_two_classes():
    x = np.array([[1.0], [1.1], [1.2], [2.0], [2.1], [2.2]])
    model = wsfast.WeightClassifier(features="precomputed").fit(x @ x.T, [0, 0, 0, 1, 1, 1])
    assert model.score(x @ x.T, [0, 0, 0, 1, 1, 1]) == 1


def test_a_solver_that_stops_early_says_so(monkeypatch):
    x, labels, _ = population(40, 3)
    monkeypatch.setattr(lbfgs, "MOST", 3)
    with pytest.raises(RuntimeError, match=r"KernelLogistic: stopped at penalty 1 with a gradient of .*, wanted 1e-02"):
        KernelLogistic(x @ x.T).fit(labels, 3)


def test_labels_that_are_no_classes_are_refused():
    for labels in ([0, 0, 2], [0, 1], [0, 1, 3]):
        with pytest.raises(ValueError, match=r"one of the labels 0\.\.2 for each of 3 networks and each label used"):
            KernelLogistic(np.eye(3)).fit(np.array(labels), 3)


def test_minimise_finds_a_quadratics_minimum():
    rng = np.random.default_rng(3)
    a = rng.standard_normal((20, 20))
    a, centre = a @ a.T + np.eye(20), rng.standard_normal(20)
    x, worst = lbfgs.minimise(lambda x: (0.5 * (x - centre) @ a @ (x - centre), a @ (x - centre)), np.zeros(20), 1e-9)
    assert worst <= 1e-9
    np.testing.assert_allclose(x, centre, rtol=1e-8, atol=1e-9)


def test_minimise_is_given_time_for_an_ill_conditioned_function():
    curvature, asked = np.logspace(-5, 0, 400), []

    def loss(x):
        asked.append(0)
        return 0.5 * x @ (curvature * x), curvature * x

    assert lbfgs.minimise(loss, np.ones(400), 1e-7)[1] <= 1e-7
    assert len(asked) > 1000
