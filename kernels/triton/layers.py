"""One step of many fully connected networks: kernels over (network, tile of columns).

Shapes: B batch, a power of two of at least 16; K, N padded widths of a layer's input and output; padded weights, units
and gradients are zero and stay so. Every network has its own weights, rows, step size and weight decay; one whose epoch
is over (no rows left) is skipped. Sums run in a fixed order, so a network's bits do not depend on its neighbours.
"""

import triton
import triton.language as tl


@triton.jit
def _tf32(x):
    """x rounded to tf32's 10 bits of mantissa, to nearest even (the matrix units truncate)."""
    bits = x.to(tl.int32, bitcast=True)
    near = ((bits + 0xFFF + ((bits >> 13) & 1)) & ~0x1FFF).to(tl.float32, bitcast=True)
    return tl.fma(x, 0.0, near)  # NaN stays NaN: NVIDIA's own, 0x7FFFFFFF, would be carried to -0


@triton.jit
def _rounded(x, PRECISION: tl.constexpr):
    """x as `_multiply` wants it."""
    if PRECISION == "tf32":
        return _tf32(x)
    else:
        return x


@triton.jit
def _multiply(a, b, acc, PRECISION: tl.constexpr):
    """acc + a b. PRECISION: "tf32x3" (three tf32 products, fp32-grade), "ieee", "tf32" (of `_rounded`), "bf16"."""
    if PRECISION == "bf16":
        return tl.dot(a.to(tl.bfloat16), b.to(tl.bfloat16), acc)
    else:
        return tl.dot(a, b, acc, input_precision=PRECISION)


@triton.jit
def _dot(a, b, acc, PRECISION: tl.constexpr):
    """acc + a b, both rounded first where PRECISION is "tf32"."""
    return _multiply(_rounded(a, PRECISION), _rounded(b, PRECISION), acc, PRECISION)


@triton.jit
def _gather(x_ptr, bases, offsets_ptr, first, scale_ptr, shift_ptr, BK: tl.constexpr):
    """Columns first .. first + BK of the batch, scaled: float32 [B, BK].

    Pixel j of sample b is x[bases[b] + offsets[j]]; scale and shift are zero in the padding.
    """
    j = first + tl.arange(0, BK)
    scale, shift = tl.load(scale_ptr + j), tl.load(shift_ptr + j)
    pixels = tl.load(x_ptr + (bases[:, None] + tl.load(offsets_ptr + j)[None, :]))  # [B, BK]
    return pixels.to(tl.float32) * scale[None, :] + shift[None, :]


@triton.jit
def _sgd(w, v, gradient, lr, decay, momentum):
    v = momentum * v + (gradient + decay * w)
    return w - lr * v, v


@triton.jit
def _sgd_weights(w, v, gradient, lr, decay, momentum):
    """As _sgd, of weights: those whose velocity is NaN are fixed, and it stays NaN."""
    w_new, v = _sgd(w, v, gradient, lr, decay, momentum)
    return tl.where(v == v, w_new, w), v


@triton.jit
def _update_vector(p_ptr, v_ptr, at, gradient, lr, decay, momentum):
    """The SGD step of a bias or another per-unit parameter; returns its new values."""
    p, v = _sgd(tl.load(p_ptr + at), tl.load(v_ptr + at), gradient, lr, decay, momentum)
    tl.store(p_ptr + at, p)
    tl.store(v_ptr + at, v)
    return p


@triton.jit
def _finish(z, at, at_n, at_s, valid, n, slope, a_ptr, y_ptr, add_ptr, norm_ptr, stat_ptr, N: tl.constexpr,
            NORM: tl.constexpr, ADD: tl.constexpr, EVALUATE: tl.constexpr):  # fmt: skip
    """Activation, BatchNorm over the batch, residual sum; stores a (where it differs from y) and y.

    z [B, BN], at its place in [N, B, N]; norm_ptr [N, 4, N]: gamma, beta, running mean and variance; stat_ptr
    [N, 2, N]: the batch's mean and 1 / deviation.
    """
    a = tl.where(z > 0, z, slope * z)
    y = a
    if NORM or ADD:
        tl.store(a_ptr + at, a)
    if NORM:
        gamma, beta = tl.load(norm_ptr + at_n), tl.load(norm_ptr + at_n + N)
        mean, var = tl.load(norm_ptr + at_n + 2 * N), tl.load(norm_ptr + at_n + 3 * N)
        if not EVALUATE:
            batch_mean = tl.sum(tl.where(valid[:, None], a, 0.0), axis=0) / n
            centred = tl.where(valid[:, None], a - batch_mean[None, :], 0.0)
            batch_var = tl.sum(centred * centred, axis=0) / n
            tl.store(norm_ptr + at_n + 2 * N, 0.9 * mean + 0.1 * batch_mean)
            tl.store(norm_ptr + at_n + 3 * N, 0.9 * var + 0.1 * batch_var * (n / tl.maximum(n - 1, 1)))
            mean, var = batch_mean, batch_var
        inverse = 1 / tl.sqrt(var + 1e-5)
        if not EVALUATE:
            tl.store(stat_ptr + at_s, mean)
            tl.store(stat_ptr + at_s + N, inverse)
        y = (a - mean[None, :]) * (inverse * gamma)[None, :] + beta[None, :]
    if ADD:
        y += tl.load(add_ptr + at)
    tl.store(y_ptr + at, y)


