"""Training N independent networks d-width-width-width-classes: ours beside a loop, vmap and hand-written bmm.

Peers start from scaled float32 images and ready initial weights; our time also holds the draw of the initial weights
and orders, the conversion of the bytes and a closing evaluation, since train_mlp does them. Every peer runs its faster
way: two threads inside each operation, or the networks split over threads of one core each.
"""

from dataclasses import replace
from typing import Any

import pytest
from wsfast.kernels.numba.mlp import train_mlp
from wsfast.reference import mlp as reference

from bench import peak
from bench.contest import Contest, record
from bench.peers import bmm, mlp_jax, torch_loop, vmap, xla
from bench.problem import Problem
from bench.training import Suite

TORCH = {"loop": torch_loop.train, "vmap": vmap.train, "bmm": bmm.train}
PEERS = {**TORCH, **xla.installed(mlp_jax.train)}
SUITE = Suite("train_mlp", train_mlp, reference.train_mlp, PEERS, looped=8, checked=8, over=tuple(TORCH))
GOALS = {32: 4.0, 100: 1.5, 500: 1.5}
CASES = [
    Problem(d=64, width=32, classes=2, batch=32, networks=64, samples=288, epochs=80),
    Problem(d=64, width=32, classes=2, batch=128, networks=64, samples=256, epochs=160),
    Problem(d=64, width=100, classes=2, batch=32, networks=64, samples=288, epochs=20),
    Problem(d=64, width=100, classes=2, batch=128, networks=64, samples=256, epochs=40),
    Problem(d=3072, width=500, classes=2, batch=32, networks=4, samples=288, epochs=10),
    Problem(d=3072, width=500, classes=2, batch=128, networks=4, samples=256, epochs=20),
]


def shorter(problem: Problem) -> Problem:
    return replace(problem, epochs=max(1, problem.epochs // 10))


def contest(problem: Problem) -> Contest:
    return SUITE.contest(problem, GOALS[problem.width], replace(problem, samples=2 * problem.batch, epochs=2))


@pytest.mark.parametrize("problem", CASES, ids=str)
def test_train_mlp(benchmark: Any, problem: Problem) -> None:
    record(benchmark, contest(problem), max(peak.sgemm().values()))
