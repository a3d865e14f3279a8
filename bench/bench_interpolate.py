"""Loss on the straight lines between pairs of networks, 25 points each: ours beside a loop over pairs and vmap.

Every peer runs its faster way, as in bench_train_mlp. A loop's time is proportional to its pairs: a few stand for all.
The operations of a line are those that it needs: the first layer, linear in its weights, at the two ends only.
"""

from collections.abc import Callable
from dataclasses import replace
from functools import partial
from typing import Any

import numpy as np
import pytest
import torch
from wsfast.kernels.numba.interpolate import interpolate_gru, interpolate_mlp
from wsfast.kernels.numba.threads import unordered
from wsfast.reference import interpolate

from bench import peak
from bench.contest import OURS, Contender, Contest, record, relative
from bench.lines import Case, Lines
from bench.name_lines import NameCase, NameLines
from bench.training import inside, split

LIMIT = 1e-4
LOOPED, CHECKED = 8, 4  # pairs


CASES = [
    Case(64, 32, 360, 1000, 10),
    Case(64, 100, 360, 1000, 10),
    Case(3072, 500, 1000, 8, 10),
    NameCase(128, 464, 16, 10),
]
Problem = Lines | NameLines
Curves = Callable[[Any, torch.Tensor], Any]


def shorter(case: Case | NameCase) -> Case | NameCase:
    return replace(case, pairs=max(LOOPED, case.pairs // 20))


def drawn(case: Case | NameCase) -> tuple[Problem, Callable, Callable, dict[str, tuple[Curves, int]]]:
    """(the problem, our op, the reference's, the peers and how many pairs they do)."""
    from bench.peers import interpolate_gru as loop_of_names
    from bench.peers import interpolate_loop, interpolate_vmap

    if isinstance(case, NameCase):  # torch.func maps no nn.GRU
        peers = {"loop": (loop_of_names.curves, LOOPED)}
        return NameLines(case), interpolate_gru, interpolate.interpolate_gru, peers
    peers = {"loop": (interpolate_loop.curves, LOOPED), "vmap": (interpolate_vmap.curves, 4 * LOOPED)}
    return Lines(case), interpolate_mlp, interpolate.interpolate_mlp, peers


def contest(case: Case | NameCase) -> Contest:
    problem, op, exact, peers = drawn(case)
    everyone = torch.arange(case.pairs)
    oracle = [problem.call(exact, i) for i in range(CHECKED)]

    def ours(problem: Problem, pairs: torch.Tensor) -> np.ndarray:
        done = dict(unordered(lambda i: problem.call(op, i), pairs.tolist()))
        return np.stack([done[i] for i in pairs.tolist()])

    def contender(name: str, call: Curves, pairs: torch.Tensor, how: str) -> Contender:
        found = call(problem, pairs)[:CHECKED]
        errors = [relative(got, want) for got, want in zip(found, oracle, strict=True)]
        return Contender(name, partial(call, problem, pairs), len(pairs), how, float(np.median(errors)), max(errors))

    contenders = [contender(OURS, ours, everyone, "a pair a thread")]
    for name, (curves, count) in peers.items():
        ways = {"all threads in each operation": inside, "pairs split over threads": split}
        tried = [contender(name, partial(way, curves), everyone[:count], how) for how, way in ways.items()]
        trial = Contest("interpolate", str(case), None, None, LIMIT, tried)
        contenders.append(trial.faster())
    return Contest("interpolate", str(case), problem.flop, case.goal, LIMIT, contenders, over=("loop",))


@pytest.mark.parametrize("case", CASES, ids=str)
def test_interpolate(benchmark: Any, case: Case | NameCase) -> None:
    record(benchmark, contest(case), max(peak.sgemm().values()))