@triton.jit(do_not_specialize=["now", "then", "size", "R"])
def _first_kernel(x_ptr, bases_ptr, offsets_ptr, counts_ptr, scale_ptr, shift_ptr, w_ptr, wv_ptr, b_ptr, bv_ptr,
                  dz_ptr, a_ptr, y_ptr, norm_ptr, stat_ptr, lr_ptr, decay_ptr, momentum, slope, now, then, size, R,
                  B: tl.constexpr, K: tl.constexpr, N: tl.constexpr, BK: tl.constexpr, BN: tl.constexpr,
                  BB: tl.constexpr, UPDATE: tl.constexpr, FORWARD: tl.constexpr, NORM: tl.constexpr,
                  EVALUATE: tl.constexpr, PRECISION: tl.constexpr):  # fmt: skip
    """First layer: the update for the batch at row `now`, and the forward pass of the batch at row `then`.

    Both in one pass over W: an updated tile is used for the next batch while it is still in registers. bases_ptr int64
    [N, R]; offsets_ptr int32 [K]; w_ptr, wv_ptr [N, K, N]; dz_ptr, y_ptr [N, B, N].
    """
    net = tl.program_id(0).to(tl.int64)
    count = tl.load(counts_ptr + net)
    left, n = count - now, tl.minimum(count - then, size)  # rows to learn from, rows to show next
    if UPDATE:
        if left <= 0:
            return
    else:
        if n <= 0:
            return
    columns = tl.program_id(1) * BN + tl.arange(0, BN)
    b = tl.arange(0, B)
    at = net * B * N + b[:, None] * N + columns[None, :]  # [B, BN]
    shown, lr, decay = tl.zeros((B,), tl.int64), 0.0, 0.0
    if UPDATE:
        lr, decay = tl.load(lr_ptr + net), tl.load(decay_ptr + net)
        _update_vector(b_ptr, bv_ptr, net * N + columns, tl.sum(tl.load(dz_ptr + at), axis=0), lr, decay, momentum)
    if FORWARD:
        shown = tl.load(bases_ptr + net * R + then + b, mask=b < n, other=0)
    z = tl.zeros((B, BN), tl.float32)
    for first in range(0, K, BK):
        place = net * K * N + (first + tl.arange(0, BK))[:, None] * N + columns[None, :]  # [BK, BN]
        w = tl.load(w_ptr + place)
        if UPDATE:
            v = tl.load(wv_ptr + place)
            gradient = tl.zeros((BK, BN), tl.float32)
            for some in range(0, B, BB):  # its part of dz stays in the cache
                part = some + tl.arange(0, BB)
                seen = tl.load(bases_ptr + net * R + now + part, mask=part < left, other=0)
                x = _gather(x_ptr, seen, offsets_ptr, first, scale_ptr, shift_ptr, BK)  # [BB, BK]
                dz = tl.load(dz_ptr + net * B * N + part[:, None] * N + columns[None, :])  # [BB, BN]
                gradient = _dot(tl.trans(x), dz, gradient, PRECISION)
            w, v = _sgd_weights(w, v, gradient, lr, decay, momentum)
            tl.store(w_ptr + place, w)
            tl.store(wv_ptr + place, v)
        if FORWARD:
            x = _gather(x_ptr, shown, offsets_ptr, first, scale_ptr, shift_ptr, BK)
            z = _dot(x, w, z, PRECISION)
    if FORWARD:  # noqa: SIM102 - a constant, n is not: one condition of both would be compiled without z
        if n > 0:
            if UPDATE:
                tl.debug_barrier()  # the bias's new values are in memory
            z += tl.load(b_ptr + net * N + columns)[None, :]
            _finish(z, at, net * 4 * N + columns, net * 2 * N + columns, b < n, n, slope, a_ptr, y_ptr, y_ptr,
                    norm_ptr, stat_ptr, N, NORM, False, EVALUATE)  # fmt: skip


