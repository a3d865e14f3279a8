"""Correlations of units and losses on lines, of many pairs of networks: ours beside a loop over pairs and vmap.

Every way starts from the same arrays, those of a line's ends on the host, and leaves its numbers on the host.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import cache, partial
from typing import Any

import numpy as np
import torch
from torch.func import vmap
from wsfast.reference import correlation, interpolate

from bench.gpu import model, ours
from bench.gpu.chains import GRADE, LOOSE, OURS, Contender, compete, row
from bench.lines import Case as LinesCase
from bench.lines import Lines
from bench.name_lines import NameCase, NameLines
from bench.peers import interpolate_gru, interpolate_loop, interpolate_vmap

NETWORKS = 46  # 1,035 pairs
CHECKED = 2  # pairs compared with float64
FEW = 50  # pairs that a loop does, whose time is proportional to them, where no case says otherwise
LOOP, ONCE, VMAP = "loop of pairs", "loop of pairs, standardised once", "torch.func.vmap"


@dataclass(frozen=True)
class Case:
    """A contest. ways: name -> call(pairs int64 [n], precision) -> [n, ...] on the host; exact(pair), in float64; few:
    pairs that a loop does."""

    op: str
    size: str
    pairs: int
    ways: dict[str, Callable[[torch.Tensor, str], np.ndarray]]
    exact: Callable[[int], np.ndarray]
    floor: Callable[..., model.Floor]  # of the contender's precision, ceilings and whether it is ours
    goal: float | None
    rounds: int = 5
    few: int = FEW
    precisions: tuple[str, ...] = ("tf32x3", "tf32")  # ours

    def __str__(self) -> str:
        return self.size


def unit(x: torch.Tensor) -> torch.Tensor:
    x = x - x.mean(dim=-1, keepdim=True)
    return x / x.norm(dim=-1, keepdim=True)


def correlations(pairs: int, units: int, samples: int, device: str, goal: float | None) -> Case:
    """Random activations of NETWORKS networks, or as few as have so many pairs."""
    networks = next(n for n in range(2, NETWORKS + 1) if n * (n - 1) // 2 >= pairs)
    host = np.random.default_rng(units).random((networks, units, samples), np.float32)
    x, every = torch.from_numpy(host).to(device), np.stack(np.triu_indices(networks, 1), axis=1)[:pairs]

    def loop(some: torch.Tensor, precision: str) -> np.ndarray:
        found = [torch.corrcoef(torch.cat([x[i], x[j]]))[:units, units:] for i, j in every[some]]
        return torch.stack(found).cpu().numpy()

    def once(some: torch.Tensor, precision: str) -> np.ndarray:
        z = unit(x)
        return torch.stack([z[i] @ z[j].mT for i, j in every[some]]).cpu().numpy()

    def mapped(some: torch.Tensor, precision: str) -> np.ndarray:
        z = unit(x)
        return vmap(lambda a, b: a @ b.mT)(z[every[some, 0]], z[every[some, 1]]).cpu().numpy()

    def own(some: torch.Tensor, precision: str) -> np.ndarray:
        return ours.correlation(x, every[some], precision)

    return Case(
        "correlation",
        f"{pairs:,} pairs, {units} units, {samples} samples",
        pairs,
        {LOOP: loop, ONCE: once, VMAP: mapped, OURS: own},
        cache(lambda i: correlation.correlation(host, host, every[i : i + 1])[0]),
        lambda c, ceilings: model.correlation_floor(networks, pairs, units, samples, c.precision, ceilings),
        goal,
    )


def curves(given: LinesCase, device: str, together: int) -> Case:
    """together: pairs that vmap takes at a time."""
    problem = Lines(given, device)

    def floor(c: Contender, ceilings: dict[str, Any]) -> model.Floor:
        where = problem.sizes.tolist(), given.samples, len(problem.points), given.pairs
        return model.lines_floor(*where, c.precision, ceilings, blended=not c.ours)

    return Case(
        "interpolate",
        str(given),
        given.pairs,
        {
            LOOP: lambda some, precision: interpolate_loop.curves(problem, some).cpu().numpy(),
            VMAP: lambda some, precision: interpolate_vmap.curves(problem, some, together).cpu().numpy(),
            OURS: lambda some, precision: ours.lines(problem, some.numpy(), precision),
        },
        cache(lambda i: problem.call(interpolate.interpolate_mlp, i)),
        floor,
        given.goal,
    )


def curves_of_names(given: NameCase, device: str) -> Case:
    """torch.func maps no nn.GRU."""
    problem = NameLines(given, device)

    def floor(c: Contender, ceilings: dict[str, Any]) -> model.Floor:
        where = problem.size, problem.flop, len(problem.points), given.pairs
        return model.name_lines_floor(*where, c.precision, ceilings, blended=not c.ours)

    return Case(
        "interpolate",
        str(given),
        given.pairs,
        {
            LOOP: lambda some, precision: interpolate_gru.curves(problem, some).cpu().numpy(),
            OURS: lambda some, precision: ours.name_lines(problem, some.numpy()),
        },
        cache(lambda i: problem.call(interpolate.interpolate_gru, i)),
        floor,
        given.goal,
        rounds=3,
        few=8,
        precisions=("ieee",),
    )


CASES: list[Callable[[str], Case]] = [
    lambda device: correlations(1000, 100, 512, device, 10.0),
    lambda device: correlations(200, 500, 512, device, 10.0),
    lambda device: correlations(1000, 128, 4096, device, 10.0),
    lambda device: curves(LinesCase(64, 32, 360, 1000, 10.0), device, 1000),
    lambda device: curves(LinesCase(3072, 500, 1000, 64, 10.0), device, 16),
    lambda device: curves_of_names(NameCase(128, 464, 200, 10.0), device),
]
SMOKE: list[Callable[[str], Case]] = [
    lambda device: correlations(3, 5, 13, device, None),
    lambda device: curves(LinesCase(9, 5, 11, 2), device, 1),
    lambda device: curves_of_names(NameCase(5, 2, 2), device),
]


def entrants(case: Case, device: str) -> list[Contender]:
    """The loop in float32 first: its error is the measure of all others'."""
    everyone, found = torch.arange(case.pairs), []
    for name, way in case.ways.items():
        for precision in case.precisions if name == OURS else ("fp32", "tf32"):
            some = everyone[: case.few] if name in (LOOP, ONCE) else everyone
            reason = ours.missing(device, precision) if name == OURS else None
            status = f"not measured: {reason}" if reason else "ok"
            call = partial(way, some, precision)
            found.append(Contender(name, precision, call, status, share=len(some) / case.pairs))
    return found


