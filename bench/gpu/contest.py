"""One case: every contender checked against float64, then all timed in turn, A B A B."""

import gc
import math
import time
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import torch

from bench.gpu import model, ours
from bench.gpu.cases import Case
from bench.gpu.device import products, wall
from bench.gpu.peers import bmm, cnn, loop, vmap, xla
from bench.gpu.peers.peer import Peer
from bench.peers.xla import missing

OURS = "wsfast"
MLP: dict[str, tuple[str, type[Peer], str]] = {  # family: name, class, whose bytes
    "bmm": ("bmm + CUDA graph", bmm.Bmm, "bmm"),
    "padded": ("bmm padded to 64 + CUDA graph", bmm.PaddedBmm, "bmm"),
    "vmap": ("torch.func.vmap + fused SGD", vmap.Vmap, "fused"),
    "jax": ("JAX jit(vmap(scan))", xla.Jax, "fused"),
    "graph": ("loop of networks, CUDA graph", loop.GraphLoop, "fused"),
    "loop": ("loop of networks, eager", loop.Loop, "fused"),
}
CNN: dict[str, tuple[str, type[Peer], str]] = {
    "grouped": ("convolutions in groups + CUDA graph", cnn.Grouped, "layers"),
    "vmap": ("torch.func.vmap + fused SGD", cnn.Vmap, "layers"),
    "jax": ("JAX jit(vmap(scan))", xla.JaxCnn, "layers"),
    "graph": ("loop of networks, channels last, CUDA graph", cnn.GraphLoop, "layers"),
    "loop": ("loop of networks, channels last, eager", cnn.Loop, "layers"),
}
PEERS = {"train_mlp": MLP, "train_cnn": CNN}
FAMILIES = list(dict.fromkeys([*MLP, *CNN]))
ALONE = ("graph", "loop")
EAGER = ("vmap", "loop")
GRADE = 4.0  # float32-grade arithmetic may err so many times what torch's own float32 errs
WORST = 1e-3  # rounding can carry a single network over a ReLU's kink; float32-grade, after four steps
LOOSE = {"tf32": 3e-2, "bf16": 1e-1}
RUN_EPOCHS = 50  # networks/s are whole runs of so many epochs
MIN_STEPS = 100
CHECK_LR = 0.1  # large steps: else the rounding of W, the same for all, hides the products' error


@dataclass
class Contender:
    """units: networks x steps of one epoch; state: the peer in training, None for ours; epochs: of one timed run."""

    name: str
    family: str
    precision: str
    variant: str
    status: str = "ok"
    units: int = 0
    networks: int = 0
    state: Peer | None = None
    short: int = 0
    epochs: int = 0
    errors: list[float] = field(default_factory=list)
    seconds: list[float] = field(default_factory=list)
    notes: dict[str, Any] = field(default_factory=dict)

    @property
    def ok(self) -> bool:
        return self.status == "ok"


def entrants(case: Case, device: str, peers_only: bool) -> list[Contender]:
    """The loop first: its float32 error is the measure of all others'."""
    known = PEERS[case.problem.op]
    found = [Contender(known[f][0], f, p, known[f][2]) for f, p in reversed(case.peers)]
    no_jax = missing(device) if any(c.family == "jax" for c in found) else None
    for c in found:
        if c.family == "jax" and no_jax:
            c.status = f"not measured: {no_jax}"
    for precision in case.ours:
        reason = "left out after a crash of this case" if peers_only else ours.missing(device, precision)
        status = f"not measured: {reason}" if reason else "ok"
        found.append(Contender(OURS, "ours", precision, case.size.ours, status))
    return found


def heats(found: list[Contender]) -> list[list[Contender]]:
    """All but JAX, then JAX beside ours: what its compiler takes may cost its own rows, no other's."""
    late = [c for c in found if c.family == "jax" and c.ok]
    first = [c for c in found if c not in late]
    return [first, late + [c for c in found if c.family == "ours"]] if late else [first]


def relative(got: np.ndarray, oracle: np.ndarray) -> float:
    return float(np.linalg.norm(got.astype(np.float64) - oracle) / np.linalg.norm(oracle))


