"""The N x N chain kernel beside the library way: every Gram in memory, then one product of the flattened Grams."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pytest
import torch
from wsfast.kernels.numba.gram import chain_kernel
from wsfast.kernels.numba.threads import available
from wsfast.reference import gram as reference

from bench import peak
from bench.contest import OURS, Contender, Contest, record, relative

CHECKED = 16  # networks whose entries are compared with float64
LIMIT = 1e-4


@dataclass(frozen=True)
class Case:
    """N factors [d, r]."""

    n: int
    d: int
    r: int

    def __str__(self) -> str:
        return f"N = {self.n}, d = {self.d}, r = {self.r}"

    @property
    def flop(self) -> int:
        """Operations that symmetry leaves: the Grams' upper triangles, then their dot products, a pair counted once."""
        return self.d * (self.d + 1) * (self.n * self.r + self.n * (self.n + 1) // 2)


CASES = [Case(1800, 64, 100), Case(256, 1024, 100)]


def shorter(case: Case) -> Case:
    return replace(case, n=case.n // 8)


def materialised(x: Any) -> Any:
    """The same line for NumPy and torch."""
    g = (x @ x.swapaxes(1, 2)).reshape(len(x), -1)
    return g @ g.T


def einsum(x: torch.Tensor) -> torch.Tensor:
    g = torch.einsum("iar,ibr->iab", x, x)
    return torch.einsum("iab,jab->ij", g, g)


def contest(case: Case) -> Contest:
    x = np.random.default_rng(case.n).standard_normal((case.n, case.d, case.r), np.float32)
    oracle = reference.chain_kernel(x[:CHECKED])
    t = torch.from_numpy(x)
    torch.set_num_threads(available())

    def contender(name: str, call: Callable[[], Any]) -> Contender:
        error = relative(call()[:CHECKED, :CHECKED], oracle)
        return Contender(name, call, 1, "all threads", error, error)

    contenders = [
        contender(OURS, lambda: chain_kernel(x)),
        contender("numpy", lambda: materialised(x)),
        contender("torch", lambda: materialised(t)),
        contender("torch einsum", lambda: einsum(t)),
    ]
    return Contest("chain_kernel", str(case), case.flop, None, LIMIT, contenders)


@pytest.mark.parametrize("case", CASES, ids=str)
def test_chain_kernel(benchmark: Any, case: Case) -> None:
    record(benchmark, contest(case), max(peak.sgemm().values()))
