"""Triton's training against the reference: on a GPU where there is one, in the interpreter elsewhere."""

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
import triton
import triton.language as tl
from wsfast.kernels.triton import chunks, layers, mlp
from wsfast.reference import mlp as reference

import wsfast
from wsfast import cli

JOBS = [(0, 0), (1, 4), (0, 2)]
CASES = {
    "tiles": {"d": 7, "width": 70, "classes": 3, "samples": 50, "batch": 33},
    "one program": {"d": 70, "width": 17, "classes": 2, "samples": 50, "batch": 16},
    "one program, wide": {"d": 20, "width": 65, "classes": 5, "samples": 41, "batch": 32},
    "tile + 1": {"d": 65, "width": 129, "classes": 17, "samples": 34, "batch": 16},
    "crops, tiles": {"d": 60, "width": 70, "classes": 2, "samples": 50, "batch": 33, "pad": 2, "shape": (3, 4, 5)},
    "crops, one program": {"d": 60, "width": 9, "classes": 2, "samples": 40, "batch": 16, "pad": 1, "shape": (3, 4, 5)},
    "float32 images": {"d": 33, "width": 33, "classes": 2, "samples": 45, "batch": 32, "kind": np.float32},
    "residual": {
        "d": 40, "width": 24, "classes": 2, "samples": 43, "batch": 16, "depth": 5,
        "norms": [1, 1, 1, 1, 1, 0], "adds": [-1, -1, 0, -1, 2, -1],
    },
    "ReLU on the logits": {"d": 12, "width": 16, "classes": 3, "samples": 40, "batch": 16, "last": 0.0},
}  # fmt: skip


def problem(d, width, classes, samples, batch, depth=3, norms=None, adds=None, pad=-1, shape=(1, 1, 1), kind=np.uint8,
            last=1.0, epochs=2):  # fmt: skip
    """(x, two tasks of different sizes, the rest of the arguments)."""
    rng = np.random.default_rng([d, width, samples])
    x = rng.integers(0, 255, (samples, d)) if kind == np.uint8 else rng.standard_normal((samples, d))
    labels, cut = rng.integers(0, classes, samples), samples * 4 // 5
    tasks = [
        (np.arange(cut), labels[:cut], np.arange(cut, samples), labels[cut:]),
        (np.arange(cut - 7)[::-1].copy(), 1 - labels[: cut - 7] % 2, np.arange(cut, samples - 1), labels[cut:-1] % 2),
    ]
    scale, shift = (1 / 64, -2) if kind == np.uint8 else (1, 0)
    rest = {
        "sizes": np.array([d, *[width] * depth, classes]),
        "slopes": np.array([0.01] * depth + [last], np.float32),
        "norms": np.array(norms or [0] * (depth + 1)),
        "adds": np.array(adds or [-1] * (depth + 1)),
        "scale": np.full(d, scale, np.float32),
        "shift": np.full(d, shift, np.float32),
        "shape": np.array(shape),
        "lr": np.full(epochs, 0.05, np.float32),
        "momentum": 0.9,
        "weight_decay": 1e-3,
        "batch_size": batch,
        "pad": pad,
        "seed": 7,
    }
    return x.astype(kind), tasks, rest


def torch_run(x, task, rest, repeat, number, gate_at=None, gates=None):
    """The same run in torch float32: parameters [P]."""
    sizes, slopes, norms, adds = (rest[k] for k in ("sizes", "slopes", "norms", "adds"))
    weights, biases = reference.initial_parameters(sizes.tolist(), rest["seed"], number, repeat, norms)
    vectors = [np.array([[1.0], [0.0]]) * np.ones(n) for n in sizes[1:]]
    bends = reference.bends(sizes, slopes, gate_at, gates)
    p = [[torch.tensor(a, dtype=torch.float32, requires_grad=True) for a in three]
         for three in zip(weights, biases, vectors, strict=True)]  # fmt: skip
    running = [torch.tensor([[0.0], [1.0]]) * torch.ones(n) for n in sizes[1:].tolist()]
    optimiser = torch.optim.SGD(
        [a for three in p for a in three], lr=float(rest["lr"][0]), momentum=0.9, weight_decay=1e-3
    )
    rows, labels = task[:2]
    for epoch in range(len(rest["lr"])):
        order = reference.philox.batch_order(len(rows), epoch, rest["seed"], number, repeat)
        crops = None
        if rest["pad"] >= 0:
            crops = reference.philox.augmentation(len(rows), rest["pad"], epoch, rest["seed"], number, repeat)
        for start in range(0, len(rows), rest["batch_size"]):
            some = order[start : start + rest["batch_size"]]
            crop = None if crops is None else crops[some]
            batch = reference.batch(x, rows[some], rest["scale"], rest["shift"], rest["shape"], crop, rest["pad"])
            outputs = [torch.tensor(batch, dtype=torch.float32)]
            for k, (w, b, vector) in enumerate(p):
                z = outputs[-1] @ w + b
                if np.ndim(bends[k]) == 0:
                    y = torch.nn.functional.leaky_relu(z, float(slopes[k]))
                else:
                    y = torch.sigmoid(z @ torch.tensor(bends[k], dtype=torch.float32)) * z
                if norms[k]:
                    y = torch.nn.functional.batch_norm(y, *running[k], *vector, training=True)
                outputs.append(y + outputs[adds[k] + 1] if adds[k] >= 0 else y)
            loss = torch.nn.functional.cross_entropy(outputs[-1], torch.tensor(labels[some]))
            optimiser.zero_grad()
            loss.backward()
            for a in (a for three in p for a in three if a.grad is None):
                a.grad = torch.zeros_like(a)
            optimiser.step()
    parts = [
        part for k, (w, b, vector) in enumerate(p) for part in ((w, b, vector, running[k]) if norms[k] else (w, b))
    ]
    return torch.cat([part.detach().ravel() for part in parts]).numpy()


