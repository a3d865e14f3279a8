"""Networks without the symmetries of their hidden units, from the declaration to the stored set."""

import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from scipy import stats
from wsfast.reference import asymmetric, philox

import wsfast
from wsfast import cli
from wsfast.asymmetry import fixed_entries, gate_matrix, gated, gates, masked
from wsfast.families import Unit, convolutional, mlp
from wsfast.initial import untrained
from wsfast.kernel_arguments import cnn_layers


@pytest.mark.parametrize(("fan_in", "n_out", "n_fix"), [(1, 1, 1), (5, 10, 2), (64, 100, 5), (28, 8, 12), (6, 20, 3)])
def test_every_unit_has_other_fixed_inputs(fan_in, n_out, n_fix):
    """As many units as there are choices, too."""
    found = asymmetric.fixed_inputs(fan_in, n_out, n_fix, seed=3, item=4)
    assert found.shape == (n_out, n_fix)
    assert len({tuple(row) for row in found}) == n_out
    assert (np.diff(found, axis=1) > 0).all()
    assert 0 <= found.min() <= found.max() < fan_in
    np.testing.assert_array_equal(found, asymmetric.fixed_inputs(fan_in, n_out, n_fix, 3, 4))
    if math.comb(fan_in, n_fix) > n_out:
        assert (found != asymmetric.fixed_inputs(fan_in, n_out, n_fix, 4, 4)).any()
        assert (found != asymmetric.fixed_inputs(fan_in, n_out, n_fix, 3, 5)).any()


def test_fixed_inputs_are_uniform():
    found = asymmetric.fixed_inputs(40, 2000, 10, seed=0, item=0)
    assert stats.chisquare(np.bincount(found.ravel(), minlength=40)).pvalue > 0.001


def test_too_few_choices():
    for case in ((5, 11, 2), (3, 1, 0), (3, 1, 4)):
        with pytest.raises(ValueError, match=r"fixed, there are not so many"):
            asymmetric.fixed_inputs(*case, 0, 0)
    with pytest.raises(ValueError, match=r"fc2.weight is too small: its 3 units cannot each have other 1 of 2 inputs"):
        masked(mlp((64,), 2, (2, 3)), (0.1, 0.1, 0.1), (1, 1, 1), 0)


def test_normal_draws():
    x = asymmetric.normal(20_000, 5, philox.FIXED, 2)
    assert stats.kstest(x, "norm").pvalue > 0.001
    assert abs(np.corrcoef(x[:-1], x[1:])[0, 1]) < 0.03
    assert (x[:100] != asymmetric.normal(100, 5, philox.GATE, 2)).all()


def test_gates_are_torchs():
    rng = np.random.default_rng(0)
    for shape in ((5, 7), (3, 7, 2, 4)):
        f, gradient = rng.standard_normal((7, 7)), rng.standard_normal(shape)
        z = torch.tensor(rng.standard_normal(shape), requires_grad=True)
        want = torch.sigmoid(torch.einsum("bn...,nm->bm...", z, torch.tensor(f))) * z
        y, s = asymmetric.gate(z.detach().numpy(), f)
        np.testing.assert_allclose(y, want.detach(), rtol=1e-12)
        want.backward(torch.tensor(gradient))
        np.testing.assert_allclose(asymmetric.gate_backward(z.detach().numpy(), s, f, gradient), z.grad, atol=1e-12)


@pytest.fixture(scope="module")
def image_tasks():
    rng = np.random.default_rng(4)
    y = np.arange(120) % 2
    x = rng.integers(0, 128, (120, 3, 16, 16)) + 100 * y[:, None, None, None] * (np.arange(16) < 8)
    return wsfast.tasks(x.astype(np.uint8), y)


def few(tasks):
    """The first task's first samples: the interpreter is slow."""
    one = tasks.tasks[0]
    rows = {name: getattr(one, name)[:5] for name in ("train_rows", "train_labels", "test_rows", "test_labels")}
    return replace(tasks, tasks=(replace(one, **rows),))


