"""Training N independent two-layer GRU networks on single names: ours beside an nn.GRU loop and hand-written bmm.

Peers start from ready initial weights and drawn names; our time also holds those draws and a closing evaluation, since
train_gru does them. Every peer runs its faster way, as in bench_train_mlp.
"""

from dataclasses import replace
from typing import Any

import pytest
from wsfast.kernels.numba.gru import train_gru
from wsfast.reference import gru as reference

from bench import peak
from bench.contest import Contest, record
from bench.names import Names
from bench.peers import gru_bmm, gru_jax, gru_loop, xla
from bench.training import Suite

PEERS = {"loop": gru_loop.train, "bmm": gru_bmm.train, **xla.installed(gru_jax.train)}
SUITE = Suite("train_gru", train_gru, reference.train_gru, PEERS, looped=2, checked=2)
GOAL = 4.0
CASES = [Names(hidden=32, networks=128, steps=400), Names(hidden=128, networks=64, steps=150)]


def shorter(problem: Names) -> Names:
    return replace(problem, steps=problem.steps // 10)


def contest(problem: Names) -> Contest:
    return SUITE.contest(problem, GOAL, replace(problem, steps=4))


@pytest.mark.parametrize("problem", CASES, ids=str)
def test_train_gru(benchmark: Any, problem: Names) -> None:
    record(benchmark, contest(problem), max(peak.sgemm().values()))
