"""The GPU benchmark's own code, on the CPU with tiny sizes."""

import inspect
import json
import os
import subprocess
import sys
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
import torch
import triton  # noqa: F401 - now, as conftest.py set it up: a test below unsets TRITON_INTERPRET
from wsfast.reference import cnn, mlp, philox

from bench.gpu import __main__ as main
from bench.gpu import cases, chains, contest, draws, headline, ours, page, pairs, recurrent, roofline, runner

ODD = cases.SMOKE["smoke-odd"]
CEILINGS = {"copy": 4000.0, "fp32": 50.0, "tf32": 400.0, "bf16": 700.0}


@pytest.fixture(autouse=True)
def one_thread():
    """Threads that wait for each other take longer than these tiny products."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture
def op(monkeypatch):
    """A stand-in for our ops: the float64 reference, network by network; `factor` 1 is right. An epoch takes 1 ms."""
    stand_in, run = SimpleNamespace(factor=1.0), contest.Arena.run
    monkeypatch.setattr(contest.Arena, "run", lambda *given: 0 * run(*given) + 1e-3 * given[2])

    def trained_by(exact):
        def train(x, tasks, jobs, *, lr, precision, device, **same):
            known = inspect.signature(exact).parameters
            given = {name: value for name, value in same.items() if name in known} | {"lr": lr * stand_in.factor}
            names = "train_rows", "train_labels", "test_rows", "test_labels"
            runs = [exact(x=x, **dict(zip(names, tasks[t], strict=True)), **given, task=t, repeat=r) for t, r in jobs]
            parameters, curves, records = (np.array(part) for part in zip(*runs, strict=True))
            return parameters.astype(np.float32), curves, records

        return train

    stand_in.train_mlp, stand_in.train_cnn = trained_by(mlp.train_mlp), trained_by(cnn.train_cnn)
    for module in ("mlp", "cnn"):
        monkeypatch.setitem(sys.modules, f"wsfast.kernels.triton.{module}", stand_in)
    monkeypatch.setenv("TRITON_INTERPRET", "1")
    return stand_in


def test_draws_are_the_references():
    repeats = torch.tensor([0, 5, 4999])
    weights, biases = draws.start([7, 13, 5], repeats)
    orders = draws.orders(37, 3, repeats)
    for k, repeat in enumerate(repeats.tolist()):
        expected = mlp.initial_parameters([7, 13, 5], draws.SEED, draws.TASK, repeat)
        for got, want in zip((weights, biases), expected, strict=True):
            for g, w in zip(got, want, strict=True):
                np.testing.assert_array_equal(g[k].numpy(), w)
        for e in range(3):
            np.testing.assert_array_equal(orders[e, k], philox.batch_order(37, e, draws.SEED, draws.TASK, repeat))


@pytest.mark.parametrize("name", cases.SMOKE)
def test_peers_agree_with_the_float64_reference(name):
    case = cases.SMOKE[name]
    arena = contest.Arena(case, "cpu")
    entrants = [c for c in contest.entrants(case, "cpu", peers_only=True) if c.ok]
    assert {family for family, _ in case.peers} - {"jax"} <= {c.family for c in entrants}
    for c in entrants:
        errors = arena.errors(c)
        assert len(errors) == case.checked
        assert max(errors) < 1e-3, c.name


def test_every_case_goes_through_without_our_op(tmp_path, monkeypatch):
    monkeypatch.delenv("TRITON_INTERPRET", raising=False)
    out = tmp_path / "run.json"
    run = runner.everything(cases.SMOKE_ORDER, "cpu", True, 5, out, runner.inside)
    assert json.loads(out.read_text()) == run
    assert runner.failures(run) == []
    own = [r for r in run["rows"] if r["family"] == "ours"]
    single = [r for name in runner.SINGLE for r in run[name]]
    own += [r for r in single if r["contender"] == "wsfast"]
    assert {r["status"] for r in [*own, *(run[name] for name in runner.HEADLINES)]} == {
        "not measured: TRITON_INTERPRET is unset"
    }
    timed = [r for r in run["rows"] if r["family"] not in ("ours", "jax")]
    assert all(r["status"] == "ok" and r["median"] > 0 for r in timed)
    peers = [r for r in single if not r["status"].startswith("not measured")]  # JAX may not be installed
    assert all(r["median"] > 0 and r["error"] < 1e-5 for r in peers)
    assert "TRITON_INTERPRET is unset" in page.run_text(run)
    roofline.draw(run, tmp_path / "roofline.svg")
    assert (tmp_path / "roofline.svg").read_text().count("<svg") == 1


@pytest.mark.parametrize("name", ["smoke-odd", "smoke-cnn"])
def test_our_op_is_called_timed_and_judged(name, op):
    case = cases.SMOKE[name]
    rows = contest.run(name, case, "cpu", CEILINGS)
    for row in (r for r in rows if r["family"] == "ours"):
        assert row["status"] == "ok"
        assert row["error"] < 1e-4
        assert [g["over"] for g in row["goals"]] == list(case.goals)
        assert row["ratio_any"] <= row["ratio"]


def test_a_wrong_op_gets_no_time(op):
    op.factor = 1.001
    rows = contest.run("smoke-odd", ODD, "cpu", CEILINGS)
    exact, loose = (r for r in rows if r["family"] == "ours")
    assert exact["status"].startswith("FAILED: errs")
    assert "median" not in exact
    assert loose["status"] == "ok"  # tf32 may err more
    assert runner.failures({"rows": rows, "wrong": {}})


def test_a_crash_is_recorded_and_the_others_go_on(op, monkeypatch):
    def crash(*_):
        raise RuntimeError("out of registers")

    monkeypatch.setattr(ours, "train", crash)
    rows = contest.run("smoke-odd", ODD, "cpu", CEILINGS)
    assert {r["status"] for r in rows if r["family"] == "ours"} == {"FAILED: RuntimeError: out of registers"}
    assert all("median" in r for r in rows if r["family"] in ("bmm", "loop"))
    assert "out of registers" in page.tables(rows)


@pytest.mark.parametrize("name", runner.HEADLINES)
def test_headlines(name, op):
    found = headline.run("cpu", headline.SMOKE[name], CEILINGS)
    assert (found["status"], found["alone_equal"], found["steps"]) == ("ok", True, 2 * 3)
    assert 0 <= found["train_accuracy"] <= 1
    assert "same bits: True" in page.headline(found)
    assert runner.failures({"rows": [], name: found, "wrong": {}}) == []


def test_a_headline_notices_other_bits(op, monkeypatch):
    whole = op.train_mlp

    def depends_on_company(jobs, **named):
        parameters, curves, records = whole(jobs=jobs, **named)
        return parameters * np.float32(1 + len(jobs) * 2.0**-22), curves, records

    monkeypatch.setattr(op, "train_mlp", depends_on_company)
    found = headline.run("cpu", headline.SMOKE["headline"], CEILINGS)
    assert found["status"].startswith("FAILED")
    assert runner.failures({"rows": [], "headline": found, "wrong": {}})


@pytest.mark.parametrize("case", chains.SMOKE, ids=lambda case: case.op)
def test_chain_kernels_are_timed_and_judged(case, monkeypatch):
    monkeypatch.setenv("TRITON_INTERPRET", "1")
    goal = replace(case, goal=1e-9 if case.op == "chain_gram" else 1e9)
    rows = chains.contest(goal, "cpu", CEILINGS)
    assert {r["status"] for r in rows} == {"ok"}
    assert max(r["error"] for r in rows if r["precision"] != "tf32") < 1e-6
    exact, loose = (r for r in rows if r["contender"] == "wsfast")
    assert exact["met"]
    assert "goal" not in loose
    assert exact["ratio"] == pytest.approx(min(r["median"] for r in rows if r["precision"] == "fp32") / exact["median"])
    assert ": met |" in page.chain_tables(rows)


def test_a_wrong_chain_kernel_gets_no_time(monkeypatch):
    monkeypatch.setenv("TRITON_INTERPRET", "1")
    right = ours.chain
    monkeypatch.setattr(ours, "chain", lambda op, x, precision: right(op, x, precision) * 1.00001)
    exact, loose = (r for r in chains.contest(chains.SMOKE[0], "cpu", CEILINGS) if r["contender"] == "wsfast")
    assert exact["status"].startswith("FAILED: errs 1.0e-05")
    assert "median" not in exact
    assert loose["status"] == "ok"
    assert "FAILED" in page.chain_tables([exact])
    assert runner.failures({"rows": [], "chains": [exact], "wrong": {}})


def test_a_chain_kernel_that_depends_on_company_or_crashes_fails(monkeypatch):
    monkeypatch.setenv("TRITON_INTERPRET", "1")
    right = ours.chain
    monkeypatch.setattr(ours, "chain", lambda op, x, precision: right(op, x, precision) * (1 + len(x) * 2.0**-40))
    rows = [r for r in chains.contest(chains.SMOKE[1], "cpu", CEILINGS) if r["contender"] == "wsfast"]
    assert {r["status"] for r in rows} == {"FAILED: networks alone and among all others got other bits"}

    def crash(*_):
        raise RuntimeError("out of registers")

    monkeypatch.setattr(ours, "chain", crash)
    rows = [r for r in chains.contest(chains.SMOKE[0], "cpu", CEILINGS) if r["contender"] == "wsfast"]
    assert {r["status"] for r in rows} == {"FAILED: RuntimeError: out of registers"}


@pytest.mark.parametrize("made", pairs.SMOKE, ids=["correlation", "lines", "lines of names"])
def test_pairs_are_timed_and_judged(made, monkeypatch):
    monkeypatch.setenv("TRITON_INTERPRET", "1")
    case = replace(made("cpu"), goal=1e-9, rounds=1, few=2)
    rows = pairs.contest(case, "cpu", CEILINGS)
    assert {r["contender"] for r in rows} == set(case.ways)
    assert {r["status"] for r in rows} == {"ok"}
    assert max(r["error"] for r in rows if r["precision"] != "tf32") < 1e-6
    exact, *loose = (r for r in rows if r["contender"] == "wsfast")
    assert exact["met"]
    assert len(loose) == len(case.precisions) - 1
    assert not any("goal" in r for r in loose)
    assert exact["ratio"] == pytest.approx(min(r["median"] for r in rows if r["precision"] == "fp32") / exact["median"])
    assert "1e-09x: met |" in page.chain_tables(rows)


@pytest.mark.parametrize(("change", "told"), [(1.0001, "FAILED: errs"), (None, "FAILED: a pair alone")])
@pytest.mark.parametrize(("made", "op"), list(zip(pairs.SMOKE, ("correlation", "lines", "name_lines"), strict=True)))
def test_wrong_pairs_get_no_time(made, op, change, told, monkeypatch):
    """Wrong by a factor, or by what is computed beside a pair."""
    monkeypatch.setenv("TRITON_INTERPRET", "1")
    right = getattr(ours, op)

    def wrong(where, some, *precision):
        return right(where, some, *precision) * (change or 1 + len(some) * 2.0**-24)

    monkeypatch.setattr(ours, op, wrong)
    rows = pairs.contest(replace(made("cpu"), rounds=1), "cpu", CEILINGS)
    exact = next(r for r in rows if r["contender"] == "wsfast")
    assert exact["status"].startswith(told)
    assert "median" not in exact
    assert "FAILED" in page.chain_tables([exact])
    assert runner.failures({"rows": [], "pairs": rows, "wrong": {}})


def test_recurrent_networks_are_timed_and_judged(monkeypatch):
    monkeypatch.setenv("TRITON_INTERPRET", "1")
    monkeypatch.setattr(recurrent, "SMOKE", replace(recurrent.SMOKE, goal=1e-9, goal_seconds=1e9))
    rows = [r for r in recurrent.run("cpu", True, CEILINGS) if not r["status"].startswith("not measured: Module")]
    assert [r["status"] for r in rows if r["contender"] != recurrent.JAX] == ["ok"] * 3
    assert max(r["error"] for r in rows) < 1e-5
    assert rows[-1]["met"]
    assert rows[-1]["ratio"] == pytest.approx(min(r["median"] for r in rows[:-1]) / rows[-1]["median"])
    assert "1e-09x and 1e+09 s: met" in page.gru_table(rows)


@pytest.mark.parametrize(("change", "told"), [(1.001, "FAILED: errs"), (None, "FAILED: a network alone")])
def test_wrong_recurrent_networks_get_no_time(change, told, monkeypatch):
    """Wrong by a factor, or by what runs beside a network."""
    monkeypatch.setenv("TRITON_INTERPRET", "1")
    reference = recurrent.gru.train_gru

    def train(problem, networks):
        found = np.array([reference(**problem.arguments(i))[0] for i in networks])
        return found * (change or 1 + len(networks) * 2.0**-40)

    monkeypatch.setattr(ours, "recurrent", train)
    rows = recurrent.run("cpu", True, CEILINGS)
    assert rows[-1]["status"].startswith(told)
    assert "median" not in rows[-1]
    assert "FAILED" in page.gru_table(rows)
    assert runner.failures({"rows": [], "recurrent": rows, "wrong": {}})


def test_page_without_a_run_says_so(tmp_path, monkeypatch):
    monkeypatch.setattr(page, "RESULTS", tmp_path)
    monkeypatch.setattr(page, "PAGE", tmp_path / "GPU.md")
    page.write()
    text = (tmp_path / "GPU.md").read_text()
    assert "no run on a GPU is stored" in text
    assert "12.8 s" in text
    assert "gru2 of 128, 900 networks x 10,000 names, 7 letters each: 3." in text


def test_a_crashed_case_is_tried_again_without_our_op(tmp_path, monkeypatch):
    monkeypatch.setattr(runner, "kernel_tests", lambda limit: "FAILED: 3 failed")
    rows = [{"case": "mlp4", "family": f, "precision": "fp32", "status": "FAILED: CUDA error"} for f in ("ours", "bmm")]
    calls = []

    def call(name, device, smoke, ceilings, peers_only, limit):
        calls.append((name, peers_only))
        if name == "ceilings":
            return {"ceilings": CEILINGS}, ""
        better = [{**rows[0], "status": "not measured"}, {**rows[1], "status": "ok", "median": 1.0}]
        return {"rows": better if peers_only else rows}, ""

    run = runner.everything(["tests", "ceilings", "mlp4"], "cuda", False, 5, tmp_path / "run.json", call)
    assert calls == [("ceilings", False), ("mlp4", False), ("mlp4", True)]
    assert [r["status"] for r in run["rows"]] == ["FAILED: CUDA error", "ok"]
    assert runner.failures(run)[1:] == ["tests: FAILED: 3 failed"]


def test_a_case_alone_is_put_among_the_earlier_ones(tmp_path, monkeypatch):
    """And needs no ceilings of its own; the file keeps all else."""
    out = tmp_path / "run.json"
    monkeypatch.setattr(main.page, "run_text", lambda run: "")

    def run(*arguments):
        monkeypatch.setattr(sys, "argv", ["bench.gpu", "--out", str(out), *arguments])
        with pytest.raises(SystemExit) as done:
            main.main()
        return done.value.code

    def everything(order, *arguments, before=None):
        calls.append(order)
        return original(order, "cuda", False, 5, out, call, before=before)

    def call(name, device, smoke, ceilings, peers_only, limit):
        row = {"case": name, "family": "bmm", "precision": "fp32", "status": "ok", "median": len(calls)}
        return ({"ceilings": CEILINGS} if name == "ceilings" else {} if name == "compile" else {"rows": [row]}), ""

    original, calls = runner.everything, []
    monkeypatch.setattr(runner, "everything", everything)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda: "A Card")
    assert run("--only", "mlp4", "plainnet5") == 0
    assert run("--only", "mlp4") == 0
    assert calls == [["compile", "ceilings", "mlp4", "plainnet5"], ["compile", "mlp4"]]
    stored = json.loads(out.read_text())
    assert {r["case"]: r["median"] for r in stored["rows"]} == {"mlp4": 2, "plainnet5": 1}
    assert len(stored["rows"]) == 2
    out.write_text(json.dumps({**stored, "commit": "another"}))
    assert "was measured at commit another: name another with --out" in run("--only", "mlp4")


def test_tests_that_take_too_long_tell_how_far_they_came():
    command = [sys.executable, "-c", "import time; print('so far', flush=True); time.sleep(60)"]
    assert runner.bounded(command, 2, stdout=subprocess.PIPE) == ("so far\n", "", "stopped after 2 s")


KEYS = """
import os, sys
from pathlib import Path
import torch
import triton.compiler
from triton.compiler.compiler import make_backend
from triton.runtime.cache import get_cache_key
from triton.runtime.jit import JITFunction
torch.set_num_threads(1)
seen = {}

