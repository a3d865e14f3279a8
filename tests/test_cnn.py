import json

import numpy as np
import pytest
import torch
from numba.core.runtime import rtsys
from torch.nn import functional as F
from wsfast.kernels.numba import cnn as compiled
from wsfast.reference import cnn, mlp, philox
from wsfast.reference.batchnorm import normalise, normalise_backward
from wsfast.reference.convolution import convolve, convolve_backward
from wsfast.reference.pooling import max_pool, max_pool_backward

from wsfast import cli


def problem(sizes, shape, n=11, n_test=3, batch_size=4, slope=0.0, strides=None, norm_last=None, pools=None,
            shortcuts=None, epochs=2, pad=-1, gated=(), **changes):  # fmt: skip
    """A whole run's arguments, by name, drawn from the sizes; sizes [L + 2]: channels, then classes."""
    rng = np.random.default_rng([*sizes, *shape])
    layers, d = len(sizes) - 2, sizes[0] * shape[0] * shape[1]
    rows, labels = rng.permutation(n + n_test), rng.integers(0, sizes[-1], n + n_test)

    def flags(given, default):
        return np.array(given or [default] * layers, np.int64)

    slopes, gate_at, gates = np.full(layers, slope, np.float32), np.full(layers, -1), [np.empty(0)]
    for k in gated:
        slopes[k], gate_at[k] = 1, sum(f.size for f in gates)
        gates.append(rng.standard_normal(sizes[k + 1] ** 2) / np.sqrt(sizes[k + 1]))
    fixed = {
        "x": rng.integers(0, 256, (n + n_test, d)).astype(np.uint8),
        "train_rows": rows[:n],
        "train_labels": labels[:n],
        "test_rows": rows[n:],
        "test_labels": labels[n:],
        "sizes": np.array(sizes),
        "slopes": slopes,
        "strides": flags(strides, 1),
        "norm_last": flags(norm_last, 0),
        "pools": flags(pools, 1),
        "shortcuts": flags(shortcuts, 0),
        "scale": np.full(d, 1 / 64, np.float32),
        "shift": np.full(d, -2, np.float32),
        "shape": np.array([sizes[0], *shape]),
        "lr": np.array([0.05, 0.005], np.float32)[:epochs],
        "momentum": 0.9,
        "weight_decay": 1e-3,
        "batch_size": batch_size,
        "pad": pad,
        "seed": 7,
        "task": 3,
        "repeat": 5,
        "fixed_at": np.empty(0, np.int64),
        "fixed_to": np.empty(0, np.float32),
        "gate_at": gate_at,
        "gates": np.concatenate(gates).astype(np.float32),
    }
    return {**fixed, **changes}


def fixed(case, share=0.2):
    """The case with a share of every weight's entries, drawn, fixed at N(0, 1)."""
    rng, at, start = np.random.default_rng(len(case["sizes"])), [], 0
    units, head = cnn.initial_parameters(case["sizes"], case["shortcuts"], 0, 0, 0)
    for arrays in [branch for unit in units for branch in unit] + [head]:
        at.append(start + rng.permutation(arrays[0].size)[: int(share * arrays[0].size)])
        start += sum(a.size for a in arrays)
    at = np.sort(np.concatenate(at))
    return {**case, "fixed_at": at, "fixed_to": rng.standard_normal(len(at)).astype(np.float32)}


CASES = {
    "smallest": problem((1, 1, 2), (1, 1), n=4, batch_size=2, pools=[0]),
    "one unit": problem((3, 5, 2), (4, 6)),
    "plainnet5": problem((3, 4, 8, 16, 32, 2), (16, 16), n=12, batch_size=6),
    "the paper's": problem((3, 32, 64, 128, 256, 4), (16, 16), n=8, epochs=1),
    "text order": problem((3, 5, 7, 3), (9, 11), norm_last=[1, 1]),
    "leaky, odd images": problem((2, 17, 6, 3), (13, 7), slope=0.01),
    "resnet5": problem((3, 4, 6, 8, 9, 3), (9, 10), strides=[1, 2, 2, 2], pools=[0] * 4, shortcuts=[0, 1, 1, 1]),
    "everything": problem((1, 16, 33, 16, 5), (12, 9), slope=0.1, strides=[2, 1, 1], norm_last=[0, 1, 0],
                          pools=[0, 1, 1], shortcuts=[0, 0, 1]),
    "three by three, batch above the vector": problem((3, 18, 2, 2), (3, 3), n=70, batch_size=33, pools=[0, 0]),
    "last batch of one": problem((2, 3, 4, 2), (4, 4), n=9, batch_size=4),
    "augmented": problem((3, 6, 2), (8, 6), pad=2),
    "batch larger than the task, nothing to test": problem((1, 6, 2), (5, 4), n=6, batch_size=99, n_test=0),
    "one position": problem((3, 4, 5, 2), (2, 2), strides=[2, 2], pools=[0, 0]),
}  # fmt: skip
CASES["gated"] = problem((3, 5, 17, 6, 3), (9, 10), slope=0.1, gated=(0, 2), norm_last=[0, 1, 0])
CASES["gated, shortcuts"] = problem((2, 16, 18, 33, 2), (7, 8), strides=[1, 2, 1], pools=[0, 0, 1],
                                    shortcuts=[0, 1, 1], gated=(0, 1, 2))  # fmt: skip