def check(case: Case, c: Contender, library: float) -> None:
    """One call: the worst error of the pairs compared with float64, and whether ours are the same bits alone."""
    got = c.call()
    errors = []
    for i in range(CHECKED):
        want = case.exact(i)
        errors.append(float(np.linalg.norm(got[i] - want) / np.linalg.norm(want)))
    c.error = max(errors)
    limit = LOOSE if c.precision == "tf32" else GRADE * max(library, 2.0**-24)
    if not c.error <= limit:
        c.status = f"FAILED: errs {c.error:.1e}, allowed {limit:.1e}"
    elif c.ours and not np.array_equal(case.ways[OURS](torch.tensor([1]), c.precision)[0], got[1]):
        c.status = "FAILED: a pair alone and among all others got other bits"


def contest(case: Case, device: str, ceilings: dict[str, Any]) -> list[dict[str, Any]]:
    """One row a contender."""
    found = entrants(case, device)
    compete(f"{case.op}: {case}", found, partial(check, case), case.rounds, device)
    return [row(case, c, found, case.floor(c, ceilings), ceilings) for c in found]


def run(device: str, smoke: bool, ceilings: dict[str, Any], save: Callable[[Any], None] = lambda rows: None) -> Any:
    rows: list[dict[str, Any]] = []
    for made in SMOKE if smoke else CASES:
        rows += contest(made(device), device, ceilings)
        save(rows)
    return rows
