from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import nn

import wsfast
from wsfast import WeightSet


def sequential(last=(), middle=None, sizes=(6, 5, 4, 3)):
    torch.manual_seed(sum(sizes))
    layers = []
    for k in range(len(sizes) - 1):
        layers += [nn.Linear(sizes[k], sizes[k + 1])]
        if k < len(sizes) - 2:
            layers += [middle or nn.ReLU()]
    return nn.Sequential(*layers, *last)


def test_round_trip_through_torch(zoo):
    modules = [zoo.to_torch(i) for i in range(len(zoo))]
    back = WeightSet.from_torch([nn.Sequential(*list(m)[1:]) for m in modules], labels=zoo.labels)
    for name in zoo.parameters:
        np.testing.assert_array_equal(back.parameters[name], zoo.parameters[name])
    np.testing.assert_array_equal(back.repeats, zoo.repeats)
    x = torch.randn(16, 1, 8, 8, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        np.testing.assert_allclose(back.to_torch(3)(x.flatten(1)), modules[3](x), atol=1e-6)


class Blocks(nn.Module):
    """Residual blocks as people write them: layers listed apart, the sum in forward."""

    def __init__(self, width=5, sign=1, order="after"):
        super().__init__()
        torch.manual_seed(width)
        self.norms = nn.ModuleList(nn.BatchNorm1d(width) for _ in range(2))
        self.linears = nn.ModuleList(nn.Linear(n, width, bias=n == width) for n in (6, width))
        self.act, self.head, self.sign, self.order = nn.LeakyReLU(0.2), nn.Linear(width, 3), sign, order
        for norm in self.norms:
            nn.init.uniform_(norm.weight, 0.5, 2)
            nn.init.normal_(norm.running_mean)
            nn.init.uniform_(norm.running_var, 0.5, 2)

    def forward(self, x):
        a = self.norms[0](self.act(self.linears[0](x)))
        b = self.linears[1](a)
        b = self.norms[1](self.act(b)) if self.order == "after" else self.act(self.norms[1](b))
        return self.head(a + b if self.sign > 0 else a - b)


@pytest.mark.parametrize(
    "model",
    [
        Blocks(),
        nn.Sequential(nn.Linear(6, 4), nn.ReLU(), nn.BatchNorm1d(4, affine=False), nn.Dropout(), nn.Linear(4, 2)),
        sequential(),
        sequential(last=(nn.ReLU(),)),
        sequential(middle=nn.LeakyReLU(0.2)),
        sequential(sizes=(4, 2)),
        nn.Sequential(nn.Flatten(), nn.Sequential(nn.Linear(6, 5), nn.Dropout(0.5), nn.ReLU()), nn.Linear(5, 2)),
        nn.Sequential(nn.Linear(6, 5, bias=False), nn.ReLU(), nn.Linear(5, 2)),
    ],
)
def test_anyones_networks_keep_their_outputs(model):
    zoo = WeightSet.from_torch([model, model])
    x = torch.randn(9, *zoo.network.input_shape, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        np.testing.assert_allclose(zoo.to_torch(1)(x), model.eval()(x), atol=1e-6)
    assert zoo.repeats.tolist() == [0, 1]
    assert wsfast.chain_gram(zoo).shape[0] == 2


def test_residual_round_trip_through_torch():
    zoo = wsfast.generate("resnet-mlp12", wsfast.tasks("digits", n=1), repeats=2, width=9, progress=False)
    back = WeightSet.from_torch([zoo.to_torch(i) for i in range(2)])
    for name, array in zoo.parameters.items():
        np.testing.assert_array_equal(back.parameters[name], array, err_msg=name)
    assert back.network.chains == zoo.network.chains
    assert back.network.groups == zoo.network.groups


def test_residual_networks_that_cannot_be_read_are_refused():
    with pytest.raises(ValueError, match=r"model 0: cannot read operation 'sub'"):
        WeightSet.from_torch([Blocks(sign=-1)])
    with pytest.raises(ValueError, match=r"model 0: cannot read layer 'act' .LeakyReLU.; want Linear, then ReLU"):
        WeightSet.from_torch([Blocks(order="before")])
    with pytest.raises(ValueError, match=r"model 0: cannot read layer '1' .BatchNorm1d.; want .* and eps 1e-05"):
        WeightSet.from_torch([nn.Sequential(nn.Linear(6, 4), nn.BatchNorm1d(4, eps=1e-3), nn.Linear(4, 2))])
    with pytest.raises(ValueError, match=r"model 1 has the shape 6-4-4-3, model 0 6-5-5-3"):
        WeightSet.from_torch([Blocks(), Blocks(4)])


def small_cnn(conv=None, norm=None, act=None, pool=None, gap=None, channels=6, shape=(3, 5)):
    """Two units of a torchvision-style Sequential, parts of the second replaced."""
    torch.manual_seed(channels)
    model = nn.Sequential(
        nn.Sequential(nn.Conv2d(shape[0], shape[1], 3, padding=1, bias=False), nn.BatchNorm2d(shape[1]), nn.ReLU(True)),
        conv or nn.Conv2d(shape[1], channels, 3, padding=1),
        norm or nn.BatchNorm2d(channels),
        act or nn.ReLU(),
        pool or nn.MaxPool2d(2, 2),
        nn.Dropout(),
        gap or nn.AdaptiveAvgPool2d((1, 1)),
        nn.Flatten(),
        nn.Linear(channels, 4),
    )
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d) and module.track_running_stats and module.affine:
            for p in (module.weight, module.running_var):
                nn.init.uniform_(p, 0.5, 2)
            nn.init.normal_(module.running_mean)
    return model


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"conv": nn.Conv2d(5, 6, 3, stride=2, padding=1), "pool": nn.Identity()},
        {"norm": nn.ReLU(), "act": nn.BatchNorm2d(6)},
        {"act": nn.LeakyReLU(0.3), "norm": nn.BatchNorm2d(6, affine=False)},
        {"conv": nn.Conv2d(5, 6, 3, padding="same"), "pool": nn.Dropout2d()},
    ],
)
def test_anyones_convolutional_networks_keep_their_outputs(changes):
    model = small_cnn(**changes)
    zoo = WeightSet.from_torch([model, model], labels=[1, 1])
    assert zoo.network.input_shape == (3, 32, 32)
    assert zoo.network.classes == 4
    x = torch.randn(3, 3, 32, 32, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        np.testing.assert_allclose(zoo.to_torch(1)(x), model.eval()(x), atol=1e-5)
    assert wsfast.chain_gram(zoo, 2).shape == (2, 243, 243)


@pytest.mark.parametrize("name", ["plainnet5", "plainnet5-text", "plainnet6", "plainnet5-leaky", "resnet5"])
def test_convolutional_round_trip_through_torch(name):
    net = wsfast.network(name, (3, 32, 32), 3, width=2)
    rng = np.random.default_rng(net.size)
    parameters = {p.name: rng.uniform(0.1, 0.9, (2, *p.shape)).astype(np.float32) for p in net.parameters}
    zoo = WeightSet(net, parameters, np.zeros(2, np.int64), np.arange(2))
    back = WeightSet.from_torch([zoo.to_torch(i) for i in range(2)])
    for key, array in parameters.items():
        np.testing.assert_array_equal(back.parameters[key], array, err_msg=key)
    assert back.network.chains == net.chains
    assert back.network.groups == net.groups


def test_a_shortcut_that_only_broadcasting_adds_is_refused():
    net = wsfast.network("resnet5", (3, 32, 32), 3, width=2)
    zoo = WeightSet(net, {p.name: np.ones((1, *p.shape), np.float32) for p in net.parameters}, np.zeros(1), np.zeros(1))
    module = zoo.to_torch(0)
    module.shortcut2, module.shortcut_bn2 = nn.Conv2d(2, 1, 1, stride=2), nn.BatchNorm2d(1)
    with pytest.raises(ValueError, match=r"layer 'shortcut2' .Conv2d.: out_channels 1, want 4"):
        WeightSet.from_torch([module])


@pytest.mark.parametrize(
    ("changes", "why"),
    [
        ({"conv": nn.Conv2d(5, 6, 5, padding=2)}, r"layer '1' .Conv2d.: kernel_size \(5, 5\), want 3"),
        ({"conv": nn.Conv2d(5, 6, 1)}, r"layer '1' .Conv2d.: kernel_size \(1, 1\), want 3"),
        ({"conv": nn.Conv2d(5, 5, 3, padding=1, groups=5), "channels": 5}, r"layer '1' .Conv2d.: groups 5, want 1"),
        ({"conv": nn.Conv2d(5, 6, 3, padding=2, dilation=2)}, r"layer '1' .Conv2d.: padding \(2, 2\), want 1"),
        ({"conv": nn.Conv2d(5, 6, 3, padding=1, dilation=2)}, r"layer '1' .Conv2d.: dilation \(2, 2\), want 1"),
        ({"conv": nn.Conv2d(5, 6, 3)}, r"layer '1' .Conv2d.: padding \(0, 0\), want 1"),
        ({"conv": nn.Conv2d(5, 6, 3, padding=1, padding_mode="circular")}, r"padding_mode circular, want zeros"),
        ({"conv": nn.Conv2d(5, 6, 3, stride=(1, 2), padding=1)}, r"layer '1' .Conv2d.: stride \(1, 2\), want 1"),
        ({"conv": nn.Conv2d(7, 6, 3, padding=1)}, r"layer '1' .Conv2d.: in_channels 7, want 5"),
        ({"norm": nn.BatchNorm2d(7)}, r"layer '2' .BatchNorm2d.: num_features 7, want 6"),
        ({"norm": nn.BatchNorm2d(6, eps=1e-3)}, r"layer '2' .BatchNorm2d.: eps 0.001, want 1e-05"),
        ({"norm": nn.BatchNorm2d(6, track_running_stats=False)}, r"layer '2' .*track_running_stats False, want True"),
        ({"norm": nn.Identity()}, r"layer '4' .MaxPool2d.: it follows conv, act;"),
        ({"conv": nn.Conv2d(5, 6, 3, padding="valid")}, r"layer '1' .Conv2d.: padding valid, want 1"),
        ({"act": nn.Tanh()}, r"layer '3' .Tanh.: no such layer is known here;"),
        ({"act": nn.AdaptiveAvgPool2d(1)}, r"layer '3' .AdaptiveAvgPool2d.: it follows conv, batchnorm;"),
        ({"pool": nn.MaxPool2d(3, 2)}, r"layer '4' .MaxPool2d.: kernel_size 3, want 2"),
        ({"pool": nn.MaxPool2d(2, ceil_mode=True)}, r"layer '4' .MaxPool2d.: ceil_mode True, want False"),
        ({"pool": nn.AvgPool2d(2)}, r"layer '4' .AvgPool2d.: no such layer is known here;"),
        ({"gap": nn.AdaptiveAvgPool2d(2)}, r"layer '6' .AdaptiveAvgPool2d.: output_size 2, want 1"),
        ({"gap": nn.Identity()}, r"layer '7' .Flatten.: it follows conv, batchnorm, act, maxpool;"),
    ],
)
def test_convolutional_networks_that_cannot_be_read_are_refused(changes, why):
    with pytest.raises(
        ValueError, match=r"from_torch: model 1: cannot read " + (why if why.startswith("l") else ".*" + why)
    ):
        WeightSet.from_torch([small_cnn(), small_cnn(**changes)])


class Wrapped(nn.Module):
    """A convolutional network whose outputs go through a function."""

    def __init__(self, after):
        super().__init__()
        self.inner, self.after = small_cnn(), after

    def forward(self, x):
        return self.after(self.inner(x))


def test_unfinished_and_unlike_convolutional_networks_are_refused():
    with pytest.raises(ValueError, match=r"model 0 ends after maxpool; want AdaptiveAvgPool2d.1., Flatten, Linear"):
        WeightSet.from_torch([nn.Sequential(*small_cnn()[:5])])
    with pytest.raises(ValueError, match=r"layer '9' .ReLU.: it follows mean_pool, flatten, linear"):
        WeightSet.from_torch([nn.Sequential(*small_cnn(), nn.ReLU())])
    with pytest.raises(ValueError, match=r"model 1 has the shape 3-32-32-5-9-4, model 0 3-32-32-5-6-4"):
        WeightSet.from_torch([small_cnn(), small_cnn(channels=9)])

    for forward, why in (
        (lambda y: 2 * y, "does not compute what its layers say"),
        (lambda y: (y, y), "must return its logits alone, got tuple"),
        (lambda y: y.reshape(-1, 3), r"cannot be copied and run on \[8, 3, 32, 32\]: shape '\[-1, 3\]' is invalid"),
    ):
        with pytest.raises(ValueError, match="model 0 " + why):
            WeightSet.from_torch([Wrapped(forward)])


class Names(nn.Module):
    """A recurrent classifier as people write them, its two layers in one nn.GRU or in two."""

    def __init__(self, together=True, head=7, last=-1, **options):
        super().__init__()
        options = {"batch_first": True, **options}
        self.rnn = nn.GRU(11, 7, 2, **options) if together else nn.GRU(11, 7, **options)
        self.second = nn.Identity() if together else nn.GRU(7, 7, batch_first=True)
        self.drop, self.head, self.last = nn.Dropout(), nn.Linear(head, 3), last

    def forward(self, x):
        x = self.rnn(x)[0]
        x = x if isinstance(self.second, nn.Identity) else self.second(x)[0]
        return self.head(self.drop(x)[:, self.last])


@pytest.mark.parametrize("together", [True, False])
def test_anyones_recurrent_networks_keep_their_outputs(together):
    torch.manual_seed(together)
    models = [Names(together), Names(together)]
    zoo = WeightSet.from_torch(models, labels=[0, 1])
    assert (zoo.network.input_shape, zoo.network.classes, len(zoo.network.chains)) == ((20, 11), 3, 4)
    x = torch.randn(5, 9, 11, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        np.testing.assert_allclose(zoo.to_torch(1)(x), models[1].eval()(x), atol=1e-6)
    back = WeightSet.from_torch([zoo.to_torch(i) for i in range(2)])
    for name, array in zoo.parameters.items():
        np.testing.assert_array_equal(back.parameters[name], array)
    assert [row["cosine"] for row in wsfast.compare(models[0], zoo[0])] == pytest.approx([1] * 4, abs=1e-6)


@pytest.mark.parametrize(
    ("model", "why"),
    [
        (Names(bidirectional=True), r"cannot read layer 'rnn' .GRU.: bidirectional True, want False"),
        (Names(bias=False), r"cannot read layer 'rnn' .GRU.: bias False, want True"),
        (Names(head=8), r"cannot read layer 'head' .Linear.: in_features 8, want 7"),
        (Names(last=0), r"does not compute what its layers say"),
        (nn.Sequential(nn.GRU(4, 5, 3), nn.Linear(5, 2)), r"cannot read layer '0' .GRU.: num_layers 3 after 0"),
        (nn.Sequential(nn.GRU(4, 5), nn.GRU(5, 6)), r"cannot read layer '1' .GRU.: hidden_size 6, want 5"),
        (nn.Sequential(nn.GRU(4, 5), nn.Linear(5, 2)), r"has 1 GRU layers, want two"),
        (nn.Sequential(nn.Linear(4, 4), nn.GRU(4, 5, 2)), r"cannot read layer '0' .Linear.: it stands before the GRU"),
        (
            nn.Sequential(nn.GRU(4, 5, 2), nn.Linear(5, 2), nn.ReLU()),
            r"cannot read layer '2' .ReLU.: it follows the Lin",
        ),
        (
            nn.Sequential(nn.LSTM(4, 5, 2), nn.Linear(5, 2)),
            r"cannot read layer '0' .LSTM.: no such layer is known here",
        ),
    ],
)
def test_recurrent_networks_that_cannot_be_read_are_refused(model, why):
    with pytest.raises(ValueError, match=r"from_torch: model 0:? " + why):
        WeightSet.from_torch([model])


def test_what_cannot_be_read_is_refused():
    with pytest.raises(ValueError, match=r"at least one model"):
        WeightSet.from_torch([])
    with pytest.raises(ValueError, match=r"model 0: cannot read layer '1' .Tanh."):
        WeightSet.from_torch([sequential(middle=nn.Tanh())])
    with pytest.raises(ValueError, match=r"model 0 has no Linear layer"):
        WeightSet.from_torch([nn.Sequential(nn.ReLU())])
    with pytest.raises(ValueError, match=r"model 1 has the shape 6-5-9-3, model 0 6-5-4-3"):
        WeightSet.from_torch([sequential(), sequential(sizes=(6, 5, 9, 3))])
    with pytest.raises(ValueError, match=r"activation before the first Linear"):
        WeightSet.from_torch([nn.Sequential(nn.ReLU(), nn.Linear(2, 2))])
    with pytest.raises(ValueError, match=r"hidden activations differ"):
        WeightSet.from_torch(
            [nn.Sequential(nn.Linear(2, 2), nn.ReLU(), nn.Linear(2, 2), nn.LeakyReLU(), nn.Linear(2, 2))]
        )
    with pytest.raises(ValueError, match=r"want one a network, got 1 networks and labels of shape .2,."):
        WeightSet.from_torch([sequential()], labels=[0, 1])
    with pytest.raises(TypeError, match=r"labels must be integers"):
        WeightSet.from_torch([sequential()], labels=[0.5])

    class Doubled(nn.Module):
        def __init__(self):
            super().__init__()
            self.inner = sequential()

        def forward(self, x):
            return 2 * self.inner(x)

    with pytest.raises(ValueError, match=r"model 0 does not compute what its layers say"):
        WeightSet.from_torch([Doubled()])


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_networks_that_diverged_are_read_and_marked(value):
    models = [sequential(), sequential()]
    with torch.no_grad():
        models[1][0].weight[0] = value
        models[1][2].weight[1, 1] = -value
    zoo = WeightSet.from_torch(models)
    assert zoo.diverged.tolist() == [False, True]

    class Doubled(nn.Module):
        def __init__(self):
            super().__init__()
            self.inner = models[1]

        def forward(self, x):
            return 2 * self.inner(torch.ones_like(x))

    with torch.no_grad():
        models[1][0].weight[0] = 1
        models[1][2].weight[1, 1] = 1
        models[1][4].weight[0] = value
    with pytest.raises(ValueError, match=r"model 0 does not compute what its layers say"):
        WeightSet.from_torch([Doubled()])


def test_what_is_no_list_of_networks_is_refused():
    model = sequential()
    for one in (model, model.state_dict()):
        with pytest.raises(TypeError, match=r"want a list of networks, got one .*from_torch\(\[model\]\)"):
            WeightSet.from_torch(one)
    for mixed in ([model, model.state_dict()], [model.state_dict(), model], [model, 3]):
        with pytest.raises(TypeError, match=r"nn\.Modules alone or state dicts alone, model 0 is .*, model 1"):
            WeightSet.from_torch(mixed)
    assert len(WeightSet.from_torch(nn.ModuleList([model, model]))) == 2


def test_slices_are_sets(zoo):
    assert len(zoo[3:7]) == 4
    assert len(zoo[5]) == 1
    assert zoo[[4, 2]].repeats.tolist() == [4, 2]
    picked = zoo[zoo.labels == 2]
    assert set(picked.labels) == {2}
    assert picked.records["loss_curve"].shape == (10, 20)
    np.testing.assert_array_equal(picked.parameters["fc2.bias"], zoo.parameters["fc2.bias"][20:30])
    assert zoo.nbytes == 40 * 4 * zoo.network.size
    with pytest.raises(IndexError, match=r"must be 0\.\.39, got 40"):
        zoo.to_torch(40)
    for key in (np.array([[0, 1], [2, 3]]), None):
        with pytest.raises(IndexError, match=r"one axis of networks, got an index of shape \((2, 2|1, 40)\)"):
            zoo[key]


@pytest.mark.parametrize("value", [np.nan, np.inf, 2e6])
def test_diverged_is_not_finite_or_huge(zoo, value):
    broken = zoo[:3]
    broken.parameters["fc3.bias"][1, 4] = value
    assert broken.diverged.tolist() == [False, True, False]


class Recorded:
    """An array that notes the longest slice that was read of it."""

    def __init__(self, array):
        self.array, self.largest = array, 0

    def __getitem__(self, run):
        self.largest = max(self.largest, len(self.array[run]))
        return self.array[run]


def test_divergence_is_looked_for_in_parts(zoo, monkeypatch):
    monkeypatch.setattr("wsfast.weights.AT_A_TIME", 7 * 4 * 64 * 24)
    array = zoo.parameters["fc1.weight"].copy()
    array[[3, 38], 5, 1] = np.nan, 1e7
    weight = Recorded(array)
    spoilt = replace(zoo, parameters={**zoo.parameters, "fc1.weight": weight})
    assert np.nonzero(spoilt.diverged)[0].tolist() == [3, 38]
    assert weight.largest == 7
