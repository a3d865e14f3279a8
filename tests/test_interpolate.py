import numpy as np
import pytest
import test_gru
import torch
from wsfast.kernels.numba import gru_evaluate
from wsfast.kernels.numba import interpolate as compiled
from wsfast.reference import gru, interpolate, mlp

from wsfast.architectures import network
from wsfast.families import fully_connected
from wsfast.families import mlp as plain
from wsfast.modules import to_module

NETWORKS = {
    "smallest": plain((1,), 2, (1,)),
    "mlp4": network("mlp4", (64,), 3, width=33),
    "one layer": plain((17,), 4, ()),
    "leaky, wide": plain((65,), 2, (100, 3), slope=0.01, last_slope=0.0),
    "normed": network("resnet-mlp12", (9,), 5, width=7),
    "sums": fully_connected((7,), 3, (5, 5, 3), (0.01, 0.0, 1.0, 0.0), (0, 1, 1, 1), (-1, 0, -1, 2)),
    "gated": network("mlp4-sigma", (20,), 2, width=17),
    "fixed": network("mlp4-wasym", (20,), 2, width=17),
}
POINTS = np.linspace(0, 1, 7, dtype=np.float32)


def problem(net, n=300):
    """Two random networks and random samples, some rows of them asked for."""
    from wsfast.asymmetry import gates
    from wsfast.kernel_arguments import mlp_layers

    rng = np.random.default_rng([net.size, n])
    d = net.input_shape[0]
    x = rng.integers(0, 256, (n + 5, d)).astype(np.uint8)
    sizes, slopes, norms, adds = mlp_layers(net)
    ends = []
    for _ in range(2):
        flat = [rng.standard_normal(p.shape) / np.sqrt(p.shape[0]) for p in net.parameters]
        flat = [np.abs(f) + 0.2 if p.name.endswith("var") else f for f, p in zip(flat, net.parameters, strict=True)]
        ends.append(np.concatenate([f.ravel() for f in flat]).astype(np.float32))
    return {
        "x": x,
        "rows": rng.permutation(n + 5)[:n],
        "labels": rng.integers(0, net.classes, n),
        "sizes": sizes,
        "slopes": slopes,
        "norms": norms,
        "adds": adds,
        "scale": np.full(d, 1 / 64, np.float32),
        "shift": np.full(d, -2, np.float32),
        **dict(zip(("gate_at", "gates"), gates(net), strict=True)),
        "start": ends[0],
        "end": ends[1],
        "points": POINTS,
    }


def torch_curves(net, case, dtype):
    """One module a point, evaluated by torch."""
    inputs = case["x"][case["rows"]] * case["scale"].astype(float) + case["shift"]
    x, y = torch.tensor(inputs, dtype=dtype), torch.tensor(case["labels"])
    losses, errors = [], []
    for t in case["points"].astype(float):
        flat, arrays, at = (1 - t) * case["start"].astype(float) + t * case["end"], {}, 0
        for p in net.parameters:
            arrays[p.name] = flat[at : at + p.size].reshape(p.shape)
            at += p.size
        module = to_module(net, arrays).to(dtype)
        state = {p.name: torch.tensor(p.to_torch(arrays[p.name]), dtype=dtype) for p in net.parameters}
        module.load_state_dict(state, strict=False)
        with torch.no_grad():
            logits = module(x)
        losses.append(float(torch.nn.functional.cross_entropy(logits, y)))
        errors.append(float((logits.argmax(1) != y).double().mean()))
    return np.array(losses), np.array(errors)


@pytest.mark.parametrize("name", NETWORKS)
@pytest.mark.parametrize("n", [1, 300])
def test_reference_and_numba_are_torchs(name, n, as_good_as):
    net = NETWORKS[name]
    case = problem(net, n)
    loss, error = interpolate.interpolate_mlp(**case)
    want_loss, want_error = torch_curves(net, case, torch.float64)
    np.testing.assert_allclose(loss, want_loss, rtol=1e-9)
    np.testing.assert_allclose(error, want_error, atol=1e-12)
    got_loss, got_error = compiled.interpolate_mlp(**case)
    baseline = torch_curves(net, case, torch.float32)[0]
    as_good_as("loss", got_loss, loss, baseline)
    np.testing.assert_allclose(got_error, error, atol=1.01 / n)


def test_ends_are_the_networks_themselves():
    case = problem(NETWORKS["mlp4"])
    loss, error = compiled.interpolate_mlp(**case)
    for end, i in (("start", 0), ("end", -1)):
        alone = {**case, "start": case[end], "end": case[end]}
        same = compiled.interpolate_mlp(**alone)
        np.testing.assert_allclose(same[0], loss[i], rtol=1e-6)
        np.testing.assert_allclose(same[1], error[i])
    weights, biases, _ = mlp.split(case["end"].astype(float), case["sizes"], case["norms"])
    x = case["x"][case["rows"]] * case["scale"] + case["shift"]
    for w, b in zip(weights[:-1], biases[:-1], strict=True):
        x = np.maximum(x @ w + b, 0)
    want = mlp.cross_entropy(x @ weights[-1] + biases[-1], case["labels"])[0].mean()
    assert loss[-1] == pytest.approx(want, rel=1e-5)


