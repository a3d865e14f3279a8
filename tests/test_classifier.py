import numpy as np
import pytest
from sklearn.base import clone
from sklearn.exceptions import NotFittedError
from sklearn.model_selection import StratifiedKFold, cross_val_score
from wsfast.kernels.numba import classifier as compiled
from wsfast.reference import classifier, gram

import wsfast
from wsfast.primal import primal_head, primal_sgd


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
    # A start in float32 is what differs.
    np.testing.assert_allclose(model.decision_function(zoo), flat @ w + b, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(("n", "classes"), [(1, 2), (64, 3), (65, 7), (150, 2)])
def test_blocks_of_steps_are_single_steps(n, classes):
    rng = np.random.default_rng([n, classes])
    x = rng.standard_normal((n, 9)) / 3
    labels = rng.integers(0, classes, n)
    run = (x @ x.T, labels, rng.standard_normal((n, classes)), rng.standard_normal(classes))
    schedule = (classifier.visiting_order(n, 4, seed=n), np.array([1e-1, 1e-1, 1e-2, 1e-2]), 0.9)
    for got, oracle in zip(compiled.dual_sgd(*run, *schedule), classifier.dual_sgd(*run, *schedule), strict=True):
        np.testing.assert_allclose(got, oracle, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("features", ["chain", "chain_unit"])
def test_weight_classifier_primal_is_its_dual(zoo, features):
    options = {"chain": 2, "features": features, "seed": 3, "backend": "reference"}
    dual = wsfast.WeightClassifier(solver="sgd", **options).fit(zoo[::2])
    primal = wsfast.WeightClassifier(solver="sgd-primal", **options).fit(zoo[::2])
    assert primal.coef_.shape == (4, 64, 64)
    assert primal.coef_.dtype == np.float32
    np.testing.assert_allclose(primal.decision_function(zoo), dual.decision_function(zoo), rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(primal.predict_proba(zoo).sum(axis=1), 1)
    start, _ = primal_head(64, 4, 3)
    assert np.abs(primal.coef_ - start).max() > 1e-3  # the run moved


def test_primal_head_is_the_references_draw():
    a, b = primal_head(5, 3, seed=9)
    w0, b0 = classifier.initial_head(25, 3, seed=9)
    np.testing.assert_array_equal(a.reshape(3, 25).T, w0)
    np.testing.assert_array_equal(b, b0)
    with pytest.raises(ValueError, match=r"weights \[50, 12288, 12288\] would take 28\.1 GiB, the limit is 4"):
        primal_head(12288, 50, seed=0)


def test_features_are_computed_where_the_backend_runs(zoo, monkeypatch):
    asked = []

    def kernel(features, a, b, chain, *, cosine, backend, device):
        asked.append((backend, device))
        return np.eye(len(a))

    monkeypatch.setattr("wsfast.classifier.feature_kernel", kernel)
    for interpreted in ("1", "0"):
        monkeypatch.setenv("TRITON_INTERPRET", interpreted)
        for backend in (None, "numba", "triton"):
            wsfast.WeightClassifier(backend=backend).fit(zoo)
    host = [(None, "cpu"), ("numba", "cpu")]
    assert asked == [*host, ("triton", "cpu"), *host, ("triton", "cuda")]


@pytest.mark.parametrize("solver", ["sgd", "sgd-primal"])
def test_a_few_networks_at_a_time_give_the_same_logits(zoo, monkeypatch, solver):
    model = wsfast.WeightClassifier(chain=2, solver=solver).fit(zoo[::3])
    whole, asked = model.decision_function(zoo), []
    factor = wsfast.chain_factor
    monkeypatch.setattr("wsfast.classifier.chain_factor", lambda z, *a, **o: asked.append(len(z)) or factor(z, *a, **o))
    monkeypatch.setattr("wsfast.classifier.RUN", 7 * 4 * 64 * 24)
    np.testing.assert_array_equal(model.decision_function(zoo), whole)
    assert asked == [7, 7, 7, 7, 7, 5]


def test_primal_training_holds_a_few_factors_at_a_time(zoo, tmp_path, monkeypatch):
    model = wsfast.WeightClassifier(chain=2, solver="sgd-primal", seed=5)
    whole, asked = model.fit(zoo[::2]).coef_, []
    factor = wsfast.chain_factor
    monkeypatch.setattr("wsfast.classifier.chain_factor", lambda z, *a, **o: asked.append(len(z)) or factor(z, *a, **o))
    monkeypatch.setattr("wsfast.classifier.RUN", 7 * 4 * 64 * 24)
    stored = wsfast.WeightSet.open(zoo[::2].save(tmp_path / "half"))
    np.testing.assert_array_equal(model.fit(stored).coef_, whole)
    assert asked == [7, 7, 6] * 10


def test_primal_never_asks_for_a_gram_of_the_set():
    x, labels, _, _, _, order, lr = small_run(False)
    asked = []

    class Ops:
        def head(x, a):
            asked.append(len(x))
            return gram.head(x, a)

        head_gradient = staticmethod(gram.head_gradient)

    primal_sgd(Ops, lambda rows: x[rows], 5, labels, *primal_head(5, 3, seed=9), order, lr, 0.9)
    assert asked == [1] * order.size


@pytest.mark.parametrize("solver", ["logistic", "ridge", "sgd"])
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


@pytest.mark.parametrize("solver", ["logistic", "ridge"])
def test_it_learns(zoo, solver):
    train, test = zoo[zoo.repeats < 6], zoo[zoo.repeats >= 6]
    model = wsfast.WeightClassifier(chain=2, solver=solver).fit(train)
    assert model.score(test) >= 0.8
    assert model.penalty_ > 0
    assert hasattr(model, "predict_proba") == (solver == "logistic")


def test_probabilities_follow_the_logits(zoo):
    model = wsfast.WeightClassifier(chain=2).fit(zoo)
    p = model.predict_proba(zoo[:9])
    np.testing.assert_allclose(p.sum(axis=1), 1)
    np.testing.assert_array_equal(model.classes_[p.argmax(axis=1)], model.predict(zoo[:9]))
    logits = model.decision_function(zoo[:9])
    np.testing.assert_allclose(np.log(p[:, 0] / p[:, 1]), logits[:, 0] - logits[:, 1], rtol=1e-6, atol=1e-9)


def test_scikit_learn_cuts_both_axes_of_a_kernel(zoo):
    kernel = wsfast.chain_kernel(zoo, chain=2, cosine=True)
    model = wsfast.WeightClassifier(features="precomputed")
    folds = StratifiedKFold(4)
    got = cross_val_score(model, kernel, zoo.labels, cv=folds)
    parts = folds.split(kernel, zoo.labels)
    want = [
        clone(model).fit(kernel[np.ix_(a, a)], zoo.labels[a]).score(kernel[np.ix_(b, a)], zoo.labels[b])
        for a, b in parts
    ]
    np.testing.assert_array_equal(got, want)


def test_before_fit_and_with_labels_or_kernels_of_another_size(zoo):
    for solver in ("logistic", "ridge", "sgd", "sgd-primal"):
        with pytest.raises(NotFittedError):
            wsfast.WeightClassifier(solver=solver).predict(zoo)
    kernel, labels = wsfast.chain_kernel(zoo, cosine=True), zoo.labels
    model = wsfast.WeightClassifier(features="precomputed").fit(kernel, labels)
    for wrong in (labels[:1], labels[:, None], labels[0]):
        with pytest.raises(ValueError, match=r"want one label a network, got 40"):
            model.score(kernel, wrong)
        with pytest.raises(ValueError, match=r"want one label a network, got 40"):
            model.fit(kernel, wrong)
    with pytest.raises(ValueError, match=r"want a kernel \[m, 40\] with the training networks, got \(40, 1\)"):
        model.predict(kernel[:, :1])


def test_bad_input(zoo):
    model = wsfast.WeightClassifier()
    for call in (
        model.fit,
        wsfast.WeightClassifier(solver="sgd-primal").fit,
        wsfast.WeightClassifier().fit(zoo).predict,
    ):
        with pytest.raises(ValueError, match=r"want one network or more, got an empty set"):
            call(zoo[:0])
    with pytest.raises(ValueError, match=r"want a finite kernel .*, got \(0, 0\)"):
        wsfast.WeightClassifier(features="precomputed").fit(np.zeros((0, 0)), [])
    with pytest.raises(TypeError, match=r"want a WeightSet, got list"):
        model.fit([1, 2])
    with pytest.raises(ValueError, match=r"one label a network, got 40"):
        model.fit(zoo, [0, 1])
    with pytest.raises(ValueError, match=r"solver must be one of logistic, ridge, sgd, sgd-primal, got 'svm'"):
        wsfast.WeightClassifier(solver="svm").fit(zoo)
    for solver in ("logistic", "sgd", "sgd-primal"):
        with pytest.raises(ValueError, match=r"seed must be 0\.\.2\^64 - 1, got -1"):
            wsfast.WeightClassifier(solver=solver, seed=-1).fit(zoo)
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
    with pytest.raises(ValueError, match=r"1 of 40 networks diverged"):
        wsfast.WeightClassifier(solver="sgd-primal").fit(broken)
    with pytest.raises(ValueError, match=r"sgd-primal wants features chain, .*, got 'raw' \(use sgd\)"):
        wsfast.WeightClassifier(features="raw", solver="sgd-primal").fit(zoo)
    kernel = np.eye(4)
    kernel[1, 2] = np.inf
    for solver in ("logistic", "ridge", "sgd"):
        with pytest.raises(ValueError, match=r"want a finite kernel .* \(4, 4\) with 1 entries that are not"):
            wsfast.WeightClassifier(features="precomputed", solver=solver).fit(kernel, [0, 1, 0, 1])
    with pytest.raises(ValueError, match=r"sgd diverged on these weights"), np.errstate(all="ignore"):
        wsfast.WeightClassifier(features="precomputed", solver="sgd").fit(np.full((4, 4), 1e308), [0, 1, 0, 1])
