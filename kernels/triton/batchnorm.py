"""BatchNorm of many networks' images: statistics from the partial sums of tiles, the SGD step of gamma and beta, and
the gradient at a convolution's result.

The first stage is in the kernels that make the numbers: each tile of rows leaves its count, mean (or sum) and squares
measured from its own mean; here one program a network and block of channels adds the tiles up in their order. What
other kernels need is kept in stat [networks, STATISTICS, N]: the rows below.
"""

import triton
import triton.language as tl

from .layers import _rounded, _update_vector

MEAN, SCALE, SHIFT, INVERSE = (tl.constexpr(i) for i in range(4))  # n = (z - mean) scale + shift; 1 / deviation
OFFSET, TILT = tl.constexpr(4), tl.constexpr(5)  # dz = scale d - offset - tilt (z - mean)
STATISTICS = tl.constexpr(6)
PARTS = tl.constexpr(3)  # of a tile: count, mean, squares from it; or sum of d, of d (z - mean) in each of two branches


@triton.jit
def _row(stat_ptr, row, c, N: tl.constexpr):
    return tl.load(stat_ptr + row * N + c)[None, :]


@triton.jit
def _normal(z, stat_ptr, c, N: tl.constexpr):
    """BatchNorm of z [., BN], channels c [BN]; stat_ptr: the network's."""
    return (z - _row(stat_ptr, MEAN, c, N)) * _row(stat_ptr, SCALE, c, N) + _row(stat_ptr, SHIFT, c, N)


@triton.jit
def _shown(z_ptr, side_ptr, stat_ptr, side_stat_ptr, place, valid, c, slope, N: tl.constexpr, SIDE: tl.constexpr):
    """A unit's output at place [BM] of its images, channels c [BC], zero where not valid: float32 [BM, BC].

    It is the activation of BatchNorm of z, or of the sum with the shortcut's where SIDE; slope 1 is no activation.
    """
    at, some = (place * N)[:, None] + c[None, :], valid[:, None]
    y = _normal(tl.load(z_ptr + at, mask=some, other=0.0).to(tl.float32), stat_ptr, c, N)
    if SIDE:
        y += _normal(tl.load(side_ptr + at, mask=some, other=0.0).to(tl.float32), side_stat_ptr, c, N)
    return tl.where(some, tl.where(y > 0, y, slope * y), 0.0)


@triton.jit(do_not_specialize=["now", "size"])
def _normal_kernel(z_ptr, side_ptr, stat_ptr, side_stat_ptr, y_ptr, counts_ptr, slope, now, size, B: tl.constexpr,
                   AREA: tl.constexpr, N: tl.constexpr, BM: tl.constexpr, BN: tl.constexpr, SIDE: tl.constexpr,
                   PRECISION: tl.constexpr):  # fmt: skip
    """y [networks, B, AREA, N]: a unit's output, rounded for the next one's products.

    Grid (networks, tiles of positions, blocks of channels); the rest as `_shown`. A pass of its own over what is pooled
    already costs less than the same arithmetic for each offset of the kernel, in the forward pass and on the way back.
    """
    net, m = tl.program_id(0).to(tl.int64), tl.program_id(1) * BM + tl.arange(0, BM)
    n = tl.minimum(tl.load(counts_ptr + net) - now, size)
    if tl.program_id(1) * BM >= n * AREA:
        return
    c, valid = tl.program_id(2) * BN + tl.arange(0, BN), m < n * AREA
    at, at_s = net * B * AREA * N, net * STATISTICS * N
    y = _shown(z_ptr + at, side_ptr + at, stat_ptr + at_s, side_stat_ptr + at_s, m, valid, c, slope, N, SIDE)
    tl.store(y_ptr + at + (m * N)[:, None] + c[None, :], _rounded(y, PRECISION), mask=valid[:, None])


@triton.jit
def _part(parts_ptr, tile, c, first, second, third, N: tl.constexpr):
    """Keep one tile's three numbers a channel; parts_ptr [tiles, PARTS, N], the network's."""
    at = tile * PARTS * N + c
    tl.store(parts_ptr + at, first)
    tl.store(parts_ptr + at + N, second)
    tl.store(parts_ptr + at + 2 * N, third)


