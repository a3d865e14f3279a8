"""The mean over a network's last images, and its gradient."""

import triton
import triton.language as tl

from .batchnorm import PARTS, STATISTICS, _shown
from .convolution import _leave


@triton.jit(do_not_specialize=["now", "size"])
def _mean_kernel(z_ptr, side_ptr, stat_ptr, side_stat_ptr, features_ptr, counts_ptr, slope, now, size, B: tl.constexpr,
                 PADDED: tl.constexpr, AREA: tl.constexpr, N: tl.constexpr, BM: tl.constexpr, BN: tl.constexpr,
                 SIDE: tl.constexpr):  # fmt: skip
    """features [networks, PADDED, N]: each image's mean output of the last unit, zero past the batch.

    Grid (networks, tiles of images, blocks of channels); z [networks, B, AREA, N] as `_shown` takes it.
    """
    net = tl.program_id(0).to(tl.int64)
    n = tl.minimum(tl.load(counts_ptr + net) - now, size)
    if n <= 0:
        return
    b, c = tl.program_id(1) * BM + tl.arange(0, BM), tl.program_id(2) * BN + tl.arange(0, BN)
    at, at_s = net * B * AREA * N, net * STATISTICS * N
    total = tl.zeros((BM, BN), tl.float32)
    for place in range(0, AREA):
        total += _shown(z_ptr + at, side_ptr + at, stat_ptr + at_s, side_stat_ptr + at_s, b * AREA + place, b < n, c,
                        slope, N, SIDE)  # fmt: skip
    tl.store(features_ptr + net * PADDED * N + (b * N)[:, None] + c[None, :], total / AREA)


@triton.jit(do_not_specialize=["now", "size"])
def _spread_kernel(df_ptr, z_ptr, side_ptr, stat_ptr, side_stat_ptr, d_ptr, parts_ptr, counts_ptr, slope, now, size,
                   B: tl.constexpr, PADDED: tl.constexpr, AREA: tl.constexpr, N: tl.constexpr, BM: tl.constexpr,
                   BN: tl.constexpr, SIDE: tl.constexpr):  # fmt: skip
    """The last unit's d, as `_leave` leaves it, from df [networks, PADDED, N], the gradient at the features."""
    TILES: tl.constexpr = (B * AREA + BM - 1) // BM
    net, tile = tl.program_id(0).to(tl.int64), tl.program_id(1)
    n = tl.minimum(tl.load(counts_ptr + net) - now, size)
    if tile * BM >= n * AREA:
        return
    m, c = tile * BM + tl.arange(0, BM), tl.program_id(2) * BN + tl.arange(0, BN)
    b = m // AREA
    valid = b < n
    df = tl.load(df_ptr + net * PADDED * N + (b * N)[:, None] + c[None, :], mask=valid[:, None], other=0.0)
    at, at_s = net * B * AREA * N, net * STATISTICS * N
    _leave(df / AREA, m, valid, c, tile, z_ptr + at, side_ptr + at, stat_ptr + at_s, side_stat_ptr + at_s, d_ptr + at,
           parts_ptr + net * TILES * PARTS * N, slope, N, SIDE)  # fmt: skip
