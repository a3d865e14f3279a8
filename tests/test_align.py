from dataclasses import replace

import numpy as np
import pytest
import torch
from scipy.optimize import linear_sum_assignment
from wsfast.reference.correlation import standardise

import wsfast
from wsfast.activations import activations, hidden_outputs
from wsfast.aligning import reordered, shuffled_units
from wsfast.weights import WeightSet

NETWORKS = {
    "mlp4": wsfast.network("mlp4", (1, 4, 4), 3, width=12),
    "resnet-mlp12": wsfast.network("resnet-mlp12", (9,), 2, width=7),
    "plainnet5": wsfast.network("plainnet5", (3, 16, 16), 4, width=3),
    "resnet5": wsfast.network("resnet5", (3, 9, 8), 4, width=3),
    "gru2": wsfast.network("gru2", (5, 11), 3, width=6),
}


def random_set(net, n=3):
    rng = np.random.default_rng([net.size, n])
    parameters = {
        p.name: (rng.standard_normal((n, *p.shape)) / np.sqrt(20 * np.prod(p.shape[:-1]))).astype(np.float32)
        for p in net.parameters
    }
    for p in net.parameters:
        if p.name.endswith("running_var"):
            parameters[p.name] = np.abs(parameters[p.name]) + np.float32(0.1)
        elif p.name.endswith("bias"):
            parameters[p.name] = parameters[p.name] / 4 + 2  # no dead units, which nothing tells apart
    return WeightSet(net, parameters, np.zeros(n, np.int64), np.arange(n))


def inputs(net, n=40):
    return np.random.default_rng(n).standard_normal((n, *net.input_shape)).astype(np.float32)


def outputs(zoo, i):
    with torch.no_grad():
        return zoo.to_torch(i).double()(torch.from_numpy(inputs(zoo.network, 4)).double()).numpy()


def options(method, net):
    return {"method": method, "inputs": inputs(net) if method == "activations" else None}


