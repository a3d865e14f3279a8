import json
import os
from itertools import product

import numpy as np
import pytest
import torch
from numba.core.runtime import rtsys
from wsfast.kernels.numba import gru as compiled
from wsfast.kernels.numba import gru_cell
from wsfast.kernels.numba.matvec import column_product, row_product
from wsfast.kernels.numba.tile import LANES
from wsfast.reference import gru, philox

from wsfast import cli


def problem(alphabet, hidden, classes, longest, n=23, n_test=9, epochs=2, steps=20, **changes):
    """A whole run's arguments, by name, drawn from the sizes."""
    rng = np.random.default_rng([alphabet, hidden, classes, longest])
    lengths = rng.integers(1, longest + 1, n + n_test)
    lengths[:2] = 1, longest
    x = rng.integers(0, alphabet, (n + n_test, longest)).astype(np.uint8)
    x[np.arange(longest) >= lengths[:, None]] = alphabet
    rows = rng.permutation(n + n_test)
    labels = np.arange(n + n_test) % classes
    fixed = {
        "x": x,
        "train_rows": rows[:n],
        "train_labels": labels[:n],
        "test_rows": rows[n:],
        "test_labels": labels[n:],
        "alphabet": alphabet,
        "hidden": hidden,
        "classes": classes,
        "lr": np.array([0.3, 0.1], np.float32)[:epochs],
        "steps": steps,
        "seed": 7,
        "task": 3,
        "repeat": 5,
    }
    return {**fixed, **changes}


CASES = {
    "smallest": problem(1, 1, 2, 1, n=2, n_test=1),
    "single letters": problem(9, 5, 2, 1),
    "odd": problem(11, 7, 3, 6),
    "exact tiles": problem(58, 32, 2, 8),
    "tile + 1": problem(58, 33, 2, 17),
    "long names": problem(30, 20, 4, 40, steps=6),
    "the paper's": problem(58, 128, 2, 12, steps=15),
    "wider than all accumulators": problem(58, 150, 2, 9, steps=6),
    "no test names": problem(6, 4, 2, 5, n_test=0),
}


def torch_run(case, dtype):
    """The same run by torch's GRU, autograd and torch.optim.SGD: parameters [P]."""
    key = case["seed"], case["task"], case["repeat"]
    sizes = case["alphabet"], case["hidden"], case["classes"]
    starts = [torch.tensor(p, dtype=dtype) for p in gru.initial_parameters(*sizes, *key)]
    layers = [torch.nn.GRU(n, case["hidden"], dtype=dtype) for n in sizes[:2]]
    fc = torch.nn.Linear(*sizes[1:], dtype=dtype)
    held = [p for layer in layers for p in layer.parameters()] + [fc.weight, fc.bias]
    for p, start in zip(held, starts, strict=True):
        p.data = start.movedim(0, -1).reshape(p.shape).clone() if start.dim() != 2 or p is fc.weight else start.ravel()
    optimiser = torch.optim.SGD(held, lr=1)
    members = [np.flatnonzero(case["train_labels"] == c) for c in range(case["classes"])]
    for epoch, lr in enumerate(case["lr"]):
        optimiser.param_groups[0]["lr"] = float(lr)
        for c, place in philox.sample([len(m) for m in members], case["steps"], epoch, *key):
            letters = case["x"][case["train_rows"][members[c][place]]]
            letters = torch.from_numpy(letters[letters < case["alphabet"]].astype(np.int64))
            h = torch.nn.functional.one_hot(letters, case["alphabet"]).to(dtype)
            for layer in layers:
                h = layer(h)[0]
            loss = torch.nn.functional.cross_entropy(fc(h[-1]), torch.tensor(c))
            optimiser.zero_grad()
            loss.backward()
            optimiser.step()
    back = []
    for p, start in zip(held, starts, strict=True):
        kept = p.detach().reshape(*start.shape[1:], start.shape[0]).movedim(-1, 0) if p.dim() > 1 else p.detach()
        back.append(kept.numpy().ravel())
    return np.concatenate(back)


