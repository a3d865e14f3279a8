import numpy as np
import pytest
import torch
from numba.core.runtime import rtsys
from wsfast.kernels.numba import mlp as compiled
from wsfast.reference import mlp, philox


def asymmetric(sizes, norms, share=0.0, gated=()):
    """A share of each layer's weights, drawn, fixed at N(0, 1 / 4), and the gates of some layers."""
    rng, at, start = np.random.default_rng(len(sizes)), [], 0
    for k, n in enumerate(sizes[1:]):
        at.append(start + rng.permutation(sizes[k] * n)[: int(share * sizes[k] * n)])
        start += (sizes[k] + 1 + (4 if norms and norms[k] else 0)) * n
    at = np.sort(np.concatenate(at)).astype(np.int64)
    gate_at, end = np.full(len(sizes) - 1, -1), 0
    for k in gated:
        gate_at[k], end = end, end + sizes[k + 1] ** 2
    fixed_to, gates = (rng.standard_normal(n).astype(np.float32) / 2 for n in (len(at), end))
    return {"fixed_at": at, "fixed_to": fixed_to, "gate_at": gate_at, "gates": gates}


def problem(sizes, n=41, n_test=13, batch_size=8, epochs=3, pad=-1, shape=None, slopes=None, norms=None, adds=None,
            share=0.0, gated=(), **changes):  # fmt: skip
    """A whole run's arguments, by name, drawn from the sizes."""
    rng = np.random.default_rng(sizes)
    d, layers = sizes[0], len(sizes) - 1
    x = rng.integers(0, 256, (n + n_test, d)).astype(np.uint8)
    rows = rng.permutation(n + n_test)
    labels = rng.integers(0, sizes[-1], n + n_test)
    fixed = {
        "x": x,
        "train_rows": rows[:n],
        "train_labels": labels[:n],
        "test_rows": rows[n:],
        "test_labels": labels[n:],
        "sizes": np.array(sizes),
        "slopes": np.array(slopes or [0.0] * (layers - 1) + [1.0], np.float32),
        "norms": np.array(norms or [0] * layers),
        "adds": np.array(adds or [-1] * layers),
        "scale": np.full(d, 1 / 64, np.float32),
        "shift": np.full(d, -2, np.float32),
        "shape": np.array(shape or (1, 1, d)),
        "lr": np.array([0.05, 0.05, 0.005], np.float32)[:epochs],
        "momentum": 0.9,
        "weight_decay": 1e-3,
        "batch_size": batch_size,
        "pad": pad,
        "seed": 7,
        "task": 3,
        "repeat": 5,
        **asymmetric(sizes, norms, share, gated),
    }
    return {**fixed, **changes}


