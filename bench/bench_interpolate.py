"""Loss on the straight lines between pairs of networks, 25 points each: ours beside a loop over pairs and vmap.

Every peer runs its faster way, as in bench_train_mlp. A loop's time is proportional to its pairs: a few stand for all.
The operations of a line are those that it needs: the first layer, linear in its weights, at the two ends only.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from itertools import pairwise
from typing import Any

import numpy as np
import pytest
import torch
from wsfast.kernels.numba.interpolate import interpolate_mlp
from wsfast.kernels.numba.threads import unordered
from wsfast.reference import interpolate

from bench import peak
from bench.contest import OURS, Contender, Contest, record, relative
from bench.training import inside, split

LIMIT = 1e-4
LOOPED, CHECKED = 8, 4  # pairs
POINTS = 25


@dataclass(frozen=True)
class Case:
    d: int
    width: int
    samples: int
    pairs: int
    goal: float | None

    def __str__(self) -> str:
        return f"{self.d}-{self.width}-{self.width}-{self.width}-2, {self.samples} samples, {self.pairs} pairs"

    @property
    def flop(self) -> int:
        """Of one line's products."""
        return 2 * self.samples * self.width * (2 * self.d + POINTS * (2 * self.width + 2))


CASES = [Case(64, 32, 360, 1000, 10), Case(64, 100, 360, 1000, 10), Case(3072, 500, 1000, 8, 10)]


def shorter(case: Case) -> Case:
    return replace(case, pairs=max(LOOPED, case.pairs // 20))


class Lines:
    """Random networks in pairs and random bytes. start, end: [pairs, P]; inputs float32 [samples, d]; points [L]."""

    def __init__(self, case: Case) -> None:
        rng = np.random.default_rng(case.d + case.width)
        self.sizes = np.array([case.d, *[case.width] * 3, 2])
        size = sum((a + 1) * b for a, b in pairwise(self.sizes.tolist()))
        ends = rng.standard_normal((2, case.pairs, size), np.float32) / np.float32(np.sqrt(case.width))
        self.start, self.end = map(torch.from_numpy, ends)
        self.points = np.linspace(0, 1, POINTS, dtype=np.float32)
        x = rng.integers(0, 256, (case.samples, case.d)).astype(np.uint8)
        scale, shift = np.full(case.d, 1 / 64, np.float32), np.full(case.d, -2, np.float32)
        self.inputs = torch.from_numpy(x * scale + shift)
        self.labels = torch.from_numpy(rng.integers(0, 2, case.samples))
        net = {"sizes": self.sizes, "slopes": np.array([0, 0, 0, 1], np.float32), "norms": np.zeros(4, np.int64)}
        net |= {"adds": np.full(4, -1), "gate_at": np.full(4, -1), "gates": np.empty(0, np.float32)}
        data = {"x": x, "rows": np.arange(case.samples), "labels": self.labels.numpy(), "scale": scale, "shift": shift}
        self.common = {**data, **net, "points": self.points}

    def unpacked(self, flat: torch.Tensor) -> list[torch.Tensor]:
        """W_1, b_1, ... of parameters [P]."""
        shapes = [shape for a, b in pairwise(self.sizes.tolist()) for shape in ((a, b), (b,))]
        parts = flat.split([int(np.prod(shape)) for shape in shapes])
        return [part.reshape(shape) for part, shape in zip(parts, shapes, strict=True)]

    def call(self, op: Callable, i: int) -> np.ndarray:
        """The loss curve of pair i by our op or the reference's."""
        return op(**self.common, start=self.start[i].numpy(), end=self.end[i].numpy())[0]


def ours(problem: Lines, pairs: torch.Tensor) -> np.ndarray:
    done = dict(unordered(lambda i: problem.call(interpolate_mlp, i), pairs.tolist()))
    return np.stack([done[i] for i in pairs.tolist()])


def contest(case: Case) -> Contest:
    from bench.peers import interpolate_loop, interpolate_vmap

    problem = Lines(case)
    everyone = torch.arange(case.pairs)
    oracle = [problem.call(interpolate.interpolate_mlp, i) for i in range(CHECKED)]

    def contender(
        name: str, call: Callable[[Any, torch.Tensor], np.ndarray], pairs: torch.Tensor, how: str
    ) -> Contender:
        found = call(problem, pairs)[:CHECKED]
        errors = [relative(got, want) for got, want in zip(found, oracle, strict=True)]
        return Contender(name, partial(call, problem, pairs), len(pairs), how, float(np.median(errors)), max(errors))

    contenders = [contender(OURS, ours, everyone, "a pair a thread")]
    for name, curves, pairs in (
        ("loop", interpolate_loop.curves, everyone[:LOOPED]),
        ("vmap", interpolate_vmap.curves, everyone[: 4 * LOOPED]),
    ):
        ways = {"all threads in each operation": inside, "pairs split over threads": split}
        tried = [contender(name, partial(way, curves), pairs, how) for how, way in ways.items()]
        trial = Contest("interpolate", str(case), None, None, LIMIT, tried)
        trial.round()
        best = min(tried, key=lambda c: c.seconds[0])
        best.seconds.clear()
        contenders.append(best)
    return Contest("interpolate", str(case), case.flop, case.goal, LIMIT, contenders, over="loop")


@pytest.mark.parametrize("case", CASES, ids=str)
def test_interpolate(benchmark: Any, case: Case) -> None:
    record(benchmark, contest(case), max(peak.sgemm().values()))
