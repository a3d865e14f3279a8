"""GPU.md: every stored run on a GPU, or, while there is none, what the model predicts."""

import json
from itertools import groupby
from typing import Any

from bench.gpu import cases, chains, model, recurrent, roofline, runner
from bench.names import LENGTHS
from bench.page import HERE, RESULTS, duration

PAGE = HERE / "GPU.md"
HEAD = """# Results on a GPU

Made by `python -m bench.gpu` from `results/gpu-*.json`; `python -m bench.gpu --page` makes it again.
"""
LEGEND = """
How to read the tables. Time: median and quartiles of interleaved rounds, for one step of one network. Every contender
has the same initial weights, batches and recipe; peers are timed over their steps only, ours as the difference of a
long and a short run; the headline counts everything. A loop trains a few networks, and its time is proportional to
them; each network's weights then stay in the cache. Networks/s: whole runs of 50 epochs at the median. GB/s and
TFLOP/s: bytes of weights and operations by formula (`gpu/model.py`) over the median, beside their share of the copy
rate and of the large product's rate, measured in the same run (tf32x3: a third of tf32). Floor: the larger of memory,
compute and launch time at those rates. Ratio: the fastest peer's time over this one's, for float32-grade rows
(fp32, tf32x3) among peers in fp32; "any" among all peers. Error: of the weight change after four steps against
float64, the checked networks' median and worst. A row whose error is too large has no time.

chain_gram and chain_kernel: one call for all networks, their factors on the device; ours counts half of what is
symmetric, as it computes no more. Ratio: the fastest library row of the same grade over this one. Peak beside inputs:
the device memory that one call added at most. Error: the worst of three networks' Grams, or of the nine entries of K
that they make.

correlation and interpolate: one call for all pairs. Everyone leaves the numbers on the host and reads a line's ends
from there; floors leave these transfers out. A loop does some of the pairs, and its time is scaled. Ratio as for
chain_gram. Error: the worst of the pairs that are compared with float64.

train_gru: each step a single name. Peers are timed over some of the steps, the loop over some of the networks, and
scaled; ours is the whole run with initial weights, draws and evaluation. Error: as in training, after four steps.
"""
HEADER = "| | products | time | quartiles | networks/s | GB/s | of copy | TFLOP/s | of product | floor | of floor "
HEADER += "| ratio | any | goals | error | worst |"

CHAIN_HEADER = "| | products | time of a call | quartiles | GB/s | of copy | TFLOP/s | of product | floor | of floor "
CHAIN_HEADER += "| ratio | goal | peak beside inputs | error |"

GRU_HEADER = "| | products | the run | step of one network | quartiles | floor | of floor | ratio | goal | error |"


def goals(row: dict[str, Any]) -> str:
    told = []
    for g in row["goals"]:
        ratio = "not measured" if g["ratio"] is None else f"{g['ratio']:.3g}x, {'met' if g['met'] else 'missed'}"
        told.append(f"{g['goal']:g}x {g['over']}: {ratio}")
    return "; ".join(told)


def _number(x: float | None, form: str) -> str:
    return "" if x is None else format(x, form)


def _line(r: dict[str, Any]) -> str:
    name = f"| {r['contender']} | {r['precision']} "
    errors = f"| {_number(r['error'], '.1e')} | {_number(r['worst'], '.1e')} |"
    if "median" not in r:
        told = " ".join(r["status"].replace("|", "/").split())[:200]
        return f"{name}| {told} | | | | | | | {duration(r['floor'])} ({r['bound']}) | | | | {errors}"
    return (
        f"{name}| {duration(r['median'])} | {duration(r['q1'])} to {duration(r['q3'])} | {r['networks_per_s']:,.3g} "
        f"| {r['gbs']:,.0f} | {r['of_copy']:.0%} | {r['tflops']:.3g} | {r['of_product']:.0%} "
        f"| {duration(r['floor'])} ({r['bound']}) | {r['of_floor']:.0%} | {_number(r['ratio'], '.2f')} "
        f"| {_number(r['ratio_any'], '.2f')} | {goals(r)} {errors}"
    )


def notes(rows: list[dict[str, Any]]) -> str:
    told = [f"{r['contender']}, {r['precision']}: {r['graph']}" for r in rows if "graph" in r]
    told += [
        f"{r['contender']}, {r['precision']}: compiled in {r['compile_seconds']:.1f} s, not counted"
        for r in rows
        if "compile_seconds" in r
    ]
    told += [f"{r['contender']}: timed on {r['networks']} networks, scaled" for r in rows if r.get("scaled")]
    return "".join(f"- {line}\n" for line in told)


def tables(rows: list[dict[str, Any]]) -> str:
    """One Markdown table a case."""
    text = ""
    for (name, size), group in groupby(rows, lambda r: (r["case"], r["size"])):
        own = list(group)
        lines = "\n".join(map(_line, own))
        text += f"\n### {name}: {size}\n\n{HEADER}\n{'|---' * 16}|\n{lines}\n\n{notes(own)}"
    return text


