import json
from itertools import pairwise

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from torch import nn
from wsfast.reference import gram

import wsfast
from wsfast import cli
from wsfast.aligning import shuffled_units


def mlp(seed, widths=(9, 7), d=6):
    torch.manual_seed(seed)
    sizes = [d, *widths, 3]
    layers = [m for a, b in pairwise(sizes) for m in (nn.Linear(a, b), nn.ReLU())]
    return nn.Sequential(*layers[:-1])


def permuted(model):
    """The same function, its hidden units in another order."""
    other = mlp(0)
    other.load_state_dict(model.state_dict())
    order = torch.randperm(9, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        other[0].weight[:], other[0].bias[:] = model[0].weight[order], model[0].bias[order]
        other[2].weight[:] = model[2].weight[:, order]
    return other


def test_a_network_is_like_itself_whatever_the_order_of_its_units():
    model = mlp(0)
    for row in wsfast.compare(model, permuted(model)):
        assert [row[k] for k in ("cosine", "centred", "unit_columns")] == pytest.approx([1, 1, 1], abs=1e-6)
    assert [row["chain"] for row in wsfast.compare(model, mlp(1))] == [1, 2]


def test_figures_are_the_references():
    a, b = mlp(0), mlp(1)
    for row in wsfast.compare(a, b):
        x, y = (
            gram.chain_factor([m[2 * k].weight.detach().double().numpy().T[None] for k in range(row["chain"])])
            for m in (a, b)
        )
        assert row["cosine"] == pytest.approx(gram.chain_kernel(x, y, cosine=True)[0, 0], rel=1e-5)
        x, y = (z - z.mean(axis=1, keepdims=True) for z in (x, y))
        assert row["centred"] == pytest.approx(gram.chain_kernel(x, y, cosine=True)[0, 0], rel=1e-5)


def test_unit_columns_do_not_see_rescaling_between_layers():
    model, other = mlp(0), mlp(0)
    d = torch.linspace(0.3, 3, 9)
    with torch.no_grad():
        other[0].weight *= d[:, None]
        other[2].weight /= d
    first, second = wsfast.compare(model, other)
    assert first["cosine"] < 0.99
    assert [first["unit_columns"], second["unit_columns"], second["cosine"]] == pytest.approx([1, 1, 1], abs=1e-6)


def test_modules_state_dicts_files_and_weight_sets_agree(tmp_path, zoo, capsys):
    a, b = (zoo.to_torch(i) for i in (0, 1))
    want = wsfast.compare(a, b)
    for i, model in enumerate((a, b)):
        save_file({k: v.contiguous() for k, v in model.state_dict().items()}, tmp_path / f"{i}.safetensors")
    paths = [str(tmp_path / f"{i}.safetensors") for i in (0, 1)]
    assert wsfast.compare(a.state_dict(), b) == want
    assert wsfast.compare(*paths) == want
    assert wsfast.compare(zoo[0:1], zoo[1:2]) == want
    assert cli.main(["compare", *paths, "--json"]) == 0
    assert json.loads(capsys.readouterr().out) == want
    assert cli.main(["compare", *paths]) == 0
    assert f"{want[2]['cosine']:.4f}" in capsys.readouterr().out


def test_same_task_is_nearer_than_another(zoo):
    near, far = (wsfast.compare(zoo[0:1], zoo[i : i + 1])[1]["cosine"] for i in (1, 35))
    assert near > far


def test_convolutions():
    net = nn.Sequential(nn.Conv2d(3, 5, 3), nn.BatchNorm2d(5), nn.Conv2d(5, 4, 3), nn.Conv2d(5, 4, 1), nn.Linear(4, 2))
    rows = wsfast.compare(net, net)
    assert [r["chain"] for r in rows] == [1, 2]
    assert rows[1]["cosine"] == pytest.approx(1, abs=1e-6)
    channels = (3, 4, 4, 4, 4, 4, 4, 4, 4)  # the eighth chain of RGB images would have d = 129,140,163
    deep = [nn.Conv2d(n_in, n, 3, padding=1) for n_in, n in pairwise(channels)]
    rows = wsfast.compare(nn.Sequential(*deep, nn.Linear(4, 2)), nn.Sequential(*deep[:6]))
    assert [r["chain"] for r in rows] == [1, 2, 3, 4]


def test_recurrent_networks_in_another_order(tmp_path):
    network = wsfast.network("gru2", (9, 12), 2, 7)
    rng = np.random.default_rng(0)
    parameters = {p.name: rng.standard_normal((3, *p.shape), np.float32) for p in network.parameters}
    zoo = wsfast.WeightSet(network, parameters, np.zeros(3, int), np.arange(3))
    other = shuffled_units(zoo, 1)
    rows = wsfast.compare(zoo[0], other[0])
    assert [row["chain"] for row in rows] == [1, 2, 3, 4]
    assert [row["cosine"] for row in rows] == pytest.approx([1] * 4, abs=1e-6)
    assert max(row["cosine"] for row in wsfast.compare(zoo[0], zoo[1])) < 0.99
    found = wsfast.search(other[2], zoo.save(tmp_path / "zoo"), top=1)
    assert [(row["chain"], row["network"]) for row in found] == [(chain, 2) for chain in (1, 2, 3, 4)]


def test_bad_input(tmp_path, zoo, capsys):
    with pytest.raises(ValueError, match=r"a must be one network, got a set of 40"):
        wsfast.compare(zoo, zoo)
    with pytest.raises(TypeError, match=r"b must be a module, .* got int"):
        wsfast.compare(mlp(0), 3)
    with pytest.raises(ValueError, match=r"b has 1 weights of linear layers .* wanted 2"):
        wsfast.compare(mlp(0), nn.Linear(2, 2))
    with pytest.raises(ValueError, match=r"chain 1 has d = 6 in a and 5 in b"):
        wsfast.compare(mlp(0), mlp(0, d=5))
    with pytest.raises(ValueError, match=r"weight 2 takes 8 inputs, the one before it gives 9: not a chain"):
        wsfast.compare(nn.Sequential(nn.Linear(6, 9), nn.Linear(8, 7), nn.Linear(7, 3)), mlp(0))
    broken = tmp_path / "x.safetensors"
    broken.write_bytes(np.zeros(9, np.uint8).tobytes())
    assert cli.main(["compare", str(broken), str(broken)]) == 2
    assert "cannot be read as safetensors" in capsys.readouterr().err
    assert cli.main(["compare", "nowhere", str(broken)]) == 2
    assert "nowhere is not a file" in capsys.readouterr().err


@pytest.mark.parametrize("wild", [np.nan, np.inf, -2e6])
def test_a_network_that_diverged_is_like_nothing(zoo, wild):
    """Scores of NaN would put a set's first networks on top of a search."""
    model, broken = mlp(0), zoo[3]
    with torch.no_grad():
        model[2].weight[1, 0] = wild
    broken.parameters["fc2.weight"][0, 2, 1] = wild
    for call in (wsfast.compare, wsfast.search):
        with pytest.raises(ValueError, match=r"2\.weight must hold finite numbers of at most 1e\+06"):
            call(model, zoo[0])
        with pytest.raises(ValueError, match=r"has diverged"):
            call(broken, zoo[0])


def test_layers_that_no_chain_holds_are_not_passed_over():
    net = nn.Sequential(nn.Conv2d(3, 8, 7), nn.Conv2d(8, 8, 3), nn.Conv2d(8, 8, 3), nn.Linear(8, 2))
    with pytest.raises(ValueError, match=r"a: 0\.weight is \(8, 3, 7, 7\), want linear layers and 3x3 convolutions"):
        wsfast.compare(net, net)
    with pytest.raises(ValueError, match=r"a: b must hold finite numbers"):
        wsfast.compare({"a": torch.ones(4, 6), "b": torch.ones(0, 4)}, mlp(0))
