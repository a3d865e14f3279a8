"""The host's side of device="cuda", on a pretended GPU: the same bits as in the interpreter, no tensor out of place."""

import numpy as np
import pytest
import test_triton_cnn
import test_triton_correlation
import test_triton_gru
import test_triton_interpolate
import test_triton_mlp
import torch
from pretended import CUDA, pretend
from wsfast.kernels.triton import cnn, correlation, gram, gru, interpolate, mlp

import wsfast
from wsfast.asymmetry import gates
from wsfast.converging import sample_inputs
from wsfast.recipe import Recipe

pytestmark = pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU, and all other tests use it")


def dense(name, epochs=2, **options):
    x, tasks, rest = test_triton_mlp.problem(**test_triton_mlp.CASES[name], epochs=epochs)
    return lambda device: mlp.train_mlp(x, tasks, test_triton_mlp.JOBS, **rest, **options, device=device, chunk=2)


def convolutional(name):
    net, x, tasks, rest = test_triton_cnn.problem(name, epochs=2)
    options = {"gates": gates(net), "chunk": 2, "precision": "tf32x3"}
    return lambda device: cnn.train_cnn(x, tasks, test_triton_cnn.JOBS, **rest, **options, device=device)


def recurrent(name):
    x, tasks, rest = test_triton_gru.CASES[name]
    return lambda device: gru.train_gru(x, tasks, test_triton_gru.JOBS, **rest, device=device, chunk=2)


def lines(name):
    _, x, tasks, rest, *ends = test_triton_interpolate.problem(name)
    op, _ = test_triton_interpolate.ops(name)
    points = test_triton_interpolate.POINTS

    def run(device):
        found = op(x, tasks, test_triton_interpolate.LINES, *rest, *ends, points, "tf32x3", device)
        return [part for some in found for part in some]

    return run


def lines_of_names(device):
    x, tasks, sizes, *ends = test_triton_interpolate.recurrent("odd")
    points, many = test_triton_interpolate.POINTS, test_triton_interpolate.LINES
    found = interpolate.interpolate_gru(x, tasks, many, *sizes, *ends, points, device)
    return [part for some in found for part in some]


def features(device):
    """device: what the GPU pretends decides, as for all features."""
    rng = np.random.default_rng(0)
    weights = [rng.standard_normal(shape, np.float32) for shape in ((3, 20, 12), (3, 12, 9))]
    x, y = gram.chain_factor(weights, row_normalize=True), gram.chain_factor(weights, column_normalize=True)
    assert x.device.type == device
    found = [gram.host(x), gram.host(y), gram.host(gram.chain_gram(x)), gram.gram_norm(x)]
    for form in ("packed", "factorised"):
        found += [gram.chain_kernel(x, b, form, cosine=b is None) for b in (None, y)]
    found += [gram.head(x, rng.standard_normal((2, 20, 20))), gram.head_gradient(x, rng.standard_normal((3, 2)))]
    a, b, pairs = test_triton_correlation.problem("odd")
    return [*found, correlation.correlation(a, b, pairs)]


RUNS = {
    "tiles": dense("tiles", epochs=3),
    "one program": dense("one program"),
    "crops": dense("crops, tiles"),
    "one start, fixed weights": dense(
        "ReLU on the logits", start=(0, 0), fixed=(np.array([3, 200]), np.ones(2, np.float32))
    ),
    "residual": dense("residual"),
    "convolutions": convolutional("one position"),
    "gates": convolutional("small gates"),
    "recurrent": recurrent("odd"),
    "lines": lines("sums"),
    "lines of images": lines("resnet"),
    "lines of names": lines_of_names,
    "features": features,
}
GRAPHS = {"tiles": 2, "crops": 2, "residual": 2, "convolutions": 2, "gates": 2}  # one a chunk


@pytest.mark.parametrize("name", RUNS)
def test_the_host_keeps_devices_apart(name, monkeypatch):
    want = RUNS[name]("cpu")
    seen = pretend(monkeypatch)
    got = RUNS[name]("cuda")
    assert len(got) == len(want)
    for a, b in zip(got, want, strict=True):
        np.testing.assert_array_equal(a, b)
    assert seen.launches > 0
    assert seen.graphs == GRAPHS.get(name, 0)


def test_a_set_and_its_features(monkeypatch):
    pretend(monkeypatch)
    tasks = wsfast.tasks("digits", n=2)
    how = {"repeats": 2, "width": 9, "recipe": Recipe(epochs=1), "progress": False}
    zoo = wsfast.generate("mlp4", tasks, **how, device="cuda")
    on_cpu = wsfast.generate("mlp4", tasks, **how)
    for name, value in zoo.parameters.items():
        np.testing.assert_allclose(value, on_cpu.parameters[name], atol=1e-4)
    kernels = [wsfast.chain_kernel(zoo, chain=2, device=device) for device in ("cuda", "cpu")]
    np.testing.assert_allclose(*kernels, rtol=1e-5)
    lines = [
        wsfast.connectivity(zoo, tasks, pairs=1, points=3, device=device, progress=False).curves
        for device in ("cuda", "cpu")
    ]
    for key, curves in lines[0].items():
        np.testing.assert_allclose(curves, lines[1][key], atol=0.02 if "error" in key else 1e-4)
    inputs = sample_inputs(tasks, 32)
    matched = [
        wsfast.convergence(zoo, inputs, pairs=1, device=device, progress=False).numbers["rows"]
        for device in ("cuda", "cpu")
    ]
    for own, other in zip(*matched, strict=True):
        assert own["match_r"] == pytest.approx(other["match_r"], abs=1e-5)


def test_what_a_gpu_would_not_do_is_refused(monkeypatch):
    pretend(monkeypatch)
    here, there = torch.ones(3), torch.ones(3, device="cuda")
    assert (there.device, here.to("cuda").device, there[1:].device, torch.stack([there, there]).device) == (CUDA,) * 4
    assert there.cpu().device.type == "cpu"
    for mixed in (
        lambda: here + there,
        lambda: torch.cat([there, here]),
        lambda: torch.where(here > 0, there, there),
        lambda: here[there.long()],
        lambda: there.__setitem__(there > 0, here),
    ):
        with pytest.raises(RuntimeError, match="same device"):
            mixed()
    for read in (there.numpy, lambda: np.asarray(there)):
        with pytest.raises(TypeError, match="can't convert cuda"):
            read()
    with torch.cuda.graph(torch.cuda.CUDAGraph()):
        for call in (lambda: there + there, there.cpu, lambda: torch.cuda.synchronize()):
            with pytest.raises(AssertionError, match="while a graph is captured"):
                call()