def test_a_pair_alone_and_another_number_of_points_are_the_same_bits():
    case = problem(NETWORKS["normed"])
    loss, _ = compiled.interpolate_mlp(**case)
    for i in (0, 3, 6):
        np.testing.assert_array_equal(compiled.interpolate_mlp(**{**case, "points": POINTS[i : i + 1]})[0], loss[i])


NAMES = {  # alphabet, hidden, classes, longest name, names
    "one name": (1, 1, 2, 1, 1),
    "odd": (11, 7, 3, 6, 23),
    "more than go together": (30, 20, 4, 13, 2 * gru_evaluate.NAMES + 5),
    "the paper's": (58, 128, 2, 12, 40),
}


def names(alphabet, hidden, classes, longest, n):
    """Two networks far from one another, and names of 1 to `longest` letters."""
    case = test_gru.problem(alphabet, hidden, classes, longest, n + 1, 1)
    rng = np.random.default_rng([hidden, n])
    starts = [gru.initial_parameters(alphabet, hidden, classes, 1, 2, r) for r in range(2)]
    ends = [np.concatenate([3 * p.ravel() for p in start]) + 0.1 * rng.standard_normal() for start in starts]
    some = {"x": case["x"], "rows": case["train_rows"][1:], "labels": case["train_labels"][1:]}
    sizes = {"alphabet": alphabet, "hidden": hidden, "classes": classes}
    start, end = (end.astype(np.float32) for end in ends)
    return {**some, **sizes, "start": start, "end": end, "points": POINTS}


def torch_names(case, dtype):
    """One module a point, name by name."""
    sizes = case["alphabet"], case["hidden"], case["classes"]
    layers, fc = [torch.nn.GRU(n, sizes[1], dtype=dtype) for n in sizes[:2]], torch.nn.Linear(*sizes[1:], dtype=dtype)
    held = [p for layer in layers for p in layer.parameters()] + [fc.weight, fc.bias]
    losses, errors = [], []
    for t in case["points"].astype(float):
        flat, at = (1 - t) * case["start"].astype(float) + t * case["end"], 0
        for p, shape in zip(held, gru.shapes(*sizes), strict=True):
            own = torch.tensor(flat[at : at + p.numel()]).reshape(shape)
            p.data = (own.reshape(-1) if p.dim() == 1 else own.movedim(0, -1).reshape(p.shape)).to(dtype)
            at += p.numel()
        logits = []
        for row in case["x"][case["rows"]]:
            h = torch.eye(sizes[0], dtype=dtype)[row[row < sizes[0]].astype(np.int64)]
            for layer in layers:
                h = layer(h)[0]
            logits.append(fc(h[-1]).detach())
        logits, y = torch.stack(logits), torch.tensor(case["labels"])
        losses.append(float(torch.nn.functional.cross_entropy(logits, y)))
        errors.append(float((logits.argmax(1) != y).double().mean()))
    return np.array(losses), np.array(errors)


@pytest.mark.parametrize("name", NAMES)
def test_names_are_torchs(name, as_good_as):
    case = names(*NAMES[name])
    loss, error = interpolate.interpolate_gru(**case)
    want_loss, want_error = torch_names(case, torch.float64)
    np.testing.assert_allclose(loss, want_loss, rtol=1e-9)
    np.testing.assert_allclose(error, want_error, atol=1e-12)
    got_loss, got_error = compiled.interpolate_gru(**case)
    as_good_as("loss", got_loss, loss, torch_names(case, torch.float32)[0])
    np.testing.assert_allclose(got_error, error, atol=1.01 / len(case["rows"]))
    middle = compiled.interpolate_gru(**{**case, "points": POINTS[3:4]})
    np.testing.assert_array_equal(middle, [got_loss[3:4], got_error[3:4]])


def test_barriers_by_hand():
    points = np.linspace(0, 1, 5)
    curves = np.array([[1.0, 2, 4, 3, 2], [4, 3, 2, 1, 0], [2, 0, 0, 0, 2]])
    largest, middle = interpolate.barrier(curves, points)
    np.testing.assert_allclose(largest, [2.5, 0, 0])
    np.testing.assert_allclose(middle, [2.5, 0, -2])


def test_monotonicity_by_hand():
    points = np.linspace(0, 1, 5)
    curves = np.array([[4.0, 2, 1, 0.5, 0], [4, 1, 2, 3, 0], [4, 4, 4, 4, 0], [3, 2, 1, 1, 5]])
    rise, monotone, local, below = interpolate.monotonicity(curves, points)
    np.testing.assert_allclose(rise, [0, 2, 0, 4])
    np.testing.assert_array_equal(monotone, [True, False, True, False])
    np.testing.assert_allclose(local, [1, 2 / 3, 2 / 3, 1])
    np.testing.assert_allclose(below, [1, 2 / 3, 0, 1])
