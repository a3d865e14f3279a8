"""gru2 on single names: ours beside an nn.GRU loop, bmm by hand under a CUDA graph and JAX, all checked by float64.

Peers start from ready weights and drawn names and are timed over their steps only; ours is the whole call: weights,
draws, training, evaluation.
"""

from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import numpy as np
import torch
from wsfast.reference import gru

from bench.gpu import model, ours
from bench.gpu.chains import guarded
from bench.gpu.contest import judged, relative
from bench.gpu.device import wall
from bench.gpu.peers.peer import captured
from bench.names import Names
from bench.peers import gru_bmm, gru_jax, gru_loop, xla

OURS, BMM, LOOP = "wsfast", "bmm, padded names, CUDA graph", "loop of networks, nn.GRU"
JAX = "JAX jit(vmap(scan)), padded names"
SHORT = 4  # steps of the comparison with float64


@dataclass(frozen=True)
class Case:
    """networks x steps is the run. few: networks the loop trains, peer_steps: what peers are timed over, their time
    being proportional to both; samples: names of the task; goal: ratio to the best peer; goal_seconds: of the run."""

    hidden: int
    networks: int
    steps: int
    peer_steps: int
    few: int
    rounds: int
    samples: int = 64
    goal: float | None = None
    goal_seconds: float | None = None

    def __str__(self) -> str:
        return f"gru2 of {self.hidden}, {self.networks:,} networks x {self.steps:,} names"


CASE = Case(128, 900, 10_000, 200, 2, 3, goal=3.0, goal_seconds=8.0)
SMOKE = Case(9, 3, 3, 3, 2, 2, samples=4)


class Bmm:
    """A step of all networks as one CUDA graph, names padded to the longest of all; on a CPU the same, eagerly."""

    def __init__(self, problem: Names) -> None:
        self.problem = problem
        self.state = gru_bmm.Networks(problem, torch.arange(problem.networks, device=problem.device))
        self.call = captured(self.step, problem.drawn[:, :1, None], self.reset)

    def step(self, drawn: torch.Tensor) -> None:
        """drawn [N, 1, 1]."""
        self.state.step(drawn[:, 0, 0], self.problem.letters.shape[1])

    def reset(self) -> None:
        for held, start in zip(self.state.held, self.problem.parameters, strict=True):
            held.copy_(start)

    def run(self) -> None:
        """The problem's steps, on from where the last run stopped."""
        for k in range(self.problem.steps):
            self.call(self.problem.drawn[:, k : k + 1, None])

    def parameters(self) -> torch.Tensor:
        return self.state.parameters()


def peer(name: str, problem: Names) -> Bmm | gru_jax.Networks:
    """All networks of the problem, ready to run."""
    return Bmm(problem) if name == BMM else gru_jax.Networks(problem, torch.arange(problem.networks))


def trained(name: str, problem: Names, networks: list[int]) -> np.ndarray:
    """These networks' parameters [n, P], trained beside all others but for the loop's."""
    if name == OURS:
        return ours.recurrent(problem, range(problem.networks))[networks]
    if name == LOOP:
        return gru_loop.train(problem, torch.tensor(networks)).cpu().numpy()
    every = peer(name, problem)
    every.run()
    return every.parameters().cpu().numpy()[networks]


def timed(name: str, case: Case, device: str) -> tuple[Callable[[], Any], int, int]:
    """(what is timed, compiled by now; its networks, its steps)."""
    if name == OURS:
        whole = Names(case.hidden, case.networks, case.steps, case.samples, device=device)
        return partial(ours.recurrent, whole, range(case.networks)), case.networks, case.steps
    networks = case.few if name == LOOP else case.networks
    problem = Names(case.hidden, networks, case.peer_steps, case.samples, device=device)
    if name == LOOP:
        return partial(gru_loop.train, problem, torch.arange(networks)), networks, case.peer_steps
    every = peer(name, problem)
    every.run()
    return every.run, networks, case.peer_steps


