"""MILLION.md: what a million networks would take, computed from the rates that are stored in results/."""

import json
import math
import re
from collections.abc import Iterator
from dataclasses import dataclass
from textwrap import fill
from typing import Any

import wsfast
from bench.bench_chain_kernel import Case
from bench.contest import OURS
from bench.page import HERE, RESULTS, duration
from wsfast.chains import factor_shape
from wsfast.describing import in_bytes
from wsfast.recipe import NAMES, PAPER, Recipe
from wsfast.ridge import PENALTIES
from wsfast.storage import networks_per_shard

N = 10**6
CORES = (64, 1024)
FEWER = (N // 100, N // 10)  # networks of a square kernel
QUERIES, TRAIN = 1000, 0.6  # rows of an oblong kernel; the share of a study's networks that train
MEMORY, CHAIN = 4 * 10**9, 2  # bytes of a task that computes a block of the kernel of this chain


@dataclass(frozen=True)
class Population:
    """Networks of one kind, and how the stored row begins whose rate they have.

    samples: training samples a task; batch: the row's.
    """

    name: str
    network: wsfast.Network
    recipe: Recipe
    samples: float
    batch: int
    case: str

    @property
    def size(self) -> int:
        """Bytes of one network's parameters."""
        return 4 * sum(p.size for p in self.network.parameters)

    @property
    def steps(self) -> float:
        """Of one network, counted in the row's whole batches."""
        return self.recipe.epochs * (self.recipe.steps or self.samples) / self.batch


def populations() -> list[Population]:
    digits = wsfast.tasks("digits")
    rows = sum(len(t.train_rows) for t in digits.tasks) / len(digits)
    small = wsfast.network("mlp4", digits.shape, 2, digits.width)
    image, pair = (3, 32, 32), 2 * 500  # two classes of CIFAR-100
    mlp4, plain = wsfast.network("mlp4", image, 2, 500), wsfast.network("plainnet5", image, 2, 32)
    gru2 = wsfast.network("gru2", (11, 58), 2, 128)
    conv = "plainnet5 of 32 channels on 3x32x32, batch 128"
    return [
        Population("mlp4, pairs of digits", small, digits.recipe, rows, 32, "64-100-100-100-2, batch 32"),
        Population("mlp4, pairs of CIFAR-100", mlp4, PAPER, pair, 128, "3072-500-500-500-2, batch 128"),
        Population("plainnet5, pairs of CIFAR-100", plain, PAPER, pair, 128, conv),
        Population("gru2, surnames", gru2, NAMES, 0, 1, "GRU 58-128-128-2, batch 1"),
    ]


def newest(pattern: str) -> dict[str, Any] | None:
    """The last stored run; its file's name tells the date."""
    files = sorted(RESULTS.glob(pattern))
    return json.loads(files[-1].read_text()) if files else None


def measured() -> dict[str, Any]:
    """The last run of the CPU benchmarks, with what it left out from the last one of that machine that has it."""
    files = sorted(RESULTS.glob("[0-9]*.json"), reverse=True)
    last, *before = (json.loads(file.read_text()) for file in files)
    for run in before:
        has = {row["part"] for row in last["rows"]}
        if run["device"] == last["device"]:
            last["rows"] += [row for row in run["rows"] if row["part"] not in has]
    return last


def step_seconds(run: dict[str, Any] | None, case: str) -> float | None:
    """Of one network's step: the stored median; None where there is none."""
    rows = [] if run is None else run["rows"]
    found = [r["median"] for r in rows if r.get("contender") == OURS and r["case"].startswith(case) and "median" in r]
    return min(found, default=None)


def hours(seconds: float) -> str:
    return "under 1 s" if seconds < 1 else duration(seconds) if seconds < 600 else f"{seconds / 3600:,.3g} h"


def training(cpu: dict[str, Any], gpu: dict[str, Any] | None, cores: int) -> Iterator[str]:
    columns = "".join(f" {c:,} cores | written a second |" for c in CORES)
    yield f"| | a network | the set | networks a shard | tasks | core-seconds a network |{columns} one GPU |"
    yield "|---" * (7 + 2 * len(CORES)) + "|"
    for p in populations():
        shard, step, on_gpu = networks_per_shard(p.size), step_seconds(cpu, p.case), step_seconds(gpu, p.case)
        line = f"| {p.name} | {in_bytes(p.size)} | {in_bytes(N * p.size)} | {shard:,} | {-(-N // shard):,} |"
        if step is None:
            line += " not measured yet |" + " | |" * len(CORES)
        else:
            one = cores * step * p.steps
            line += f" {one:.3g} |" + "".join(f" {hours(N * one / c)} | {in_bytes(c * p.size / one)} |" for c in CORES)
        yield f"{line} {'not measured yet' if on_gpu is None else hours(N * on_gpu * p.steps)} |"


def kernels(cpu: dict[str, Any], cores: int) -> Iterator[str]:
    yield "| d, r | networks | matrix | factors | operations |" + "".join(f" {c:,} cores |" for c in CORES)
    yield "|---" * (5 + len(CORES)) + "|"
    for row in cpu["rows"]:
        if row["suite"] != "chain_kernel" or row["contender"] != OURS:
            continue
        _, d, r = map(int, re.findall(r"= (\d+)", row["case"]))
        shapes = [(n, n, Case("chain_kernel", n, d, r).flop) for n in (*FEWER, N)]
        oblong = Case("chain_gram", QUERIES + N, d, r).flop + QUERIES * N * d * (d + 1)
        for a, b, flop in [*shapes, (QUERIES, N, oblong)]:
            seconds = flop / (row["gflops"] * 1e9 / cores)
            times = "".join(f" {hours(seconds / c)} |" for c in CORES)
            yield (
                f"| {d}, {r} | {a:,} x {b:,} | {in_bytes(8 * a * b)} | {in_bytes(4 * b * d * r)} | {flop:.2g} |{times}"
            )


def reading(p: Population) -> str:
    """How often the square kernel, by tasks of MEMORY, reads a set, in words."""
    read = 4 * sum(w.size for w in p.network.chain(CHAIN))
    run = MEMORY // (2 * (read + 4 * math.prod(factor_shape(p.network, CHAIN))))
    return f"{run:,} networks of {p.name}, so that each is read {N // run:,} times, {in_bytes(N // run * N * read)}"


def paragraph(text: str) -> str:
    bullet = text.startswith("- ")
    return fill(text, 120, subsequent_indent="  " * bullet, break_long_words=False, break_on_hyphens=False)


def write() -> None:
    """Make MILLION.md from the newest runs."""
    (HERE / "MILLION.md").write_text(text())


def text() -> str:
    cpu, gpu = measured(), newest("gpu-*.json")
    found = re.search(r"(\d+) cores", cpu["device"])
    assert found is not None
    cores, wide = int(found[1]), populations()[1]
    d = wide.network.parameters[0].shape[0]
    sections = [
        "# A million networks",
        f"Made by `python -m bench --page` from the rates measured last on {cpu['device']}. Nothing "
        f"here has been run at this size. Core-seconds: the stored median on all {cores} cores, times {cores}. More "
        "cores count in proportion, each as fast as those: networks do not wait for one another, but wide ones share "
        "their machine's memory and will be slower side by side. Ray's own time, milliseconds a task, is left out. One "
        "GPU: " + (f"{gpu['device']}." if gpu else "no run on one is stored yet."),
        f"## Training {N:,} networks",
        "`wsfast generate --engine ray --address HOST:PORT --out DIR`: a task a shard, on one processor or GPU. The "
        "driver alone writes, a shard at a time, what stands beside the hours. Where that is more than its disk and "
        "network take, they are the limit; then a driver and a folder for each part of the tasks. A killed driver goes "
        "on from the shards on disk.",
        "\n".join(training(cpu, gpu, cores)),
        "## N x N kernels",
        '`chain_kernel(zoo, engine="ray")`: a task a pair of runs of networks, its block of the matrix to the driver, '
        "which holds the whole in float64. Operations by formula (Grams, then each pair once) at the stored rate for "
        f"the same d and r, measured on far fewer networks. With {in_bytes(MEMORY)} a task has runs of {reading(wide)} "
        "in all. Every pair of runs makes its Grams anew: 2 r / s more operations with runs of s networks.",
        "\n".join(kernels(cpu, cores)),
        f"## What not to try with {N:,}",
        f"- The square kernel: {in_bytes(8 * N * N)} in the driver's memory.",
        "- `study` of all of them: the same kernels, and for ridge and the permuted labelings "
        f"{in_bytes(_inverses(N))} of inverses ({len(PENALTIES)} penalties, {TRAIN:.0%} train) after as many "
        f"factorisations of {(TRAIN * N) ** 3 / 3:.1g} multiplications.",
        f"- Grams in memory: {in_bytes(4 * N * d * d)} at d = {d}.",
        "## What to do instead",
        f"- Queries against the set: `chain_kernel(queries, zoo)`, {in_bytes(8 * QUERIES * N)} for {QUERIES:,} of "
        "them, or `search(query, zoo)` for one.",
        f"- A study of every hundredth: `study(zoo[::{N // FEWER[0]}])`, kernels of {in_bytes(8 * FEWER[0] ** 2)}, "
        f"inverses of {in_bytes(_inverses(FEWER[0]))}. Its exact intervals tell what {FEWER[0]:,} networks leave open.",
        '- A classifier without a kernel: `WeightClassifier(solver="sgd-primal")`, d x d weights a class. It reads the '
        "set in each of its 10 epochs and holds 256 MiB of factors at a time.",
    ]
    parts = [s if s.startswith(("#", "|")) else paragraph(s) for s in sections]
    return "\n\n".join(parts).replace("\n\n- ", "\n- ") + "\n"


def _inverses(n: int) -> float:
    """Bytes of the inverses that ridge keeps in a study of n networks."""
    return len(PENALTIES) * 8 * (TRAIN * n) ** 2
