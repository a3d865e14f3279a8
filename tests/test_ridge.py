import numpy as np
import pytest
from sklearn.linear_model import Ridge

from wsfast.ridge import PENALTIES, KernelRidge


def test_ridge_is_scikit_learns():
    rng = np.random.default_rng(0)
    x, new = rng.standard_normal((30, 6)), rng.standard_normal((11, 6))
    labels = rng.integers(0, 3, 30)
    solver = KernelRidge(x @ x.T)
    coef, intercept, penalty = solver.fit(labels, 3)
    centred = x - x.mean(axis=0)
    peer = Ridge(alpha=penalty[0] * (centred**2).sum() / 30).fit(x, np.eye(3)[labels])
    np.testing.assert_allclose(solver.decision(new @ x.T, coef, intercept)[0], peer.predict(new), rtol=1e-8, atol=1e-10)


def test_ridge_chooses_by_leave_one_out():
    rng = np.random.default_rng(1)
    x = rng.standard_normal((25, 12))
    labels = (x[:, 0] + rng.standard_normal(25) > 0).astype(int)
    y = np.eye(2)[labels]
    scale = ((x - x.mean(axis=0)) ** 2).sum() / 25
    errors = []
    for penalty in PENALTIES:
        folds = [np.delete(np.arange(25), i) for i in range(25)]
        left = [Ridge(alpha=penalty * scale).fit(x[f], y[f]).predict(x[[i]])[0] for i, f in enumerate(folds)]
        errors.append(((np.array(left) - y) ** 2).sum())
    solver = KernelRidge(x @ x.T)
    closed = [((inverse @ (y - y.mean(axis=0)) * spread[:, None]) ** 2).sum() for _, inverse, spread in solver.solvers]
    np.testing.assert_allclose(closed, errors, rtol=1e-9)
    _, _, penalty = solver.fit(labels, 2)
    assert penalty[0] == PENALTIES[int(np.argmin(errors))]


def test_many_labelings_are_single_ones():
    rng = np.random.default_rng(2)
    x = rng.standard_normal((20, 8))
    labels = rng.integers(0, 3, (5, 20))
    solver = KernelRidge(x @ x.T)
    together = solver.fit(labels, 3)
    for i in range(5):
        for whole, part in zip(together, solver.fit(labels[i], 3), strict=True):
            np.testing.assert_allclose(whole[i], part[0], rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize(("n", "m", "classes"), [(2, 1, 2), (64, 30, 3), (65, 129, 5), (130, 64, 50)])
def test_accuracies_are_those_of_single_fits(n, m, classes):
    rng = np.random.default_rng([n, m])
    x, centres = rng.standard_normal((n + m, 60)), 9 * rng.standard_normal((classes, 60))
    observed = rng.integers(0, classes, n + m)
    x += centres[observed]
    labels = np.stack([observed] + [rng.permutation(observed) for _ in range(40)])
    solver = KernelRidge(x[:n] @ x[:n].T)
    across = x[n:] @ x[:n].T
    together = solver.accuracies(across, labels[:, :n], labels[:, n:], classes)
    coef, intercept, penalty = solver.fit(labels[:, :n], classes)
    single = [
        (solver.decision(across, *part).argmax(axis=1) == row[n:]).mean()
        for row, *part in zip(labels, coef, intercept, strict=True)
    ]
    np.testing.assert_allclose(together, single, rtol=0, atol=1e-12)
    assert n < 64 or len(set(penalty)) > 1  # the observed labeling has one of its own
    np.testing.assert_array_equal(solver.accuracies(across, labels[3:5, :n], labels[3:5, n:], classes), together[3:5])


def test_reordered_networks_and_scaled_kernels_give_the_same():
    rng = np.random.default_rng(5)
    x, new, labels = rng.standard_normal((70, 9)), rng.standard_normal((20, 9)), rng.integers(0, 4, 70)
    solver = KernelRidge(x @ x.T)
    coef, intercept, penalty = solver.fit(labels, 4)
    scores = solver.decision(new @ x.T, coef, intercept)
    order = rng.permutation(70)
    other = KernelRidge(1e7 * x[order] @ x[order].T)
    found = other.fit(labels[order], 4)
    np.testing.assert_allclose(other.decision(1e7 * new @ x[order].T, *found[:2]), scores, rtol=1e-9, atol=1e-12)
    np.testing.assert_array_equal(found[2], penalty)


@pytest.mark.parametrize("kernel", [np.zeros((7, 7)), np.full((7, 7), 0.3)])
def test_networks_that_are_all_alike_leave_the_largest_class(kernel):
    labels = np.array([0, 1, 1, 1, 2, 2, 0])
    solver = KernelRidge(kernel)
    coef, intercept, _ = solver.fit(labels, 3)
    np.testing.assert_allclose(solver.decision(kernel[:2], coef, intercept)[0], [[2 / 7, 3 / 7, 2 / 7]] * 2)
    assert solver.accuracies(kernel, labels[None], labels[None], 3) == 3 / 7


def test_a_rank_of_one_is_enough_for_two_classes():
    x = np.array([[1.0], [1.1], [2.0], [2.1], [2.2]])
    solver = KernelRidge(x @ x.T)
    labels = np.array([[0, 0, 1, 1, 1]])
    assert solver.accuracies(x @ x.T, labels, labels, 2) == 1


def test_labels_that_are_no_classes_are_refused():
    solver = KernelRidge(np.eye(3))
    for labels in ([0, 1, 2], [0, -1, 1], [0, 1]):
        with pytest.raises(ValueError, match=r"KernelRidge: want labels \[P, 3\] in 0\.\.1, got"):
            solver.fit(labels, 2)


def test_regression_is_scikit_learns_and_chooses_by_leave_one_out():
    rng = np.random.default_rng(7)
    x, new = rng.standard_normal((30, 12)), rng.standard_normal((9, 12))
    y = 40 + x[:, 0] + 2 * rng.standard_normal(30)
    scale = ((x - x.mean(axis=0)) ** 2).sum() / 30
    tried = (*PENALTIES, 10.0, 100.0)
    errors = []
    for penalty in tried:
        folds = [np.delete(np.arange(30), i) for i in range(30)]
        left = [Ridge(alpha=penalty * scale).fit(x[f], y[f]).predict(x[[i]])[0] for i, f in enumerate(folds)]
        errors.append(((np.array(left) - y) ** 2).sum())
    solver = KernelRidge(x @ x.T, tried)
    coef, intercept, penalty = solver.regress(y)
    assert penalty == tried[int(np.argmin(errors))]
    assert 0 < tried.index(penalty) < len(tried) - 1
    peer = Ridge(alpha=penalty * scale).fit(x, y).predict(new)
    np.testing.assert_allclose(solver.decision(new @ x.T, coef, intercept)[:, 0], peer, rtol=1e-8)
