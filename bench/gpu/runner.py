"""Cases one after the other, each in a process of its own: one that crashes or hangs costs its own rows only."""

import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from bench.gpu import cases

Part = dict[str, Any]  # {"ceilings": ...}, {"rows": ...}, {"headline": ...} or a list of rows as {name: ...}
Save = Callable[[Part], None]
SINGLE = "chains", "pairs", "recurrent"  # cases that are not a contest of training
HEADLINES = "headline", "headline-cnn"


def work(name: str, device: str, smoke: bool, ceilings: Part, peers_only: bool, save: Save) -> Part:
    """One case in this process."""
    from bench.gpu import ceilings as top
    from bench.gpu import chains, contest, headline, pairs, recurrent

    if name == "compile":
        from bench.gpu import launches  # with every kernel

        return {"compile": launches.compile_all(smoke)}
    if name == "ceilings":
        from bench.gpu.device import describe

        return {"ceilings": top.measure(device, smoke), "gpu": describe(device)}
    if name in HEADLINES:
        return {name: headline.run(device, (headline.SMOKE if smoke else headline.SCALES)[name], ceilings)}
    if name == "chains":
        return {"chains": chains.run(device, smoke, ceilings, lambda rows: save({"chains": rows}))}
    if name == "pairs":
        return {"pairs": pairs.run(device, smoke, ceilings, lambda rows: save({"pairs": rows}))}
    if name == "recurrent":
        return {"recurrent": recurrent.run(device, smoke, ceilings)}
    case = (cases.SMOKE if smoke else cases.CONTEST)[name]
    rows = contest.run(name, case, device, ceilings, lambda rows: save({"rows": rows}), peers_only)
    return {"rows": rows}


def bounded(command: list[str], limit: float, **pipes: Any) -> tuple[str, str, str]:
    """(stdout, stderr, why it was no success or "") of a command; at the limit it is ended with its own processes."""
    with subprocess.Popen(command, text=True, process_group=0, **pipes) as process:
        wrong = ""
        try:
            out, err = process.communicate(timeout=limit)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            out, err = process.communicate()
            wrong = f"stopped after {limit:.0f} s"
        except BaseException:  # Ctrl-C above all, which a group of its own does not hear
            os.killpg(process.pid, signal.SIGKILL)
            raise
    return out or "", err or "", wrong or (f"the process ended with {process.returncode}" if process.returncode else "")


def child(name: str, device: str, smoke: bool, ceilings: Part, peers_only: bool, limit: float) -> tuple[Part, str]:
    """(what the case left, what went wrong or "") of one case in a process of its own."""
    with tempfile.TemporaryDirectory() as folder:
        part = Path(folder) / "part.json"
        given = Path(folder) / "ceilings.json"
        given.write_text(json.dumps(ceilings))
        command = [sys.executable, "-m", "bench.gpu", "--case", name, "--given", str(given), "--part", str(part)]
        command += ["--smoke"] * smoke + ["--peers-only"] * peers_only
        _, err, wrong = bounded(command, limit, stderr=subprocess.PIPE)
        print(err, end="", file=sys.stderr)
        if wrong and err:
            wrong += f": {err.strip().splitlines()[-1][:600]}"
        return (json.loads(part.read_text()) if part.exists() else {}), wrong


def inside(name: str, device: str, smoke: bool, ceilings: Part, peers_only: bool, limit: float) -> tuple[Part, str]:
    """As `child`, in this process."""
    return work(name, device, smoke, ceilings, peers_only, lambda part: None), ""


def timed(part: Part) -> bool:
    return any("median" in r for r in part.get("rows", []))


def own(part: Part) -> list[Part]:
    return [r for r in part.get("rows", []) if r["family"] == "ours"]


def failures(run: Part) -> list[str]:
    """Everything that must turn the exit status red."""
    every = [*run["rows"], *(row for name in SINGLE for row in run.get(name, []))]
    every += [{"case": name, **run[name]} for name in HEADLINES if name in run]
    rows = [r for r in every if str(r.get("status", "")).startswith("FAILED")]
    names = [f"{r['case']}, {r.get('contender', 'wsfast')}, {r['precision']}" for r in rows]
    told = [f"{name}: {r['status']}" for name, r in zip(names, rows, strict=True)]
    if run.get("tests", "").startswith("FAILED"):
        told.append(f"tests: {run['tests'].splitlines()[-1]}")
    return told + [f"{name}: {wrong}" for name, wrong in run["wrong"].items()]


def kernel_tests(limit: float) -> str:
    """The last lines of the tests of every Triton kernel on this machine's GPU, on all cores: most is compiling."""
    files = sorted(str(f) for f in Path("tests").glob("test_triton_*.py"))
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "--numprocesses=auto"]
    print("tests:", *files, flush=True)
    said, _, wrong = bounded([*command, "--dist=worksteal", *files], limit, stdout=subprocess.PIPE)
    print(said[-2000:], flush=True)
    return f"FAILED: {said[-2000:]}\n{wrong}" if wrong else said[-2000:]


def everything(
    order: list[str],
    device: str,
    smoke: bool,
    minutes: float,
    out: Path,
    call: Callable[..., Any] = child,
    before: Part | None = None,
) -> Part:
    """The whole run, written to `out` after every case. before: a run whose other cases are kept."""
    from wsfast import provenance

    began = time.monotonic()
    run: Part = {**provenance.record(), "gpu": {}, "smoke": smoke, "ceilings": {}, "rows": []}
    run |= {"wrong": {}, "minutes": 0.0, **(before or {})}
    spent = run["minutes"]
    out.parent.mkdir(parents=True, exist_ok=True)

    def left() -> float:
        return 60 * minutes - (time.monotonic() - began)

    for name in order:
        run["wrong"].pop(name, None)
        if left() < 20:
            run["wrong"][name] = f"not measured: out of time (--only {name} adds it)"
        elif name == "tests":
            run["tests"] = kernel_tests(min(left(), cases.LIMITS[name]))
        elif name not in ("compile", "ceilings") and not run["ceilings"]:
            run["wrong"][name] = "not measured: no ceilings"
        else:
            limit = min(left(), cases.LIMITS.get(name, 120.0))
            part, wrong = call(name, device, smoke, run["ceilings"], False, limit)
            if name in cases.CONTEST and not timed(part) and left() > 40:  # ours may have taken the peers with it
                again, _ = call(name, device, smoke, run["ceilings"], True, min(left(), limit))
                peers = [r for r in again.get("rows", []) if r["family"] != "ours"]
                part = {"rows": (own(part) or own(again)) + peers}
            if wrong:
                run["wrong"][name] = wrong
            run["rows"] = [r for r in run["rows"] if r["case"] != name] + part.pop("rows", [])
            run |= part
        run["minutes"] = spent + (time.monotonic() - began) / 60
        out.write_text(json.dumps(run, indent=1) + "\n")
    return run