@pytest.mark.parametrize("case", CASES)
def test_a_run_errs_no_more_than_torch(case, device, as_good_as):
    x, tasks, rest = problem(**CASES[case])
    parameters, curves, records = mlp.train_mlp(x, tasks, JOBS, **rest, device=device)
    for i, (t, r) in enumerate(JOBS):
        want, curve, record = reference.train_mlp(x, *tasks[t], **rest, task=t, repeat=r)
        as_good_as(f"network {i}", parameters[i], want, torch_run(x, tasks[t], rest, r, t))
        np.testing.assert_allclose(curves[i], curve, rtol=1e-4)
        np.testing.assert_allclose(records[i], record, rtol=1e-4)


def test_a_shared_start_draws_one_networks_numbers(device):
    """Each job has its own task's samples, all have the initial weights, orders and crops of one (task, repeat)."""
    x, tasks, rest = problem(**CASES["crops, one program"])
    got, _, _ = mlp.train_mlp(x, tasks, [(0, 0), (1, 3)], **rest, device=device, start=(1, 5))
    alone, _, _ = mlp.train_mlp(x, tasks, [(1, 5)], **rest, device=device)
    np.testing.assert_array_equal(got[1], alone[0])
    want = reference.train_mlp(x, *tasks[0], **rest, task=1, repeat=5)[0]
    np.testing.assert_allclose(got[0], want, rtol=1e-3, atol=1e-5)


@pytest.mark.parametrize(("case", "gated"), [("tiles", (0, 2)), ("one program", (0, 1, 2))])
def test_a_gated_run_errs_no_more_than_torch(case, gated, device, as_good_as):
    x, tasks, rest = problem(**CASES[case], epochs=1)
    rng, width = np.random.default_rng(len(gated)), CASES[case]["width"]
    gate_at = np.full(len(rest["slopes"]), -1)
    gate_at[list(gated)] = width**2 * np.arange(len(gated))
    rest["slopes"][list(gated)] = 1
    gates = rng.standard_normal(len(gated) * width**2).astype(np.float32)
    rest["lr"] /= 5
    asymmetric = {"gate_at": gate_at, "gates": gates}
    got, curves, records = mlp.train_mlp(x, tasks, JOBS[:2], **rest, device=device, gates=(gate_at, gates))
    alone = mlp.train_mlp(x, tasks, JOBS[1:2], **rest, device=device, gates=(gate_at, gates))[0]
    np.testing.assert_array_equal(alone[0], got[1])
    for i, (t, r) in enumerate(JOBS[:2]):
        want, curve, record = reference.train_mlp(x, *tasks[t], **rest, task=t, repeat=r, **asymmetric)
        as_good_as(f"network {i}", got[i], want, torch_run(x, tasks[t], rest, r, t, **asymmetric))
        np.testing.assert_allclose(curves[i], curve, rtol=1e-4)
        np.testing.assert_allclose(records[i], record, rtol=1e-4)


