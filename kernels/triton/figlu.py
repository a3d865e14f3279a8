"""FiGLU, y = s z with s = sigmoid(z F), of many networks that share F [N, N], and its gradient:

    dz = dy s + (dy y (1 - s)) F^T

Rows are samples, or positions of images: z, y, s [networks, B, AREA, N]. Padded rows and columns of F are zero.
"""

from collections.abc import Sequence

import numpy as np
import torch
import triton
import triton.language as tl

from .batchnorm import PARTS, STATISTICS
from .configs import wide
from .convolution import _leave
from .layers import _dot, _rounded

Gates = tuple[np.ndarray, np.ndarray]  # gate_at and gates of `wsfast.reference.mlp.train_mlp`
UNGATED: Gates = (np.empty(0, np.int64), np.empty(0, np.float32))


def matrices(gates: Gates, units: Sequence[int], device: str) -> list[torch.Tensor | None]:
    """F of every layer with so many units, padded; None for a layer without."""
    found: list[torch.Tensor | None] = [None] * len(units)
    gate_at, flat = gates
    for k, at in enumerate(gate_at.tolist()):
        if at >= 0:
            n = units[k]
            f = torch.zeros(wide(n), wide(n))
            f[:n, :n] = torch.from_numpy(flat[at : at + n * n]).view(n, n)
            found[k] = f.to(device)
    return found


@triton.jit(do_not_specialize=["now", "size"])
def _gate_kernel(z_ptr, f_ptr, y_ptr, s_ptr, counts_ptr, now, size, B: tl.constexpr, AREA: tl.constexpr,
                 N: tl.constexpr, BM: tl.constexpr, BN: tl.constexpr, BK: tl.constexpr,
                 PRECISION: tl.constexpr):  # fmt: skip
    """y, rounded, and s from z; y is zero past the batch. Grid (networks, tiles of rows, blocks of columns)."""
    net, m = tl.program_id(0).to(tl.int64), tl.program_id(1) * BM + tl.arange(0, BM)
    n = tl.minimum(tl.load(counts_ptr + net) - now, size)
    if n <= 0:
        return
    columns, k = tl.program_id(2) * BN + tl.arange(0, BN), tl.arange(0, BK)
    valid, row = (m < n * AREA)[:, None], (m * N)[:, None]
    z_ptr += net * B * AREA * N
    product = tl.zeros((BM, BN), tl.float32)
    for first in range(0, N, BK):
        z = tl.load(z_ptr + row + (first + k)[None, :], mask=valid, other=0.0).to(tl.float32)  # [BM, BK]
        f = tl.load(f_ptr + (first + k)[:, None] * N + columns[None, :])  # [BK, BN]
        product = _dot(z, f, product, PRECISION)
    s = tl.sigmoid(product)
    at = row + columns[None, :]
    z = tl.load(z_ptr + at, mask=valid, other=0.0).to(tl.float32)
    inside = (m < B * AREA)[:, None]
    tl.store(y_ptr + net * B * AREA * N + at, _rounded(s * z, PRECISION), mask=inside)
    tl.store(s_ptr + net * B * AREA * N + at, s, mask=inside)


@triton.jit
def _gate_back(dy_ptr, y_ptr, s_ptr, f_ptr, m, valid, columns, N: tl.constexpr, BM: tl.constexpr, BN: tl.constexpr,
               BK: tl.constexpr, PRECISION: tl.constexpr):  # fmt: skip
    """dz [BM, BN] at rows m [BM] of one network, zero where not valid; the pointers are that network's."""
    row, k, some = (m * N)[:, None], tl.arange(0, BK), valid[:, None]
    dz = tl.zeros((BM, BN), tl.float32)
    for first in range(0, N, BK):
        at = row + (first + k)[None, :]
        dy = tl.load(dy_ptr + at, mask=some, other=0.0).to(tl.float32)  # [BM, BK]
        y = tl.load(y_ptr + at, mask=some, other=0.0).to(tl.float32)
        s = tl.load(s_ptr + at, mask=some, other=0.0).to(tl.float32)
        f = tl.load(f_ptr + columns[:, None] * N + (first + k)[None, :])  # [BN, BK]
        dz = _dot(dy * y * (1 - s), tl.trans(f), dz, PRECISION)
    at = row + columns[None, :]
    dy = tl.load(dy_ptr + at, mask=some, other=0.0).to(tl.float32)
    return dz + dy * tl.load(s_ptr + at, mask=some, other=0.0).to(tl.float32)


@triton.jit(do_not_specialize=["now", "size"])
def _gate_gradient_kernel(dy_ptr, y_ptr, s_ptr, f_ptr, dz_ptr, counts_ptr, now, size, B: tl.constexpr, N: tl.constexpr,
                          BM: tl.constexpr, BN: tl.constexpr, BK: tl.constexpr,
                          PRECISION: tl.constexpr):  # fmt: skip
    """dz [networks, B, N] of a fully connected layer, zero past the batch.

    Grid (networks, tiles of rows, blocks of columns).
    """
    net, m = tl.program_id(0).to(tl.int64), tl.program_id(1) * BM + tl.arange(0, BM)
    n = tl.minimum(tl.load(counts_ptr + net) - now, size)
    if n <= 0:
        return
    columns, at = tl.program_id(2) * BN + tl.arange(0, BN), net * B * N
    dz = _gate_back(dy_ptr + at, y_ptr + at, s_ptr + at, f_ptr, m, m < n, columns, N, BM, BN, BK, PRECISION)
    tl.store(dz_ptr + at + (m * N)[:, None] + columns[None, :], dz)


@triton.jit(do_not_specialize=["now", "size"])
def _gate_leave_kernel(dy_ptr, y_ptr, s_ptr, f_ptr, z_ptr, side_ptr, stat_ptr, side_stat_ptr, d_ptr, parts_ptr,
                       counts_ptr, now, size, B: tl.constexpr, AREA: tl.constexpr, N: tl.constexpr, BM: tl.constexpr,
                       BN: tl.constexpr, BK: tl.constexpr, SIDE: tl.constexpr, PRECISION: tl.constexpr):  # fmt: skip
    """dz of images, which is BatchNorm's d, and the tiles' sums of it, as `_leave` leaves them.

    z_ptr: what BatchNorm met; grid (networks, tiles of positions, blocks of channels).
    """
    TILES: tl.constexpr = (B * AREA + BM - 1) // BM
    net, tile = tl.program_id(0).to(tl.int64), tl.program_id(1)
    n = tl.minimum(tl.load(counts_ptr + net) - now, size)
    if tile * BM >= n * AREA:
        return
    m, columns = tile * BM + tl.arange(0, BM), tl.program_id(2) * BN + tl.arange(0, BN)
    at, at_s, valid = net * B * AREA * N, net * STATISTICS * N, m < n * AREA
    d = _gate_back(dy_ptr + at, y_ptr + at, s_ptr + at, f_ptr, m, valid, columns, N, BM, BN, BK, PRECISION)
    _leave(d, m, valid, columns, tile, z_ptr + at, side_ptr + at, stat_ptr + at_s, side_stat_ptr + at_s, d_ptr + at,
           parts_ptr + net * TILES * PARTS * N, 1.0, N, SIDE)  # fmt: skip
