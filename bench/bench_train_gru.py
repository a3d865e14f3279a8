"""Training N independent two-layer GRU networks on single names: ours beside an nn.GRU loop and hand-written bmm.

Peers start from ready initial weights and drawn names; our time also holds those draws and a closing evaluation, since
train_gru does them. Every peer runs its faster way, as in bench_train_mlp.
"""

from dataclasses import replace
from functools import partial
from typing import Any

import numpy as np
import pytest
import torch
from wsfast.kernels.numba.gru import train_gru
from wsfast.kernels.numba.threads import unordered
from wsfast.reference import gru as reference

from bench import peak
from bench.bench_train_mlp import errors, inside, split
from bench.contest import OURS, Contender, Contest, record
from bench.names import Names
from bench.peers import gru_bmm, gru_loop

SUITE = "train_gru"
PEERS = {"loop": gru_loop.train, "bmm": gru_bmm.train}
LOOPED = 2  # the loop's time is proportional to its networks: so many stand for all
CHECKED = 2  # networks compared with float64
LIMIT = 1e-3  # of the worst of them
GOAL = 4.0
CASES = [Names(hidden=32, networks=128, steps=400), Names(hidden=128, networks=64, steps=150)]


def shorter(problem: Names) -> Names:
    return replace(problem, steps=problem.steps // 10)


def ours(problem: Names, networks: torch.Tensor) -> np.ndarray:
    """As wsfast.generate does it: one network a thread, each collected as it is done."""
    done = dict(unordered(lambda i: train_gru(**problem.arguments(i))[0], networks.tolist()))
    return np.stack([done[i] for i in networks.tolist()])


def contest(problem: Names) -> Contest:
    """Every contender checked against float64, the peers at the faster of their two ways."""
    some = range(CHECKED)
    starts = np.array([problem.initial(i) for i in some])
    changes = np.array([reference.train_gru(**problem.arguments(i))[0] for i in some]) - starts

    def contender(name: str, train: Any, networks: torch.Tensor, how: str) -> Contender:
        found = errors(train(problem, networks), starts, changes)
        call = partial(train, problem, networks)
        return Contender(name, call, len(networks) * problem.steps, how, float(np.median(found)), max(found))

    everyone = torch.arange(problem.networks)
    contenders = [contender(OURS, ours, everyone, "a network a thread")]
    for name, train in PEERS.items():
        networks = everyone[:LOOPED] if name == "loop" else everyone
        ways = {"all threads in each operation": inside, "networks split over threads": split}
        tried = [contender(name, partial(way, train), networks, how) for how, way in ways.items()]
        trial = Contest(SUITE, str(problem), problem.step_flop, None, LIMIT, tried)
        trial.round()
        best = min(tried, key=lambda c: c.seconds[0])
        best.seconds.clear()
        contenders.append(best)
    return Contest(SUITE, str(problem), problem.step_flop, GOAL, LIMIT, contenders)


@pytest.mark.parametrize("problem", CASES, ids=str)
def test_train_gru(benchmark: Any, problem: Names) -> None:
    record(benchmark, contest(problem), max(peak.sgemm().values()))
