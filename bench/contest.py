"""Contenders that do the same work, measured in turn, A B A B, so that a machine's slow moments meet all of them."""

import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np

OURS = "wsfast"
ROUNDS, TRIALS = 7, 3
PAUSE = 0.3  # seconds; OpenMP's idle threads spin for up to 0.2 s and would run on in the next contender's time


@dataclass
class Contender:
    """call does `units` units of work (networks x steps, or a matrix or a part of one); how: its threads; error,
    worst: against float64, the median and the worst network's."""

    name: str
    call: Callable[[], Any]
    units: float
    how: str
    error: float
    worst: float
    seconds: list[float] = field(default_factory=list)


@dataclass
class Contest:
    """unit_flop: operations of one unit by formula, the same for all, None where they differ; goal: how many times the
    speed of the best of `over`, of all peers where empty; limit: of the worst error; rounds: fewer where one takes
    long."""

    suite: str
    case: str
    unit_flop: float | None
    goal: float | None
    limit: float
    contenders: list[Contender]
    rounds: int = ROUNDS
    over: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        wrong = [f"{c.name} errs {c.worst:.1e}" for c in self.contenders if not c.worst <= self.limit]
        if wrong:
            raise AssertionError(f"{self.suite} {self.case}: {', '.join(wrong)}, more than {self.limit:.0e}")

    def round(self) -> None:
        for c in self.contenders:
            time.sleep(PAUSE)
            start = time.perf_counter()
            c.call()
            c.seconds.append((time.perf_counter() - start) / c.units)

    def faster(self) -> Contender:
        """The contender with the least time of TRIALS rounds, without these times."""
        for _ in range(TRIALS):
            self.round()
        best = min(self.contenders, key=lambda c: min(c.seconds))
        best.seconds.clear()
        return best

    def rows(self, peak: float) -> list[dict[str, Any]]:
        """One row a contender; seconds are of one unit; ratio is the best peer's median time over this one's."""
        medians = {c.name: float(np.median(c.seconds)) for c in self.contenders}
        best = min(seconds for name, seconds in medians.items() if name != OURS)
        rows = []
        for c in self.contenders:
            q1, median, q3 = np.quantile(c.seconds, (0.25, 0.5, 0.75)).tolist()
            rate = self.unit_flop and self.unit_flop / median / 1e9
            row = {"suite": self.suite, "case": self.case, "contender": c.name, "how": c.how}
            row |= {"error": c.error, "worst": c.worst}
            row |= {
                "median": median,
                "q1": q1,
                "q3": q3,
                "seconds": c.seconds,
                "gflops": rate,
                "share": rate and rate / peak,
            }
            row |= {"ratio": best / median, "goal": self.goal if c.name == OURS else None}
            if row["goal"] and self.over:
                fastest = min(medians[name] for name in self.over)
                row |= {"goal_over": ", ".join(self.over), "goal_ratio": fastest / median}
            rows.append(row)
        return rows


def relative(got: Any, oracle: np.ndarray) -> float:
    """||got - oracle|| / ||oracle||."""
    return float(np.linalg.norm(np.asarray(got, np.float64) - oracle) / np.linalg.norm(oracle))


def record(benchmark: Any, contest: Contest, peak: float) -> None:
    """Run a contest under pytest-benchmark: its time is that of a whole round, the contenders' are in extra_info."""
    benchmark.group = f"{contest.suite} {contest.case}"
    benchmark.pedantic(contest.round, rounds=contest.rounds)
    for row in contest.rows(peak):
        benchmark.extra_info[row["contender"]] = row
