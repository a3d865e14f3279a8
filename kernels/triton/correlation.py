"""Correlations between the units of many pairs of networks on one GPU; as `wsfast.reference.correlation`.

Every network is standardised once, then a program multiplies one tile of one pair. Sums run in an order set by M alone,
so an entry's bits depend on its two units only, and (u, v) of a pair has those of (v, u) of the pair turned round.
"""

from typing import Any

import numpy as np
import torch
import triton
import triton.language as tl
from wsfast.reference.correlation import checked

from .gram import _factors, _options, _precision
from .grams import _add
from .products import _load, _store


@triton.jit
def _standardise_kernel(x_ptr, z_ptr, U: tl.constexpr, M: tl.constexpr, BM: tl.constexpr, BN: tl.constexpr):
    """z = (x - mean) / (deviation sqrt(M)) of every row of x [N, U, M], 0 where the row is constant.

    Grid (networks, tiles of rows). Mean and deviation are summed in float64.
    """
    at = tl.program_id(0).to(tl.int64) * U * M
    rows, columns = tl.program_id(1) * BM + tl.arange(0, BM), tl.arange(0, BN)
    low, high = tl.full((BM,), float("inf"), tl.float32), tl.full((BM,), float("-inf"), tl.float32)
    total = tl.zeros((BM,), tl.float64)
    for first in range(0, M, BN):
        m = first + columns
        x = _load(x_ptr + at, rows, m, U, M, BM, BN)
        inside = (m < M)[None, :]
        low = tl.minimum(low, tl.min(tl.where(inside, x, float("inf")), axis=1))
        high = tl.maximum(high, tl.max(tl.where(inside, x, float("-inf")), axis=1))
        total += tl.sum(x.to(tl.float64), axis=1)
    mean, squares = total / M, tl.zeros((BM,), tl.float64)
    for first in range(0, M, BN):
        m = first + columns
        x = _load(x_ptr + at, rows, m, U, M, BM, BN).to(tl.float64) - mean[:, None]
        squares += tl.sum(tl.where((m < M)[None, :], x * x, 0.0), axis=1)
    alive = high > low
    scale = tl.where(alive, 1 / tl.sqrt(tl.where(alive, squares, 1.0)), 0.0)
    for first in range(0, M, BN):
        m = first + columns
        x = _load(x_ptr + at, rows, m, U, M, BM, BN).to(tl.float64)
        z = ((x - mean[:, None]) * scale[:, None]).to(tl.float32)
        _store(z_ptr + at, z, rows, m, U, M, BM, BN)


@triton.jit
def _correlation_kernel(a_ptr, b_ptr, pairs_ptr, r_ptr, U: tl.constexpr, V: tl.constexpr, M: tl.constexpr,
                        BM: tl.constexpr, BN: tl.constexpr, BK: tl.constexpr, PRECISION: tl.constexpr):  # fmt: skip
    """r [P, U, V] = a_i b_j^T of the pairs (i, j) [P, 2] of a [Na, U, M] and b [Nb, V, M].

    Grid (pairs, tiles of a's units, tiles of b's).
    """
    pair = tl.program_id(0).to(tl.int64)
    a_ptr += tl.load(pairs_ptr + 2 * pair) * U * M
    b_ptr += tl.load(pairs_ptr + 2 * pair + 1) * V * M
    rows, columns = tl.program_id(1) * BM + tl.arange(0, BM), tl.program_id(2) * BN + tl.arange(0, BN)
    r = tl.zeros((BM, BN), tl.float32)
    for first in range(0, M, BK):
        k = first + tl.arange(0, BK)
        r = _add(_load(a_ptr, rows, k, U, M, BM, BK), _load(b_ptr, columns, k, V, M, BN, BK), r, PRECISION)
    _store(r_ptr + pair * U * V, r, rows, columns, U, V, BM, BN)


def _standardised(x: torch.Tensor) -> torch.Tensor:
    n, U, M = x.shape
    z, options = torch.empty_like(x), _options("standardise", U, M, 0)
    _standardise_kernel[n, -(-U // options["BM"])](x, z, U=U, M=M, **options)
    return z


def correlation(a: Any, b: Any, pairs: Any, *, precision: str | None = None) -> np.ndarray:
    """As `wsfast.reference.correlation.correlation`: float32 [P, U, V]; precision as chain_factor. ValueError where the
    activations differ in M, or a pair names a network that is not there."""
    precision, index = _precision("correlation", precision), torch.from_numpy(checked("correlation", a, b, pairs))
    x = _factors("correlation", a)
    y = x if b is a else _factors("correlation", b)
    (_, U, M), V = x.shape, y.shape[1]
    left = _standardised(x)
    right = left if b is a else _standardised(y)
    r, options = torch.empty(len(index), U, V, device=x.device), _options("correlation", U, V, M)
    if len(index):
        _correlation_kernel[len(index), -(-U // options["BM"]), -(-V // options["BN"])](
            left, right, index.to(x.device), r, U=U, V=V, M=M, PRECISION=precision, **options)  # fmt: skip
    return r.cpu().numpy()