@pytest.mark.parametrize("name", CASES)
def test_reference_run_is_torchs(name):
    parameters, _, _ = gru.train_gru(**CASES[name])
    np.testing.assert_allclose(parameters, torch_run(CASES[name], torch.float64), rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("name", ["W1", "U1", "b1", "c1", "W2", "U2", "b2", "c2", "W_fc", "b_fc"])
def test_reference_gradients_by_differences(name):
    k = ["W1", "U1", "b1", "c1", "W2", "U2", "b2", "c2", "W_fc", "b_fc"].index(name)
    parameters = gru.initial_parameters(6, 5, 3, 1, 2, 3)
    letters, label = np.array([3, 0, 3, 5]), np.array([1])

    def loss():
        return gru.cross_entropy(gru.forward(letters, parameters)[0][None], label)[0][0]

    logits, kept = gru.forward(letters, parameters)
    _, gradient = gru.cross_entropy(logits[None], label)
    found = gru.backward(kept, gradient[0], parameters)[k]
    flat, step = parameters[k].reshape(-1), 1e-6
    for i in np.random.default_rng(k).permutation(len(flat))[:12]:
        before = flat[i]
        flat[i] = before + step
        up = loss()
        flat[i] = before - step
        down = loss()
        flat[i] = before
        assert found.ravel()[i] == pytest.approx((up - down) / (2 * step), rel=1e-5, abs=1e-9)


def run(op, case):
    return op(**{**case, "seed": np.uint64(case["seed"])} if op is compiled.train_gru else case)


@pytest.mark.parametrize("name", CASES)
def test_numba_run_errs_no_more_than_torchs(name, as_good_as):
    case = CASES[name]
    oracle, curve, record = gru.train_gru(**case)
    got, got_curve, got_record = run(compiled.train_gru, case)
    start = gru.train_gru(**{**case, "lr": case["lr"][:0]})[0]
    assert got.dtype == np.float32
    as_good_as("weight change", got - start, oracle - start, torch_run(case, torch.float32) - start)
    np.testing.assert_allclose(got_curve, curve, rtol=1e-5)
    np.testing.assert_allclose(got_record[::2], record[::2], rtol=1e-5)
    np.testing.assert_allclose(got_record[1::2], record[1::2], atol=1.5 / len(case["train_rows"]))


@pytest.mark.parametrize("name", CASES)
def test_untrained_networks_are_the_same_bits(name):
    case = {**CASES[name], "lr": np.zeros(0, np.float32)}
    np.testing.assert_array_equal(run(compiled.train_gru, case)[0], gru.train_gru(**case)[0].astype(np.float32))


def test_a_name_is_as_long_as_it_is():
    """More room past the longest name's end changes no bit."""
    case = CASES["odd"]
    roomy = {**case, "x": np.pad(case["x"], ((0, 0), (0, 9)), constant_values=case["alphabet"])}
    for op in (gru.train_gru, compiled.train_gru):
        for got, want in zip(run(op, roomy), run(op, case), strict=True):
            np.testing.assert_array_equal(got, want)


def test_every_parameter_moves_and_only_letters_that_were_read():
    case = {**CASES["odd"], "alphabet": 20}
    case["x"] = np.where(case["x"] == 11, 20, case["x"])  # letters 11 .. 19 are in no name
    starts = gru.initial_parameters(20, 7, 3, 7, 3, 5)
    for op in (gru.train_gru, compiled.train_gru):
        flat = run(op, case)[0]
        for start, end in zip(starts, np.cumsum([p.size for p in starts]), strict=True):
            change = flat[end - start.size : end].reshape(start.shape) - start.astype(np.float32)
            used = change[:11] if start is starts[0] else change
            assert (np.abs(used) > 0).mean() > 0.9
            assert start is not starts[0] or not change[11:].any()


@pytest.mark.parametrize("name", ["_logistic", "_tanh"])
def test_activations_to_float32_rounding(name):
    x = np.concatenate([np.linspace(-12, 12, 4001), np.geomspace(1e-30, 1e30, 601), -np.geomspace(1e-30, 1e30, 601)])
    x = x.astype(np.float32)
    exact = np.tanh(x.astype(np.float64)) if name == "_tanh" else (1 + np.tanh(x.astype(np.float64) / 2)) / 2
    got = np.array([getattr(gru_cell, name)(v) for v in x])
    assert (got.astype(np.float32) == got).all()
    wrong = np.abs(got - exact)
    assert wrong.max() < 1.5e-7
    if name == "_tanh":
        assert (wrong <= 3e-7 * np.abs(exact)).all()
    assert np.isnan(getattr(gru_cell, name)(np.float32(np.nan)))


@pytest.mark.parametrize("rows", [LANES, 5 * LANES])
@pytest.mark.parametrize("vectors", [1, 3, 24, 25, 49])
def test_a_matrix_times_a_vector(rows, vectors, as_good_as):
    columns = vectors * LANES
    rng = np.random.default_rng([rows, columns])
    matrix, a, b, start = (
        rng.standard_normal(shape).astype(np.float32) for shape in ((rows, columns), rows, columns, 2 * columns)
    )
    start = np.resize(start, max(rows, columns))
    out = np.full(max(rows, columns) + 3, np.nan, np.float32)
    row_product(np.repeat(a, 2), 1, 2, matrix.ravel(), 0, columns, rows, columns, start, 0, out, 3)
    oracle = start[:columns] + a.astype(np.float64) @ matrix.astype(np.float64)
    as_good_as("from the left", out[3 : 3 + columns], oracle, start[:columns] + a @ matrix)
    column_product(matrix.ravel(), 0, columns, b, 0, rows, columns, start, 0, out, 3)
    oracle = start[:rows] + matrix.astype(np.float64) @ b.astype(np.float64)
    as_good_as("from the right", out[3 : 3 + rows], oracle, start[:rows] + matrix @ b)


def test_a_network_blows_up_visibly():
    case = {**CASES["odd"], "lr": np.array([1e4, 1e6], np.float32)}
    parameters, curve, record = run(compiled.train_gru, case)
    assert not (np.abs(parameters) < 1e6).all()
    assert record.shape == (4,)
    assert curve.shape == (2,)


@pytest.mark.parametrize("name", CASES)
def test_no_array_outlives_its_run(name):
    """Compiled leaves count no references; an array they counted and never gave back would live for ever."""

    def alive():
        stats = rtsys.get_allocation_stats()
        return stats.alloc - stats.free

    run(compiled.train_gru, CASES[name])  # compiles, which allocates too
    before = alive()
    for _ in range(3):
        run(compiled.train_gru, CASES[name])
    assert alive() == before


def test_a_study_of_names(tmp_path, capsys):
    """9 tasks x 10 networks of width 32, 1,000 names each, by the command line; on NameData where there is one."""
    recipe = ["--epochs", "1", "--repeats", "10", "--width", "32", "--permutations", "0"]
    assert cli.main(["study", "--network", "gru2", "--data", "names", *recipe, "--out", str(tmp_path)]) == 0
    result = json.loads((tmp_path / "results.json").read_text())
    assert (result["networks"], result["tasks"], result["diverged"]) == (90, 9, 0)
    real = "WSFAST_DATA" in os.environ
    assert result["data"] == ("names" if real else "faker_surnames")
    assert ("not NameData" in result["source"]) == (not real)
    said = capsys.readouterr().out
    assert f"90 x gru2 on {result['data']}:" in said
    theirs = {(c["features"], c["protocol"], c["chain"]): c["published"] for c in result["cells"] if "published" in c}
    assert set(theirs) == set(product(("chain", "raw"), ("classification", "retrieval"), (1,)))
    assert theirs["chain", "retrieval", 1] == 0.957
    assert [line.split()[1:] for line in said.splitlines() if line.startswith("  published")] == [
        [number, "-", "-", "-"] for number in ("100.0", "95.7", "17.2", "21.3")
    ]
    cells = {(c["features"], c["chain"]): c for c in result["cells"] if c["protocol"] == "classification"}
    for chain in (1, 2, 3, 4):
        assert cells["chain", chain]["accuracy"] >= 0.9
        assert cells["raw", chain]["accuracy"] < 0.7
    untrained = [c for c in result["controls"] if c["control"] == "untrained"]
    assert min(c["p_chance"] for c in untrained) > 1e-3
    report = (tmp_path / "report.html").read_text()
    assert f"gru2 on {result['data']}" in report
    assert "<td>95.7</td>" in report
