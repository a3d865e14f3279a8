"""X X^T of many networks and the N x N kernel beside the library's ways, each checked against float64."""

from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import numpy as np
import torch

from bench.gpu import model, ours
from bench.gpu.device import products, wall

OURS = "wsfast"
GRADE = 8.0  # float32-grade arithmetic may err so many times what the library's float32 errs
LOOSE = 1e-2  # what tf32 may err
SPARE = 2e9  # bytes of device memory beside the inputs that the N x N kernel may take at its peak
TILE = 256  # of G in the library's way; a larger one would pass SPARE


@dataclass(frozen=True)
class Case:
    """goal: the ratio to the fastest library row of the same grade, for chain_kernel seconds."""

    op: str
    n: int
    d: int
    r: int
    goal: float | None
    rounds: int = 5

    def __str__(self) -> str:
        return f"{self.n:,} networks, d = {self.d}, r = {self.r}"


CASES = [
    Case("chain_gram", 5000, 512, 500, 1.5),
    Case("chain_gram", 64, 3072, 500, 1.5),
    Case("chain_gram", 64, 3072, 64, 1.5),
    Case("chain_kernel", 5000, 3072, 500, 4.0, rounds=2),
]
SMOKE = [Case("chain_gram", 3, 21, 5, None, 2), Case("chain_kernel", 4, 33, 5, None, 2)]


@dataclass
class Contender:
    """share: of the work that a call does, whose time is scaled."""

    name: str
    precision: str
    call: Callable[[], Any]
    status: str = "ok"
    share: float = 1.0
    error: float | None = None
    seconds: list[float] = field(default_factory=list)
    notes: dict[str, Any] = field(default_factory=dict)

    @property
    def ours(self) -> bool:
        return self.name == OURS


def tiles_by_bmm(x: torch.Tensor) -> torch.Tensor:
    """The N x N kernel without our kernels: a tile of G of all networks by bmm, its dot products by addmm."""
    n, d, _ = x.shape
    kernel = torch.zeros(n, n, device=x.device)
    for p in range(0, d, TILE):
        for q in range(0, p + 1, TILE):
            g = torch.bmm(x[:, p : p + TILE], x[:, q : q + TILE].mT).flatten(1)
            kernel.addmm_(g, g.T, alpha=1 if p == q else 2)
    return kernel


def entrants(case: Case, x: torch.Tensor, device: str) -> list[Contender]:
    """The library's float32 first: its error is the measure of all others'."""
    peers: dict[str, Callable[[], torch.Tensor]] = {"bmm + addmm, tile by tile": partial(tiles_by_bmm, x)}
    if case.op == "chain_gram":
        peers = {
            "torch.bmm": lambda: torch.bmm(x, x.mT),
            "X @ X.mT": lambda: x @ x.mT,
            "torch.einsum": lambda: torch.einsum("nik,njk->nij", x, x),
        }
    found = [Contender(name, precision, call) for precision in ("fp32", "tf32") for name, call in peers.items()]
    for precision in ("tf32x3", "tf32"):
        reason = ours.missing(device, precision)
        status = f"not measured: {reason}" if reason else "ok"
        found.append(Contender(OURS, precision, partial(ours.chain, case.op, x, precision), status))
    return found


def error(case: Case, x: torch.Tensor, got: Any) -> float:
    """Against float64, of three networks: ||G_i - want|| / ||want||, or of their nine entries of K; the worst."""
    some = np.linspace(0, case.n - 1, 3).astype(int).tolist()
    if case.op == "chain_gram":
        wants = [x[i].double() @ x[i].double().T for i in some]
        return max(float((got[i] - w).norm() / w.norm()) for i, w in zip(some, wants, strict=True))
    wants = [((x[i].double().T @ x[j].double()) ** 2).sum() for i in some for j in some]
    entries = [got[i, j] for i in some for j in some]
    return max(abs(float(k) / float(w) - 1) for k, w in zip(entries, wants, strict=True))