class Arena:
    """A case's problem, its four-step version and what the float64 reference makes of that."""

    def __init__(self, case: Case, device: str) -> None:
        self.case, self.device = case, device
        size = case.size
        self.problem = case.problem(size, device)
        few_steps = replace(size, samples=min(size.samples, 2 * size.batch), epochs=2, lr=CHECK_LR)
        self.short = case.problem(few_steps, device, like=self.problem)
        spread = np.linspace(0, size.networks - 1, case.checked).astype(int)
        self.checked = torch.from_numpy(spread).to(device)
        self.starts = self.short.parameters(self.checked).astype(np.float64)
        self.changes = np.array([self.short.reference(i) for i in spread.tolist()]) - self.starts

    def peer(self, c: Contender, problem: Any, loops: torch.Tensor) -> Peer:
        networks = loops if c.family in ALONE else problem.everyone
        with products(c.precision):
            return PEERS[problem.op][c.family][1](problem, networks, c.precision)

    def errors(self, c: Contender) -> list[float]:
        """Of the weight change of each checked network, trained beside all others."""
        if c.family == "ours":
            found = ours.train(self.short, self.short.size.epochs, c.precision)[self.checked.cpu().numpy()]
        else:
            peer = self.peer(c, self.short, self.checked)
            with products(c.precision):
                peer.run(self.short.size.epochs)
            every = peer.parameters()
            found = (every if c.family in ALONE else every[self.checked.to(every.device)]).cpu().numpy()
        if not np.isfinite(found).all():
            raise ArithmeticError("weights that are not finite")
        return [relative(f - s, o) for f, s, o in zip(found, self.starts, self.changes, strict=True)]

    def prepare(self, c: Contender) -> None:
        """Ready to be timed, and how many epochs a timed run takes."""
        size, steps = self.case.size, self.case.size.steps
        least = math.ceil(MIN_STEPS / steps) if self.device == "cuda" else 1
        if c.family == "ours":
            c.networks, c.short = size.networks, 2
            trial = 10 if self.device == "cuda" else 1
            a, b = self.run(c, c.short), self.run(c, c.short + trial)
            one = max((b - a) / trial, 1e-4)
        else:
            c.state = self.peer(c, self.problem, self.problem.everyone[: self.case.few])
            c.networks = len(c.state.networks)
            c.notes |= c.state.notes
            self.run(c, 1)
            one = self.run(c, 1)
        c.units = c.networks * steps
        c.epochs = min(max(least, math.ceil(self.case.seconds / one)), 400)

    def run(self, c: Contender, epochs: int) -> float:
        """Seconds of so many epochs."""
        peer = c.state
        if peer is None:
            return wall(lambda: ours.train(self.problem, epochs, c.precision), self.device)
        with products(c.precision):
            return wall(lambda: peer.run(epochs), self.device)

    def sample(self, c: Contender) -> float:
        """Seconds of one network's step."""
        fixed = self.run(c, c.short) if c.short else 0.0
        return (self.run(c, c.short + c.epochs) - fixed) / (c.epochs * c.units)


def judged(c: Contender, torch_error: float) -> str:
    """`ok`, or why this contender's time must not be reported."""
    median, worst = float(np.median(c.errors)), max(c.errors)
    if c.precision in LOOSE:
        limit, worst_limit = LOOSE[c.precision], 2 * LOOSE[c.precision]
    else:
        limit, worst_limit = GRADE * max(torch_error, 2.0**-24), WORST
    if median <= limit and worst <= worst_limit:
        return "ok"
    return f"FAILED: errs {median:.1e}, worst {worst:.1e}, allowed {limit:.1e} and {worst_limit:.1e}"


def guarded(c: Contender, call: Callable[[], Any]) -> Any:
    """call(); an error becomes the contender's status, and the case goes on."""
    try:
        return call()
    except Exception as error:
        c.status = f"FAILED: {type(error).__name__}: {str(error)[:600]}"
        c.state = None
    return None


def tidy(device: str) -> None:
    gc.collect()
    if device == "cuda":
        torch.cuda.empty_cache()