@triton.jit(do_not_specialize=["now", "size"])
def _forward_kernel(x_ptr, w_ptr, b_ptr, a_ptr, y_ptr, add_ptr, norm_ptr, stat_ptr, counts_ptr, slope, now, size,
                    B: tl.constexpr, K: tl.constexpr, N: tl.constexpr, BK: tl.constexpr, BN: tl.constexpr,
                    NORM: tl.constexpr, ADD: tl.constexpr, EVALUATE: tl.constexpr,
                    PRECISION: tl.constexpr):  # fmt: skip
    """A later layer: y = finish(x W + b), x [N, B, K], w [N, K, N]."""
    net = tl.program_id(0).to(tl.int64)
    n = tl.minimum(tl.load(counts_ptr + net) - now, size)
    if n <= 0:
        return
    columns, b, k = tl.program_id(1) * BN + tl.arange(0, BN), tl.arange(0, B), tl.arange(0, BK)
    z = tl.zeros((B, BN), tl.float32)
    for first in range(0, K, BK):
        x = tl.load(x_ptr + net * B * K + b[:, None] * K + (first + k)[None, :])  # [B, BK]
        w = tl.load(w_ptr + net * K * N + (first + k)[:, None] * N + columns[None, :])  # [BK, BN]
        z = _dot(x, w, z, PRECISION)
    z += tl.load(b_ptr + net * N + columns)[None, :]
    at = net * B * N + b[:, None] * N + columns[None, :]
    _finish(z, at, net * 4 * N + columns, net * 2 * N + columns, b < n, n, slope, a_ptr, y_ptr, add_ptr, norm_ptr,
            stat_ptr, N, NORM, ADD, EVALUATE)  # fmt: skip


@triton.jit(do_not_specialize=["now", "size", "batch", "R", "S", "C"])
def _last_kernel(x_ptr, w_ptr, b_ptr, labels_ptr, counts_ptr, dz_ptr, loss_ptr, hits_ptr, slope, now, size, batch, R,
                 S, C, B: tl.constexpr, K: tl.constexpr, N: tl.constexpr, BK: tl.constexpr, EVALUATE: tl.constexpr,
                 PRECISION: tl.constexpr):  # fmt: skip
    """The last layer, its softmax cross-entropy (summed over the batch) and d(mean loss)/dz [N, B, N].

    labels int32 [N, R]; loss float32, hits int32 [N, S], written at column `batch`. C <= N classes.
    """
    net = tl.program_id(0).to(tl.int64)
    n = tl.minimum(tl.load(counts_ptr + net) - now, size)
    if n <= 0:
        return
    b, k, classes = tl.arange(0, B), tl.arange(0, BK), tl.arange(0, N)
    z = tl.zeros((B, N), tl.float32)
    for first in range(0, K, BK):
        x = tl.load(x_ptr + net * B * K + b[:, None] * K + (first + k)[None, :])
        w = tl.load(w_ptr + net * K * N + (first + k)[:, None] * N + classes[None, :])
        z = _dot(x, w, z, PRECISION)
    z += tl.load(b_ptr + net * N + classes)[None, :]
    logits = tl.where(z > 0, z, slope * z)
    logits = tl.where((classes < C)[None, :], logits, float("-inf"))
    label = tl.load(labels_ptr + net * R + now + b, mask=b < n, other=0)
    own = classes[None, :] == label[:, None]  # [B, N]
    top = tl.max(logits, axis=1)
    e = tl.exp(logits - top[:, None])
    norm = tl.sum(e, axis=1)
    loss = tl.log(norm) + top - tl.sum(tl.where(own, logits, 0.0), axis=1)
    tl.store(loss_ptr + net * S + batch, tl.sum(tl.where(b < n, loss, 0.0)))
    if EVALUATE:
        best = tl.min(tl.where(logits == top[:, None], classes[None, :], N), axis=1)  # the first of equals
        tl.store(hits_ptr + net * S + batch, tl.sum(((best == label) & (b < n)).to(tl.int32)))
    else:
        dz = (e / norm[:, None] - own.to(tl.float32)) / n
        dz = dz * tl.where(z > 0, 1.0, slope)
        dz = tl.where((b < n)[:, None] & (classes < C)[None, :], dz, 0.0)
        tl.store(dz_ptr + net * B * N + b[:, None] * N + classes[None, :], dz)


