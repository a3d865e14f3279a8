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
    with pytest.raises(ValueError, match=r"model 1 has the shape 6-4-4-3, model 0 6-5-5-3"):
        WeightSet.from_torch([Blocks(), Blocks(4)])


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


@pytest.mark.parametrize("value", [np.nan, np.inf, 2e6])
def test_diverged_is_not_finite_or_huge(zoo, value):
    broken = zoo[:3]
    broken.parameters["fc3.bias"][1, 4] = value
    assert broken.diverged.tolist() == [False, True, False]