RECIPE = wsfast.Recipe(lr=0.02, epochs=2, batch_size=16, decay_epochs=(), weight_decay=0.01)


@pytest.mark.parametrize("name", ["mlp4-wasym", "plainnet5-wasym"])
@pytest.mark.parametrize("backend", ["numba", "reference"])
def test_fixed_weights_are_shared_and_never_trained(name, backend, four_tasks, image_tasks):
    tasks = four_tasks if name == "mlp4-wasym" else image_tasks
    width = 16 if name == "mlp4-wasym" else 2
    net = wsfast.network(name, tasks.shape, tasks.classes, width, kappa=0.5)
    zoo = wsfast.generate(net, tasks, repeats=2, recipe=RECIPE, backend=backend, progress=False)
    flat, layout = zoo.to_matrix()
    at, to = fixed_entries(net)
    np.testing.assert_array_equal(flat[:, at], np.broadcast_to(to, (len(zoo), len(to))))
    start = untrained(zoo).to_matrix()[0]
    np.testing.assert_array_equal(start[:, at], flat[:, at])
    free = np.setdiff1d(np.arange(flat.shape[1]), at)
    assert (flat[0, free] != flat[1, free]).mean() > 0.9
    assert (flat[:, free] != start[:, free]).mean() > 0.7
    for entry, p in zip(layout, net.parameters, strict=True):
        own = at[(at >= entry["start"]) & (at < entry["stop"])] - entry["start"]
        units = np.bincount(own % p.shape[-1], minlength=p.shape[-1])
        assert (units == p.fixed).all()
        assert (p.fixed > 0) == (len(p.shape) > 1 and p.name.startswith(("fc", "conv")))
    assert net.size == sum(p.size for p in net.parameters if p.trained) - len(at)


@pytest.mark.parametrize(
    ("name", "precision"),
    [("mlp4-wasym", None), ("mlp4-sigma", None), ("plainnet5-wasym", "tf32x3"), ("plainnet5-sigma", "tf32x3")],
)
def test_a_gpu_trains_them(name, precision, device, image_tasks):
    tasks, width = (wsfast.tasks("digits", n=1), 8) if name.startswith("mlp4") else (few(image_tasks), 2)
    recipe = replace(RECIPE, epochs=1, batch_size=64)
    runs = [
        wsfast.generate(name, tasks, repeats=1, width=width, recipe=recipe, progress=False, **where)
        for where in ({"backend": "triton", "device": device, "precision": precision}, {"backend": "reference"})
    ]
    (got, _), (want, _) = (zoo.to_matrix() for zoo in runs)
    at, to = fixed_entries(runs[0].network)
    np.testing.assert_array_equal(got[0, at], to)
    np.testing.assert_allclose(got, want, rtol=1e-3, atol=1e-4)


def test_untrained_ones_are_a_run_of_no_epochs(image_tasks):
    for name in ("plainnet5-wasym", "plainnet5"):
        none = replace(RECIPE, epochs=0)
        zoo = wsfast.generate(name, image_tasks, repeats=2, width=2, recipe=none, progress=False)
        for key, array in untrained(zoo).parameters.items():
            np.testing.assert_array_equal(array, zoo.parameters[key], err_msg=key)


def test_kappa_scales_what_is_fixed_and_zero_is_a_mask():
    nets = [wsfast.network("mlp4-wasym", (64,), 2, width=16, kappa=kappa) for kappa in (0.0, 0.25, 1.0)]
    (at, zero), (_, quarter), (_, one) = map(fixed_entries, nets)
    np.testing.assert_array_equal(at, fixed_entries(nets[2])[0])
    assert not zero.any()
    np.testing.assert_allclose(4 * quarter, one, rtol=1e-6)
    other = fixed_entries(wsfast.network("mlp4-wasym", (64,), 2, width=16, seed=1))
    assert (other[0] != at).any()
    assert [p.fixed for p in nets[0].parameters if p.fixed] == [5, 2, 2, 8]


