"""Chain factors, Grams and the N x N kernel beside the library way of making them.

The library's kernel has every Gram in memory, then one product of the flattened Grams. Where N d^2 numbers do not fit
it is done by tiles of the Grams: every tile of all networks, its products added up, tiles off the diagonal once only.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from itertools import islice
from typing import Any

import numpy as np
import pytest
import torch
from wsfast.kernels.numba import gram
from wsfast.kernels.numba.threads import available
from wsfast.reference import gram as reference

from bench import peak
from bench.contest import OURS, ROUNDS, Contender, Contest, record, relative

CHECKED = 16  # networks whose results are compared with float64
LIMIT = 1e-4
FITS = 4 << 30  # bytes of Grams
TILE = 256  # of the library's tiles
TILES = 6  # of 78 that it is timed on: all of them take a minute


@dataclass(frozen=True)
class Case:
    """N networks d - r - r whose factors of chain 2 are made, or N factors [d, r]."""

    op: str
    n: int
    d: int
    r: int

    def __str__(self) -> str:
        return f"N = {self.n}, d = {self.d}, r = {self.r}"

    @property
    def flop(self) -> int:
        """Operations that symmetry leaves: the Grams' upper triangles, then their dot products, a pair counted once."""
        if self.op == "chain_factor":
            return 2 * self.n * self.d * self.r * self.r
        pairs = self.n * (self.n + 1) // 2 if self.op == "chain_kernel" else 0
        return self.d * (self.d + 1) * (self.n * self.r + pairs)


CASES = [
    Case("chain_factor", 128, 3072, 100),
    Case("chain_gram", 1800, 64, 100),
    Case("chain_gram", 16, 3072, 100),
    Case("chain_kernel", 1800, 64, 100),
    Case("chain_kernel", 256, 1024, 100),
    Case("chain_kernel", 1000, 3072, 100),
]


def shorter(case: Case) -> Case:
    return replace(case, n=max(2, case.n // 8))


def materialised(x: Any) -> Any:
    """The same line for NumPy and torch."""
    g = (x @ x.swapaxes(1, 2)).reshape(len(x), -1)
    return g @ g.T


def einsum(x: torch.Tensor) -> torch.Tensor:
    g = torch.einsum("iar,ibr->iab", x, x)
    return torch.einsum("iab,jab->ij", g, g)


def tiles(x: Any) -> Iterator[Any]:
    """The terms of the kernel, a tile of G each."""
    for i in range(0, x.shape[1], TILE):
        for j in range(0, i + 1, TILE):
            g = (x[:, i : i + TILE] @ x[:, j : j + TILE].swapaxes(1, 2)).reshape(len(x), -1)
            yield (1 if i == j else 2) * (g @ g.T)


def kernel(case: Case) -> Iterator[Contender]:
    x = np.random.default_rng(case.n).standard_normal((case.n, case.d, case.r), np.float32)
    t = torch.from_numpy(x)
    oracle = reference.chain_kernel(x[:CHECKED], form="factorised")

    def contender(name: str, call: Callable[[Any], Any], x: Any) -> Contender:
        error = relative(call(x[:CHECKED]), oracle)
        return Contender(name, lambda: call(x), 1, "all threads", error, error)

    yield contender(OURS, gram.chain_kernel, x)
    if case.n * case.d**2 * 4 <= FITS:
        yield contender("numpy", materialised, x)
        yield contender("torch", materialised, t)
        yield contender("torch einsum", einsum, t)
        return
    count = -(-case.d // TILE)
    part = TILES / (count * (count + 1) // 2)
    for name, y in (("numpy", x), ("torch", t)):
        error = relative(sum(tiles(y[:CHECKED])), oracle)
        yield Contender(f"{name} tiles", lambda y=y: sum(islice(tiles(y), TILES)), part, "all threads", error, error)


def simple(case: Case) -> Iterator[Contender]:
    """chain_factor, rows normalised, and chain_gram."""
    rng = np.random.default_rng(case.n)
    if case.op == "chain_gram":
        arguments = [rng.standard_normal((case.n, case.d, case.r), np.float32)]
    else:
        arguments = [rng.standard_normal((case.n, k, case.r), np.float32) for k in (case.d, case.r)]
    tensors = [torch.from_numpy(w) for w in arguments]

    def ours(*w: Any) -> Any:
        return gram.chain_gram(*w) if case.op == "chain_gram" else gram.chain_factor(w, row_normalize=True)

    def numpy(*w: Any) -> Any:
        if case.op == "chain_gram":
            return w[0] @ w[0].swapaxes(1, 2)
        u, v = (z / np.linalg.norm(z, axis=2, keepdims=True) for z in w)
        return u @ v

    def bmm(*w: Any) -> Any:
        if case.op == "chain_gram":
            return torch.bmm(w[0], w[0].mT)
        return torch.bmm(*(torch.nn.functional.normalize(z, dim=2) for z in w))

    if case.op == "chain_gram":
        oracle = reference.chain_gram(arguments[0][:2])
    else:
        oracle = reference.chain_factor([w[:2] for w in arguments], row_normalize=True)
    for name, call, inputs in ((OURS, ours, arguments), ("numpy", numpy, arguments), ("torch", bmm, tensors)):
        error = relative(call(*(w[:2] for w in inputs)), oracle)
        yield Contender(name, lambda call=call, inputs=inputs: call(*inputs), 1, "all threads", error, error)


def contest(case: Case) -> Contest:
    torch.set_num_threads(available())
    contenders = list((kernel if case.op == "chain_kernel" else simple)(case))
    return Contest(case.op, str(case), case.flop, None, LIMIT, contenders, 2 if case.flop > 1e12 else ROUNDS)


@pytest.mark.parametrize("case", CASES, ids=lambda case: f"{case.op} {case}")
def test_chains(benchmark: Any, case: Case) -> None:
    record(benchmark, contest(case), max(peak.sgemm().values()))