def ceilings(c: dict[str, Any]) -> str:
    products = ", ".join(f"{p} {c[p]:.3g}" for p in ("fp32", "tf32", "bf16"))
    k128 = ", ".join(f"{p} {v['tflops']:.3g} TFLOP/s and {v['gbs']:,.0f} GB/s" for p, v in c["batched"].items())
    said = f"copy {c['copy']:,.0f} GB/s (read + written); large product {products} TFLOP/s"
    return f"Ceilings of this run: {said}; batched weight gradient with K = 128: {k128}."


def headline(h: dict[str, Any]) -> str:
    if not h:
        return "A headline: not measured."
    text = f"**Headline**, {h['size']}, batch {h['batch']}, {h['precision']}: "
    if "seconds" not in h:
        return text + h["status"]
    text += f"{h['seconds']:.1f} s end to end ({h['networks_per_s']:,.0f} networks/s), floor {h['floor']:.1f} s "
    text += f"(memory {h['memory_floor']:.1f}, compute {h['compute_floor']:.1f})"
    text += f", goal {h['goal']:g} s: {'met' if h['met'] else 'missed'}" if h["goal"] else ""
    text += f". Accuracy: train {h['train_accuracy']:.1%} (least {h['train_accuracy_least']:.1%}), "
    text += f"test {h['test_accuracy']:.1%}. Three networks alone had the same bits: {h['alone_equal']}."
    return text if h["status"] == "ok" else f"{text} {h['status']}"


def _met(r: dict[str, Any]) -> str:
    if "goal" not in r:
        return ""
    unit = " s" if r["case"] == "chain_kernel" else "x"
    return f"{r['goal']:g}{unit}: {'met' if r['met'] else 'missed'}"


def _chain_line(r: dict[str, Any]) -> str:
    head = f"| {r['contender']} | {r['precision']} "
    floor, memory = f"{duration(r['floor'])} ({r['bound']})", r.get("beside_inputs")
    tail = f"| {'' if memory is None else f'{memory / 1e9:.2f} GB'} | {_number(r['error'], '.1e')} |"
    if "median" not in r:
        told = " ".join(r["status"].replace("|", "/").split())[:200]
        return f"{head}| {told} | | | | | | {floor} | | | {tail}"
    return (
        f"{head}| {duration(r['median'])} | {duration(r['q1'])} to {duration(r['q3'])} | {r['gbs']:,.0f} "
        f"| {r['of_copy']:.0%} | {r['tflops']:.3g} | {r['of_product']:.0%} | {floor} | {r['of_floor']:.0%} "
        f"| {_number(r['ratio'], '.2f')} | {_met(r)} {tail}"
    )


def chain_tables(rows: list[dict[str, Any]]) -> str:
    """One Markdown table an op and size; time of one call for all networks or pairs."""
    text = ""
    for (op, size), group in groupby(rows, lambda r: (r["case"], r["size"])):
        lines = "\n".join(map(_chain_line, group))
        text += f"\n### {op}: {size}\n\n{CHAIN_HEADER}\n{'|---' * 14}|\n{lines}\n"
    return text


def _gru_line(r: dict[str, Any]) -> str:
    head, error = f"| {r['contender']} | {r['precision']} ", _number(r["error"], ".1e")
    floor = f"{duration(r['floor'])} ({r['bound']})"
    if "median" not in r:
        return f"{head}| {' '.join(r['status'].replace('|', '/').split())[:200]} | | | {floor} | | | | {error} |"
    goal = ""
    if "goal" in r:
        goal = f"{r['goal']:g}x and {r['goal_seconds']:g} s: {'met' if r['met'] else 'missed'}"
    return (
        f"{head}| {duration(r['run_seconds'])} | {duration(r['median'])} | {duration(r['q1'])} to {duration(r['q3'])} "
        f"| {floor} | {r['of_floor']:.0%} | {_number(r['ratio'], '.2f')} | {goal} | {error} |"
    )


def gru_table(rows: list[dict[str, Any]]) -> str:
    """The recurrent networks; the run: of all networks and steps, at the median of what was timed."""
    if not rows:
        return ""
    lines = "\n".join(map(_gru_line, rows))
    return f"\n### {rows[0]['case']}: {rows[0]['size']}\n\n{GRU_HEADER}\n{'|---' * 10}|\n{lines}\n"


def run_text(run: dict[str, Any]) -> str:
    """One run, as Markdown."""
    packages = ", ".join(f"{k} {v}" for k, v in run["versions"].items())
    text = f"\n## {run['gpu'].get('name', 'no GPU')}, {run['time'][:10]}\n\n"
    text += f"Commit {run['commit']}; {packages}; host {run['device']}.\n"
    if "tests" in run:
        text += f"Tests of the kernels: {run['tests'].strip().splitlines()[-1].strip('= ')}.\n"
    if "compile" in run:
        text += "Before the cases {launches} launches were compiled, in {seconds:.0f} s.\n".format(**run["compile"])
    if run["ceilings"]:
        headlines = "\n\n".join(headline(run.get(name, {})) for name in runner.HEADLINES)
        text += f"{ceilings(run['ceilings'])}\n\n{headlines}\n\n{tables(run['rows'])}"
        text += chain_tables(run.get("chains", []) + run.get("pairs", [])) + gru_table(run.get("recurrent", []))
    wrong = "".join(f"- {name}: {what}\n" for name, what in run["wrong"].items())
    return text + (f"\nWent wrong:\n\n{wrong}" if wrong else "")


