"""Convolutions of many networks, each with its own kernels: products whose rows are positions (implicit GEMM).

Images lie as [networks, B, height, width, channels], channels padded to C or N; a weight as [networks, size size C, N],
the offsets of the kernel major, but the first layer's as declared, [networks, K, N], its channels major. What a product
loads again for every offset, outputs y and gradients dz, is `_rounded` once where it is stored, so that tiles go to the
matrix units as they lie in memory. Tiles of one network are neighbours in the grid and share what they load in the L2.
"""

import triton
import triton.language as tl

from .batchnorm import MEAN, PARTS, STATISTICS, _normal, _part, _row
from .layers import _multiply, _rounded, _sgd_weights, _update_vector


@triton.jit
def _pixels(x_ptr, base, offsets_ptr, scale_ptr, shift_ptr, k, i, j, valid, H: tl.constexpr, W: tl.constexpr,
            CHANNELS: tl.constexpr, PRECISION: tl.constexpr):  # fmt: skip
    """Columns k [BK] of the first layer's input at rows (base, i, j) [BM], scaled: float32 [BM, BK].

    Column k is channel k // 9 at offset k % 9 of the kernel; i, j: where its first offset lies.
    """
    y, x = i[:, None] + (k % 9 // 3)[None, :], j[:, None] + (k % 3)[None, :]
    some = valid[:, None] & (k < 9 * CHANNELS)[None, :] & (y >= 0) & (y < H) & (x >= 0) & (x < W)
    at = (k // 9 * H)[None, :] * W + y * W + x
    pixels = tl.load(x_ptr + (base[:, None] + tl.load(offsets_ptr + at, mask=some, other=0)), mask=some, other=0)
    scale, shift = tl.load(scale_ptr + at, mask=some, other=0.0), tl.load(shift_ptr + at, mask=some, other=0.0)
    return _rounded(pixels.to(tl.float32) * scale + shift, PRECISION)


@triton.jit
def _seen(x_ptr, b, row, column, valid, c, H: tl.constexpr, W: tl.constexpr, C: tl.constexpr):
    """Channels c [BC] at (b, row, column) [BM] of images [B, H, W, C], zero outside them: [BM, BC]."""
    some = valid & (row >= 0) & (row < H) & (column >= 0) & (column < W)
    return tl.load(x_ptr + (((b * H + row) * W + column) * C)[:, None] + c[None, :], mask=some[:, None], other=0.0)


@triton.jit(do_not_specialize=["now", "size", "R"])
def _convolve_kernel(x_ptr, bases_ptr, offsets_ptr, scale_ptr, shift_ptr, w_ptr, b_ptr, norm_ptr, z_ptr, top_ptr,
                     parts_ptr, counts_ptr, slope, now, size, R,
                     B: tl.constexpr, H: tl.constexpr, W: tl.constexpr, C: tl.constexpr, K: tl.constexpr,
                     N: tl.constexpr, SIZE: tl.constexpr, STRIDE: tl.constexpr, BM: tl.constexpr, BN: tl.constexpr,
                     BK: tl.constexpr, FIRST: tl.constexpr, POOL: tl.constexpr, LAST: tl.constexpr,
                     PRECISION: tl.constexpr):  # fmt: skip
    """z = the convolution of a unit's input with w [networks, K, N], its 2x2 windows' winners, and each tile's moments.

    Grid (networks x tiles). Rows of a tile are whole windows where POOL; what wins is the largest number after
    BatchNorm: the largest of z, the smallest where gamma is negative. LAST: bias and activation come before BatchNorm,
    and z is theirs; elsewhere BatchNorm takes the bias out again. FIRST: the input is images of C channels, gathered;
    else it is x [networks, B, H, W, C], rounded.
    """
    ZH: tl.constexpr = (H - 1) // STRIDE + 1
    ZW: tl.constexpr = (W - 1) // STRIDE + 1
    P: tl.constexpr = 1 + 3 * POOL
    WH: tl.constexpr = (ZH + POOL) // (1 + POOL)
    WW: tl.constexpr = (ZW + POOL) // (1 + POOL)
    PH: tl.constexpr = ZH // (1 + POOL)
    PW: tl.constexpr = ZW // (1 + POOL)
    ACROSS: tl.constexpr = N // BN
    TILES: tl.constexpr = (B * WH * WW * P + BM - 1) // BM
    net, tile = (tl.program_id(0) // (TILES * ACROSS)).to(tl.int64), tl.program_id(0) % (TILES * ACROSS)
    columns, tile = tile % ACROSS * BN + tl.arange(0, BN), tile // ACROSS
    n = tl.minimum(tl.load(counts_ptr + net) - now, size)
    if tile * BM >= n * (WH * WW * P):
        return
    m = tile * BM + tl.arange(0, BM)
    window, place = m // P, m % P
    b = window // (WH * WW)
    i, j = (1 + POOL) * (window // WW % WH) + place // 2, (1 + POOL) * (window % WW) + place % 2
    valid = (b < n) & (i < ZH) & (j < ZW)
    up, left = i * STRIDE - SIZE // 2, j * STRIDE - SIZE // 2
    w_ptr += net * K * N
    z = tl.zeros((BM, BN), tl.float32)
    if FIRST:
        base = tl.load(bases_ptr + net * R + now + b, mask=valid, other=0)
        for first in range(0, K, BK):
            k = first + tl.arange(0, BK)
            x = _pixels(x_ptr, base, offsets_ptr, scale_ptr, shift_ptr, k, up, left, valid, H, W, C,
                        PRECISION)  # fmt: skip
            w = tl.load(w_ptr + k[:, None] * N + columns[None, :])  # [BK, BN]
            z = _multiply(x, _rounded(w, PRECISION), z, PRECISION)
    else:
        x_ptr += net * B * H * W * C
        for first in range(0, K, BK):  # one offset of the kernel: C is a multiple of BK
            row, column = up + first // C // SIZE, left + first // C % SIZE
            x = _seen(x_ptr, b, row, column, valid, first % C + tl.arange(0, BK), H, W, C)  # [BM, BK]
            w = tl.load(w_ptr + (first + tl.arange(0, BK))[:, None] * N + columns[None, :])  # [BK, BN]
            z = _multiply(x, _rounded(w, PRECISION), z, PRECISION)
    if LAST:
        z += tl.load(b_ptr + net * N + columns)[None, :]
        z = tl.where(z > 0, z, slope * z)
    z = z.to(z_ptr.dtype.element_ty).to(tl.float32)  # everyone sees what is kept
    at = (((b * ZH + i) * ZW + j) * N)[:, None] + columns[None, :]
    tl.store(z_ptr + net * B * ZH * ZW * N + at, z, mask=valid[:, None])
    if POOL:
        sign = tl.where(tl.load(norm_ptr + net * 4 * N + columns) < 0, -1.0, 1.0)[None, :]
        top = tl.max(tl.reshape(z * sign, (BM // 4, 4, BN)), axis=1) * sign
        window = tile * (BM // 4) + tl.arange(0, BM // 4)
        b, i, j = window // (WH * WW), window // WW % WH, window % WW
        at = (((b * PH + i) * PW + j) * N)[:, None] + columns[None, :]
        whole = (b < n) & (i < PH) & (j < PW)
        tl.store(top_ptr + net * B * PH * PW * N + at, top, mask=whole[:, None])
    count = tl.sum(valid.to(tl.float32))
    mean = tl.sum(tl.where(valid[:, None], z, 0.0), axis=0) / count
    away = tl.where(valid[:, None], z - mean[None, :], 0.0)
    count += tl.zeros((BN,), tl.float32)
    _part(parts_ptr + net * TILES * PARTS * N, tile, columns, count, mean, tl.sum(away * away, axis=0), N)


@triton.jit
def _leave(y, place, valid, c, tile, z_ptr, side_ptr, stat_ptr, side_stat_ptr, d_ptr, parts_ptr, slope,
           N: tl.constexpr, SIDE: tl.constexpr):  # fmt: skip
    """Store d, the gradient y at a unit's output taken back through its activation, and the tile's sums of it.

    y [BM, BN] at place [BM] of the unit's images; the other arguments as `_shown`.
    """
    at, some = (place * N)[:, None] + c[None, :], valid[:, None]
    z = tl.load(z_ptr + at, mask=some, other=0.0).to(tl.float32)
    normal = _normal(z, stat_ptr, c, N)
    if SIDE:
        side = tl.load(side_ptr + at, mask=some, other=0.0).to(tl.float32)
        normal += _normal(side, side_stat_ptr, c, N)
    d = tl.where(some, y * tl.where(normal > 0, 1.0, slope), 0.0).to(d_ptr.dtype.element_ty)
    tl.store(d_ptr + at, d, mask=some)
    d = d.to(tl.float32)
    total = tl.sum(d, axis=0)
    tilt = tl.sum(d * (z - _row(stat_ptr, MEAN, c, N)), axis=0)
    side_tilt = tilt
    if SIDE:
        side_tilt = tl.sum(d * (side - _row(side_stat_ptr, MEAN, c, N)), axis=0)
    _part(parts_ptr, tile, c, total, tilt, side_tilt, N)


@triton.jit
def _taken_back(y, dz_ptr, w_ptr, b, i, j, valid, c, H: tl.constexpr, W: tl.constexpr, C: tl.constexpr,
                N: tl.constexpr, SIZE: tl.constexpr, STRIDE: tl.constexpr, BK: tl.constexpr,
                PRECISION: tl.constexpr):  # fmt: skip
    """y + the gradient at channels c of the input at rows (b, i, j), from dz and w of one convolution: [BM, BC]."""
    ZH: tl.constexpr = (H - 1) // STRIDE + 1
    ZW: tl.constexpr = (W - 1) // STRIDE + 1
    for first in range(0, SIZE * SIZE * N, BK):  # one offset of the kernel: N is a multiple of BK
        offset, o = first // N, first % N + tl.arange(0, BK)
        row, column = i + SIZE // 2 - offset // SIZE, j + SIZE // 2 - offset % SIZE
        on = valid
        if STRIDE > 1:
            on = valid & (row % STRIDE == 0) & (column % STRIDE == 0) & (row >= 0) & (column >= 0)
            row, column = row // STRIDE, column // STRIDE
        dz = _seen(dz_ptr, b, row, column, on, o, ZH, ZW, N)  # [BM, BK]
        w = _rounded(tl.load(w_ptr + ((offset * C + c) * N)[:, None] + o[None, :]), PRECISION)  # [BC, BK]
        y = _multiply(dz, tl.trans(w), y, PRECISION)
    return y


@triton.jit(do_not_specialize=["now", "size"])
def _data_kernel(dz_ptr, w_ptr, side_dz_ptr, side_w_ptr, z_ptr, below_ptr, stat_ptr, below_stat_ptr, d_ptr, parts_ptr,
                 counts_ptr, slope, now, size, B: tl.constexpr, H: tl.constexpr, W: tl.constexpr, C: tl.constexpr,
                 N: tl.constexpr, STRIDE: tl.constexpr, BM: tl.constexpr, BN: tl.constexpr, BK: tl.constexpr,
                 SIDE: tl.constexpr, BELOW: tl.constexpr, PRECISION: tl.constexpr):  # fmt: skip
    """The gradient at a unit's input, taken back through the activation of the unit below, whose output that is.

    Grid (networks x tiles). dz [networks, B, height, width, N] of the 3x3 convolution and, where SIDE, of the 1x1
    shortcut. The unit below as `_leave` takes it, its shortcut where BELOW.
    """
    ACROSS: tl.constexpr = C // BN
    TILES: tl.constexpr = (B * H * W + BM - 1) // BM
    OUT: tl.constexpr = B * ((H - 1) // STRIDE + 1) * ((W - 1) // STRIDE + 1) * N
    net, tile = (tl.program_id(0) // (TILES * ACROSS)).to(tl.int64), tl.program_id(0) % (TILES * ACROSS)
    c, tile = tile % ACROSS * BN + tl.arange(0, BN), tile // ACROSS
    n = tl.minimum(tl.load(counts_ptr + net) - now, size)
    if tile * BM >= n * (H * W):
        return
    m = tile * BM + tl.arange(0, BM)
    b, i, j = m // (H * W), m // W % H, m % W
    valid = b < n
    y = tl.zeros((BM, BN), tl.float32)
    y = _taken_back(y, dz_ptr + net * OUT, w_ptr + net * 9 * C * N, b, i, j, valid, c, H, W, C, N, 3, STRIDE, BK,
                    PRECISION)  # fmt: skip
    if SIDE:
        y = _taken_back(y, side_dz_ptr + net * OUT, side_w_ptr + net * C * N, b, i, j, valid, c, H, W, C, N, 1, STRIDE,
                        BK, PRECISION)  # fmt: skip
    at, at_s = net * B * H * W * C, net * STATISTICS * C
    _leave(y, m, valid, c, tile, z_ptr + at, below_ptr + at, stat_ptr + at_s, below_stat_ptr + at_s, d_ptr + at,
           parts_ptr + net * TILES * PARTS * C, slope, C, BELOW)  # fmt: skip


@triton.jit(do_not_specialize=["now", "size", "R"])
def _weight_kernel(x_ptr, bases_ptr, offsets_ptr, scale_ptr, shift_ptr, dz_ptr, w_ptr, wv_ptr, b_ptr, bv_ptr,
                   counts_ptr, lr_ptr, decay_ptr, momentum, now, size, R,
                   B: tl.constexpr, H: tl.constexpr, W: tl.constexpr, C: tl.constexpr, K: tl.constexpr,
                   N: tl.constexpr, SIZE: tl.constexpr, STRIDE: tl.constexpr, BM: tl.constexpr, BN: tl.constexpr,
                   BK: tl.constexpr, FIRST: tl.constexpr, LAST: tl.constexpr, PRECISION: tl.constexpr):  # fmt: skip
    """A convolution's weight gradient and SGD step in one pass; grid (networks x tiles of w).

    Arguments as `_convolve_kernel`. The gradient of a bias that BatchNorm takes out again is zero.
    """
    ZH: tl.constexpr = (H - 1) // STRIDE + 1
    ZW: tl.constexpr = (W - 1) // STRIDE + 1
    ACROSS: tl.constexpr = N // BN
    TILES: tl.constexpr = K // BK * ACROSS
    net, tile = (tl.program_id(0) // TILES).to(tl.int64), tl.program_id(0) % TILES
    columns, first = tile % ACROSS * BN + tl.arange(0, BN), tile // ACROSS * BK
    n = tl.minimum(tl.load(counts_ptr + net) - now, size)
    if n <= 0:
        return
    k = first + tl.arange(0, BK)
    dz_ptr += net * B * ZH * ZW * N
    x_ptr += net * B * H * W * C * (not FIRST)
    gradient, d_bias = tl.zeros((BK, BN), tl.float32), tl.zeros((BN,), tl.float32)
    for some in range(0, n * (ZH * ZW), BM):
        m = some + tl.arange(0, BM)
        b, i, j = m // (ZH * ZW), m // ZW % ZH, m % ZW
        valid = b < n
        up, left = i * STRIDE - SIZE // 2, j * STRIDE - SIZE // 2
        if FIRST:
            base = tl.load(bases_ptr + net * R + now + b, mask=valid, other=0)
            x = _pixels(x_ptr, base, offsets_ptr, scale_ptr, shift_ptr, k, up, left, valid, H, W, C,
                        PRECISION)  # fmt: skip
        else:
            row, column = up + first // C // SIZE, left + first // C % SIZE
            x = _seen(x_ptr, b, row, column, valid, first % C + tl.arange(0, BK), H, W, C)  # [BM, BK]
        dz = _seen(dz_ptr, b, i, j, valid, columns, ZH, ZW, N)  # [BM, BN]
        gradient = _multiply(tl.trans(x), dz, gradient, PRECISION)
        if LAST:
            d_bias += tl.sum(dz.to(tl.float32), axis=0)
    lr, decay = tl.load(lr_ptr + net), tl.load(decay_ptr + net)
    place = net * K * N + k[:, None] * N + columns[None, :]  # [BK, BN]
    w, v = _sgd_weights(tl.load(w_ptr + place), tl.load(wv_ptr + place), gradient, lr, decay, momentum)
    tl.store(w_ptr + place, w)
    tl.store(wv_ptr + place, v)
    if first == 0:
        _update_vector(b_ptr, bv_ptr, net * N + columns, d_bias, lr, decay, momentum)