CASES = {
    "smallest": problem((1, 1, 2), n=3, n_test=1, batch_size=2),
    "odd": problem((7, 5, 9, 3)),
    "one layer": problem((33, 4), batch_size=5),
    "exact tiles": problem((32, 32, 32, 16), n=64, batch_size=32),
    "tile + 1": problem((65, 33, 17, 2), n=70, batch_size=33),
    "paper's depth": problem((64, 100, 100, 100, 2), n=90, batch_size=32),
    "batch larger than the task": problem((9, 11, 2), n=10, batch_size=128),
    "leaky, ReLU last": problem((12, 10, 10, 4), slopes=[0.01, 0.01, 0.0]),
    "augmented": problem((3 * 8 * 6, 20, 3), pad=2, shape=(3, 8, 6)),
    "no test samples": problem((6, 8, 2), n_test=0),
}
RESIDUAL = {
    "one normed layer": problem((5, 3), norms=[1]),
    "norm on the logits, leaky": problem((7, 9, 4), slopes=[0.01, 0.01], norms=[0, 1]),
    "sums without norms": problem((6, 10, 10, 10, 3), adds=[-1, 0, 1, -1]),
    "two sums of one layer": problem((6, 7, 7, 7, 7, 2), norms=[1, 0, 1, 0, 0], adds=[-1, -1, 0, 0, -1]),
    "sum of logits": problem((8, 3, 3), slopes=[1.0, 1.0], adds=[-1, 0]),
    "odd blocks": problem((9, *[11] * 6, 3), norms=[1] * 6 + [0], adds=[-1, -1, -1, 1, -1, 3, -1]),
    "last batch of one": problem((9, *[13] * 4, 2), n=33, batch_size=16, norms=[1] * 4 + [0], adds=[-1, -1, -1, 1, -1]),
    "batches of one": problem((4, 5, 5, 2), n=6, batch_size=1, norms=[1, 1, 0], adds=[-1, 0, -1]),
    "normed tile + 1": problem((65, *[33] * 4, 5), n=170, batch_size=129, norms=[1] * 4 + [0],
                               adds=[-1, -1, -1, 1, -1]),
    "the paper's": problem((20, *[32] * 12, 2), n=96, batch_size=32, norms=[1] * 12 + [0],
                           adds=[k - 2 if k in range(3, 12, 2) else -1 for k in range(13)]),
}  # fmt: skip
ASYMMETRIC = {
    "fixed weights": problem((64, 33, 17, 2), n=70, batch_size=33, share=0.2),
    "most weights fixed, no momentum": problem((7, 20, 9, 3), share=0.9, momentum=0.0, weight_decay=0.1),
    "fixed, normed, sums": problem((9, *[11] * 4, 3), norms=[1] * 4 + [0], adds=[-1, -1, -1, 1, -1], share=0.1),
    "gated": problem((12, 10, 17, 4), slopes=[1.0, 1.0, 1.0], gated=(0, 1)),
    "gated, ReLU, fixed": problem((65, 33, 16, 5, 2), slopes=[1.0, 0.0, 1.0, 1.0], gated=(0, 2), share=0.1, n=70,
                                  batch_size=33),
}  # fmt: skip
for more in (RESIDUAL, ASYMMETRIC):
    assert not CASES.keys() & more.keys()
    CASES |= more


def run(op, case):
    return op(**{**case, "seed": np.uint64(case["seed"])} if op is compiled.train_mlp else case)


def torch_run(case, dtype):
    """The same run by torch autograd and torch.optim.SGD: parameters [P]."""
    slopes, norms, adds = case["slopes"], case["norms"], case["adds"]
    key = case["seed"], case["task"], case["repeat"]
    starts = *mlp.initial_parameters(case["sizes"], *key, norms), mlp.initial_norm(case["sizes"], norms)
    layers, start, masks = [], 0, []
    for w, b, state in zip(*starts, strict=True):
        own = (case["fixed_at"] >= start) & (case["fixed_at"] < start + w.size)
        free, value = np.ones(w.size), np.zeros(w.size)
        free[case["fixed_at"][own] - start], value[case["fixed_at"][own] - start] = 0, case["fixed_to"][own]
        masks.append([torch.tensor(a.reshape(w.shape), dtype=dtype) for a in (free, value)])
        start += w.size + b.size + (0 if state is None else state.size)
        layer = [
            torch.tensor(p, dtype=dtype, requires_grad=True) for p in (w, b, *(() if state is None else state[:2]))
        ]
        running = [] if state is None else [torch.tensor(p, dtype=dtype) for p in state[2:]]
        layers.append((layer, running))
    params = [p for layer, _ in layers for p in layer]
    optimiser = torch.optim.SGD(params, lr=1, momentum=case["momentum"], weight_decay=case["weight_decay"])
    n = len(case["train_rows"])
    for epoch, lr in enumerate(case["lr"]):
        optimiser.param_groups[0]["lr"] = float(lr)
        order = philox.batch_order(n, epoch, *key)
        crops = philox.augmentation(n, case["pad"], epoch, *key) if case["pad"] >= 0 else None
        for start in range(0, n, case["batch_size"]):
            chosen = order[start : start + case["batch_size"]]
            crop = crops[chosen] if crops is not None else None
            rows = case["train_rows"][chosen]
            inputs = mlp.batch(case["x"], rows, case["scale"], case["shift"], case["shape"], crop, case["pad"])
            outputs = [torch.tensor(inputs, dtype=dtype)]
            for k, ((w, b, *affine), running) in enumerate(layers):
                z = outputs[-1] @ (masks[k][0] * w + masks[k][1]) + b
                y = torch.nn.functional.leaky_relu(z, float(slopes[k]))
                if case["gate_at"][k] >= 0:
                    f = torch.tensor(case["gates"][case["gate_at"][k] :][: len(b) ** 2], dtype=dtype)
                    y = torch.sigmoid(z @ f.reshape(len(b), len(b))) * z
                if norms[k] and len(chosen) > 1:
                    y = torch.nn.functional.batch_norm(y, *running, *affine, training=True)
                elif norms[k]:  # torch refuses a single sample
                    running[0] += 0.1 * (y.detach()[0] - running[0])
                    running[1] *= 0.9
                    y = affine[0] * (y - y.mean(dim=0)) + affine[1]
                outputs.append(y + outputs[adds[k] + 1] if adds[k] >= 0 else y)
            loss = torch.nn.functional.cross_entropy(outputs[-1], torch.tensor(case["train_labels"][chosen]))
            optimiser.zero_grad()
            loss.backward()
            optimiser.step()
    for (layer, _), (free, value) in zip(layers, masks, strict=True):
        layer[0] = free * layer[0] + value
    return np.concatenate([p.detach().numpy().ravel() for layer, running in layers for p in (*layer, *running)])