@dataclass
class Contender:
    """seconds: of one network's step."""

    name: str
    precision: str
    status: str = "ok"
    errors: list[float] = field(default_factory=list)
    seconds: list[float] = field(default_factory=list)


class Arena:
    """The comparison with float64 after SHORT steps."""

    def __init__(self, case: Case, device: str) -> None:
        self.problem = Names(case.hidden, case.networks, SHORT, case.samples, device=device)
        self.some = sorted({0, case.networks // 2, case.networks - 1})
        self.starts = [self.problem.initial(i) for i in self.some]
        self.ends = [gru.train_gru(**self.problem.arguments(i))[0] for i in self.some]
        self.measure = 0.0  # the loop's error: that of torch's own float32

    def check(self, c: Contender) -> None:
        got = trained(c.name, self.problem, self.some)
        c.errors = [relative(g - s, e - s) for g, s, e in zip(got, self.starts, self.ends, strict=True)]
        self.measure = self.measure or float(np.median(c.errors))
        c.status = judged(c, self.measure)
        if c.status == "ok" and c.name == OURS:
            alone = ours.recurrent(self.problem, self.some[:1])
            if not np.array_equal(got[:1], alone):
                c.status = "FAILED: a network alone and among all others got other bits"


def run(device: str, smoke: bool, ceilings: dict[str, Any]) -> list[dict[str, Any]]:
    """One row a contender."""
    case = SMOKE if smoke else CASE
    print(f"train_gru: {case}", flush=True)
    reason = ours.missing(device, "ieee")
    no_jax = xla.missing(device)
    found = [Contender(LOOP, "fp32"), Contender(BMM, "fp32")]
    found.append(Contender(JAX, "fp32", f"not measured: {no_jax}" if no_jax else "ok"))
    found.append(Contender(OURS, "ieee", f"not measured: {reason}" if reason else "ok"))
    arena, calls = Arena(case, device), {}
    for c in found:
        if c.status == "ok":
            guarded(c, partial(arena.check, c))
        if c.status == "ok":
            calls[c.name] = guarded(c, partial(timed, c.name, case, device))
        print(f"  {c.name}: {c.status[:200]} errs {max(c.errors, default=0):.1e}", flush=True)
    for _ in range(case.rounds):
        for c in found:
            if c.status == "ok":
                call, networks, steps = calls[c.name]
                seconds = guarded(c, partial(wall, call, device))
                c.seconds += [seconds / (networks * steps)] if seconds else []
    return [row(case, c, found, ceilings, arena.problem.mean_length) for c in found]


def row(case: Case, c: Contender, found: list[Contender], ceilings: dict[str, Any], letters: float) -> dict[str, Any]:
    floor = model.gru_floor(case.hidden, letters, ceilings)
    known: dict[str, Any] = {"case": "train_gru", "size": str(case), "contender": c.name, "precision": c.precision}
    known |= {"status": c.status, "error": float(np.median(c.errors)) if c.errors else None}
    known |= {"floor": floor.seconds, "bound": floor.bound}
    if c.status != "ok" or not c.seconds:
        return known
    q1, median, q3 = np.quantile(c.seconds, (0.25, 0.5, 0.75)).tolist()
    known |= {"seconds": c.seconds, "median": median, "q1": q1, "q3": q3, "of_floor": floor.seconds / median}
    known["run_seconds"] = median * case.networks * case.steps
    rivals = [float(np.median(p.seconds)) for p in found if p.name != OURS and p.seconds]
    known["ratio"] = min(rivals) / median if rivals else None
    if c.name == OURS and case.goal is not None:
        known |= {"goal": case.goal, "goal_seconds": case.goal_seconds}
        fast = known["ratio"] is not None and known["ratio"] >= case.goal
        known["met"] = fast and known["run_seconds"] <= case.goal_seconds
    return known
