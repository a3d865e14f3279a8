import numpy as np
import pytest
import torch
from wsfast.kernels.numba import mlp as compiled
from wsfast.reference import mlp, philox


def problem(sizes, n=41, n_test=13, batch_size=8, epochs=3, pad=-1, shape=None, slopes=None, **changes):
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


def run(op, case):
    return op(**{**case, "seed": np.uint64(case["seed"])} if op is compiled.train_mlp else case)


def torch_run(case, dtype):
    """The same run by torch autograd and torch.optim.SGD: parameters [P]."""
    sizes, slopes = case["sizes"], case["slopes"]
    key = case["seed"], case["task"], case["repeat"]
    weights, biases = mlp.initial_parameters(sizes, *key)
    params = [
        torch.tensor(p, dtype=dtype, requires_grad=True) for pair in zip(weights, biases, strict=True) for p in pair
    ]
    optimiser = torch.optim.SGD(params, lr=1, momentum=case["momentum"], weight_decay=case["weight_decay"])
    n = len(case["train_rows"])
    for epoch, lr in enumerate(case["lr"]):
        optimiser.param_groups[0]["lr"] = float(lr)
        order = philox.batch_order(n, epoch, *key)
        crops = philox.augmentation(n, case["pad"], epoch, *key) if case["pad"] >= 0 else None
        for start in range(0, n, case["batch_size"]):
            chosen = order[start : start + case["batch_size"]]
            crop = crops[chosen] if crops is not None else None
            h = torch.tensor(
                mlp.batch(
                    case["x"],
                    case["train_rows"][chosen],
                    case["scale"],
                    case["shift"],
                    case["shape"],
                    crop,
                    case["pad"],
                ),
                dtype=dtype,
            )
            for k in range(len(slopes)):
                h = torch.nn.functional.leaky_relu(h @ params[2 * k] + params[2 * k + 1], float(slopes[k]))
            loss = torch.nn.functional.cross_entropy(h, torch.tensor(case["train_labels"][chosen]))
            optimiser.zero_grad()
            loss.backward()
            optimiser.step()
    return np.concatenate([p.detach().numpy().ravel() for p in params])


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


def test_gradients_by_finite_differences():
    rng = np.random.default_rng(5)
    sizes, slopes = (6, 5, 4, 3), [0.0, 0.01, 1.0]
    weights, biases = mlp.initial_parameters(sizes, 1, 2, 3)
    x, labels = rng.standard_normal((7, 6)), rng.integers(0, 3, 7)

    def loss():
        return mlp.cross_entropy(mlp.forward(x, weights, biases, slopes)[-1], labels)[0].mean()

    outputs = mlp.forward(x, weights, biases, slopes)
    d_weights, d_biases = mlp.backward(outputs, mlp.cross_entropy(outputs[-1], labels)[1], weights, slopes)
    for name, arrays, gradients in (("weight", weights, d_weights), ("bias", biases, d_biases)):
        for k, (array, gradient) in enumerate(zip(arrays, gradients, strict=True)):
            for index in np.ndindex(array.shape):
                before, step = array[index], 1e-6
                array[index] = before + step
                up = loss()
                array[index] = before - step
                slope = (up - loss()) / (2 * step)
                array[index] = before
                assert abs(slope - gradient[index]) < 1e-7, f"{name} {k} at {index}"


def test_a_network_blows_up_visibly():
    case = problem((16, 24, 24, 2), lr=np.array([50.0, 50.0, 50.0], np.float32), epochs=3)
    with np.errstate(all="ignore"):
        parameters, curve, record = run(compiled.train_mlp, case)
    assert not (np.abs(parameters) < 1e6).all()
    assert not (np.isfinite(curve).all() and curve.max() < 100)
    assert record.shape == (4,)
