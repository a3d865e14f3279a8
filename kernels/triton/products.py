"""Chain products: X_l = X_{l-1} W_l of many networks, with the normalisation of rows and columns.

Sizes are constants of a compilation; edges are masked only where they do not divide. Norms are summed in float64.
"""

import triton
import triton.language as tl

from .layers import _dot


@triton.jit
def _place(rows, columns, H: tl.constexpr, W: tl.constexpr):
    """Offsets in an [H, W] matrix, in 64 bits only where it is that large."""
    if H * W >= 2**31:
        rows = rows.to(tl.int64)
    return rows * W + columns


@triton.jit
def _load(at, rows, columns, H: tl.constexpr, W: tl.constexpr, BM: tl.constexpr, BN: tl.constexpr):
    """The tile [BM, BN] at `rows`, `columns` of an [H, W] matrix, zero outside it."""
    place = at + _place(rows[:, None], columns[None, :], H, W)
    if H % BM and W % BN:
        return tl.load(place, mask=(rows < H)[:, None] & (columns < W)[None, :], other=0.0)
    elif H % BM:
        return tl.load(place, mask=(rows < H)[:, None], other=0.0)
    elif W % BN:
        return tl.load(place, mask=(columns < W)[None, :], other=0.0)
    else:
        return tl.load(place)


@triton.jit
def _store(at, tile, rows, columns, H: tl.constexpr, W: tl.constexpr, BM: tl.constexpr, BN: tl.constexpr):
    """As _load."""
    place = at + _place(rows[:, None], columns[None, :], H, W)
    if H % BM or W % BN:
        tl.store(place, tile, mask=(rows < H)[:, None] & (columns < W)[None, :])
    else:
        tl.store(place, tile)


@triton.jit
def _norm_kernel(w_ptr, inverse_ptr, H: tl.constexpr, W: tl.constexpr, BM: tl.constexpr, BN: tl.constexpr):
    """1 / ||row|| of w [N, H, W], 1 for a zero row: inverse [N, H]. Grid (networks, tiles of rows)."""
    net = tl.program_id(0).to(tl.int64)
    rows, columns = tl.program_id(1) * BM + tl.arange(0, BM), tl.arange(0, BN)
    total = tl.zeros((BM,), tl.float64)
    for first in range(0, W, BN):
        w = _load(w_ptr + net * H * W, rows, first + columns, H, W, BM, BN).to(tl.float64)
        total += tl.sum(w * w, axis=1)
    inverse = tl.where(total > 0, 1 / tl.sqrt(tl.where(total > 0, total, 1.0)), 1.0)
    tl.store(inverse_ptr + net * H + rows, inverse.to(tl.float32), mask=rows < H)


@triton.jit
def _unit_kernel(x_ptr, y_ptr, H: tl.constexpr, W: tl.constexpr, BM: tl.constexpr, BN: tl.constexpr):
    """y = x [N, H, W] with columns of unit length, a zero column staying zero. Grid (networks, tiles of columns)."""
    net = tl.program_id(0).to(tl.int64)
    rows, columns = tl.arange(0, BM), tl.program_id(1) * BN + tl.arange(0, BN)
    at = net * H * W
    total = tl.zeros((BN,), tl.float64)
    for first in range(0, H, BM):
        x = _load(x_ptr + at, first + rows, columns, H, W, BM, BN).to(tl.float64)
        total += tl.sum(x * x, axis=0)
    inverse = tl.where(total > 0, 1 / tl.sqrt(tl.where(total > 0, total, 1.0)), 1.0).to(tl.float32)
    for first in range(0, H, BM):
        x = _load(x_ptr + at, first + rows, columns, H, W, BM, BN)
        _store(y_ptr + at, x * inverse[None, :], first + rows, columns, H, W, BM, BN)


@triton.jit
def _product_kernel(x_ptr, w_ptr, left_ptr, inner_ptr, y_ptr, H: tl.constexpr, K: tl.constexpr, W: tl.constexpr,
                    BM: tl.constexpr, BN: tl.constexpr, BK: tl.constexpr, LEFT: tl.constexpr, INNER: tl.constexpr,
                    PRECISION: tl.constexpr):  # fmt: skip
    """y = diag(left) x diag(inner) w: x [N, H, K], w [N, K, W], left [N, H], inner [N, K], y [N, H, W].

    Grid (networks, tiles of rows, tiles of columns).
    """
    net = tl.program_id(0).to(tl.int64)
    rows, columns = tl.program_id(1) * BM + tl.arange(0, BM), tl.program_id(2) * BN + tl.arange(0, BN)
    y = tl.zeros((BM, BN), tl.float32)
    for first in range(0, K, BK):
        k = first + tl.arange(0, BK)
        x = _load(x_ptr + net * H * K, rows, k, H, K, BM, BK)
        w = _load(w_ptr + net * K * W, k, columns, K, W, BK, BN)
        if INNER:
            x = x * tl.load(inner_ptr + net * K + k, mask=k < K, other=0.0)[None, :]
        y = _dot(x, w, y, PRECISION)
    if LEFT:
        y = y * tl.load(left_ptr + net * H + rows, mask=rows < H, other=0.0)[:, None]
    _store(y_ptr + net * H * W, y, rows, columns, H, W, BM, BN)