@triton.jit(do_not_specialize=["now", "size"])
def _gradient_kernel(dz_ptr, w_ptr, a_ptr, dx_ptr, dy_ptr, add_ptr, norm_ptr, nv_ptr, stat_ptr, counts_ptr, lr_ptr,
                     decay_ptr, momentum, slope, now, size, B: tl.constexpr, K: tl.constexpr, N: tl.constexpr,
                     BK: tl.constexpr, BN: tl.constexpr, NORM: tl.constexpr, ADD: tl.constexpr, KEEP: tl.constexpr,
                     PRECISION: tl.constexpr):  # fmt: skip
    """The gradient at the layer below, before its activation: dx [N, B, K] from dz [N, B, N] and w [N, K, N].

    a_ptr: the activation's output there. ADD: the gradient of a later layer that adds this output comes on top;
    KEEP: the sum is stored for the layer whose output this one adds. NORM: back through BatchNorm, with the SGD step
    of gamma and beta.
    """
    net = tl.program_id(0).to(tl.int64)
    n = tl.minimum(tl.load(counts_ptr + net) - now, size)
    if n <= 0:
        return
    units, b, c = tl.program_id(1) * BK + tl.arange(0, BK), tl.arange(0, B), tl.arange(0, BN)
    dy = tl.zeros((B, BK), tl.float32)
    for first in range(0, N, BN):
        dz = tl.load(dz_ptr + net * B * N + b[:, None] * N + (first + c)[None, :])  # [B, BN]
        w = tl.load(w_ptr + net * K * N + units[:, None] * N + (first + c)[None, :])  # [BK, BN]
        dy = _dot(dz, tl.trans(w), dy, PRECISION)
    at = net * B * K + b[:, None] * K + units[None, :]  # [B, BK]
    if ADD:
        dy += tl.load(add_ptr + at)
    if KEEP:
        tl.store(dy_ptr + at, dy)
    a = tl.load(a_ptr + at)
    if NORM:
        at_n, at_s = net * 4 * K + units, net * 2 * K + units
        mean, inverse = tl.load(stat_ptr + at_s), tl.load(stat_ptr + at_s + K)
        scaled = (a - mean[None, :]) * inverse[None, :]
        d_beta, d_gamma = tl.sum(dy, axis=0), tl.sum(dy * scaled, axis=0)  # dy is zero past the batch
        factor = tl.load(norm_ptr + at_n) * inverse
        dy = factor[None, :] * (dy - (d_beta[None, :] + scaled * d_gamma[None, :]) / n)
        dy = tl.where((b < n)[:, None], dy, 0.0)
        lr, decay = tl.load(lr_ptr + net), tl.load(decay_ptr + net)
        tl.debug_barrier()  # everyone has read gamma
        _update_vector(norm_ptr, nv_ptr, at_n, d_gamma, lr, decay, momentum)
        _update_vector(norm_ptr, nv_ptr, at_n + K, d_beta, lr, decay, momentum)
    tl.store(dx_ptr + at, dy * tl.where(a > 0, 1.0, slope))


@triton.jit(do_not_specialize=["now"])
def _update_kernel(x_ptr, dz_ptr, w_ptr, wv_ptr, b_ptr, bv_ptr, counts_ptr, lr_ptr, decay_ptr, momentum, now,
                   B: tl.constexpr, K: tl.constexpr, N: tl.constexpr, BK: tl.constexpr, BN: tl.constexpr,
                   BB: tl.constexpr, PRECISION: tl.constexpr):  # fmt: skip
    """A later layer's weight gradient and SGD step in one pass: grid (networks, tiles of K, tiles of N)."""
    net = tl.program_id(0).to(tl.int64)
    if tl.load(counts_ptr + net) <= now:
        return
    units, columns = tl.program_id(1) * BK + tl.arange(0, BK), tl.program_id(2) * BN + tl.arange(0, BN)
    gradient, d_bias = tl.zeros((BK, BN), tl.float32), tl.zeros((BN,), tl.float32)
    for some in range(0, B, BB):
        b = some + tl.arange(0, BB)
        x = tl.load(x_ptr + net * B * K + b[:, None] * K + units[None, :])  # [BB, BK]
        dz = tl.load(dz_ptr + net * B * N + b[:, None] * N + columns[None, :])  # [BB, BN]
        gradient = _dot(tl.trans(x), dz, gradient, PRECISION)
        d_bias += tl.sum(dz, axis=0)
    lr, decay = tl.load(lr_ptr + net), tl.load(decay_ptr + net)
    place = net * K * N + units[:, None] * N + columns[None, :]  # [BK, BN]
    w, v = _sgd_weights(tl.load(w_ptr + place), tl.load(wv_ptr + place), gradient, lr, decay, momentum)
    tl.store(w_ptr + place, w)
    tl.store(wv_ptr + place, v)
    if tl.program_id(1) == 0:
        _update_vector(b_ptr, bv_ptr, net * N + columns, d_bias, lr, decay, momentum)
