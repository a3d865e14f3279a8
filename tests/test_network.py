import json
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch.nn.utils.fusion import fuse_conv_bn_eval

import wsfast
from wsfast.chains import CHAINS, factor_shape, has_norm
from wsfast.declaration import Layer, Network, batchnorm, conv, linear
from wsfast.families import Unit, convolutional, fully_connected, mlp
from wsfast.kernel_arguments import cnn_layers, gru_width, mlp_layers
from wsfast.weights import WeightSet

ALL = {
    "mlp4": wsfast.network("mlp4", (1, 8, 8), 3, width=12),
    "mlp4-published": wsfast.network("mlp4-published", (20,), 2, width=7),
    "leaky": mlp((9,), 4, (6, 5), slope=0.01),
    "resnet-mlp12": wsfast.network("resnet-mlp12", (1, 8, 8), 3, width=12),
    "sums": fully_connected((7,), 3, (5, 5, 3), (0.01, 0.0, 1.0, 0.0), (0, 1, 1, 1), (-1, 0, -1, 2)),
    "plainnet5": wsfast.network("plainnet5", (3, 16, 16), 4, width=3),
    "plainnet5-text": wsfast.network("plainnet5-text", (3, 17, 19), 4, width=3),
    "plainnet6": wsfast.network("plainnet6", (1, 33, 32), 2, width=2),
    "plainnet5-leaky": wsfast.network("plainnet5-leaky", (3, 16, 16), 3, width=3),
    "resnet5": wsfast.network("resnet5", (3, 9, 8), 4, width=3),
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
    """Every permutation group reordered in its own way, in all axes that carry its name."""
    orders = {g: np.roll(np.arange(n)[::-1], 2 + k) for k, (g, n) in enumerate(zoo.network.groups.items())}
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
    images = cnn_layers(zoo.network) is not None  # the Gram of a fourth chain is large
    for chain in range(1, 4 if images else len(zoo.network.chains) + 1):
        for name, how in CHAINS.items():
            if name == "chain_folded" and not has_norm(zoo.network, chain):
                continue
            g, h = (wsfast.chain_gram(z, chain, **how) for z in (zoo, other))
            np.testing.assert_allclose(h, g, atol=2e-6 * np.abs(g).max())
            assert g.shape[1] == factor_shape(zoo.network, chain)[0]
    raw = zoo.network.chain(1)[0].name
    assert not np.allclose(zoo.parameters[raw], other.parameters[raw])


@pytest.mark.parametrize("name", ["plainnet5", "plainnet6", "resnet5"])
def test_the_smallest_image(name):
    """The smallest of which convolutions (padded by one, strided) and pools leave a position."""
    layers = wsfast.network(name, (3, 64, 64), 2, width=2).layers
    main = [x for x in layers if x.op == "maxpool" or (x.op == "conv" and not x.inputs)]

    def left(size):
        for layer in main:
            size = size // 2 if layer.op == "maxpool" else -(-size // layer.options.get("stride", 1))
        return size

    least = next(size for size in range(1, 65) if left(size))
    assert wsfast.network(name, (3, least, 64), 2, width=2).input_shape == (3, least, 64)
    with pytest.raises(ValueError, match=rf"of {least}x{least} or more|input_shape must be at least 1"):
        wsfast.network(name, (3, 64, least - 1), 2, width=2)


def test_the_batchnorm_of_a_weight():
    found = {name: net.norm_after(net.chain(2)[-1].name) for name, net in ALL.items()}
    named = {name: norm and norm.name for name, norm in found.items()}
    none = dict.fromkeys(("mlp4", "mlp4-published", "leaky", "gru2"))
    assert named == none | dict.fromkeys(ALL.keys() - none.keys(), "bn2")
    assert ALL["resnet5"].norm_after("shortcut2.weight").name == "shortcut_bn2"
    assert ALL["sums"].norm_after("fc1.weight") is None


@pytest.mark.parametrize("by", ["gamma", "variance"])
@pytest.mark.parametrize("name", ["plainnet5", "plainnet5-text", "plainnet5-leaky", "resnet5", "resnet-mlp12"])
def test_folding_removes_what_batchnorm_takes_out(name, by):
    """W_2 D, its D in gamma^-1 or in the variance: plain chains move from the second on, folded ones do not."""
    zoo = random_set(ALL[name])
    arrays = {key: array.copy() for key, array in zoo.parameters.items()}
    weight = zoo.network.chain(2)[1].name
    layer, norm = weight.removesuffix(".weight"), zoo.network.norm_after(weight).name
    d = np.random.default_rng(0).uniform(0.5, 2, arrays[f"{norm}.weight"].shape).astype(np.float32)
    arrays[weight] *= d.reshape(len(d), *[1] * (arrays[weight].ndim - 2), -1)
    arrays[f"{layer}.bias"] *= d
    arrays[f"{norm}.running_mean"] *= d
    if by == "gamma":
        arrays[f"{norm}.weight"] /= d
    else:
        arrays[f"{norm}.running_var"] = d**2 * (arrays[f"{norm}.running_var"] + np.float32(1e-5)) - np.float32(1e-5)
    other = replace(zoo, parameters=arrays)
    np.testing.assert_allclose(outputs(other), outputs(zoo), rtol=1e-4, atol=1e-5 * np.abs(outputs(zoo)).max())
    for chain in (1, 2, 3):
        for fold in (False, True):
            g, h = (wsfast.chain_gram(z, chain, fold_norm=fold) for z in (zoo, other))
            moves = chain > 1 and not fold
            assert np.allclose(h, g, atol=1e-5 * np.abs(g).max()) != moves, (chain, fold)


def test_folded_chains_are_torchs_fused_convolutions():
    zoo = random_set(ALL["plainnet5"])
    fused = {**zoo.parameters}
    for k in (1, 2, 3):
        p = zoo.network.parameter(f"conv{k}.weight")
        modules = (zoo.to_torch(i) for i in range(2))
        pairs = [fuse_conv_bn_eval(m.get_submodule(f"conv{k}"), m.get_submodule(f"bn{k}")) for m in modules]
        fused[p.name] = np.stack([p.from_torch(conv.weight.detach().numpy()) for conv in pairs])
    for chain in (1, 2, 3):
        got = wsfast.chain_factor(zoo, chain, fold_norm=True)
        want = wsfast.chain_factor(replace(zoo, parameters=fused), chain, backend="reference")
        np.testing.assert_allclose(got, want, atol=2e-6 * np.abs(want).max())
        k = wsfast.chain_kernel(zoo, chain=chain, fold_norm=True)
        np.testing.assert_allclose(k, (np.einsum("iar,jas->ijrs", want, want) ** 2).sum((2, 3)), rtol=1e-5)


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
    resnet = wsfast.network("resnet5", (3, 32, 32), 4)
    shortcuts = 32 * 64 + 64 * 128 + 128 * 256 + 3 * (64 + 128 + 256)
    assert resnet.size == 390_404 + shortcuts
    assert len(wsfast.network("plainnet6", (3, 32, 32), 4).chains) == 4  # a fifth would have d = 177,147
    assert [p.name for p in resnet.chain(4)] == [f"conv{k}.weight" for k in range(1, 5)]
    assert resnet.parameter("shortcut2.weight").axes == resnet.parameter("conv2.weight").axes
    assert wsfast.network("plainnet6", (3, 32, 32), 4).size == 390_404 + 9 * 256 * 256 + 3 * 256
    for name in ("plainnet5-text", "plainnet5-leaky"):
        assert wsfast.network(name, (3, 32, 32), 4).size == 390_404
    shapes = [factor_shape(plain, k) for k in (1, 2, 3, 4)]
    assert shapes == [(27, 32), (243, 64), (2187, 128), (19683, 256)]
    recurrent = wsfast.network("gru2", (20, 58), 2)
    assert recurrent.chains[0] == ("gru1.weight_ih_l0",)
    assert recurrent.size == 3 * 128 * (58 + 3 * 128 + 4) + 128 * 2 + 2
    shapes = [factor_shape(recurrent, k) for k in (1, 2, 3, 4)]
    assert shapes == [(58, 3 * 128), (3 * 58, 128), (12 * 58, 128), (9 * 58, 128)]


def gates(module, name):
    """torch's [3 H, n] as three matrices [H, n], float64."""
    return getattr(module, name).detach().double().numpy().reshape(3, 6, -1)


def test_gru_chains_are_the_invariants_of_the_method():
    zoo = random_set(ALL["gru2"])
    first, second = zoo.to_torch(0).gru1, zoo.to_torch(0).gru2
    w, u, above = gates(first, "weight_ih_l0"), gates(first, "weight_hh_l0"), gates(second, "weight_ih_l0")
    stacked = first.weight_ih_l0.detach().double().numpy()
    np.testing.assert_allclose(wsfast.chain_gram(zoo, 1)[0], stacked.T @ stacked, rtol=1e-5)
    pairs = wsfast.chain_gram(zoo, 2)[0].reshape(11, 3, 11, 3)
    steps = wsfast.chain_gram(zoo, 3)[0].reshape(11, 3, 4, 11, 3, 4)
    through = wsfast.chain_gram(zoo, 4)[0].reshape(11, 3, 3, 11, 3, 3)
    close = {"rtol": 1e-4, "atol": 1e-5}
    for g in range(3):
        for h in range(3):
            np.testing.assert_allclose(pairs[:, g, :, h], w[g].T @ w[h], **close)
            np.testing.assert_allclose(steps[:, g, 0, :, h, 0], w[g].T @ w[h], **close)
            for k in range(3):
                np.testing.assert_allclose(steps[:, g, 0, :, h, 1 + k], w[g].T @ u[k] @ w[h], **close)
                for m in range(3):
                    want = w[g].T @ above[k].T @ above[m] @ w[h]
                    np.testing.assert_allclose(through[:, g, k, :, h, m], want, **close)


def test_the_recurrent_weight_is_permuted_on_both_sides():
    """Chain 3 moves where W_hh's rows alone are reordered with W_ih, chains 1, 2 and 4 have no part in it."""
    zoo = random_set(ALL["gru2"])
    other = permuted(zoo)
    other.parameters["gru1.weight_hh_l0"] = zoo.parameters["gru1.weight_hh_l0"]
    for chain, moves in ((1, False), (2, False), (3, True), (4, False)):
        g, h = wsfast.chain_gram(zoo, chain), wsfast.chain_gram(other, chain)
        assert np.allclose(h, g, atol=1e-5 * np.abs(g).max()) != moves, chain


def test_the_width_of_what_gru2s_kernels_train():
    assert gru_width(ALL["gru2"]) == 6
    assert gru_width(ALL["mlp4"]) is None
    net = ALL["gru2"]
    assert gru_width(replace(net, layers=net.layers[1:])) is None
    assert gru_width(replace(net, layers=net.layers[:-1])) is None


def test_resnet_mlp12_is_six_blocks_of_two():
    net = ALL["resnet-mlp12"]
    sizes, slopes, norms, adds = mlp_layers(net)
    assert sizes.tolist() == [64, *[12] * 12, 3]
    assert slopes.tolist() == [0.0] * 12 + [1.0]
    assert norms.tolist() == [1] * 12 + [0]
    assert adds.tolist() == [-1, -1, -1, 1, -1, 3, -1, 5, -1, 7, -1, 9, -1]
    assert [len(chain) for chain in net.chains] == list(range(1, 13))
    assert net.chains[11][-1] == "fc12.weight"
    assert wsfast.network("resnet-mlp12", (3, 32, 32), 2).size == 1_536_500 + 11 * 250_500 + 12 * 1000 + 1002
    shared = {net.parameter(f"fc{k}.weight").axes[1] for k in range(2, 13, 2)}
    assert shared == {"hidden2"}
    assert len(net.groups) == 1 + 6


def test_a_residual_module_in_training_is_torchs_too():
    zoo = random_set(ALL["resnet-mlp12"])
    module = zoo.to_torch(0).train()
    x = torch.randn(16, 1, 8, 8, generator=torch.Generator().manual_seed(2))
    h, blocks = x.flatten(1), []
    for k in range(1, 13):
        linear, norm = getattr(module, f"fc{k}"), getattr(module, f"bn{k}")
        a = torch.relu(linear(h))
        h = norm.weight * (a - a.mean(0)) / torch.sqrt(a.var(0, unbiased=False) + 1e-5) + norm.bias
        if k % 2 == 0:
            h = h + blocks[-1] if blocks else h
            blocks.append(h)
    want = module.fc13(h).detach().numpy()
    np.testing.assert_allclose(module(x).detach().numpy(), want, atol=1e-5 * np.abs(want).max())
    before = zoo.parameters["bn1.running_mean"][0]
    assert not np.allclose(module.bn1.running_mean.numpy(), before)


def test_chains_of_linear_layers_are_recognised():
    sizes, slopes, norms, adds = mlp_layers(ALL["leaky"])
    assert sizes.tolist() == [9, 6, 5, 4]
    np.testing.assert_allclose(slopes, [0.01, 0.01, 1.0])
    assert norms.tolist() == [0, 0, 0]
    assert adds.tolist() == [-1, -1, -1]
    assert mlp_layers(ALL["mlp4-published"])[1].tolist() == [0, 0, 0, 0]
    sizes, slopes, norms, adds = mlp_layers(ALL["sums"])
    assert sizes.tolist() == [7, 5, 5, 3, 3]
    np.testing.assert_allclose(slopes, [0.01, 0.0, 1.0, 0.0])
    assert norms.tolist() == [0, 1, 1, 1]
    assert adds.tolist() == [-1, 0, -1, 2]
    assert {x.dtype for x in (sizes, norms, adds)} == {np.dtype(np.int64)}
    assert mlp_layers(ALL["plainnet5"]) is None
    assert mlp_layers(ALL["gru2"]) is None


def test_what_is_no_chain_of_linear_layers():
    first, second = linear("a", 4, 4, None, None), linear("b", 4, 4, None, None)
    relu, norm = Layer("relu", "relu"), batchnorm("bn", 4, None, images=False)

    def layers(*listed):
        return mlp_layers(Network("test", (4,), 4, listed, ()))

    assert layers(first, relu, norm, second) is not None
    assert layers(first, norm, relu, second) is None
    assert layers(first, relu, Layer("again", "leaky_relu"), second) is None
    assert layers(relu, first) is None
    assert layers(first, relu, second, Layer("add", "add", inputs=("b", "relu"))) is not None
    assert layers(first, relu, second, Layer("add", "add", inputs=("b", "a"))) is None  # before its activation
    assert layers(first, relu, second, Layer("add", "add", inputs=("b", "b"))) is None
    assert layers(first, relu, Layer("add", "add", inputs=("relu", "flatten")), second) is None
    assert layers(first, relu, second, Layer("add", "add", inputs=("b", "relu")), Layer("late", "relu")) is None


def test_convolutional_networks_are_recognised():
    found = {name: cnn_layers(net) for name, net in ALL.items()}
    assert {name for name, layers in found.items() if layers} == {
        "plainnet5",
        "plainnet5-text",
        "plainnet6",
        "plainnet5-leaky",
        "resnet5",
    }
    sizes, slopes, strides, norm_last, pools, shortcuts = found["plainnet5"]
    assert sizes.tolist() == [3, 3, 6, 12, 24, 4]
    assert (slopes == 0).all()
    assert (strides == 1).all()
    assert (norm_last == 0).all()
    assert (pools == 1).all()
    assert (shortcuts == 0).all()
    assert (found["plainnet5-text"][3] == 1).all()
    np.testing.assert_allclose(found["plainnet5-leaky"][1], [0.01] * 4)
    assert found["plainnet6"][0].tolist() == [1, 2, 4, 8, 16, 16, 2]
    sizes, slopes, strides, norm_last, pools, shortcuts = found["resnet5"]
    assert strides.tolist() == [1, 2, 2, 2]
    assert shortcuts.tolist() == [0, 1, 1, 1]
    assert not pools.any()
    assert {x.dtype for x in (sizes, strides, norm_last, pools, shortcuts)} == {np.dtype(np.int64)}


def test_what_is_no_convolutional_network():
    plain = convolutional((3, 8, 8), 2, [Unit(4), Unit(5, stride=2, shortcut=True, pool=True)])
    assert cnn_layers(plain) is not None

    def without(name, *instead):
        layers = [x for layer in plain.layers for x in (instead if layer.name == name else (layer,))]
        return cnn_layers(Network("test", (3, 8, 8), 2, tuple(layers), ()))

    assert without("") is not None
    for name in ("conv1", "bn1", "act1", "bn2", "shortcut2", "shortcut_bn2", "add2", "gap", "fc"):
        assert without(name) is None, name
    assert without("pool2") is not None
    assert without("add2", Layer("add2", "add", inputs=("bn2", "act1"))) is None
    assert without("shortcut2", conv("shortcut2", 4, 5, None, None, size=1, inputs=("act1",))) is None  # stride 1
    assert without("shortcut2", conv("shortcut2", 4, 5, None, None, stride=2, inputs=("act1",))) is None  # 3x3


def test_bad_input():
    with pytest.raises(ValueError, match=r"network must be one of mlp4, .*got 'resnet152'"):
        wsfast.network("resnet152", (8,), 2)
    with pytest.raises(ValueError, match=r"width must be at least 1, got 0"):
        wsfast.network("mlp4", (8,), 2, width=0)
    with pytest.raises(ValueError, match=r"layer 1 adds the output of layer 0, want an earlier layer of the same size"):
        fully_connected((4,), 2, (5,), (0.0, 1.0), (0, 0), (-1, 0))
    with pytest.raises(ValueError, match=r"layer 0 adds the output of layer 0"):
        fully_connected((4,), 4, (), (0.0,), (0,), (0,))
    with pytest.raises(ValueError, match=r"16x16 or more"):
        wsfast.network("plainnet5", (3, 8, 8), 2)
    with pytest.raises(ValueError, match=r"steps, alphabet"):
        wsfast.network("gru2", (8,), 2)
    with pytest.raises(ValueError, match=r"plainnet6: images must be .* of 32x32 or more, got \(3, 32, 31\)"):
        wsfast.network("plainnet6", (3, 32, 31), 2)
    with pytest.raises(ValueError, match=r"resnet5: images must be \[channels, height, width\] of 1x1 or more"):
        wsfast.network("resnet5", (8,), 2)
    for units in ([Unit(4, shortcut=True)], [Unit(4), Unit(4, norm_last=True, shortcut=True)]):
        with pytest.raises(ValueError, match=rf"unit {len(units)} has a shortcut, want a unit before it"):
            convolutional((3, 8, 8), 2, units)
    for chain in (0, 4, "1", 1.0):
        with pytest.raises(ValueError, match=r"chain must be 1\.\.3 for mlp4"):
            ALL["mlp4"].chain(chain)


@pytest.mark.parametrize(
    ("arguments", "options", "why"),
    [
        (((5,), 0), {}, "classes must be at least 1, got 0"),
        (((5, 0), 2), {}, "input_shape must be at least 1, got 0"),
        (((-5,), 2), {"width": 3}, "input_shape must be at least 1, got -5"),
        (((5,), 2), {"width": 0}, "width must be at least 1, got 0"),
        (((9,), 2, 4), {"seed": -1}, r"mlp4-wasym: seed must be 0\.\.2\^64 - 1, got -1"),
        (((9,), 2, 4), {"kappa": np.nan}, r"mlp4-wasym: want shares in \[0, 1\] and a finite kappa"),
        (((9,), 2, 4), {"shares": (0, 0, -1, 0)}, r"mlp4-wasym: want shares in \[0, 1\] and a finite kappa"),
    ],
)
def test_networks_that_cannot_be_are_refused(arguments, options, why):
    name = "mlp4" if options.keys() <= {"width"} else "mlp4-wasym"
    with pytest.raises(ValueError, match=why):
        wsfast.network(name, *arguments, **options)


def test_a_declaration_of_numpys_numbers_goes_into_a_manifest():
    shape, classes, width = (np.int64(9),), np.int32(2), np.int64(4)
    asymmetric = {"kappa": np.float32(0.5), "shares": np.full(4, 0.25, np.float32), "seed": np.int64(3)}
    for name, options in (("mlp4", {}), ("mlp4-sigma", {"seed": np.int64(3)}), ("mlp4-wasym", asymmetric)):
        net = wsfast.network(name, shape, classes, width, **options)
        back = wsfast.Network.from_dict(json.loads(json.dumps(net.to_dict())))
        assert back == net