def check(case: Case, c: Contender, x: torch.Tensor, device: str, library: float) -> None:
    """One call: its error, its peak memory, and for our N x N kernel the bits of three networks alone."""
    if device == "cuda":
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
    got = c.call()
    if device == "cuda":
        c.notes["beside_inputs"] = torch.cuda.max_memory_allocated() - before
    c.error = error(case, x, got)
    limit = LOOSE if c.precision == "tf32" else GRADE * max(library, 2.0**-24)
    if not c.error <= limit:
        c.status = f"FAILED: errs {c.error:.1e}, allowed {limit:.1e}"
    if c.ours and case.op == "chain_kernel":
        some = [0, case.n // 2, case.n - 1]
        alone = ours.chain(case.op, x[some], c.precision)
        c.notes["alone_equal"] = bool(np.array_equal(alone, got[np.ix_(some, some)]))
        if not c.notes["alone_equal"]:
            c.status = "FAILED: networks alone and among all others got other bits"


def guarded(c: Contender, call: Callable[[], Any]) -> Any:
    """The call's answer; what it raises is written into the contender's status."""
    try:
        with products(c.precision):
            return call()
    except Exception as wrong:  # Triton's and cuBLAS's errors have no common class; the row's status tells it
        c.status = f"FAILED: {type(wrong).__name__}: {str(wrong)[:300]}"
        return None


def compete(
    title: str, found: list[Contender], check: Callable[[Contender, float], None], rounds: int, device: str
) -> None:
    """All contenders checked, by check(contender, the first one's error), then timed in turn."""
    print(title, flush=True)
    library = 0.0
    for c in found:
        if c.status == "ok":
            guarded(c, partial(check, c, library if library else float("inf")))
            library = library or c.error or 0.0
        told = "" if c.error is None else f"errs {c.error:.1e}"
        print(f"  {c.name}, {c.precision}: {c.status[:200]} {told}", flush=True)
        if device == "cuda":
            torch.cuda.empty_cache()
    for _ in range(rounds):
        for c in found:
            if c.status == "ok":
                c.seconds += [s / c.share for s in [guarded(c, partial(wall, c.call, device))] if s is not None]


def contest(case: Case, device: str, ceilings: dict[str, Any]) -> list[dict[str, Any]]:
    """One row a contender."""
    generator = torch.Generator(device).manual_seed(case.d)
    x = torch.randn(case.n, case.d, case.r, device=device, generator=generator)
    found = entrants(case, x, device)
    compete(f"{case.op}: {case}", found, lambda c, library: check(case, c, x, device, library), case.rounds, device)

    def floor(c: Contender) -> model.Floor:
        return model.chain_floor(case.op, case.n, case.d, case.r, c.precision, ceilings, triangle=c.ours)

    return [row(case, c, found, floor(c), ceilings) for c in found]


def row(
    case: Any, c: Contender, found: list[Contender], floor: model.Floor, ceilings: dict[str, Any]
) -> dict[str, Any]:
    """case: with op, goal and its size as a string."""
    known: dict[str, Any] = {"case": case.op, "size": str(case), "contender": c.name, "precision": c.precision}
    known |= {"status": c.status, "error": c.error, "floor": floor.seconds, "bound": floor.bound, **c.notes}
    if c.status != "ok" or not c.seconds:
        return known
    q1, median, q3 = np.quantile(c.seconds, (0.25, 0.5, 0.75)).tolist()
    known |= {"seconds": c.seconds, "median": median, "q1": q1, "q3": q3, "gbs": floor.bytes / median / 1e9}
    tflops = floor.flop / median / 1e12
    known |= {"tflops": tflops, "of_product": tflops / model.rate(ceilings, c.precision)}
    known |= {"of_copy": known["gbs"] / ceilings["copy"], "of_floor": floor.seconds / median}
    like = "tf32" if c.precision == "tf32" else "fp32"  # float32-grade is compared with float32-grade
    rivals = [float(np.median(p.seconds)) for p in found if not p.ours and p.precision == like and p.seconds]
    known["ratio"] = min(rivals) / median if rivals else None
    if c.ours and case.goal is not None and c.precision in ("tf32x3", "ieee"):
        known["goal"] = case.goal
        if case.op != "chain_kernel":
            known["met"] = known["ratio"] is not None and known["ratio"] >= case.goal
        else:
            known["met"] = median <= case.goal and c.notes.get("beside_inputs", 0) <= SPARE
    return known


def run(device: str, smoke: bool, ceilings: dict[str, Any], save: Callable[[Any], None] = lambda rows: None) -> Any:
    rows: list[dict[str, Any]] = []
    for case in SMOKE if smoke else CASES:
        rows += contest(case, device, ceilings)
        save(rows)
    return rows
