"""The ceiling: how fast this machine multiplies float32 matrices when nothing else is asked of it."""

import time
from collections.abc import Callable
from functools import cache
from typing import Any

import numpy as np
import torch
from wsfast.kernels.numba.gemm import multiply
from wsfast.kernels.numba.threads import available, each

N = 2048
M, K, WIDTH, REPEATS = 512, 256, 32, 500  # a tile of B stays in the first cache, A in the second


def _rate(call: Callable[[], Any], flop: float) -> float:
    """The best of seven, in GFLOP/s: a ceiling is what was reached once."""
    call()
    best = np.inf
    for _ in range(7):
        start = time.perf_counter()
        call()
        best = min(best, time.perf_counter() - start)
    return flop / best / 1e9


def _tiles(_: int) -> None:
    a, b, c = np.ones(M * K, np.float32), np.ones(K * WIDTH, np.float32), np.zeros(M * WIDTH, np.float32)
    for _ in range(REPEATS):
        multiply(a, 0, K, 1, b, 0, WIDTH, c, 0, WIDTH, M, WIDTH, K, np.float32(1))


@cache
def sgemm() -> dict[str, float]:
    """GFLOP/s on all cores of torch, NumPy and our own tiles in the cache."""
    threads = available()
    torch.set_num_threads(threads)
    x = torch.rand(N, N)
    y, out = x.numpy(), torch.empty(N, N)
    return {
        f"torch.mm {N}^3": _rate(lambda: torch.mm(x, x, out=out), 2 * N**3),
        f"numpy matmul {N}^3": _rate(lambda: np.matmul(y, y), 2 * N**3),
        "wsfast tiles in cache": _rate(lambda: each(_tiles, range(threads)), 2 * M * K * WIDTH * REPEATS * threads),
    }