@pytest.mark.parametrize("name", ["mlp4-wasym", "mlp4-sigma", "plainnet5-sigma"])
def test_exported_networks_do_what_was_recorded(name, four_tasks, image_tasks):
    """The modules' loss on the test samples is the one that training recorded."""
    tasks, width = (image_tasks, 3) if name == "plainnet5-sigma" else (four_tasks, 16)
    zoo = wsfast.generate(name, tasks, repeats=1, width=width, recipe=replace(RECIPE, lr=0.01), progress=False)
    assert not zoo.diverged.any()
    for i, task in enumerate(tasks.tasks):
        module = zoo.to_torch(i)
        x, y = torch.from_numpy(tasks.inputs(task.test_rows)), torch.from_numpy(task.test_labels)
        with torch.no_grad():
            loss = torch.nn.functional.cross_entropy(module(x), y)
        assert float(loss) == pytest.approx(zoo.records["test_loss"][i], rel=1e-4)
    assert {n for n, _ in module.named_parameters()} == {p.name for p in zoo.network.parameters if p.trained}


def test_a_gate_sees_the_order_of_units(four_tasks):
    net = wsfast.network("mlp4-sigma", four_tasks.shape, 2, width=16)
    assert net.groups == {}
    assert wsfast.network("mlp4-wasym", four_tasks.shape, 2, width=16).groups == {f"hidden{k}": 16 for k in (1, 2, 3)}
    options = [layer.options for layer in net.layers if layer.op == "figlu"]
    matrices = [gate_matrix(**o) for o in options]
    assert [f.shape for f in matrices] == [(16, 16)] * 3
    assert (matrices[0] != matrices[1]).any()
    image = wsfast.network("plainnet5-sigma", (3, 16, 16), 2, width=16)
    last = next(layer.options for layer in reversed(image.layers) if layer.op == "figlu")
    assert gate_matrix(**last).std() == pytest.approx(1 / math.sqrt(128), rel=0.05)


def test_gates_of_convolutional_networks():
    shortcut = [Unit(4), Unit(5, shortcut=True, pool=True), Unit(2)]
    for net, widths in (
        (wsfast.network("plainnet5", (3, 16, 16), 4, width=3), [3, 6, 12, 24]),
        (convolutional((3, 8, 8), 2, shortcut), [4, 5, 2]),
    ):
        layers = cnn_layers(gated(net, 0))
        assert (layers[1] == 1).all()
        for got, want in zip(layers[2:], cnn_layers(net)[2:], strict=True):
            np.testing.assert_array_equal(got, want)
        at, matrices = gates(gated(net, 0))
        assert at.tolist() == [sum(n * n for n in widths[:k]) for k in range(len(widths))]
        assert matrices.size == sum(n * n for n in widths)
        assert (gates(net)[0] == -1).all()
    assert (
        cnn_layers(gated(wsfast.network("plainnet5-text", (3, 16, 16), 2, 3), 0)) is None
    )  # the gate before BatchNorm


def test_stored_sets_keep_their_declaration(four_tasks, tmp_path):
    for name in ("mlp4-wasym", "mlp4-sigma"):
        zoo = wsfast.generate(name, four_tasks, repeats=1, width=8, recipe=RECIPE, progress=False, out=tmp_path / name)
        again = wsfast.WeightSet.open(tmp_path / name)
        assert again.network == zoo.network == wsfast.network(name, four_tasks.shape, 2, width=8)
        assert cli.main(["verify", str(tmp_path / name), "--retrain", "2"]) == 0


def test_what_cannot_be_trained(image_tasks):
    net = gated(wsfast.network("plainnet5-text", image_tasks.shape, 2, 2), 0)
    with pytest.raises(ValueError, match=r"plainnet5-text is declared but cannot be trained yet"):
        wsfast.generate(net, image_tasks, repeats=1)
    with pytest.raises(TypeError, match=r"unexpected keyword argument 'kappa'"):
        wsfast.network("mlp4", (64,), 2, kappa=1.0)
