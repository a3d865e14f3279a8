"""Training N independent plainnet5: ours beside a channels_last loop, vmap and grouped convolutions written by hand.

Peers start from scaled float32 images and ready initial weights; our time also holds the draw of the initial weights
and orders, the conversion of the bytes and a closing evaluation, since train_cnn does them. Every peer runs its faster
way: two threads inside each operation, or the networks split over threads of one core each.
"""

from dataclasses import replace
from typing import Any

import pytest
from wsfast.kernels.numba.cnn import train_cnn
from wsfast.reference import cnn as reference

from bench import peak
from bench.cnn_problem import CnnProblem
from bench.contest import Contest, record
from bench.peers import cnn_grouped, cnn_jax, cnn_loop, cnn_vmap, xla
from bench.training import Suite

PEERS = {"loop": cnn_loop.train, "vmap": cnn_vmap.train, "grouped": cnn_grouped.train, **xla.installed(cnn_jax.train)}
SLOW = tuple(name for name in PEERS if name == "loop" or name.startswith("jax"))  # XLA's grouped convolutions on a CPU
SUITE = Suite("train_cnn", train_cnn, reference.train_cnn, PEERS, looped=2, checked=1, slow=SLOW)
GOAL = 1.5
CASES = [
    CnnProblem(size=16, width=8, classes=2, batch=32, networks=8, samples=64, epochs=8),
    CnnProblem(size=32, width=32, classes=2, batch=32, networks=4, samples=64, epochs=8),
    CnnProblem(size=32, width=32, classes=2, batch=128, networks=4, samples=128, epochs=6),
]


def shorter(problem: CnnProblem) -> CnnProblem:
    return replace(problem, epochs=2)


def contest(problem: CnnProblem) -> Contest:
    return SUITE.contest(problem, GOAL, replace(problem, samples=2 * problem.batch, epochs=2))


@pytest.mark.parametrize("problem", CASES, ids=str)
def test_train_cnn(benchmark: Any, problem: CnnProblem) -> None:
    record(benchmark, contest(problem), max(peak.sgemm().values()))
