"""A whole training run of one small network in one program: its weights stay in the caches beside that program.

All layers have the padded width N; the first has K inputs. A network's weights lie one after another, the first layer's
[K, N], then [N, N] each; so do the velocities. Biases [L, N], outputs [L, B, N]. A phase writes to memory what the next
one reads, with a barrier between them; what is in use stays in the processor's caches.
"""

import triton
import triton.language as tl

from .layers import _dot, _gather, _sgd_weights, _update_vector


@triton.jit
def _activate(z, b_ptr, y_ptr, slope, B: tl.constexpr, N: tl.constexpr):
    b, columns = tl.arange(0, B), tl.arange(0, N)
    z += tl.load(b_ptr + columns)[None, :]
    y = tl.where(z > 0, z, slope * z)
    tl.store(y_ptr + b[:, None] * N + columns[None, :], y)
    return y


@triton.jit(do_not_specialize=["R", "E", "C", "L", "size"])
def _train_small_kernel(x_ptr, bases_ptr, offsets_ptr, labels_ptr, counts_ptr, scale_ptr, shift_ptr, w_ptr, wv_ptr,
                        b_ptr, bv_ptr, y_ptr, dz_ptr, loss_ptr, slopes_ptr, lr_ptr, decay_ptr, momentum, R, E, C, L,
                        size, B: tl.constexpr, K: tl.constexpr, N: tl.constexpr, BK: tl.constexpr,
                        BB: tl.constexpr, PRECISION: tl.constexpr):  # fmt: skip
    """bases int64, labels int32 [networks, E, R]; loss, lr [networks, E]; slopes [L]; dz scratch [networks, B, N].

    L layers, C classes, batches of `size` <= B samples. The loss is summed over an epoch.
    """
    net = tl.program_id(0).to(tl.int64)
    count, decay = tl.load(counts_ptr + net), tl.load(decay_ptr + net)
    b, k, columns = tl.arange(0, B), tl.arange(0, BK), tl.arange(0, N)
    w_ptr += net * (K + (L - 1) * N) * N
    wv_ptr += net * (K + (L - 1) * N) * N
    b_ptr += net * L * N
    bv_ptr += net * L * N
    y_ptr += net * L * B * N
    dz_ptr += net * B * N
    square = b[:, None] * N + columns[None, :]  # [B, N]
    for epoch in range(0, E):
        lr = tl.load(lr_ptr + net * E + epoch)
        table = (net * E + epoch) * R
        total = 0.0
        for now in range(0, count, size):
            n = tl.minimum(count - now, size)
            bases = tl.load(bases_ptr + table + now + b, mask=b < n, other=0)
            z = tl.zeros((B, N), tl.float32)
            for first in range(0, K, BK):
                x = _gather(x_ptr, bases, offsets_ptr, first, scale_ptr, shift_ptr, BK)  # [B, BK]
                w = tl.load(w_ptr + (first + k)[:, None] * N + columns[None, :])  # [BK, N]
                z = _dot(x, w, z, PRECISION)
            y = _activate(z, b_ptr, y_ptr, tl.load(slopes_ptr), B, N)
            for layer in range(1, L):
                tl.debug_barrier()
                z = tl.zeros((B, N), tl.float32)
                for first in range(0, N, BK):
                    x = tl.load(y_ptr + (layer - 1) * B * N + b[:, None] * N + (first + k)[None, :])
                    w = tl.load(w_ptr + (K + (layer - 1) * N + first + k)[:, None] * N + columns[None, :])
                    z = _dot(x, w, z, PRECISION)
                y = _activate(z, b_ptr + layer * N, y_ptr + layer * B * N, tl.load(slopes_ptr + layer), B, N)

            label = tl.load(labels_ptr + table + now + b, mask=b < n, other=0)
            logits = tl.where((columns < C)[None, :], y, float("-inf"))
            own = columns[None, :] == label[:, None]  # [B, N]
            top = tl.max(logits, axis=1)
            e = tl.exp(logits - top[:, None])
            norm = tl.sum(e, axis=1)
            loss = tl.log(norm) + top - tl.sum(tl.where(own, logits, 0.0), axis=1)
            total += tl.sum(tl.where(b < n, loss, 0.0))
            d_logits = (e / norm[:, None] - own.to(tl.float32)) / n * tl.where(y > 0, 1.0, tl.load(slopes_ptr + L - 1))
            d_logits = tl.where((b < n)[:, None] & (columns < C)[None, :], d_logits, 0.0)

            tl.store(dz_ptr + square, d_logits)
            tl.debug_barrier()
            for back in range(1, L):
                layer = L - back
                below = tl.zeros((B, N), tl.float32)
                for first in range(0, N, BK):
                    above = tl.load(dz_ptr + b[:, None] * N + (first + k)[None, :])  # [B, BK]
                    w = tl.load(w_ptr + (K + (layer - 1) * N + columns)[None, :] * N + (first + k)[:, None])
                    below = _dot(above, w, below, PRECISION)  # w is a transposed tile, [BK, N]
                y = tl.load(y_ptr + (layer - 1) * B * N + square)
                below *= tl.where(y > 0, 1.0, tl.load(slopes_ptr + layer - 1))
                tl.debug_barrier()  # everyone has read the old weights
                for first in range(0, N, BK):
                    gradient = tl.zeros((BK, N), tl.float32)
                    for some in range(0, B, BB):
                        part = some + tl.arange(0, BB)
                        x = tl.load(y_ptr + (layer - 1) * B * N + part[:, None] * N + (first + k)[None, :])  # [BB, BK]
                        dz = tl.load(dz_ptr + part[:, None] * N + columns[None, :])  # [BB, N]
                        gradient = _dot(tl.trans(x), dz, gradient, PRECISION)
                    place = (K + (layer - 1) * N + first + k)[:, None] * N + columns[None, :]
                    w, v = _sgd_weights(tl.load(w_ptr + place), tl.load(wv_ptr + place), gradient, lr, decay, momentum)
                    tl.store(w_ptr + place, w)
                    tl.store(wv_ptr + place, v)
                d_bias = tl.sum(tl.load(dz_ptr + square), axis=0)
                _update_vector(b_ptr, bv_ptr, layer * N + columns, d_bias, lr, decay, momentum)
                tl.debug_barrier()  # everyone has read dz
                tl.store(dz_ptr + square, below)
                tl.debug_barrier()
            for first in range(0, K, BK):
                gradient = tl.zeros((BK, N), tl.float32)
                for some in range(0, B, BB):
                    part = some + tl.arange(0, BB)
                    seen = tl.load(bases_ptr + table + now + part, mask=part < n, other=0)
                    x = _gather(x_ptr, seen, offsets_ptr, first, scale_ptr, shift_ptr, BK)
                    dz = tl.load(dz_ptr + part[:, None] * N + columns[None, :])
                    gradient = _dot(tl.trans(x), dz, gradient, PRECISION)
                place = (first + k)[:, None] * N + columns[None, :]
                w, v = _sgd_weights(tl.load(w_ptr + place), tl.load(wv_ptr + place), gradient, lr, decay, momentum)
                tl.store(w_ptr + place, w)
                tl.store(wv_ptr + place, v)
            d_bias = tl.sum(tl.load(dz_ptr + square), axis=0)
            _update_vector(b_ptr, bv_ptr, columns, d_bias, lr, decay, momentum)
            tl.debug_barrier()
        tl.store(loss_ptr + net * E + epoch, total)
