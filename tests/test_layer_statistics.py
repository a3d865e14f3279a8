from functools import partial

import numpy as np
import pytest
from scipy import stats

import wsfast
from wsfast.layer_statistics import layer_statistics, parameters_up_to, statistics_kernel
from wsfast.protocols import classification, classification_split


def test_they_are_scipys(zoo):
    found = layer_statistics(zoo)
    assert found.shape == (40, 8, 10)
    for k, p in enumerate(zoo.network.parameters):
        for i in (0, 39):
            w = zoo.parameters[p.name][i].ravel().astype(np.float64)
            want = [w.mean(), w.std(), stats.skew(w), stats.kurtosis(w, fisher=False), np.linalg.norm(w)]
            want += list(np.quantile(w, [0, 0.25, 0.5, 0.75, 1]))
            np.testing.assert_allclose(found[i, k], want, rtol=1e-6, atol=1e-12)


def test_a_few_at_a_time_is_the_same(zoo, monkeypatch):
    whole = layer_statistics(zoo)
    monkeypatch.setattr("wsfast.layer_statistics.CHUNK", 700)
    np.testing.assert_array_equal(layer_statistics(zoo), whole)


def test_the_order_of_hidden_units_does_not_matter(zoo):
    other = zoo[:]
    order = np.random.default_rng(0).permutation(24)
    for p in zoo.network.parameters:
        for axis, group in enumerate(p.axes):
            if group is not None:
                other.parameters[p.name] = other.parameters[p.name].take(order, axis + 1)
    assert (other.parameters["fc2.weight"] != zoo.parameters["fc2.weight"]).any()
    np.testing.assert_allclose(layer_statistics(other), layer_statistics(zoo), rtol=1e-9, atol=1e-12)


def test_a_chain_has_the_layers_up_to_its_last_weight(zoo):
    assert [parameters_up_to(zoo, chain) for chain in (1, 2, 3)] == [2, 4, 6]
    tasks = wsfast.tasks("digits", n=2)
    residual = wsfast.generate("resnet-mlp12", tasks, repeats=1, width=8, recipe=tasks.recipe.with_epochs(0))
    normed = [parameters_up_to(residual, chain) for chain in (1, 2, 3)]
    assert normed[0] == 2
    assert normed == sorted(set(normed))
    assert layer_statistics(residual).shape[1] >= normed[-1]


def test_the_kernel_is_cosines_of_columns_standardised_by_the_training_networks(zoo):
    s, train = layer_statistics(zoo)[:, :2], np.arange(3, 30)
    x = s.reshape(40, 20)
    x = (x - x[train].mean(axis=0)) / x[train].std(axis=0)
    x /= np.linalg.norm(x, axis=1, keepdims=True)
    np.testing.assert_allclose(statistics_kernel(s, train), x @ x.T, atol=1e-12)


def test_a_network_that_is_tested_changes_nothing_for_the_others(zoo):
    s = layer_statistics(zoo)
    wild = s.copy()
    train, test = classification_split(zoo.labels, 0)
    wild[test[0]] *= 1e12
    kernels = [partial(statistics_kernel, each) for each in (s, wild)]
    others = np.delete(np.arange(40), test[0])
    own, changed = (kernel(train)[np.ix_(others, others)] for kernel in kernels)
    np.testing.assert_allclose(own, changed, atol=1e-12)
    own, changed = (classification(kernel, zoo.labels).wrong[1:] for kernel in kernels)
    np.testing.assert_array_equal(own, changed)


@pytest.mark.parametrize("value", [0.0, 0.1, -3e7])
def test_constant_layers_are_finite(zoo, value):
    flat = zoo[:]
    for array in flat.parameters.values():
        array[:] = value
    s = layer_statistics(flat)
    assert np.isfinite(s).all()
    assert (s[:, :, 1] <= 1e-9 * abs(value)).all()
    assert (s[:, :, 2:4] == 0).all()
    np.testing.assert_array_equal(statistics_kernel(s, np.arange(20)), np.zeros((40, 40)))
    np.testing.assert_array_equal(statistics_kernel(layer_statistics(zoo[0]), np.arange(1)), [[0]])