@triton.jit(do_not_specialize=["now", "size", "TILES", "AREA", "ROWS", "BM", "N"])
def _statistics_kernel(parts_ptr, norm_ptr, bias_ptr, stat_ptr, counts_ptr, now, size, TILES, AREA, ROWS, BM, N,
                       BN: tl.constexpr, BT: tl.constexpr, BIAS: tl.constexpr, EVALUATE: tl.constexpr):  # fmt: skip
    """The batch's mean and deviation, and the running ones moved; in evaluation the running ones as they are.

    Grid (networks, blocks of channels). norm_ptr [networks, 4, N]: gamma, beta, running mean and variance. AREA:
    positions of an image; ROWS: of an image in the tiles of BM rows. BIAS: z is the convolution without its bias, which
    is in the running mean only.
    """
    net = tl.program_id(0).to(tl.int64)
    n = tl.minimum(tl.load(counts_ptr + net) - now, size)
    if n <= 0:
        return
    c = tl.program_id(1) * BN + tl.arange(0, BN)
    at, at_n = net * TILES * PARTS * N, net * 4 * N + c
    gamma, beta = tl.load(norm_ptr + at_n), tl.load(norm_ptr + at_n + N)
    mean, variance = tl.load(norm_ptr + at_n + 2 * N), tl.load(norm_ptr + at_n + 3 * N)
    bias = tl.zeros((BN,), tl.float32)
    if BIAS:
        bias = tl.load(bias_ptr + net * N + c)
    if EVALUATE:
        mean -= bias
    else:
        used, M = tl.cdiv(n * ROWS, BM), (n * AREA).to(tl.float32)
        batch_mean, squares = tl.zeros((BN,), tl.float32), tl.zeros((BN,), tl.float32)
        for first in range(0, used, BT):
            tile = first + tl.arange(0, BT)
            part, some = parts_ptr + at + (tile * PARTS * N)[:, None] + c[None, :], (tile < used)[:, None]
            batch_mean += tl.sum(tl.load(part, mask=some, other=0.0) * tl.load(part + N, mask=some, other=0.0), axis=0)
        batch_mean = batch_mean / M
        for first in range(0, used, BT):
            tile = first + tl.arange(0, BT)
            part, some = parts_ptr + at + (tile * PARTS * N)[:, None] + c[None, :], (tile < used)[:, None]
            away = tl.load(part + N, mask=some, other=0.0) - batch_mean[None, :]
            own = tl.load(part + 2 * N, mask=some, other=0.0)
            squares += tl.sum(own + tl.load(part, mask=some, other=0.0) * away * away, axis=0)
        batch_variance = squares / M
        tl.store(norm_ptr + at_n + 2 * N, mean + 0.1 * (batch_mean + bias - mean))
        unbiased = batch_variance * (M / tl.maximum(M - 1, 1.0))
        tl.store(norm_ptr + at_n + 3 * N, variance + 0.1 * (unbiased - variance))
        mean, variance = batch_mean, batch_variance
    inverse = 1 / tl.sqrt(variance + 1e-5)
    to = stat_ptr + net * STATISTICS * N + c
    tl.store(to + MEAN * N, mean)
    tl.store(to + SCALE * N, gamma * inverse)
    tl.store(to + SHIFT * N, beta)
    tl.store(to + INVERSE * N, inverse)


@triton.jit(do_not_specialize=["now", "size", "TILES", "AREA", "ROWS", "BM", "N", "BRANCH"])
def _affine_kernel(parts_ptr, norm_ptr, nv_ptr, stat_ptr, counts_ptr, lr_ptr, decay_ptr, momentum, now, size, TILES,
                   AREA, ROWS, BM, N, BRANCH, BN: tl.constexpr, BT: tl.constexpr):  # fmt: skip
    """gamma's and beta's SGD step from the tiles' sums of d, that at BatchNorm's output, and of d (z - mean).

    Also what the gradient at z takes of them. ROWS: where d may differ from zero, of an image. BRANCH: 1 for the
    shortcut's BatchNorm, whose d is the same.
    """
    net = tl.program_id(0).to(tl.int64)
    n = tl.minimum(tl.load(counts_ptr + net) - now, size)
    if n <= 0:
        return
    c = tl.program_id(1) * BN + tl.arange(0, BN)
    used = tl.cdiv(n * ROWS, BM)
    d_beta, tilt = tl.zeros((BN,), tl.float32), tl.zeros((BN,), tl.float32)
    for first in range(0, used, BT):
        tile = first + tl.arange(0, BT)
        at = (net * TILES * PARTS * N + (tile * PARTS * N)[:, None]) + c[None, :]
        some = (tile < used)[:, None]
        d_beta += tl.sum(tl.load(parts_ptr + at, mask=some, other=0.0), axis=0)
        tilt += tl.sum(tl.load(parts_ptr + at + (1 + BRANCH) * N, mask=some, other=0.0), axis=0)
    to = stat_ptr + net * STATISTICS * N + c
    scale, inverse, M = tl.load(to + SCALE * N), tl.load(to + INVERSE * N), (n * AREA).to(tl.float32)
    d_gamma = tilt * inverse
    tl.store(to + OFFSET * N, scale * d_beta / M)
    tl.store(to + TILT * N, scale * inverse * d_gamma / M)
    lr, decay = tl.load(lr_ptr + net), tl.load(decay_ptr + net)
    _update_vector(norm_ptr, nv_ptr, net * 4 * N + c, d_gamma, lr, decay, momentum)
    _update_vector(norm_ptr, nv_ptr, net * 4 * N + N + c, d_beta, lr, decay, momentum)


