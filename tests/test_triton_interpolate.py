"""Triton's interpolation against the reference: on a GPU where there is one, in the interpreter elsewhere."""

from dataclasses import replace

import numpy as np
import pytest
import test_triton_gru
import torch
from wsfast.kernels.triton import chunks, gru, population
from wsfast.kernels.triton import interpolate as triton
from wsfast.reference import interpolate as reference

import wsfast
from wsfast.architectures import network
from wsfast.asymmetry import gates
from wsfast.families import Unit, convolutional, fully_connected, mlp
from wsfast.kernel_arguments import cnn_layers, mlp_layers
from wsfast.modules import to_module

DENSE = {
    "smallest": mlp((1,), 2, (1,)),
    "tile + 1": mlp((65,), 17, (129, 3), slope=0.01, last_slope=0.0),
    "normed": network("resnet-mlp12", (9,), 5, width=7),
    "gated": network("mlp4-sigma", (9,), 3, width=17),
    "sums": fully_connected((7,), 3, (5, 5, 3, 3), (0.01, 0.0, 1.0, 0.0, 1.0), (0, 1, 1, 1, 0), (-1, 0, -1, 2, -1)),
}
IMAGES = {
    "norm last": convolutional((1, 5, 7), 3, [Unit(17, slope=0.1, norm_last=True), Unit(3, stride=2)]),
    "gated images": network("plainnet5-sigma", (1, 17, 16), 3, width=3),
    "resnet": convolutional((2, 4, 3), 17, [Unit(5, pool=True), Unit(2, shortcut=True)]),
}
NETWORKS = {**DENSE, **IMAGES}
POINTS = np.array([0, 0.3, 1], np.float32)
LINES = np.array([1, 0, 1])


def problem(name):
    """(network, x, two tasks of different sizes, the network's arguments, ends [3, P] twice)."""
    net = NETWORKS[name]
    rng = np.random.default_rng([net.size, net.classes])
    d, few = int(np.prod(net.input_shape)), 5 if name in IMAGES else 131
    x, labels = rng.integers(0, 256, (few + 3, d)).astype(np.uint8), rng.integers(0, net.classes, few + 3)
    order = rng.permutation(few + 3)
    tasks = [
        (order[:few], labels[:few], order[few:], labels[few:]),
        (order[3:few], labels[3:few], order[:2], labels[:2]),
    ]
    ends = []
    for _ in range(2 * len(LINES)):
        flat = [rng.standard_normal(p.shape) / np.sqrt(np.prod(p.shape[:-1])) for p in net.parameters]
        flat = [np.abs(f) + 0.2 if p.name.endswith("var") else f for f, p in zip(flat, net.parameters, strict=True)]
        ends.append(np.concatenate([f.ravel() for f in flat]).astype(np.float32))
    layers, inputs = mlp_layers(net), (np.full(d, 1 / 64, np.float32), np.full(d, -2, np.float32))
    if layers is not None:
        rest = (*layers, *inputs, *gates(net))
    else:
        rest = (*cnn_layers(net), *inputs, np.array(net.input_shape), *gates(net))
    return net, x, tasks, rest, np.array(ends[::2]), np.array(ends[1::2])


def ops(name):
    op = "interpolate_cnn" if name in IMAGES else "interpolate_mlp"
    return getattr(triton, op), getattr(reference, op)


def curves(op, *arguments, **options):
    """Of all lines."""
    return np.concatenate([found for _, found in op(*arguments, **options)])


def torch_losses(net, inputs, labels, start, end):
    """Of one module a point, in float32."""
    losses = []
    for t in POINTS:
        flat, state, at = torch.lerp(torch.tensor(start), torch.tensor(end), float(t)).numpy(), {}, 0
        for p in net.parameters:
            state[p.name] = flat[at : at + p.size].reshape(p.shape)
            at += p.size
        module = to_module(net, state)
        with torch.no_grad():
            logits = module(torch.tensor(inputs.reshape(-1, *net.input_shape)))
            losses.append(float(torch.nn.functional.cross_entropy(logits, torch.tensor(labels))))
    return losses


@pytest.mark.parametrize("name", NETWORKS)
def test_against_the_reference(name, device, as_good_as):
    net, x, tasks, rest, start, end = problem(name)
    op, exact = ops(name)
    found = curves(op, x, tasks, LINES, *rest, start, end, POINTS, precision="tf32x3", device=device)
    assert found.shape == (3, 2, 2, 3)
    want, baseline = np.empty_like(found), np.empty_like(found[:, :, 0])
    for i, task in enumerate(LINES):
        for split in (0, 1):
            rows, labels = tasks[task][2 * split : 2 * split + 2]
            ends = start[i].astype(float), end[i].astype(float)
            want[i, split] = exact(x, rows, labels, *rest, *ends, POINTS.astype(float))
            inputs = x[rows] * np.float32(1 / 64) - np.float32(2)
            baseline[i, split] = torch_losses(net, inputs, labels, start[i], end[i])
    as_good_as(name, found[:, :, 0], want[:, :, 0], baseline, factor=8 if name in IMAGES else 4)
    np.testing.assert_allclose(found[:, :, 1], want[:, :, 1], atol=1e-12)