@pytest.mark.parametrize("name", CASES)
def test_reference_run_is_torchs(name):
    parameters, _, _ = mlp.train_mlp(**CASES[name])
    np.testing.assert_allclose(parameters, torch_run(CASES[name], torch.float64), rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("name", CASES)
def test_numba_run_errs_no_more_than_torchs(name, as_good_as):
    case = CASES[name]
    oracle, curve, record = mlp.train_mlp(**case)
    got, got_curve, got_record = run(compiled.train_mlp, case)
    start = mlp.train_mlp(**{**case, "lr": case["lr"][:0]})[0]
    assert got.dtype == np.float32
    as_good_as("weight change", got - start, oracle - start, torch_run(case, torch.float32) - start)
    np.testing.assert_allclose(got_curve, curve, rtol=1e-4)
    np.testing.assert_allclose(got_record[::2], record[::2], rtol=1e-4)
    np.testing.assert_allclose(got_record[1::2], record[1::2], atol=1.5 / len(case["train_rows"]))


@pytest.mark.parametrize("name", CASES)
def test_untrained_networks_are_the_same_bits(name):
    case = {**CASES[name], "lr": np.zeros(0, np.float32)}
    np.testing.assert_array_equal(run(compiled.train_mlp, case)[0], mlp.train_mlp(**case)[0].astype(np.float32))


PLAIN = {"sizes": (6, 5, 4, 3), "slopes": [0.0, 0.01, 1.0], "norms": [0, 0, 0], "adds": [-1, -1, -1]}
BLOCKS = {
    "sizes": (6, 5, 5, 5, 5, 3),
    "slopes": [0.0, 0.01, 1.0, 0.0, 1.0],
    "norms": [1, 0, 1, 1, 0],
    "adds": [-1, 0, -1, 1, -1],
}


@pytest.mark.parametrize("net", [PLAIN, BLOCKS], ids=["plain", "residual"])
def test_gradients_by_finite_differences(net):
    rng = np.random.default_rng(5)
    sizes, slopes, adds = net["sizes"], net["slopes"], net["adds"]
    weights, biases = mlp.initial_parameters(sizes, 1, 2, 3, net["norms"])
    norm = mlp.initial_norm(sizes, net["norms"])
    x, labels = rng.standard_normal((7, 6)), rng.integers(0, 3, 7)
    for state in norm:
        if state is not None:
            state[:2] += rng.standard_normal(state[:2].shape) / 2

    def run_forward():
        return mlp.forward(x, weights, biases, slopes, norm, adds, training=True)

    def loss():
        return mlp.cross_entropy(run_forward()[1][-1], labels)[0].mean()

    activations, outputs = run_forward()
    at_logits = mlp.cross_entropy(outputs[-1], labels)[1]
    d_weights, d_biases, d_norm = mlp.backward(activations, outputs, at_logits, weights, slopes, norm, adds)
    affine = [state if state is None else state[:2] for state in norm]
    kinds = (("weight", weights, d_weights), ("bias", biases, d_biases), ("gamma, beta", affine, d_norm))
    for name, arrays, gradients in kinds:
        for k, (array, gradient) in enumerate(zip(arrays, gradients, strict=True)):
            if array is None:
                assert gradient is None
                continue
            for index in np.ndindex(array.shape):
                before, step = array[index], 1e-6
                array[index] = before + step
                up = loss()
                array[index] = before - step
                slope = (up - loss()) / (2 * step)
                array[index] = before
                assert abs(slope - gradient[index]) < 1e-7, f"{name} {k} at {index}"


def test_evaluation_reads_the_running_statistics():
    """A record does not depend on how many samples are looked at together."""
    for op in (mlp.train_mlp, compiled.train_mlp):
        case = RESIDUAL["odd blocks"]
        parameters, _, record = run(op, case)
        whole = {**case, "test_rows": case["train_rows"], "test_labels": case["train_labels"]}
        np.testing.assert_allclose(run(op, whole)[2][2:], record[:2], rtol=1e-5)
        single = {**case, "test_rows": case["test_rows"][:1], "test_labels": case["test_labels"][:1]}
        sizes, at, h = (
            case["sizes"],
            0,
            mlp.batch(case["x"], single["test_rows"], case["scale"], case["shift"], *[None] * 2, 0),
        )
        outputs = [h]
        for k in range(len(sizes) - 1):
            n_in, n = sizes[k], sizes[k + 1]
            z = outputs[-1] @ parameters[at : at + n_in * n].reshape(n_in, n) + parameters[at + n_in * n :][:n]
            y = np.where(z > 0, z, case["slopes"][k] * z)
            at += (n_in + 1) * n
            if case["norms"][k]:
                gamma, beta, mean, variance = parameters[at : at + 4 * n].reshape(4, n)
                y = gamma * (y - mean) / np.sqrt(variance + 1e-5) + beta
                at += 4 * n
            outputs.append(y + outputs[case["adds"][k] + 1] if case["adds"][k] >= 0 else y)
        loss = mlp.cross_entropy(outputs[-1], single["test_labels"])[0]
        np.testing.assert_allclose(run(op, single)[2][2], loss[0], rtol=1e-4)


@pytest.mark.parametrize("name", ASYMMETRIC)
def test_fixed_weights_keep_their_bits(name):
    case = CASES[name]
    for op in (mlp.train_mlp, compiled.train_mlp):
        parameters = run(op, case)[0]
        np.testing.assert_array_equal(parameters[case["fixed_at"]], case["fixed_to"])


@pytest.mark.parametrize("share", [0.0, 0.1])
def test_a_network_blows_up_visibly(share):
    case = problem((16, 24, 24, 2), lr=np.array([50.0, 50.0, 50.0], np.float32), epochs=3, share=share)
    with np.errstate(all="ignore"):
        parameters, curve, record = run(compiled.train_mlp, case)
    assert not (np.abs(parameters) < 1e6).all()
    assert not (np.isfinite(curve).all() and curve.max() < 100)
    assert record.shape == (4,)


@pytest.mark.parametrize("case", [*CASES.values(), *RESIDUAL.values()], ids=[*CASES, *RESIDUAL])
def test_no_array_outlives_its_run(case):
    """Compiled leaves count no references; an array they counted and never gave back would live for ever."""

    def alive():
        stats = rtsys.get_allocation_stats()
        return stats.alloc - stats.free

    compiled.train_mlp(**case)  # compiles, which allocates too
    before = alive()
    for _ in range(3):
        compiled.train_mlp(**case)
    assert alive() == before