def run(
    name: str,
    case: Case,
    device: str,
    ceilings: dict[str, Any],
    save: Callable[[list[dict[str, Any]]], None] = lambda rows: None,
    peers_only: bool = False,
) -> list[dict[str, Any]]:
    """The case's rows; `save` is called with those at hand after every round."""
    began = time.perf_counter()

    def say(text: str) -> None:
        print(f"  {time.perf_counter() - began:5.1f} s  {text}", flush=True)

    print(f"{name}: {case.size}", flush=True)
    found = entrants(case, device, peers_only)
    arena = Arena(case, device)
    say("float64 reference ready")
    torch_error = math.nan
    rows: list[dict[str, Any]] = []
    for heat in heats(found):
        for c in heat:
            if c.ok and not c.errors:
                c.errors = guarded(c, lambda c=c: arena.errors(c)) or []
                if c.errors:
                    if math.isnan(torch_error) and c.family != "ours" and c.precision == "fp32":
                        torch_error = float(np.median(c.errors))
                    c.status = judged(c, torch_error)
                if c.ok:
                    guarded(c, lambda c=c: arena.prepare(c))
                tidy(device)
            errs = f"errs {np.median(c.errors):.1e}" if c.errors else ""
            say(f"{c.name}, {c.precision}: {c.status[:200]} {errs}")
        for k in range(case.rounds):
            for c in heat:
                if c.ok:
                    c.seconds += [s for s in [guarded(c, lambda c=c: arena.sample(c))] if s is not None]
            rows = table(name, case, found, ceilings)
            save(rows)
            if k and time.perf_counter() - began > 0.8 * case.limit:
                say(f"stopped after {k + 1} of {case.rounds} rounds: out of time")
                break
    say("timed")
    return rows


def table(name: str, case: Case, found: list[Contender], ceilings: dict[str, Any]) -> list[dict[str, Any]]:
    """One row a contender; a contender that failed its check has no time, no ratio and beats nobody."""
    timed = [c for c in found if c.ok and c.seconds]
    peers = {(c.family, c.precision): float(np.median(c.seconds)) for c in timed if c.family != "ours"}
    order = ["ours", *FAMILIES]
    return [_row(name, case, c, ceilings, peers) for c in sorted(found, key=lambda c: order.index(c.family))]


def _best(peers: dict[tuple[str, str], float], family: str = "strongest", precision: str | None = None) -> float:
    """The fastest peer's time: of one family or all, at one precision or any; nan where none was measured."""
    times = [t for (f, p), t in peers.items() if family in (f, "strongest") and precision in (p, None)]
    return min(times, default=math.nan)


def _row(
    name: str, case: Case, c: Contender, ceilings: dict[str, Any], peers: dict[tuple[str, str], float]
) -> dict[str, Any]:
    size = case.size
    floor = size.floor(c.variant, c.precision, ceilings, c.family in EAGER, c.family in ALONE)
    row: dict[str, Any] = {"case": name, "size": str(size), "sizes": size.sizes, "batch": size.batch}
    row |= {"contender": c.name, "family": c.family, "precision": c.precision, "status": c.status, **c.notes}
    row |= {"error": float(np.median(c.errors)) if c.errors else None, "worst": max(c.errors, default=None)}
    row |= {"bytes": floor.bytes, "flop": floor.flop, "floor": floor.seconds, "bound": floor.bound}
    if not c.ok or not c.seconds:
        return row
    q1, median, q3 = np.quantile(c.seconds, (0.25, 0.5, 0.75)).tolist()
    if median <= 0:
        return row | {"status": "FAILED: the difference of the long and the short run is lost in noise"}
    row |= {"networks": c.networks, "scaled": c.networks < size.networks, "epochs": c.epochs, "seconds": c.seconds}
    row |= {"median": median, "q1": q1, "q3": q3, "networks_per_s": 1 / (median * RUN_EPOCHS * size.steps)}
    gbs, tflops = floor.bytes / median / 1e9, floor.flop / median / 1e12
    row |= {"gbs": gbs, "tflops": tflops, "of_copy": gbs / ceilings["copy"]}
    row |= {"of_product": tflops / model.rate(ceilings, c.precision), "of_floor": floor.seconds / median}
    like = "fp32" if c.precision in ("tf32x3", "fp32") else None  # float32-grade is compared with float32-grade
    ratio, ratio_any = _best(peers, precision=like) / median, _best(peers) / median
    row |= {"ratio": _finite(ratio), "ratio_any": _finite(ratio_any), "goals": []}
    if c.family == "ours":
        for family, goal in case.goals.items():
            got = _finite(_best(peers, family, like) / median)
            row["goals"].append({"over": family, "goal": goal, "ratio": got, "met": got is not None and got >= goal})
    return row


def _finite(x: float) -> float | None:
    return x if math.isfinite(x) else None