def predictions() -> str:
    """What the model says of an H200, before anything is measured."""
    top = model.ASSUMED
    products = ", ".join(f"{p} {top[p]:.0f}" for p in ("fp32", "tf32", "bf16"))
    rates = f"copy {top['copy']:,.0f} GB/s, {products} TFLOP/s"
    text = "\n**Not measured yet: no run on a GPU is stored.** What follows are predictions of `gpu/model.py`, none\n"
    text += f"of them a measurement, for an H200 under assumed ceilings ({rates}).\n"
    text += "\nPredicted time that 5,000 networks x 300 steps need to move their weights:\n\n"
    text += "| | bytes of a network's step | d = 3072 | d = 12288 |\n|---|---|---|---|\n"
    for variant, (first, rest) in model.BYTES.items():
        times = [model.run_seconds([d, 500, 500, 500, 2], variant, 5000, 300, top) for d in (3072, 12288)]
        name = f"wsfast ({variant})" if variant == "merged" else variant
        text += f"| {name} | {first} P1 + {rest} (P - P1) | {times[0]:.1f} s | {times[1]:.1f} s |\n"
    text += "\nPredicted floors, one step of one network (the larger of memory, compute and launch time):\n\n"
    text += "| | wsfast tf32x3 | wsfast tf32 | wsfast bf16 | bmm fp32 | bmm tf32 | vmap fp32 |\n"
    text += f"{'|---' * 7}|\n"
    for case in (c for c in cases.CONTEST.values() if c.problem.op == "train_mlp"):
        cells = []
        mine = case.size.ours
        for variant, precision in (
            (mine, "tf32x3"),
            (mine, "tf32"),
            (mine, "bf16"),
            ("bmm", "fp32"),
            ("bmm", "tf32"),
            ("fused", "fp32"),
        ):
            floor = case.size.floor(variant, precision, top, eager=variant == "fused", alone=False)
            cells.append(f"{duration(floor.seconds)} ({floor.bound})")
        text += f"| {case.size} | {' | '.join(cells)} |\n"
    text += "\nThe same for convolutional networks, activations moved and operations counted (layers: one of torch's\n"
    text += "after the other):\n\n| | wsfast tf32 | wsfast tf32x3 | wsfast bf16 | layers fp32 | layers tf32 |\n"
    text += f"{'|---' * 6}|\n"
    for case in (c for c in cases.CONTEST.values() if c.problem.op == "train_cnn"):
        ways = [("units", "tf32"), ("units", "tf32x3"), ("units", "bf16"), ("layers", "fp32"), ("layers", "tf32")]
        floors = [case.size.floor(variant, precision, top, eager=False, alone=False) for variant, precision in ways]
        text += f"| {case.size} | {' | '.join(f'{duration(f.seconds)} ({f.bound})' for f in floors)} |\n"
    text += "\nPredicted floors of one call of the chain kernels, factors on the device (the library's ways compute\n"
    text += "both halves of what is symmetric):\n\n"
    text += "| | wsfast tf32x3 | wsfast tf32 | library fp32 | library tf32 | goal of tf32x3 |\n"
    text += f"{'|---' * 6}|\n"
    for c in chains.CASES:
        cells = []
        for precision, triangle in (("tf32x3", True), ("tf32", True), ("fp32", False), ("tf32", False)):
            floor = model.chain_floor(c.op, c.n, c.d, c.r, precision, top, triangle)
            cells.append(f"{duration(floor.seconds)} ({floor.bound})")
        goal = f"{c.goal:g}x the library's fp32" if c.op == "chain_gram" else f"{c.goal:g} s, {chains.SPARE / 1e9:g} GB"
        text += f"| {c.op}, {c} | {' | '.join(cells)} | {goal} |\n"
    case = recurrent.CASE
    letters = (LENGTHS[0] + LENGTHS[1]) / 2
    floor = model.gru_floor(case.hidden, letters, top)
    run = floor.seconds * case.networks * case.steps
    text += f"\nPredicted floor of {case}, {letters:g} letters each: {run:.1f} s ({floor.bound}); "
    return f"{text}goal: {case.goal_seconds:g} s and {case.goal:g}x the best peer.\n"


def write() -> None:
    """Make GPU.md and each run's figure from every stored run, the newest first."""
    text = HEAD
    files = sorted(RESULTS.glob("gpu-*.json"), reverse=True)
    for file in files:
        run = json.loads(file.read_text())
        text += run_text(run)
        if any("median" in r for r in run["rows"]):
            figure = file.with_name(f"gpu-roofline-{file.stem.removeprefix('gpu-')}.svg")
            roofline.draw(run, figure)
            text += f"\n![Roofline](results/{figure.name})\n"
    PAGE.write_text(text + (LEGEND if files else predictions()))
