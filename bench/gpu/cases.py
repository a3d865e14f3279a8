"""What is measured, the most valuable first, and the goals set before anything was measured."""

from dataclasses import dataclass, field
from typing import Any

from bench.gpu.cnn_problem import CnnProblem, CnnSize
from bench.gpu.problem import Problem, Size

ALL = [("bmm", "fp32"), ("bmm", "tf32"), ("padded", "fp32"), ("padded", "tf32"), ("vmap", "fp32"), ("vmap", "tf32")]
ALL += [("jax", "fp32"), ("jax", "tf32"), ("graph", "fp32"), ("loop", "fp32")]
SOME = [("bmm", "fp32"), ("bmm", "tf32"), ("vmap", "fp32"), ("jax", "fp32"), ("graph", "fp32"), ("loop", "fp32")]
BIG = {"strongest": 1.3, "vmap": 3.0, "loop": 100.0}
SMALL = {"strongest": 5.0}
LONG: dict[str, Any] = {"seconds": 1.0, "rounds": 3, "limit": 170}
CNN = [
    ("grouped", "fp32"),
    ("grouped", "tf32"),
    ("vmap", "fp32"),
    ("jax", "fp32"),
    ("jax", "tf32"),
    ("graph", "fp32"),
    ("graph", "tf32"),
    ("loop", "fp32"),
]


@dataclass(frozen=True)
class Case:
    """peers: (family, precision); goals: ratio to the fastest row of a family, "strongest" being all of them.

    checked: networks compared with float64; few: networks the loops train, whose time is proportional to them;
    seconds: of one timed run; rounds: of all contenders in turn; limit: seconds after which the case is given up.
    """

    size: Size | CnnSize
    peers: list[tuple[str, str]] = field(default_factory=lambda: SOME)
    ours: tuple[str, ...] = ("tf32x3",)
    goals: dict[str, float] = field(default_factory=lambda: SMALL)
    checked: int = 9
    few: int = 2
    seconds: float = 0.3
    rounds: int = 5
    limit: float = 75

    @property
    def problem(self) -> type[Problem]:
        return CnnProblem if isinstance(self.size, CnnSize) else Problem


def _small(width: int, batch: int) -> Case:
    return Case(Size(64, width, batch, 4096))


CONTEST = {
    "mlp4": Case(Size(3072, 500, 128, 256), ALL, ("tf32x3", "tf32", "bf16"), BIG, 5, **LONG),
    "plainnet5": Case(CnnSize(32, 32, 128, 128), CNN, ("tf32", "tf32x3", "bf16"), {"strongest": 4.0}, 2, **LONG),
    "small-128-128": _small(128, 128),
    "small-32-32": _small(32, 32),
    "mlp4-12288": Case(Size(12288, 500, 128, 64), SOME, goals=BIG, checked=2, seconds=0.5, rounds=3, limit=110),
    "small-64-32": _small(64, 32),
    "small-64-128": _small(64, 128),
    "small-32-128": _small(32, 128),
    "small-128-32": _small(128, 32),
}
FIRST = ["compile", "ceilings"]  # what the others need
ORDER = [
    "tests",
    *FIRST,
    "mlp4",
    "headline",
    "chains",
    "plainnet5",
    "headline-cnn",
    "recurrent",
    "pairs",
    *list(CONTEST)[2:],
]
LIMITS = {"tests": 180.0, "compile": 90.0, "ceilings": 60.0}
LIMITS |= {"headline": 150.0, "headline-cnn": 150.0, "chains": 90.0, "recurrent": 120.0, "pairs": 120.0}
LIMITS |= {name: case.limit for name, case in CONTEST.items()}


def _tiny(d: int, width: int, batch: int) -> Case:
    size = Size(d, width, batch, networks=5, samples=16, epochs=2)
    return Case(size, ALL, ("tf32x3", "tf32"), BIG, checked=3, seconds=0.05, rounds=2)


SMOKE = {
    "smoke-odd": _tiny(21, 13, 8),
    "smoke-tile": _tiny(16, 16, 16),
    "smoke-cnn": Case(CnnSize(16, 2, 4, 3, 8, 2), CNN, ("tf32", "tf32x3"), {"strongest": 4.0}, 2, 1, 0.01, 2),
}
SMOKE_ORDER = ["ceilings", *SMOKE, "headline", "headline-cnn", "chains", "pairs", "recurrent"]