@pytest.mark.parametrize("method", ["weights", "activations"])
@pytest.mark.parametrize("name", NETWORKS)
def test_planted_orders_are_found_and_functions_kept(name, method):
    zoo = random_set(NETWORKS[name])
    planted = shuffled_units(zoo, seed=1)
    weight = zoo.network.parameters[-2].name  # the classifier's: its inputs are hidden units
    assert not np.array_equal(planted.parameters[weight], zoo.parameters[weight])
    found = wsfast.align(planted, zoo, **options(method, zoo.network))
    if method == "weights":
        for p in zoo.network.parameters:
            np.testing.assert_array_equal(found.zoo.parameters[p.name], zoo.parameters[p.name], err_msg=p.name)
        assert {len(path) for path in found.objective} == {2}  # at once, layer by layer from the inputs on
    want, got = (activations(z, inputs(zoo.network)) for z in (zoo, found.zoo))
    for layer in want:  # units that always answer the same are told apart by nothing
        z = standardise(want[layer])
        np.testing.assert_allclose(standardise(got[layer]), z, atol=1e-4, err_msg=layer)
        assert (z != 0).any(axis=2).mean() > 0.4
    for i in range(len(zoo)):
        np.testing.assert_allclose(outputs(planted, i), outputs(zoo, i), rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("method", ["weights", "activations"])
@pytest.mark.parametrize("name", NETWORKS)
def test_other_networks_keep_their_functions_and_only_gain(name, method):
    zoo = random_set(NETWORKS[name], 4)
    found = wsfast.align(zoo, zoo[2], **options(method, zoo.network))
    for group, n in zoo.network.groups.items():
        np.testing.assert_array_equal(np.sort(found.orders[group], axis=1), np.tile(np.arange(n), (4, 1)))
    for i, path in enumerate(found.objective):
        np.testing.assert_allclose(outputs(found.zoo, i), outputs(zoo, i), rtol=1e-9, atol=1e-12)
        assert (np.diff(path) >= 0).all()
        assert (path[-1] > path[0]) == (i != 2)
    again = reordered(zoo, found.orders)
    for name, array in found.zoo.parameters.items():
        np.testing.assert_array_equal(again.parameters[name], array)


def test_the_objective_is_the_inner_product_and_a_local_optimum():
    """No exchange of two units of any group gains."""
    zoo = random_set(NETWORKS["mlp4"], 2)
    found = wsfast.align(zoo[1], zoo[0])

    def product(aligned):
        return sum(
            np.vdot(zoo.parameters[k][0].astype(float), v[0].astype(float)) for k, v in aligned.parameters.items()
        )

    best = product(found.zoo)
    np.testing.assert_allclose([product(zoo[1]), best], found.objective[0][[0, -1]])
    for group, n in zoo.network.groups.items():
        for i in range(n):
            for j in range(i):
                orders = {k: v.copy() for k, v in found.orders.items()}
                orders[group][0, [i, j]] = orders[group][0, [j, i]]
                assert product(reordered(zoo[1], orders)) <= best + 1e-9


def test_activations_are_matched_as_scipy_matches_correlations():
    zoo = random_set(NETWORKS["mlp4"], 2)
    x = inputs(zoo.network)
    found = wsfast.align(zoo[1], zoo[0], method="activations", inputs=x)
    for layer, group in hidden_outputs(zoo.network).items():
        a, b = activations(zoo, x)[layer].astype(float)
        r = np.corrcoef(a, b)[: len(a), len(a) :]
        _, order = linear_sum_assignment(r, maximize=True)
        assert r[np.arange(len(r)), found.orders[group][0]].sum() == pytest.approx(r[np.arange(len(r)), order].sum())


def test_alone_is_among_many_on_any_threads(zoo):
    whole = wsfast.align(zoo, zoo[7], threads=3)
    alone = wsfast.align(zoo[11], zoo[7], threads=1)
    for group, orders in alone.orders.items():
        np.testing.assert_array_equal(orders[0], whole.orders[group][11])
    paired = wsfast.align(zoo[:2], zoo[2:4])
    np.testing.assert_array_equal(paired.orders["hidden1"][1], wsfast.align(zoo[1], zoo[3]).orders["hidden1"][0])


def test_trained_networks_come_closer(zoo):
    """Aligned, two seeds of one task have far more alike weights; their chains do not move."""
    same = zoo[zoo.labels == 1]
    found = wsfast.align(same, same[0])
    gains = np.array([path[[0, -1]] for path in found.objective[1:]])
    assert (gains[:, 1] > 2 * np.abs(gains[:, 0])).all()
    g, h = wsfast.chain_gram(same, 2), wsfast.chain_gram(found.zoo, 2)
    np.testing.assert_allclose(h, g, atol=2e-6 * np.abs(g).max())


def test_what_the_next_layer_sees():
    wanted = {
        "mlp4": {"act1": "hidden1", "act2": "hidden2", "act3": "hidden3"},
        "plainnet5": {"pool1": "hidden1", "pool2": "hidden2", "pool3": "hidden3", "gap": "hidden4"},
        "resnet5": {"act1": "hidden1", "act2": "hidden2", "act3": "hidden3", "gap": "hidden4"},
        "gru2": {"gru1": "hidden1", "last": "hidden2"},
    }
    for name, layers in wanted.items():
        assert hidden_outputs(NETWORKS[name]) == layers
    residual = hidden_outputs(NETWORKS["resnet-mlp12"])
    assert list(residual)[:5] == ["bn1", "bn2", "bn3", "add4", "bn5"]
    assert residual["add4"] == residual["bn2"] == "hidden2"


def test_activations_are_the_modules_own():
    zoo, x = random_set(NETWORKS["plainnet5"], 2), inputs(NETWORKS["plainnet5"], 5)
    module = zoo.to_torch(1)
    with torch.no_grad():
        first = module[:4](torch.from_numpy(x)).numpy()
        last = module[:-1](torch.from_numpy(x)).numpy()
    found = activations(zoo, x)
    np.testing.assert_allclose(found["pool1"][1], first.transpose(1, 0, 2, 3).reshape(3, -1), atol=1e-5)
    np.testing.assert_allclose(found["gap"][1], last.T, atol=1e-5)
    some = activations(zoo, x, columns=7)["pool1"]
    assert some.shape == (2, 3, 7)
    np.testing.assert_array_equal(some[:, :, [0, -1]], found["pool1"][:, :, [0, -1]])
    names = random_set(NETWORKS["gru2"], 2)
    short, long = (np.eye(11, dtype=np.float32)[np.arange(2 * t).reshape(2, t) % 11] for t in (3, 5))
    found = activations(names, [short, long])
    assert found["gru1"].shape == (2, 6, 2 * 3 + 2 * 5)
    assert found["last"].shape == (2, 6, 4)
    np.testing.assert_allclose(found["last"][:, :, 2:], activations(names, long)["last"], atol=1e-6)


def test_bad_input(zoo):
    other = random_set(NETWORKS["mlp4"])
    with pytest.raises(ValueError, match=r"method must be one of weights, activations, got 'magic'"):
        wsfast.align(zoo, zoo[0], method="magic")
    with pytest.raises(ValueError, match=r"inputs belong to method activations alone, got activations without"):
        wsfast.align(zoo, zoo[0], method="activations")
    with pytest.raises(ValueError, match=r"inputs belong to method activations alone, got weights with"):
        wsfast.align(zoo, zoo[0], inputs=np.ones((3, 1, 8, 8)))
    with pytest.raises(ValueError, match=r"inputs must be \[samples, 1, 4, 4\], got \[3, 1, 8, 8\]"):
        wsfast.align(other, other[0], method="activations", inputs=np.ones((3, 1, 8, 8)))
    with pytest.raises(ValueError, match=r"must be of one declaration, got mlp4, mlp4"):
        wsfast.align(zoo, other[0])
    with pytest.raises(ValueError, match=r"to must be 1 network or as many as the set's 40, got 2"):
        wsfast.align(zoo, zoo[:2])
    broken = replace(other, parameters={k: np.array(v) for k, v in other.parameters.items()})
    broken.parameters["fc2.bias"][1, 3] = np.nan
    with pytest.raises(ValueError, match=r"1 networks of zoo diverged \(zoo\[~zoo.diverged\]\)"):
        wsfast.align(broken, other[0])
