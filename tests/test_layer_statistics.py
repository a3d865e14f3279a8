import numpy as np
import pytest
from scipy import stats

import wsfast
from wsfast.layer_statistics import layer_statistics, parameters_up_to, statistics_kernel


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


def test_the_kernel_is_cosines_of_standardised_columns(zoo):
    s = layer_statistics(zoo)[:, :2]
    x = s.reshape(40, 20)
    x = (x - x.mean(axis=0)) / x.std(axis=0)
    x /= np.linalg.norm(x, axis=1, keepdims=True)
    np.testing.assert_allclose(statistics_kernel(s), x @ x.T, atol=1e-12)


def test_another_set_is_seen_through_the_training_networks(zoo):
    s = layer_statistics(zoo)
    np.testing.assert_allclose(statistics_kernel(s[:7], s), statistics_kernel(s)[:7], atol=1e-12)
    assert statistics_kernel(s[30:], s[:30]).shape == (10, 30)


@pytest.mark.parametrize("value", [0.0, 0.1, -3e7])
def test_constant_layers_are_finite(zoo, value):
    flat = zoo[:]
    for array in flat.parameters.values():
        array[:] = value
    s = layer_statistics(flat)
    assert np.isfinite(s).all()
    assert (s[:, :, 1] <= 1e-9 * abs(value)).all()
    assert (s[:, :, 2:4] == 0).all()
    np.testing.assert_array_equal(statistics_kernel(s), np.zeros((40, 40)))
    np.testing.assert_array_equal(statistics_kernel(layer_statistics(zoo[0])), [[0]])
