"""The 2x2 max pool of many networks' images and its gradient, as `wsfast.reference.pooling`.

Of units with a gate only: for all others convolution and BatchNorm pool before the activation, where less is kept.
"""

import triton
import triton.language as tl


@triton.jit(do_not_specialize=["now", "size", "B", "H", "W", "N"])
def _pool_kernel(x_ptr, y_ptr, counts_ptr, now, size, B, H, W, N, BM: tl.constexpr, BN: tl.constexpr):
    """y [networks, B, H // 2, W // 2, N] from x [networks, B, H, W, N].

    Grid (networks, tiles of windows, blocks of channels).
    """
    net, m = tl.program_id(0).to(tl.int64), tl.program_id(1) * BM + tl.arange(0, BM)
    n = tl.minimum(tl.load(counts_ptr + net) - now, size)
    PH, PW = H // 2, W // 2
    if tl.program_id(1) * BM >= n * PH * PW:
        return
    c, valid = tl.program_id(2) * BN + tl.arange(0, BN), (m < n * PH * PW)[:, None]
    b, i, j = m // (PH * PW), m // PW % PH, m % PW
    at = x_ptr + net * B * H * W * N + (((b * H + 2 * i) * W + 2 * j) * N)[:, None] + c[None, :]  # [BM, BN]
    upper = tl.maximum(tl.load(at, mask=valid), tl.load(at + N, mask=valid))
    lower = tl.maximum(tl.load(at + W * N, mask=valid), tl.load(at + W * N + N, mask=valid))
    tl.store(y_ptr + net * B * PH * PW * N + (m * N)[:, None] + c[None, :], tl.maximum(upper, lower), mask=valid)


@triton.jit(do_not_specialize=["now", "size", "B", "H", "W", "N"])
def _unpool_kernel(x_ptr, d_ptr, g_ptr, counts_ptr, now, size, B, H, W, N, BM: tl.constexpr, BN: tl.constexpr):
    """g, the gradient at x, from d at y: to a window's largest number, the first of equals; zero past the windows.

    Arguments as `_pool_kernel`; windows of an odd last row or column are in the grid too.
    """
    net, m = tl.program_id(0).to(tl.int64), tl.program_id(1) * BM + tl.arange(0, BM)
    n = tl.minimum(tl.load(counts_ptr + net) - now, size)
    WH, WW, PH, PW = (H + 1) // 2, (W + 1) // 2, H // 2, W // 2
    if tl.program_id(1) * BM >= n * WH * WW:
        return
    c, b, i, j = tl.program_id(2) * BN + tl.arange(0, BN), m // (WH * WW), m // WW % WH, m % WW
    valid = b < n
    whole, right, low = valid & (i < PH) & (j < PW), valid & (2 * j + 1 < W), valid & (2 * i + 1 < H)
    d = tl.load(d_ptr + net * B * PH * PW * N + (((b * PH + i) * PW + j) * N)[:, None] + c[None, :],
                mask=whole[:, None], other=0.0)  # [BM, BN] # fmt: skip
    at = net * B * H * W * N + (((b * H + 2 * i) * W + 2 * j) * N)[:, None] + c[None, :]
    x0 = tl.load(x_ptr + at, mask=whole[:, None], other=0.0)
    x1 = tl.load(x_ptr + at + N, mask=whole[:, None], other=0.0)
    x2 = tl.load(x_ptr + at + W * N, mask=whole[:, None], other=0.0)
    x3 = tl.load(x_ptr + at + W * N + N, mask=whole[:, None], other=0.0)
    upper, lower = tl.maximum(x0, x1), tl.maximum(x2, x3)
    is_low = lower > upper
    d_up, d_low = tl.where(is_low, 0.0, d), tl.where(is_low, d, 0.0)
    tl.store(g_ptr + at, tl.where(x1 > x0, 0.0, d_up), mask=valid[:, None])
    tl.store(g_ptr + at + N, tl.where(x1 > x0, d_up, 0.0), mask=right[:, None])
    tl.store(g_ptr + at + W * N, tl.where(x3 > x2, 0.0, d_low), mask=low[:, None])
    tl.store(g_ptr + at + W * N + N, tl.where(x3 > x2, d_low, 0.0), mask=(low & right)[:, None])
