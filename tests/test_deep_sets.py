import numpy as np
import pytest
import torch
from scipy import stats

import wsfast
from wsfast.aligning import shuffled_units
from wsfast.deep_sets import DeepSets, DeepSetsRegressor, unit_axes, unit_features
from wsfast.families import mlp


def test_features_by_hand(zoo):
    features = unit_features(zoo)
    assert [s.shape for s in features.sets] == [(40, 24, 21)] * 3
    assert features.alone.shape == (40, 10)
    w = {name: array.astype(np.float64) for name, array in zoo.parameters.items()}
    unit = features.sets[1][7, 5]  # of hidden2: incoming weights, bias, outgoing weights
    assert unit[10] == zoo.parameters["fc2.bias"][7, 5]
    for got, slice_ in ((unit[:10], w["fc2.weight"][7, :, 5]), (unit[11:], w["fc3.weight"][7, 5])):
        want = [slice_.mean(), slice_.std(), stats.skew(slice_), stats.kurtosis(slice_, fisher=False)]
        want += [np.linalg.norm(slice_), *np.quantile(slice_, [0, 0.25, 0.5, 0.75, 1])]
        np.testing.assert_allclose(got, want, rtol=1e-5, atol=1e-7)
    np.testing.assert_allclose(features.alone[3, 0], w["fc4.bias"][3].mean(), rtol=1e-5)


def test_a_few_at_a_time_is_the_same(zoo, monkeypatch):
    whole = unit_features(zoo)
    monkeypatch.setattr("wsfast.deep_sets.CHUNK", 700)
    for a, b in zip(unit_features(zoo).sets, whole.sets, strict=True):
        np.testing.assert_array_equal(a, b)


@pytest.mark.parametrize("name", ["mlp4", "resnet-mlp12", "mlp4-wasym", "plainnet5", "resnet5", "gru2"])
def test_units_in_another_order_are_the_same_sets(name):
    shape = {"plainnet5": (3, 16, 16), "resnet5": (3, 16, 16), "gru2": (9, 7)}.get(name, (10,))
    net = wsfast.network(name, shape, 3, width=6)
    rng = np.random.default_rng(net.size)
    parameters = {p.name: rng.standard_normal((5, *p.shape)).astype(np.float32) for p in net.parameters}
    zoo = wsfast.WeightSet(net, parameters, np.zeros(5, np.int64), np.arange(5))
    moved = shuffled_units(zoo, seed=1)
    features, other = unit_features(zoo), unit_features(moved)
    np.testing.assert_array_equal(features.alone, other.alone)
    assert len(features.sets) == len(net.groups)
    for a, b in zip(features.sets, other.sets, strict=True):
        assert (a != b).any()
        first = [np.argsort(s[:, :, 0], axis=1)[:, :, None] for s in (a, b)]  # a mean, in another order of summation
        a, b = (np.take_along_axis(s, order, axis=1) for s, order in zip((a, b), first, strict=True))
        np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-5)
    torch.manual_seed(0)
    model = DeepSets([s.shape[2] for s in features.sets], features.alone.shape[1])
    with torch.no_grad():
        said, again = (
            model([torch.from_numpy(s) for s in f.sets], torch.from_numpy(f.alone)) for f in (features, other)
        )
    np.testing.assert_allclose(said, again, rtol=1e-4, atol=1e-5)
    assert said.std() > 1e-3


def test_every_number_of_a_network_is_seen():
    """A unit's features change with any entry of any parameter, running statistics of BatchNorm included."""
    net = wsfast.network("resnet5", (3, 16, 16), 3, width=2)
    seen = {name for pairs in unit_axes(net).values() for name, _ in pairs}
    assert {p.name for p in net.parameters} - seen == {"fc.bias"}


def test_gated_networks_have_the_units_of_ungated_ones():
    gated, plain = (wsfast.network(name, (10,), 3, width=6) for name in ("mlp4-sigma", "mlp4"))
    assert not gated.groups
    assert unit_axes(gated) == unit_axes(plain)
    assert unit_axes(plain)["hidden1"] == [("fc1.weight", 1), ("fc1.bias", 0), ("fc2.weight", 0)]


def test_a_planted_number_is_learned_whatever_the_order(zoo, monkeypatch):
    """The mean incoming bias of one layer, on networks that it was not fitted to."""
    monkeypatch.setattr("wsfast.deep_sets.STEPS", 300)
    rng = np.random.default_rng(3)
    many = zoo[np.tile(np.arange(40), 5)]
    many.parameters["fc2.bias"] = rng.normal(rng.normal(size=(200, 1)), 1, (200, 24)).astype(np.float32)
    target = 50 + many.parameters["fc2.bias"].mean(axis=1).astype(np.float64)
    features = unit_features(many)
    train, test = np.arange(140), np.arange(140, 200)
    found = DeepSetsRegressor(0).fit(features[train], target[train]).predict(features[test])
    assert 1 - ((found - target[test]) ** 2).sum() / ((target[test] - target[test].mean()) ** 2).sum() > 0.8
    again = DeepSetsRegressor(0).fit(features[train], target[train]).predict(features[test])
    np.testing.assert_array_equal(found, again)
    assert (DeepSetsRegressor(1).fit(features[train], target[train]).predict(features[test]) != found).any()


def test_a_constant_target_is_predicted(zoo, monkeypatch):
    monkeypatch.setattr("wsfast.deep_sets.STEPS", 200)
    features = unit_features(zoo)
    found = DeepSetsRegressor(0).fit(features, np.full(40, 0.75)).predict(features)
    np.testing.assert_allclose(found, 0.75, atol=0.1)


def test_a_network_without_hidden_units():
    net = mlp((4,), 3, ())
    parameters = {p.name: np.zeros((2, *p.shape), np.float32) for p in net.parameters}
    linear = wsfast.WeightSet(net, parameters, np.zeros(2, np.int64), np.arange(2))
    with pytest.raises(ValueError, match=r"deep sets: mlp has no hidden units"):
        unit_features(linear)