@pytest.mark.parametrize("case", ["tiles", "one program", "residual"])
def test_fixed_weights_keep_their_bits(case, device):
    x, tasks, rest = problem(**CASES[case])
    sizes, at, start = rest["sizes"].tolist(), [], 0
    rng = np.random.default_rng(len(sizes))
    for k, n in enumerate(sizes[1:]):
        at.append(start + rng.permutation(sizes[k] * n)[: sizes[k] * n // 5])
        start += (sizes[k] + 1 + 4 * int(rest["norms"][k])) * n
    fixed = np.sort(np.concatenate(at)), rng.standard_normal(sum(map(len, at))).astype(np.float32) / 4
    got = mlp.train_mlp(x, tasks, JOBS, **rest, device=device, fixed=fixed)[0]
    for i, (t, r) in enumerate(JOBS):
        want = reference.train_mlp(x, *tasks[t], **rest, task=t, repeat=r, fixed_at=fixed[0], fixed_to=fixed[1])[0]
        np.testing.assert_array_equal(got[i, fixed[0]], fixed[1])
        np.testing.assert_allclose(got[i], want, rtol=1e-3, atol=1e-4 * np.abs(want).max())


@pytest.mark.parametrize("case", ["tiles", "one program"])
def test_a_network_blows_up_visibly(case, device):
    x, tasks, rest = problem(**CASES[case])
    with np.errstate(all="ignore"):
        got = mlp.train_mlp(x, tasks, JOBS, **rest | {"lr": np.full(len(rest["lr"]), 1e30, np.float32)}, device=device)
    assert not (np.abs(got[0]) < 1e6).all(axis=1).any()


@pytest.mark.parametrize("case", ["tiles", "one program", "residual"])
def test_a_network_is_the_same_bits_alone_and_among_others(case, device):
    x, tasks, rest = problem(**CASES[case])
    together = mlp.train_mlp(x, tasks, JOBS, **rest, device=device)
    for chunk, jobs in ((1, JOBS), (2, JOBS[::-1])):
        apart = mlp.train_mlp(x, tasks, jobs, **rest, device=device, chunk=chunk)
        for a, b in zip(together, apart, strict=True):
            np.testing.assert_array_equal(a, b if jobs is JOBS else b[::-1])


@pytest.mark.parametrize("case", ["tiles", "one program"])
def test_every_network_has_its_own_step_size_and_decay(case, device):
    x, tasks, rest = problem(**CASES[case])
    rates = np.array([[0.05, 0.05], [0.02, 0.01], [0.1, 0.03]], np.float32)
    decays = np.array([0.0, 1e-2, 1e-3], np.float32)
    got = mlp.train_mlp(x, tasks, JOBS, **rest | {"lr": rates, "weight_decay": decays}, device=device)[0]
    for i, (job, lr, decay) in enumerate(zip(JOBS, rates, decays, strict=True)):
        alone = mlp.train_mlp(x, tasks, [job], **rest | {"lr": lr, "weight_decay": float(decay)}, device=device)[0]
        np.testing.assert_array_equal(got[i], alone[0])


def test_nothing_is_read_before_it_is_written(device, monkeypatch):
    """Buffers that a step fills before it reads them start as NaN here."""
    x, tasks, rest = problem(**CASES["residual"])
    clean = mlp.train_mlp(x, tasks, JOBS, **rest, device=device)
    original = mlp.Population._layer

    def poisoned(self, *arguments):
        layer = original(self, *arguments)
        for buffer in (layer.y, layer.a, layer.dz, layer.dy, layer.stat):
            buffer.fill_(torch.nan)
        return layer

    monkeypatch.setattr(mlp.Population, "_layer", poisoned)
    for a, b in zip(clean, mlp.train_mlp(x, tasks, JOBS, **rest, device=device), strict=True):
        np.testing.assert_array_equal(a, b)


@triton.jit
def _round_kernel(x_ptr, y_ptr, N: tl.constexpr):
    at = tl.arange(0, N)
    tl.store(y_ptr + at, layers._tf32(tl.load(x_ptr + at)))


def test_tf32_rounds_to_nearest_even(device):
    x = np.random.default_rng(0).standard_normal(1024).astype(np.float32)
    x[:2] = 1 + 2.0**-11, 1 + 3 * 2.0**-11  # halfway: down to 1, up to 1 + 2^-9
    x[2:4] = np.array([0x7FFFFFFF, 0xFFFFFFFF], np.uint32).view(np.float32)  # NaN as a GPU makes it
    got = torch.full((1024,), torch.nan, device=device)
    _round_kernel[(1,)](torch.tensor(x, device=device), got, 1024)
    mantissa, exponent = np.frexp(x.astype(np.float64))
    np.testing.assert_array_equal(got.cpu().numpy(), np.ldexp(np.rint(mantissa * 2**11) / 2**11, exponent))


@pytest.mark.parametrize("precision", ["tf32", "bf16"])
def test_lower_precisions_stay_near(precision, device):
    x, tasks, rest = problem(**CASES["tiles"])
    got = mlp.train_mlp(x, tasks, JOBS, **rest, device=device, precision=precision)[0]
    start = np.concatenate([a.ravel() for pair in zip(
        *reference.initial_parameters(rest["sizes"].tolist(), 7, 0, 0), strict=True) for a in pair])  # fmt: skip
    change = reference.train_mlp(x, *tasks[0], **rest, task=0, repeat=0)[0] - start
    error = np.linalg.norm(got[0] - start - change) / np.linalg.norm(change)
    assert 1e-6 < error < 0.1


def test_memory_that_runs_out_halves_the_chunk(device, monkeypatch):
    x, tasks, rest = problem(**CASES["one program"])
    whole, original = mlp.train_mlp(x, tasks, JOBS, **rest, device=device), mlp.Population.train

    def small_card(self, tick):
        if self.n > 1:
            raise torch.OutOfMemoryError("no room for two")
        return original(self, tick)

    monkeypatch.setattr(mlp.Population, "train", small_card)
    for a, b in zip(whole, mlp.train_mlp(x, tasks, JOBS, **rest, device=device), strict=True):
        np.testing.assert_array_equal(a, b)


def test_a_failing_device_names_the_networks(device, monkeypatch):
    x, tasks, rest = problem(**CASES["one program"])
    original = mlp.Population.evaluate

    def broken(self):
        if self.jobs[0, 0] == 1:
            raise RuntimeError("an illegal memory access")
        return original(self)

    monkeypatch.setattr(mlp.Population, "evaluate", broken)
    with pytest.raises(RuntimeError, match=r"networks 1\.\.1: an illegal memory access"):
        mlp.train_mlp(x, tasks, JOBS, **rest, device=device, chunk=1)
    monkeypatch.setattr(mlp.Population, "evaluate", original)
    fetch = chunks._Copy._fetch

    def late(self, host, tensor):  # the copy meets what went wrong on the device; the next chunk is in work by then
        if self.first == 1:
            raise RuntimeError("an illegal memory access")
        fetch(self, host, tensor)

    monkeypatch.setattr(chunks._Copy, "_fetch", late)
    with pytest.raises(RuntimeError, match=r"networks 1\.\.1: an illegal memory access"):
        mlp.train_mlp(x, tasks, JOBS, **rest, device=device, chunk=1)


@pytest.mark.parametrize("error", [RuntimeError, torch.OutOfMemoryError, KeyboardInterrupt])
def test_what_was_finished_before_a_failure_comes_first(error, device, monkeypatch):
    x, tasks, rest = problem(**CASES["one program"])
    whole, original = mlp.train_mlp(x, tasks, JOBS, **rest, device=device)[0], mlp.Population.train

    def broken(self, tick):
        if self.jobs[0].tolist() == list(JOBS[2]):
            raise error("broken")
        return original(self, tick)

    monkeypatch.setattr(mlp.Population, "train", broken)
    told = error if error is KeyboardInterrupt else RuntimeError
    kept = []
    with pytest.raises(told, match=r"^broken" if error is KeyboardInterrupt else r"train_mlp: networks 2\.\.2: broken"):
        kept += mlp.train_chunks(x, tasks, JOBS, **rest, device=device, chunk=1)
    np.testing.assert_array_equal(np.concatenate([done.parameters for done in kept]), whole[:2])


def test_ctrl_c_keeps_what_is_finished(four_tasks, device, monkeypatch):
    original = mlp.Population.evaluate

    def interrupted(self):
        if self.jobs[0].tolist() == [2, 1]:
            raise KeyboardInterrupt
        return original(self)

    monkeypatch.setattr(mlp.Population, "evaluate", interrupted)
    monkeypatch.setattr(chunks, "HEADROOM", 0)  # a network a chunk
    monkeypatch.setattr(chunks, "HOST_MEMORY", 0)
    few = wsfast.Recipe(lr=0.05, batch_size=128, epochs=1)
    options = {"repeats": 2, "width": 8, "recipe": few, "backend": "triton", "device": device, "progress": False}
    with pytest.raises(wsfast.Interrupted, match="5 networks finished") as stop:
        wsfast.generate("mlp4", four_tasks, **options)
    assert stop.value.finished.labels.tolist() == [0, 0, 1, 1, 2]
    assert np.isfinite(stop.value.finished.parameters["fc1.weight"]).all()


@pytest.mark.parametrize("network", ["mlp4", "resnet-mlp12"])
def test_generate_agrees_with_the_cpu(network, device):
    tasks = wsfast.tasks("digits", n=2)
    recipe = wsfast.Recipe(lr=0.001, batch_size=128, epochs=1)  # small: a ReLU's kink is rarely crossed by rounding
    options = {"repeats": 1, "width": 16, "recipe": recipe, "progress": False}
    ours = wsfast.generate(network, tasks, **options, backend="triton", device=device)
    theirs = wsfast.generate(network, tasks, **options)
    for name, want in theirs.parameters.items():
        np.testing.assert_allclose(ours.parameters[name], want, rtol=1e-3, atol=1e-4, err_msg=name)
    np.testing.assert_array_equal(ours.records["test_accuracy"], theirs.records["test_accuracy"])
    assert ours.info["backend"] == "triton"
    assert ours.info["precision"] == "tf32x3"


def test_a_study_from_the_command_line(device, tmp_path, capsys):
    options = ["--tasks", "4", "--repeats", "4", "--width", "8", "--epochs", "1", "--quick", "--json"]
    where = ["--backend", "triton", "--device", device, "--precision", "tf32", "--out", str(tmp_path)]
    assert cli.main(["study", *options, *where]) == 0
    results = json.loads(capsys.readouterr().out)
    assert (results["backend"], results["precision"], results["networks"]) == ("triton", "tf32", 16)
    assert (tmp_path / "report.html").is_file()


def test_bad_input(four_tasks, device):
    x, tasks, rest = problem(**CASES["one program"])
    x = np.repeat(x, 9, 0)
    long = [(np.arange(300), np.zeros(300, np.int64), *tasks[0][2:])]
    with pytest.raises(ValueError, match="batches of at most 128 samples, got 200"):
        mlp.train_mlp(x, long, [(0, 0)], **rest | {"batch_size": 200}, device=device)
    with pytest.raises(ValueError, match="precision must be one of tf32x3"):
        mlp.train_mlp(x, tasks, JOBS, **rest, device=device, precision="fp8")
    with pytest.raises(ValueError, match="at least one hidden layer"):
        mlp.train_mlp(x, tasks, JOBS, **rest | {"sizes": [70, 2]}, device=device)
    for change in ({"norms": [0, 0, 0, 1]}, {"adds": [-1, -1, 0, 1]}, {"adds": [-1, 0, 0, -1]}):
        with pytest.raises(ValueError, match="no BatchNorm, sum or gate on the logits, and add each"):
            mlp.train_mlp(x, tasks, JOBS, **rest | change, device=device)
    with pytest.raises(ValueError, match="precision of numba must be fp32, got 'tf32'"):
        wsfast.generate("mlp4", four_tasks, repeats=1, precision="tf32")


FAR = """
import os, sys
import torch
if not torch.cuda.is_available():
    os.environ["TRITON_INTERPRET"] = "1"
sys.path.insert(0, sys.argv[1])
from far_layers import _update_kernel
device = "cuda" if torch.cuda.is_available() else "cpu"
K, N, B = 2**16, 2**15, 16   # network 1 starts 2^31 numbers after network 0
w = torch.empty(K * N + 64 * N, device=device)
tile = w[K * N :].view(64, N)[:16, :16]
tile.fill_(1.0)
x, dz = torch.ones(2, B, K, device=device), torch.ones(2, B, N, device=device)
small = torch.zeros(2 * N, device=device)
counts = torch.tensor([0, B], dtype=torch.int32, device=device)   # network 0 has no rows: skipped
rates = torch.zeros(2, device=device)
_update_kernel[2, 1, 1](x, dz, w, w, small, small, counts, rates, rates, 0.5, 0, B=B, K=K, N=N, BK=16, BN=16, BB=16,
                        PRECISION="ieee")
assert (tile == 0.5 + B).all(), tile
"""


@pytest.mark.parametrize("wide", [True, False])
def test_offsets_beyond_two_to_the_31(wide, tmp_path):
    """A network 2^31 numbers after the first is trained; the same kernel with 32-bit indices crashes or misses it."""
    source = Path(layers.__file__).read_text()
    narrow = source.replace(".to(tl.int64)", "")
    assert narrow != source
    (tmp_path / "far_layers.py").write_text(source if wide else narrow)
    (tmp_path / "far.py").write_text(FAR)
    run = subprocess.run([sys.executable, tmp_path / "far.py", tmp_path], capture_output=True, text=True)
    if wide and "can't allocate memory" in run.stderr:
        pytest.skip("no room for 8.6 GB of addresses")
    assert (run.returncode == 0) == wide, run.stderr