def recurrent(case):
    """(x, tasks, sizes, ends [3, P] twice) of names; the second task has no test names."""
    x, tasks, rest = test_triton_gru.CASES[case]
    sizes = rest["alphabet"], rest["hidden"], rest["classes"]
    count = sum(np.prod(shape) for shape in gru.shapes(*sizes))
    ends = np.random.default_rng(count).standard_normal((2, len(LINES), count), np.float32)
    return x, tasks, sizes, *(ends / np.sqrt(sizes[1], dtype=np.float32))


@pytest.mark.parametrize("case", ["smallest", "odd", "tile + 1", "many classes"])
def test_names_against_the_reference(case, device):
    x, tasks, sizes, start, end = recurrent(case)
    found = curves(triton.interpolate_gru, x, tasks, LINES, *sizes, start, end, POINTS, device=device)
    for i, task in enumerate(LINES):
        ends = start[i].astype(float), end[i].astype(float)
        for split in (0, 1):
            rows, labels = tasks[task][2 * split : 2 * split + 2]
            loss, error = reference.interpolate_gru(x, rows, labels, *sizes, *ends, POINTS.astype(float))
            np.testing.assert_allclose(found[i, split, 0], loss, rtol=2e-5)
            np.testing.assert_allclose(found[i, split, 1], error, atol=1e-12)
    assert np.isnan(found[0, 1]).all()


def test_names_alone_are_among_many(device, monkeypatch):
    x, tasks, sizes, start, end = recurrent("odd")
    together = curves(triton.interpolate_gru, x, tasks, LINES, *sizes, start, end, POINTS, device=device)
    some = tasks, LINES[1:2], *sizes, start[1:2], end[1:2], POINTS[1:2]
    np.testing.assert_array_equal(curves(triton.interpolate_gru, x, *some, device=device)[0], together[1, :, :, 1:2])
    foretold, taken, fitting, evaluate = [], [], triton.fitting, gru.Population.evaluate
    monkeypatch.setattr(triton, "fitting", lambda n, each, kind: foretold.append(each) or fitting(n, each, kind))
    monkeypatch.setattr(gru.Population, "evaluate", lambda self: taken.append(self.memory.nbytes) or evaluate(self))
    monkeypatch.setattr(chunks, "HEADROOM", 0)  # a line a chunk
    monkeypatch.setattr(chunks, "HOST_MEMORY", 0)
    apart = list(triton.interpolate_gru(x, tasks, LINES, *sizes, start, end, POINTS, device=device))
    assert [some.start for some, _ in apart] == [0, 1, 2]
    np.testing.assert_array_equal(np.concatenate([found for _, found in apart]), together)
    copies = 4 * start.shape[1] * (2 + len(POINTS))  # the ends, and every point's parameters before they are placed
    assert taken[0] + copies <= foretold[0] <= 2 * (taken[0] + copies)


@pytest.mark.parametrize("name", ["sums", "resnet"])
def test_alone_is_among_many(name, device, monkeypatch):
    _, x, tasks, rest, start, end = problem(name)
    op = ops(name)[0]
    together = curves(op, x, tasks, LINES, *rest, start, end, POINTS, device=device)
    alone = curves(op, x, tasks, LINES[1:2], *rest, start[1:2], end[1:2], POINTS[1:2], device=device)
    np.testing.assert_array_equal(alone[0], together[1, :, :, 1:2])
    monkeypatch.setattr(chunks, "HEADROOM", 0)  # a line a chunk
    monkeypatch.setattr(chunks, "HOST_MEMORY", 0)
    apart = list(op(x, tasks, LINES, *rest, start, end, POINTS, device=device))
    assert [some.start for some, _ in apart] == [0, 1, 2]
    np.testing.assert_array_equal(np.concatenate([found for _, found in apart]), together)


def test_ends_are_the_networks_themselves(device):
    """At 0 and 1 a line has the bits of its ends, each as a line of its own from itself to itself."""
    _, x, tasks, rest, start, end = problem("normed")
    ends = np.array([0, 1], np.float32)
    there = curves(triton.interpolate_mlp, x, tasks, LINES[:1], *rest, start[:1], end[:1], ends, device=device)
    for side, i in ((start, 0), (end, 1)):
        own = curves(triton.interpolate_mlp, x, tasks, LINES[:1], *rest, side[:1], side[:1], ends[:1], device=device)
        np.testing.assert_array_equal(own[0, :, :, 0], there[0, :, :, i])


