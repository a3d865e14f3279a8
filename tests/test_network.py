import json

import numpy as np
import pytest
import torch

import wsfast
from wsfast.chains import chain_width
from wsfast.network import mlp, mlp_layers
from wsfast.weights import WeightSet

ALL = {
    "mlp4": wsfast.network("mlp4", (1, 8, 8), 3, width=12),
    "mlp4-published": wsfast.network("mlp4-published", (20,), 2, width=7),
    "leaky": mlp((9,), 4, (6, 5), slope=0.01),
    "plainnet5": wsfast.network("plainnet5", (3, 16, 16), 4, width=3),
    "gru2": wsfast.network("gru2", (5, 11), 3, width=6),
}


def random_set(net, n=2):
    rng = np.random.default_rng(net.size)
    parameters = {p.name: rng.uniform(0.1, 1, (n, *p.shape)).astype(np.float32) for p in net.parameters}
    for p in net.parameters:
        if not p.name.endswith("running_var"):
            parameters[p.name] -= np.float32(0.5)
    return WeightSet(net, parameters, np.zeros(n, np.int64), np.arange(n))


def permuted(zoo):
    """Every permutation group reordered, in all axes that carry its name."""
    orders = {group: np.roll(np.arange(n)[::-1], 2) for group, n in zoo.network.groups.items()}
    parameters = {}
    for p in zoo.network.parameters:
        array = zoo.parameters[p.name]
        for axis, group in enumerate(p.axes, start=1):
            if group is not None:
                array = np.take(array, orders[group], axis=axis)
        parameters[p.name] = array
    return WeightSet(zoo.network, parameters, zoo.labels, zoo.repeats)


def outputs(zoo, i=0):
    x = np.random.default_rng(0).standard_normal((4, *zoo.network.input_shape))
    with torch.no_grad():
        return zoo.to_torch(i).double()(torch.from_numpy(x)).numpy()


@pytest.mark.parametrize("name", ALL)
def test_permuting_groups_keeps_the_function_and_the_chains(name):
    zoo = random_set(ALL[name])
    other = permuted(zoo)
    assert outputs(zoo).std() > 0
    np.testing.assert_allclose(outputs(other), outputs(zoo), rtol=1e-9, atol=1e-12)
    for chain in range(1, min(3, len(zoo.network.chains)) + 1):
        for unit in (False, True):
            g = wsfast.chain_gram(zoo, chain, column_normalize=unit)
            h = wsfast.chain_gram(other, chain, column_normalize=unit)
            np.testing.assert_allclose(h, g, atol=2e-6 * np.abs(g).max())
            assert g.shape[1] == chain_width(zoo, chain)
    raw = zoo.network.chain(1)[0].name
    assert not np.allclose(zoo.parameters[raw], other.parameters[raw])


@pytest.mark.parametrize("name", ALL)
def test_declared_shapes_are_torchs(name):
    net = ALL[name]
    zoo = random_set(net)
    module = zoo.to_torch(1)
    state = module.state_dict()
    for p in net.parameters:
        assert tuple(state[p.name].shape) == p.torch_shape
        np.testing.assert_array_equal(p.from_torch(state[p.name].numpy()), zoo.parameters[p.name][1])
    trained = sum(v.numel() for v in module.parameters())
    assert net.size == trained
    json.dumps(net.to_dict())


def test_initial_bounds_are_torchs_default():
    for name, net in ALL.items():
        torch.manual_seed(0)
        module = random_set(net).to_torch(0)
        for layer in module.modules():
            if hasattr(layer, "reset_parameters"):
                layer.reset_parameters()
        for p in net.parameters:
            drawn = module.state_dict()[p.name].abs().max().item()
            if p.fill is None:
                assert drawn <= p.bound + 1e-7, (name, p.name)
                if p.size > 100:
                    assert drawn > 0.9 * p.bound, (name, p.name)
            else:
                assert (module.state_dict()[p.name] == p.fill).all(), (name, p.name)


def test_the_papers_counts():
    assert wsfast.network("mlp4", (3, 32, 32), 4).size == 2_039_504
    plain = wsfast.network("plainnet5", (3, 32, 32), 4)
    assert plain.size == 390_404
    zoo = random_set(plain, 1)
    assert [chain_width(zoo, k) for k in (1, 2, 3, 4)] == [27, 243, 2187, 19683]
    assert wsfast.network("gru2", (20, 58), 2).chains == (("gru1.weight_ih_l0",),)


def test_gru_chain_is_the_stacked_weight():
    zoo = random_set(ALL["gru2"])
    w = zoo.to_torch(0).gru1.weight_ih_l0.detach().double().numpy()
    np.testing.assert_allclose(wsfast.chain_gram(zoo)[0], w.T @ w, rtol=1e-5)


def test_plain_chains_of_linear_layers_are_recognised():
    sizes, slopes = mlp_layers(ALL["leaky"])
    assert sizes.tolist() == [9, 6, 5, 4]
    np.testing.assert_allclose(slopes, [0.01, 0.01, 1.0])
    assert mlp_layers(ALL["mlp4-published"])[1].tolist() == [0, 0, 0, 0]
    assert mlp_layers(ALL["plainnet5"]) is None
    assert mlp_layers(ALL["gru2"]) is None


def test_bad_input():
    with pytest.raises(ValueError, match=r"network must be one of mlp4, .*got 'resnet152'"):
        wsfast.network("resnet152", (8,), 2)
    with pytest.raises(ValueError, match=r"width must be at least 1, got 0"):
        wsfast.network("mlp4", (8,), 2, width=0)
    with pytest.raises(ValueError, match=r"16x16 or more"):
        wsfast.network("plainnet5", (3, 8, 8), 2)
    with pytest.raises(ValueError, match=r"steps, alphabet"):
        wsfast.network("gru2", (8,), 2)
    for chain in (0, 4, "1", 1.0):
        with pytest.raises(ValueError, match=r"chain must be 1\.\.3 for mlp4"):
            ALL["mlp4"].chain(chain)
