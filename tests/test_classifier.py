import numpy as np
import pytest
from sklearn.base import clone
from sklearn.linear_model import Ridge
from wsfast.kernels.numba import classifier as compiled
from wsfast.reference import classifier, gram

import wsfast
from wsfast.ridge import PENALTIES, KernelRidge


def small_run(zero):
    rng = np.random.default_rng(4)
    x = rng.standard_normal((14, 5, 3)) * 0.5
    labels = rng.integers(0, 3, 14)
    features = gram.chain_gram(x).reshape(14, -1)
    w0, b0 = (np.zeros((25, 3)), np.zeros(3)) if zero else classifier.initial_head(25, 3, seed=9)
    order = classifier.visiting_order(14, 10, seed=9)
    lr = 1e-2 * 0.1 ** (np.arange(10) >= 6)
    return x, labels, features, w0, b0, order, lr


@pytest.mark.parametrize("zero", [True, False])
def test_dual_is_primal(zero):
    x, labels, features, w0, b0, order, lr = small_run(zero)
    w, b = classifier.primal_sgd(features, labels, w0, b0, order, lr, 0.9)
    kernel, offset = gram.chain_kernel(x), features @ w0
    for solve in (classifier.dual_sgd, compiled.dual_sgd):
        coef, b_dual = solve(kernel, labels, offset, b0, order, lr, 0.9)
        np.testing.assert_allclose(b_dual, b, rtol=1e-10, atol=1e-13)
        np.testing.assert_allclose(kernel @ coef + offset, features @ w, rtol=1e-10, atol=1e-12)
    assert np.abs(w - w0).max() > 1e-3  # the run moved


def test_primal_is_torchs():
    import torch

    _, labels, features, w0, b0, order, lr = small_run(False)
    head = torch.nn.Linear(25, 3).double()
    with torch.no_grad():
        head.weight.copy_(torch.tensor(w0.T))
        head.bias.copy_(torch.tensor(b0))
    optimiser = torch.optim.SGD(head.parameters(), lr=1, momentum=0.9)
    for epoch, rows in enumerate(order):
        optimiser.param_groups[0]["lr"] = lr[epoch]
        for i in rows:
            optimiser.zero_grad()
            out = head(torch.tensor(features[i : i + 1]))
            torch.nn.functional.cross_entropy(out, torch.tensor(labels[i : i + 1])).backward()
            optimiser.step()
    w, b = classifier.primal_sgd(features, labels, w0, b0, order, lr, 0.9)
    np.testing.assert_allclose(w, head.weight.detach().numpy().T, rtol=1e-10, atol=1e-13)
    np.testing.assert_allclose(b, head.bias.detach().numpy(), rtol=1e-10, atol=1e-13)


@pytest.mark.parametrize("features", ["chain", "chain_unit"])
def test_weight_classifier_sgd_is_the_papers_primal_run(zoo, features):
    model = wsfast.WeightClassifier(chain=2, features=features, solver="sgd", seed=3, backend="reference").fit(zoo)
    x = wsfast.chain_factor(zoo, 2, column_normalize=features == "chain_unit", backend="reference")
    flat = gram.chain_gram(x).reshape(len(zoo), -1)
    w0, b0 = classifier.initial_head(flat.shape[1], 4, seed=3)
    lr = np.repeat([1e-3, 1e-4], [6, 4])
    w, b = classifier.primal_sgd(flat, zoo.labels, w0, b0, classifier.visiting_order(len(zoo), 10, 3), lr, 0.9)
    np.testing.assert_allclose(model.decision_function(zoo), flat @ w + b, rtol=1e-8, atol=1e-10)


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
    _, _, penalty = KernelRidge(x @ x.T).fit(labels, 2)
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


@pytest.mark.parametrize("solver", ["ridge", "sgd"])
@pytest.mark.parametrize("features", ["chain", "chain_unit", "raw"])
def test_conventions(zoo, solver, features):
    model = wsfast.WeightClassifier(chain=1, features=features, solver=solver)
    assert clone(model).get_params() == model.get_params()
    assert model.fit(zoo) is model
    assert model.decision_function(zoo[:7]).shape == (7, 4)
    assert set(model.predict(zoo)) <= set(model.classes_)
    assert 0 <= model.score(zoo) <= 1
    names = np.array(["a", "b", "c", "d"])[zoo.labels]
    again = clone(model).fit(zoo, names)
    np.testing.assert_array_equal(again.predict(zoo), np.array(["a", "b", "c", "d"])[model.predict(zoo)])


def test_it_learns(zoo):
    train, test = zoo[zoo.repeats < 6], zoo[zoo.repeats >= 6]
    assert wsfast.WeightClassifier(chain=2).fit(train).score(test) >= 0.8


def test_bad_input(zoo):
    model = wsfast.WeightClassifier()
    with pytest.raises(TypeError, match=r"want a WeightSet, got list"):
        model.fit([1, 2])
    with pytest.raises(ValueError, match=r"one label a network, got 40"):
        model.fit(zoo, [0, 1])
    with pytest.raises(ValueError, match=r"solver must be ridge or sgd, got 'svm'"):
        wsfast.WeightClassifier(solver="svm").fit(zoo)
    with pytest.raises(ValueError, match=r"features must be one of"):
        wsfast.WeightClassifier(features="weights").fit(zoo)
    with pytest.raises(ValueError, match=r"chain must be 1\.\.3 for mlp4, got 4"):
        wsfast.WeightClassifier(chain=4).fit(zoo)
    with pytest.raises(ValueError, match=r"at least 2 classes"):
        model.fit(zoo[:5])
    with pytest.raises(ValueError, match=r"needs labels"):
        wsfast.WeightClassifier(features="precomputed").fit(np.eye(3))
    with pytest.raises(ValueError, match=r"square kernel"):
        wsfast.WeightClassifier(features="precomputed").fit(np.ones((3, 2)), [0, 1, 0])
    broken = zoo[:]
    broken.parameters["fc1.weight"][3] = np.nan
    with pytest.raises(ValueError, match=r"1 of 40 networks diverged"):
        model.fit(broken)