@pytest.mark.parametrize("name", NETWORKS)
def test_a_lines_memory_is_foretold(name, device, monkeypatch):
    """What a chunk's tensors take, against the formula that chunks are cut by."""
    _, x, tasks, rest, start, end = problem(name)
    foretold, taken, fitting = [], [], triton.fitting
    monkeypatch.setattr(triton, "fitting", lambda n, each, kind: foretold.append(each) or fitting(n, each, kind))

    def measured(self):
        parts = [*vars(self).values(), *(t for split in self.splits for t in split)]
        parts += [v for layer in getattr(self, "layers", ()) for v in vars(layer).values()]
        parts += [v for net in getattr(self, "nets", ()) for b in net for v in vars(b).values()]
        parts += [*getattr(self, "tops", ()), *getattr(self, "outputs", ())]
        tensors = [p for p in parts if isinstance(p, torch.Tensor)]
        taken.append(sum({t.data_ptr(): t.nbytes for t in tensors}.values()) / len(LINES))
        return torch.zeros(self.n, 4)

    monkeypatch.setattr(population.Population, "evaluate", measured)
    curves(ops(name)[0], x, tasks, LINES, *rest, start, end, POINTS, device=device)
    assert taken[0] <= foretold[0] <= 2 * taken[0]


def test_connectivity_agrees_with_the_cpu(device):
    x = np.random.default_rng(0).integers(0, 256, (24, 9)).astype(np.uint8)
    tasks = wsfast.tasks(x, np.arange(24) % 4, groups=[(0, 1), (2, 3)])
    recipe = wsfast.Recipe(lr=0.1, batch_size=8, epochs=5, decay_epochs=())
    zoo = wsfast.generate("mlp4", tasks, repeats=2, width=8, recipe=recipe, progress=False)
    options = {"tasks": tasks, "points": 3, "progress": False}
    want = wsfast.connectivity(zoo, **options)
    got = wsfast.connectivity(zoo, **options, backend="triton", device=device)
    assert set(got.curves) == set(want.curves)
    for line, curve in want.curves.items():
        np.testing.assert_allclose(got.curves[line], curve, rtol=1e-4, atol=1e-6, err_msg=str(line))
    assert got.to_dict()["backend"] == "triton"


def test_connectivity_of_names_agrees_with_the_cpu(device):
    pytest.importorskip("faker")
    few = wsfast.tasks("faker_surnames", n=2)
    recipe = wsfast.Recipe(lr=0.1, momentum=0, batch_size=1, epochs=1, decay_epochs=(), steps=50)
    zoo = wsfast.generate("gru2", few, repeats=2, width=5, recipe=recipe, progress=False)
    cut = tuple(replace(t, train_rows=t.train_rows[:4], train_labels=t.train_labels[:4], test_rows=t.test_rows[:2],
                        test_labels=t.test_labels[:2]) for t in few.tasks)  # fmt: skip
    options = {"tasks": replace(few, tasks=cut), "points": 3, "progress": False}
    want = wsfast.connectivity(zoo, **options)
    got = wsfast.connectivity(zoo, **options, backend="triton", device=device)
    for line, curve in want.curves.items():
        np.testing.assert_allclose(got.curves[line], curve, rtol=1e-4, atol=1e-6, err_msg=str(line))


def test_bad_input(device):
    x, tasks, sizes, start, end = recurrent("odd")
    with pytest.raises(ValueError, match=r"interpolate_gru: the triton kernels take at most 128 hidden units, got 129"):
        curves(triton.interpolate_gru, x, tasks, LINES, sizes[0], 129, sizes[2], start, end, POINTS, device=device)
    _, x, tasks, rest, start, end = problem("smallest")
    sizes, slopes, norms, adds, scale, shift, _, gates = rest

    def call(sizes=sizes, norms=norms, adds=adds, gate_at=(-1, -1), **options):
        net = sizes, slopes, norms, adds, scale, shift, gate_at, gates
        return curves(triton.interpolate_mlp, x, tasks, LINES, *net, start, end, POINTS, device=device, **options)

    for wrong in ({"sizes": [1, 2]}, {"norms": [0, 1]}, {"adds": [-1, 0]}, {"gate_at": [-1, 0]}):
        with pytest.raises(
            ValueError, match=r"interpolate_mlp: the triton kernels need a hidden layer and take no Batch"
        ):
            call(**wrong)
    with pytest.raises(ValueError, match=r"interpolate_mlp: precision must be one of tf32x3"):
        call(precision="fp8")
    _, x, tasks, rest, start, end = problem("resnet")
    pooled = (*rest[:4], [1, 1], *rest[5:])
    with pytest.raises(ValueError, match=r"interpolate_cnn: the triton kernels take no pool behind a shortcut"):
        curves(triton.interpolate_cnn, x, tasks, LINES, *pooled, start, end, POINTS, device=device)