def note(src, target, options):
    backend = make_backend(target)
    seen[get_cache_key(src, backend, backend.parse_options(options), {})] = src.name, src.constants

triton.compiler.compile = note
from bench.gpu import __main__ as main
from bench.gpu import cases, launches, runner
from wsfast.kernels.triton import aot
cases.ALL.clear(), cases.CNN.clear()   # no peers
for launch in launches.needed(True):
    aot.compile_for(launch, aot.TARGETS["sm_90"])
compiled, launch = dict(seen), JITFunction.run
seen.clear()
JITFunction.run = lambda self, *given, grid, warmup, **named: launch(self, *given, grid=grid, warmup=True, **named)
os.environ["TRITON_INTERPRET"] = "1"   # read already; now ours are called
runner.everything(cases.SMOKE_ORDER, "cpu", True, 5, Path(sys.argv[1]), runner.inside)
assert {name for name, _ in seen.values()} >= {"_first_kernel", "_convolve_kernel", "_dots_kernel", "_between_kernel"}
missing = [seen[key] for key in seen.keys() - compiled.keys()]
assert not missing, missing
"""


def test_what_is_launched_is_found_compiled(tmp_path):
    """Triton's keys of all that a run launches, asked for by its own launch, are among those compiled before it."""
    env = {k: v for k, v in os.environ.items() if k != "TRITON_INTERPRET"}
    subprocess.run([sys.executable, "-c", KEYS, tmp_path / "run.json"], env=env, check=True, timeout=300)


def test_a_process_of_its_own_that_hangs_is_stopped():
    part, wrong = runner.child("ceilings", "cpu", True, {}, False, limit=0.01)
    assert (part, wrong) == ({}, "stopped after 0 s")


def test_the_error_of_a_process_of_its_own_is_told():
    part, wrong = runner.child("no such case", "cpu", True, CEILINGS, False, limit=60)
    assert part == {}
    assert wrong == "the process ended with 1: KeyError: 'no such case'"