@triton.jit
def _back(z, d, stat_ptr, c, slope, N: tl.constexpr, LAST: tl.constexpr, PRECISION: tl.constexpr):
    """The gradient at the convolution's result, rounded; z is that result or, where LAST, its activation."""
    centred = z - _row(stat_ptr, MEAN, c, N)
    dz = _row(stat_ptr, SCALE, c, N) * d - _row(stat_ptr, OFFSET, c, N) - _row(stat_ptr, TILT, c, N) * centred
    if LAST:
        dz = dz * tl.where(z > 0, 1.0, slope)
    return _rounded(dz, PRECISION)


@triton.jit(do_not_specialize=["now", "size"])
def _normal_gradient_kernel(z_ptr, d_ptr, stat_ptr, counts_ptr, slope, now, size, B: tl.constexpr, H: tl.constexpr,
                            W: tl.constexpr, N: tl.constexpr, BM: tl.constexpr, BN: tl.constexpr, POOL: tl.constexpr,
                            LAST: tl.constexpr, PRECISION: tl.constexpr):  # fmt: skip
    """z [networks, B, H, W, N] becomes the gradient there, from d at BatchNorm's (pooled) output.

    Grid (networks, tiles of windows, blocks of channels). A window's gradient goes to its largest number, the first of
    equals. LAST: z is what the activation of this slope made of the convolution's result, which the gradient goes to.
    """
    WH: tl.constexpr = (H + POOL) // (1 + POOL)
    WW: tl.constexpr = (W + POOL) // (1 + POOL)
    PH: tl.constexpr = H // (1 + POOL)
    PW: tl.constexpr = W // (1 + POOL)
    net = tl.program_id(0).to(tl.int64)
    n = tl.minimum(tl.load(counts_ptr + net) - now, size)
    m, c = tl.program_id(1) * BM + tl.arange(0, BM), tl.program_id(2) * BN + tl.arange(0, BN)
    if tl.program_id(1) * BM >= n * WH * WW:
        return
    z_ptr += net * B * H * W * N
    d_ptr += net * B * PH * PW * N
    stat_ptr += net * STATISTICS * N
    b, i, j = m // (WH * WW), m // WW % WH, m % WW
    valid = b < n
    whole = valid & (i < PH) & (j < PW)
    d = tl.load(d_ptr + (((b * PH + i) * PW + j) * N)[:, None] + c[None, :], mask=whole[:, None], other=0.0)
    d = d.to(tl.float32)  # [BM, BN]
    if POOL:
        at = (((b * H + 2 * i) * W + 2 * j) * N)[:, None] + c[None, :]
        right, low = valid & (2 * j + 1 < W), valid & (2 * i + 1 < H)
        z0 = tl.load(z_ptr + at, mask=valid[:, None], other=0.0).to(tl.float32)
        z1 = tl.load(z_ptr + at + N, mask=right[:, None], other=0.0).to(tl.float32)
        z2 = tl.load(z_ptr + at + W * N, mask=low[:, None], other=0.0).to(tl.float32)
        z3 = tl.load(z_ptr + at + W * N + N, mask=(low & right)[:, None], other=0.0).to(tl.float32)
        n0, n1 = _normal(z0, stat_ptr, c, N), _normal(z1, stat_ptr, c, N)
        n2, n3 = _normal(z2, stat_ptr, c, N), _normal(z3, stat_ptr, c, N)
        upper, lower = tl.maximum(n0, n1), tl.maximum(n2, n3)
        is_low = lower > upper
        d_up, d_low = tl.where(is_low, 0.0, d), tl.where(is_low, d, 0.0)
        second, fourth = n1 > n0, n3 > n2
        dz = _back(z0, tl.where(second, 0.0, d_up), stat_ptr, c, slope, N, LAST, PRECISION)
        tl.store(z_ptr + at, dz, mask=valid[:, None])
        dz = _back(z1, tl.where(second, d_up, 0.0), stat_ptr, c, slope, N, LAST, PRECISION)
        tl.store(z_ptr + at + N, dz, mask=right[:, None])
        dz = _back(z2, tl.where(fourth, 0.0, d_low), stat_ptr, c, slope, N, LAST, PRECISION)
        tl.store(z_ptr + at + W * N, dz, mask=low[:, None])
        dz = _back(z3, tl.where(fourth, d_low, 0.0), stat_ptr, c, slope, N, LAST, PRECISION)
        tl.store(z_ptr + at + W * N + N, dz, mask=(low & right)[:, None])
    else:
        at = (m * N)[:, None] + c[None, :]
        z = tl.load(z_ptr + at, mask=valid[:, None], other=0.0).to(tl.float32)
        tl.store(z_ptr + at, _back(z, d, stat_ptr, c, slope, N, LAST, PRECISION), mask=valid[:, None])
