"""Correlations between the units of 1,000 pairs of networks beside torch's ways of computing them.

The plain loop calls torch.corrcoef on the units of both networks of a pair, and keeps the quarter that is asked for;
the others standardise, pair by pair or every network once.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pytest
import torch
from wsfast.kernels.numba import correlation
from wsfast.kernels.numba.threads import available
from wsfast.reference import correlation as reference

from bench import peak
from bench.contest import OURS, ROUNDS, Contender, Contest, record, relative

NETWORKS, CHECKED = 46, 4  # 1,035 pairs of 46 networks; pairs compared with float64
LIMIT = 1e-5
PLAIN, GOAL = "torch loop, corrcoef", 10.0


@dataclass(frozen=True)
class Case:
    """Pairs of networks with so many units in a layer, over so many samples."""

    pairs: int
    units: int
    samples: int

    def __str__(self) -> str:
        return f"{self.pairs} pairs, {self.units} units, {self.samples} samples"

    @property
    def flop(self) -> int:
        """Of one pair's products."""
        return 2 * self.units**2 * self.samples


CASES = [Case(1000, 32, 512), Case(1000, 100, 512), Case(1000, 128, 4096), Case(200, 500, 512)]


def shorter(case: Case) -> Case:
    return replace(case, pairs=case.pairs // 10)


def unit(x: torch.Tensor) -> torch.Tensor:
    x = x - x.mean(dim=-1, keepdim=True)
    return x / x.norm(dim=-1, keepdim=True)


def contenders(case: Case) -> Iterator[Contender]:
    x = np.random.default_rng(case.units).random((NETWORKS, case.units, case.samples), np.float32)
    t = torch.from_numpy(x)
    chosen = np.stack(np.triu_indices(NETWORKS, 1), axis=1)[: case.pairs]

    def corrcoef(pairs: np.ndarray) -> list[torch.Tensor]:
        return [torch.corrcoef(torch.cat([t[i], t[j]]))[: case.units, case.units :] for i, j in pairs]

    def by_pair(pairs: np.ndarray) -> list[torch.Tensor]:
        return [unit(t[i]) @ unit(t[j]).T for i, j in pairs]

    def once(pairs: np.ndarray) -> list[torch.Tensor]:
        z = unit(t)
        return [z[i] @ z[j].T for i, j in pairs]

    def bmm(pairs: np.ndarray) -> torch.Tensor:
        z = unit(t)
        return torch.cat([torch.bmm(z[run[:, 0]], z[run[:, 1]].mT) for run in np.array_split(pairs, 20)])

    calls: dict[str, Callable[[np.ndarray], Any]] = {
        OURS: lambda pairs: correlation.correlation(x, x, pairs),
        PLAIN: corrcoef,
        "torch loop, standardised by pair": by_pair,
        "torch loop, standardised once": once,
        "torch bmm, standardised once": bmm,
    }
    oracle = reference.correlation(x, x, chosen[:CHECKED])
    for name, call in calls.items():
        error = relative(np.stack([np.asarray(r) for r in call(chosen[:CHECKED])]), oracle)
        yield Contender(name, lambda call=call: call(chosen), case.pairs, "all threads", error, error)


def contest(case: Case) -> Contest:
    torch.set_num_threads(available())
    rounds = 3 if case.flop * case.pairs > 2e10 else ROUNDS
    return Contest("correlation", str(case), case.flop, GOAL, LIMIT, list(contenders(case)), rounds, over=(PLAIN,))


@pytest.mark.parametrize("case", CASES, ids=str)
def test_correlation(benchmark: Any, case: Case) -> None:
    record(benchmark, contest(case), max(peak.sgemm().values()))