CASES["fixed weights"] = fixed({**CASES["everything"], "weight_decay": 0.1})
CASES["fixed, shortcuts"] = fixed(CASES["resnet5"])
FLAGS = ("slopes", "strides", "norm_last", "pools")


def torch_run(case, dtype):
    """The same run by torch's layers, autograd and torch.optim.SGD: parameters [P]."""
    key = case["seed"], case["task"], case["repeat"]
    units, head = cnn.initial_parameters(case["sizes"], case["shortcuts"], *key)

    def tensor(p, trained=True):
        return torch.tensor(np.asarray(p), dtype=dtype, requires_grad=trained)

    net = [[(*map(tensor, (w, b, s[0], s[1])), *(tensor(r, False) for r in s[2:])) for w, b, s in u] for u in units]
    w_head, b_head = map(tensor, head)
    every = [p for unit in net for branch in unit for p in branch] + [w_head, b_head]
    flat, free = np.zeros(sum(p.numel() for p in every)), np.ones(sum(p.numel() for p in every))
    flat[case["fixed_at"]], free[case["fixed_at"]] = case["fixed_to"], 0
    ends = np.cumsum([p.numel() for p in every])[:-1]
    matrices = mlp.bends(case["sizes"][:-1], case["slopes"], case["gate_at"], case["gates"])
    held = {
        id(p): [tensor(a.reshape(p.shape), False) for a in pair]
        for p, *pair in zip(every, np.split(free, ends), np.split(flat, ends), strict=True)
    }

    def bent(z, slope):
        if np.ndim(slope) == 0:
            return F.leaky_relu(z, float(slope))
        return torch.sigmoid(torch.einsum("bnhw,nm->bmhw", z, tensor(slope, False))) * z

    def effective(p):
        return held[id(p)][0] * p + held[id(p)][1]

    rates = {"momentum": case["momentum"], "weight_decay": case["weight_decay"]}
    optimiser = torch.optim.SGD([p for p in every if p.requires_grad], lr=1, **rates)
    flags = list(zip(matrices, *(case[name] for name in FLAGS[1:]), strict=True))
    for epoch, lr in enumerate(case["lr"]):
        optimiser.param_groups[0]["lr"] = float(lr)
        n = len(case["train_rows"])
        order = philox.batch_order(n, epoch, *key)
        crops = philox.augmentation(n, case["pad"], epoch, *key) if case["pad"] >= 0 else None
        for start in range(0, n, case["batch_size"]):
            chosen = order[start : start + case["batch_size"]]
            crop = crops[chosen] if crops is not None else None
            rows = case["train_rows"][chosen]
            y = cnn.images(case["x"], rows, case["scale"], case["shift"], case["shape"], crop, case["pad"])
            y = tensor(y, False)
            for unit, (slope, stride, norm_last, pool) in zip(net, flags, strict=True):
                done = []
                for w, b, gamma, beta, mean, variance in unit:
                    z = F.conv2d(y, effective(w).permute(3, 0, 1, 2), b, int(stride), w.shape[1] // 2)
                    z = bent(z, slope) if norm_last else z
                    if z[:, 0].numel() > 1:
                        z = F.batch_norm(z, mean, variance, gamma, beta, training=True)
                    else:  # torch refuses a single number
                        with torch.no_grad():
                            mean += 0.1 * (z[0, :, 0, 0] - mean)
                            variance *= 0.9
                        z = gamma[:, None, None] * (z - z) + beta[:, None, None]
                    done.append(z)
                y = sum(done) if norm_last else bent(sum(done), slope)
                y = F.max_pool2d(y, 2) if pool else y
            logits = y.mean(dim=(2, 3)) @ effective(w_head) + b_head
            optimiser.zero_grad()
            F.cross_entropy(logits, torch.tensor(case["train_labels"][chosen])).backward()
            optimiser.step()
    return np.concatenate([effective(p).detach().numpy().ravel() for p in every])


@pytest.mark.parametrize("name", CASES)
def test_reference_run_is_torchs(name):
    parameters, _, _ = cnn.train_cnn(**CASES[name])
    np.testing.assert_allclose(parameters, torch_run(CASES[name], torch.float64), rtol=1e-8, atol=1e-11)


@pytest.mark.parametrize(("size", "stride"), [(3, 1), (3, 2), (1, 1), (1, 2)])
@pytest.mark.parametrize("shape", [(1, 1), (5, 4), (6, 7)])
def test_convolution_is_torchs(size, stride, shape):
    rng = np.random.default_rng([size, stride, *shape])
    x, w, b = (
        torch.tensor(rng.standard_normal(s), requires_grad=True) for s in ((2, 3, *shape), (3, size, size, 4), 4)
    )
    z = F.conv2d(x, w.permute(3, 0, 1, 2), b, stride, size // 2)
    arrays = [p.detach().numpy() for p in (x, w, b)]
    np.testing.assert_allclose(convolve(*arrays, stride), z.detach().numpy(), rtol=1e-12, atol=1e-12)
    g = torch.tensor(rng.standard_normal(z.shape))
    z.backward(g)
    found = convolve_backward(*arrays[:2], g.numpy(), stride)
    for name, got, p in zip(("input", "weight", "bias"), found, (x, w, b), strict=True):
        np.testing.assert_allclose(got, p.grad.numpy(), rtol=1e-12, atol=1e-12, err_msg=name)


@pytest.mark.parametrize("shape", [(2, 2), (5, 4), (3, 7)])
def test_max_pool_is_torchs_with_ties_too(shape):
    rng = np.random.default_rng(shape)
    x = torch.tensor(rng.integers(0, 3, (4, 2, *shape)).astype(float), requires_grad=True)
    y = F.max_pool2d(x, 2)
    np.testing.assert_array_equal(max_pool(x.detach().numpy()), y.detach().numpy())
    g = torch.tensor(rng.standard_normal(y.shape))
    y.backward(g)
    np.testing.assert_array_equal(max_pool_backward(x.detach().numpy(), g.numpy()), x.grad.numpy())


def test_batchnorm_is_torchs():
    rng = np.random.default_rng(3)
    x = torch.tensor(rng.standard_normal((3, 2, 4, 5)), requires_grad=True)
    state = rng.uniform(0.5, 2, (4, 2))
    gamma, beta = (torch.tensor(p, requires_grad=True) for p in state[:2])
    y = F.batch_norm(x, *map(torch.tensor, state[2:].copy()), gamma, beta, training=True)
    np.testing.assert_allclose(normalise(x.detach().numpy(), state, True), y.detach().numpy(), rtol=1e-12)
    eval_y = F.batch_norm(x, *map(torch.tensor, state[2:]), gamma, beta)
    np.testing.assert_allclose(normalise(x.detach().numpy(), state, False), eval_y.detach().numpy(), rtol=1e-12)
    g = torch.tensor(rng.standard_normal(y.shape))
    y.backward(g)
    dx, (d_gamma, d_beta) = normalise_backward(x.detach().numpy(), state, g.numpy())
    for name, got, p in (("x", dx, x), ("gamma", d_gamma, gamma), ("beta", d_beta, beta)):
        np.testing.assert_allclose(got, p.grad.numpy(), rtol=1e-10, atol=1e-12, err_msg=name)


@pytest.mark.parametrize("name", ["text order", "everything", "resnet5", "gated, shortcuts"])
def test_gradients_by_finite_differences(name):
    case = CASES[name]
    units, head = cnn.initial_parameters(case["sizes"], case["shortcuts"], 1, 2, 3)
    bends = mlp.bends(case["sizes"][:-1], case["slopes"], case["gate_at"], case["gates"])
    net = units, head, bends, *(case[flag] for flag in FLAGS[1:])
    rng = np.random.default_rng(5)
    x, labels = rng.standard_normal((3, *case["shape"])), rng.integers(0, case["sizes"][-1], 3)
    for unit in units:
        for _, _, state in unit:
            state[:2] += rng.standard_normal(state[:2].shape) / 3

    def loss():
        return mlp.cross_entropy(cnn.forward(x, True, *net)[0], labels)[0].mean()

    logits, inputs, caches = cnn.forward(x, True, *net)
    d_units, d_head = cnn.backward(inputs, caches, mlp.cross_entropy(logits, labels)[1], *net)
    arrays = {f"unit {k}, branch {i}, {part}": (unit[i][j] if j < 2 else unit[i][2][:2], d_unit[i][j])
              for k, (unit, d_unit) in enumerate(zip(units, d_units, strict=True))
              for i in range(len(unit)) for j, part in enumerate(("weight", "bias", "gamma, beta"))}  # fmt: skip
    arrays |= {"head weight": (head[0], d_head[0]), "head bias": (head[1], d_head[1])}
    for what, (array, gradient) in arrays.items():
        assert array.shape == gradient.shape, what
        some = [np.unravel_index(i, array.shape) for i in rng.choice(array.size, min(5, array.size), replace=False)]
        for index in some:
            before, step = array[index], 1e-6
            array[index] = before + step
            up = loss()
            array[index] = before - step
            slope = (up - loss()) / (2 * step)
            array[index] = before
            assert abs(slope - gradient[index]) < 1e-6, f"{what} at {index}"


def run(case, **changes):
    return compiled.train_cnn(**{**case, "seed": np.uint64(case["seed"]), **changes})


@pytest.mark.parametrize("name", CASES)
def test_numba_run_errs_no_more_than_torchs(name, as_good_as):
    case = CASES[name]
    oracle, curve, record = cnn.train_cnn(**case)
    got, got_curve, got_record = run(case)
    start = cnn.train_cnn(**{**case, "lr": case["lr"][:0]})[0]
    assert got.dtype == np.float32
    as_good_as("weight change", got - start, oracle - start, torch_run(case, torch.float32) - start)
    np.testing.assert_allclose(got_curve, curve, rtol=1e-4)
    np.testing.assert_allclose(got_record, record, rtol=1e-4)


@pytest.mark.parametrize("name", CASES)
def test_untrained_networks_are_the_same_bits(name):
    case = {**CASES[name], "lr": np.zeros(0, np.float32)}
    np.testing.assert_array_equal(run(case)[0], cnn.train_cnn(**case)[0].astype(np.float32))


def test_evaluation_does_not_depend_on_how_many_are_looked_at_together():
    case = CASES["everything"]
    record = run(case)[2]
    rows = {"test_rows": case["train_rows"], "test_labels": case["train_labels"]}
    np.testing.assert_array_equal(run(case, **rows)[2][2:], record[:2])
    single = {"test_rows": case["test_rows"][:1], "test_labels": case["test_labels"][:1]}
    parts = [run(case, test_rows=case["test_rows"][i : i + 1], test_labels=case["test_labels"][i : i + 1])[2][2]
             for i in range(len(case["test_rows"]))]  # fmt: skip
    assert run(case, **single)[2][2] == parts[0]
    np.testing.assert_allclose(np.mean(parts), record[2], rtol=1e-6)


def test_a_dead_channel_stays_finite():
    """A black image: every convolution gives one number, every variance is 0."""
    case = {**CASES["plainnet5"], "x": np.full_like(CASES["plainnet5"]["x"], 128)}
    oracle, got = cnn.train_cnn(**case)[0], run(case)[0]
    assert np.isfinite(got).all()
    assert np.isfinite(oracle).all()


@pytest.mark.parametrize("name", ["fixed weights", "fixed, shortcuts"])
def test_fixed_weights_keep_their_bits(name):
    case = CASES[name]
    for parameters in (run(case)[0], cnn.train_cnn(**case)[0]):
        np.testing.assert_array_equal(parameters[case["fixed_at"]], case["fixed_to"])


def test_a_network_blows_up_visibly():
    case = problem((3, 8, 8, 2), (8, 8), n=40, batch_size=8, lr=np.full(2, 1e30, np.float32))
    with np.errstate(all="ignore"):
        parameters, _, record = run(case)
    assert not (np.abs(parameters) < 1e6).all()
    assert record.shape == (4,)


@pytest.mark.parametrize("name", ["everything", "augmented", "resnet5", "gated, shortcuts"])
def test_no_array_outlives_its_run(name):
    """Compiled leaves count no references; an array they counted and never gave back would live for ever."""

    def alive():
        stats = rtsys.get_allocation_stats()
        return stats.alloc - stats.free

    run(CASES[name])  # compiles, which allocates too
    before = alive()
    for _ in range(3):
        run(CASES[name])
    assert alive() == before


def test_a_study_of_digits(tmp_path):
    """10 tasks x 20 networks of 4 to 32 channels on 8x8 images, by the command line."""
    recipe = ["--tasks", "10", "--repeats", "20", "--width", "4", "--quick"]
    assert cli.main(["study", "--network", "resnet5", "--data", "digits", *recipe, "--out", str(tmp_path)]) == 0
    result = json.loads((tmp_path / "results.json").read_text())
    assert (result["networks"], result["tasks"], result["diverged"]) == (200, 10, 0)
    assert result["train_accuracy"]["mean"] > 0.98
    cells = {(c["features"], c["chain"]): c for c in result["cells"] if c["protocol"] == "classification"}
    for chain in (3, 4):
        for features in ("chain", "chain_unit", "chain_folded"):
            assert cells[features, chain]["p_chance"] < 1e-6, (features, chain)
    for chain in (1, 2, 3, 4):
        assert cells["raw", chain]["p_chance"] > 1e-3
    assert {c["control"] for c in result["controls"]} == {"A/A", "untrained"}
    assert min(c["p_two_sided"] for c in result["controls"]) > 1e-3
    assert (tmp_path / "report.html").stat().st_size > 10_000
