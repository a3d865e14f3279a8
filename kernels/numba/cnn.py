"""Train one convolutional network from its seed to its last step in one call.

Images lie as convolution.py says, [h, batch, w c]. Of every unit the convolutions' results z and the pooled output are
kept, of a gated one its output before the pool and the sigmoid too; on the way back z is overwritten by its own
gradient. All parameters, their velocities and gradients are three
flat arrays of one layout, so one pass over them is the SGD step. A bias before BatchNorm changes nothing but the
running mean: it is added there only, and its gradient is zero.
"""

import math

import numpy as np

from . import philox
from .arrays import copy
from .batchnorm import (
    CENTRE,
    FIRST,
    MEAN,
    NOTHING,
    RUNNING_MEAN,
    RUNNING_VARIANCE,
    STATISTICS,
    affine_gradient,
    bend_row,
    centre,
    finish_statistics,
    fold,
    moments,
    normalise_backward,
    outputs,
    reset,
    running_statistics,
    set_scale,
    window_gradient,
)
from .convolution import convolve_row, data_gradient_row, pitch, weight_gradient_row
from .figlu import gate_images, gate_images_backward, numbers, pack
from .fixed import hold, release
from .gemm import padded, transpose, zeros
from .jit import jit, leaf
from .loss import DRAIN, cross_entropy, drain, right
from .tile import dot

# A row of `plan` int64 [L + 1, COLUMNS] for each unit; row L has the mean pool's input in its first five.
X, XP, H, W, C = 0, 1, 2, 3, 4  # the input: where it starts, numbers a row, height, width, channels in memory
ZP, ZH, ZW, N = 5, 6, 7, 8  # the convolutions' results, the same; N channels, padded
STRIDE, LAST, POOL, SIDE = 9, 10, 11, 12  # flags; SIDE: a second branch, the shortcut
GATE, GATED, SIGMOID, GATE_POOL = 13, 14, 15, 16  # where F starts, -1 for none; its output, rows of ZP; it is pooled
COLUMNS = 17
# A row of `branches` int64 [L, 2, 6] for each convolution with its BatchNorm.
SIZE, Z, P, S = 0, 1, 2, 3  # 3 or 1; where its result, its parameters and its statistics start
ITEM, OUT = 4, 5  # its place in the streams and in the result


@jit
def plan_units(sizes, strides, norm_last, pools, shortcuts, gate_at, height, width, batch):
    """(plan, branches, numbers of parameters, statistics, images, a window's rows and the largest input's gradient)."""
    layers = len(sizes) - 2
    plan, branches = np.zeros((layers + 1, COLUMNS), np.int64), np.zeros((layers, 2, 6), np.int64)
    item, out, parameters, statistics, end, window, largest, gates = 0, 0, 0, 0, 0, 0, 0, 0
    for k in range(layers + 1):
        u = plan[k]
        u[H], u[W], u[C] = height, width, padded(sizes[k]) if k > 0 else sizes[0]
        u[X], u[XP] = end, pitch(width * u[C])
        end += height * batch * u[XP]
        if k > 0:
            largest = max(largest, height * batch * u[XP])
        if k == layers:
            break
        u[STRIDE], u[LAST], u[POOL], u[SIDE] = strides[k], norm_last[k], pools[k], shortcuts[k]
        height, width = (height - 1) // strides[k] + 1, (width - 1) // strides[k] + 1
        u[ZH], u[ZW], u[N] = height, width, padded(sizes[k + 1])
        u[ZP], window = pitch(width * u[N]), max(window, 2 * width * u[N])
        for side in range(1 + shortcuts[k]):
            t, area = branches[k, side], 1 if side else 9
            t[SIZE], t[Z], t[P], t[S] = 1 if side else 3, end, parameters, statistics
            t[ITEM], t[OUT] = item, out
            item, out = item + 6, out + (area * sizes[k] + 5) * sizes[k + 1]
            end, statistics = end + height * batch * u[ZP], statistics + STATISTICS * u[N]
            parameters += (area * u[C] + 3) * u[N]
        u[GATE] = -1
        if gate_at[k] >= 0:
            size = height * batch * u[ZP]
            u[GATE], u[GATED], u[SIGMOID] = gates, end, end + size
            u[POOL], u[GATE_POOL] = 0, pools[k]
            gates, end = gates + numbers(u[N]), end + 2 * size
        if pools[k]:
            height, width = height // 2, width // 2
    return plan, branches, item, out, parameters, statistics, end, window, largest


@leaf
def bias_of(u, t):
    """Where a branch's bias starts: its weight [size, size, C, N] is before it, gamma and beta behind."""
    return t[P] + t[SIZE] * t[SIZE] * u[C] * u[N]


@leaf
def load_images(x, rows, chosen, scale, shift, shape, crops, pad, images, xp):
    """images[h, batch, w c] = x[rows[chosen]] * scale + shift, cropped and mirrored by crops[chosen] where pad >= 0."""
    channels, height, width = shape
    batch = len(chosen)
    for b in range(batch):
        row, dy, dx, flip = rows[chosen[b]], 0, 0, 0
        if pad >= 0:
            dy, dx, flip = crops[chosen[b], 0] - pad, crops[chosen[b], 1] - pad, crops[chosen[b], 2]
        for c in range(channels):
            for i in range(height):
                for j in range(width):
                    from_i, from_j = i + dy, (width - 1 - j if flip else j) + dx
                    inside = 0 <= from_i < height and 0 <= from_j < width
                    at = (c * height + i) * width + j
                    pixel = np.float32(x[row, (c * height + from_i) * width + from_j]) if inside else np.float32(0)
                    images[(i * batch + b) * xp + j * channels + c] = pixel * scale[at] + shift[at]


@leaf
def _branch(u, t, p, s, images, batch, slope, training):
    """A convolution of a unit's input and the statistics of its BatchNorm."""
    n, zp, w, at_s, bias = u[N], u[ZP], u[ZW], t[S], bias_of(u, t)
    nothing = at_s + NOTHING * n
    reset(s, at_s, n)
    for i in range(u[ZH]):
        convolve_row(i, images, u[X], u[XP], u[H], u[W], u[C], batch, p, t[P], t[SIZE], u[STRIDE], images, t[Z], zp, n)
        row = t[Z] + i * batch * zp
        if u[LAST]:
            bend_row(images, row, zp, batch, w, n, p, bias, slope)
        if training:
            if i == 0:
                for b in range(batch):
                    at = row + b * zp
                    moments(images, at, nothing, images, at, nothing, w, n, s, at_s)
                centre(s, at_s, n, batch * w)
            for b in range(batch):
                at, middle = row + b * zp, at_s + CENTRE * n
                moments(images, at, middle, images, at, middle, w, n, s, at_s)
            fold(s, at_s, n)
    met, met_at = (s, nothing) if u[LAST] else (p, bias)
    if training:
        finish_statistics(s, at_s, met, met_at, n, u[ZH] * batch * w)
    else:
        running_statistics(s, at_s, met, met_at, n)
    set_scale(s, at_s, p, bias + n, n)


@leaf
def forward(plan, branches, slopes, p, s, f, images, batch, training):
    for k in range(len(slopes)):
        u, to, slope = plan[k], plan[k + 1], slopes[k]
        for side in range(1 + u[SIDE]):
            _branch(u, branches[k, side], p, s, images, batch, slope, training)
        main, other = branches[k, 0], branches[k, 1]
        gated = u[GATE] >= 0
        at, yp, step = (u[GATED], u[ZP], 1 + u[GATE_POOL]) if gated else (to[X], to[XP], u[ZH])
        for i in range(0, u[ZH], step):  # a gated unit's windows row by row, while they are in the cache
            rows, off = min(step, u[ZH] - i), i * batch * u[ZP]
            outputs(images, main[Z] + off, main[S], bias_of(u, main) + 2 * u[N], u[SIDE], other[Z] + off, other[S],
                    bias_of(u, other) + 2 * u[N], s, p, u[ZP], rows, u[ZW], u[N], batch,
                    np.float32(1) if u[LAST] else slope, u[POOL], images, at + off, yp)  # fmt: skip
            if gated:
                gate_images(f, u[GATE], images, at + off, u[SIGMOID] + off, yp, rows, u[ZW], u[N], batch, u[GATE_POOL],
                            to[X] + i // step * batch * to[XP], to[XP])  # fmt: skip


@leaf
def _window(i, b, u, unit, slope, p, s, images, batch, g, yp, out):
    main, other = unit[0], unit[1]
    window_gradient(i, b, images, main[Z], main[S], bias_of(u, main) + 2 * u[N], u[SIDE], other[Z], other[S],
                    bias_of(u, other) + 2 * u[N], s, p, u[ZP], u[ZH], u[ZW], u[N], batch,
                    np.float32(1) if u[LAST] else slope, u[POOL], g, yp, out)  # fmt: skip


@leaf
def _affine(u, unit, slope, p, s, d, images, batch, g, yp, windows):
    """The gradients of gamma and beta of a unit's branches."""
    n, w, step = u[N], u[ZW], 1 + u[POOL]
    for side in range(1 + u[SIDE]):
        reset(s, unit[side, S], n)
    for i in range(0, u[ZH], step):
        for b in range(batch):
            _window(i, b, u, unit, slope, p, s, images, batch, g, yp, windows)
            for row in range(min(step, u[ZH] - i)):
                for side in range(1 + u[SIDE]):
                    at, at_s = unit[side, Z] + ((i + row) * batch + b) * u[ZP], unit[side, S]
                    moments(windows, row * w * n, at_s + NOTHING * n, images, at, at_s + MEAN * n, w, n, s, at_s)
        for side in range(1 + u[SIDE]):
            fold(s, unit[side, S], n)
    for side in range(1 + u[SIDE]):
        bias = bias_of(u, unit[side])
        affine_gradient(s, unit[side, S], n, d, bias + n, bias + 2 * n)


@leaf
def _unit_backward(u, unit, slope, p, s, d, images, batch, g, yp, windows, turned, at_input, below):
    """The gradients of a unit's parameters, and into at_input, where `below`, that at its input.

    Row by row, so that a row of z, then of its gradient, is used while it is in the cache.
    """
    n, w, zp, step, bend = u[N], u[ZW], u[ZP], 1 + u[POOL], slope if u[LAST] else np.float32(1)
    count, main = u[ZH] * w * batch, unit[0]
    _affine(u, unit, slope, p, s, d, images, batch, g, yp, windows)
    if below:
        at_input[: u[H] * batch * u[XP]] = 0
        for side in range(1 + u[SIDE]):
            _turn(p, unit[side, P], unit[side, SIZE], u[C], n, turned, side * 9 * u[C] * n)
    reset(s, main[S], n)
    for i in range(0, u[ZH], step):
        rows = min(step, u[ZH] - i)
        for b in range(batch):
            _window(i, b, u, unit, slope, p, s, images, batch, g, yp, windows)
            for row in range(rows):
                for side in range(1 + u[SIDE]):
                    at, gamma = unit[side, Z] + ((i + row) * batch + b) * zp, bias_of(u, unit[side]) + n
                    normalise_backward(images, at, unit[side, S], s, d, gamma, gamma + n, windows, row * w * n, w, n,
                                       count, bend)  # fmt: skip
                if u[LAST]:
                    at, nothing = main[Z] + ((i + row) * batch + b) * zp, main[S] + NOTHING * n
                    moments(images, at, nothing, images, at, nothing, w, n, s, main[S])
        fold(s, main[S], n)
        for row in range(i, i + rows):
            for side in range(1 + u[SIDE]):
                t = unit[side]
                weight_gradient_row(row, images, u[X], u[XP], u[H], u[W], u[C], batch, images, t[Z], zp, n, t[SIZE],
                                    u[STRIDE], d, t[P])  # fmt: skip
                if below:
                    data_gradient_row(row, images, t[Z], zp, n, turned, side * 9 * u[C] * n, t[SIZE], u[STRIDE],
                                      at_input, u[XP], u[H], u[W], u[C], batch)  # fmt: skip
    bias = bias_of(u, main)
    for c in range(n):
        d[bias + c] = s[main[S] + FIRST * n + c]


@leaf
def _turn(p, at, size, c, n, turned, to):
    """A weight [size, size, c, n] as [size, n, size c]."""
    for row in range(size):
        transpose(p, at + row * size * c * n, n, turned, to + row * size * c * n, size * c, size * c, n)


@leaf
def _backward(plan, branches, slopes, p, s, f, d, images, batch, gradients, windows, turned):
    """Every unit's gradients into d, from the gradient at the last output in the first half of `gradients`."""
    here, there = 0, len(gradients) // 2
    for k in range(len(slopes) - 1, -1, -1):
        u, g, yp = plan[k], gradients[here:], plan[k + 1, XP]
        if u[GATE] >= 0:
            gate_images_backward(f, u[GATE], images, u[GATED], u[SIGMOID], u[ZP], u[ZH], u[ZW], u[N], batch,
                                 u[GATE_POOL], g, yp, windows)  # fmt: skip
            g, yp = images[u[SIGMOID] :], u[ZP]
        _unit_backward(u, branches[k], slopes[k], p, s, d, images, batch, g, yp, windows, turned, gradients[there:],
                       k > 0)  # fmt: skip
        here, there = there, here


@leaf
def classify(u, images, batch, p, at_p, classes, features, logits, b_pad):
    """features[batch, c] = the mean of the input over its positions; logits[classes, b_pad] = W^T features + b."""
    c, share = u[C], np.float32(1) / np.float32(u[H] * u[W])
    for b in range(batch):
        mean = features[b * c : (b + 1) * c]
        mean[:] = 0
        for i in range(u[H]):
            for j in range(u[W]):
                at = u[X] + (i * batch + b) * u[XP] + j * c
                row = images[at : at + c]
                for n in range(c):
                    mean[n] += row[n] * share
        for k in range(classes):
            logits[k * b_pad + b] = dot(p, at_p + k * c, features, b * c, c) + p[at_p + classes * c + k]


@leaf
def _head_backward(u, batch, p, d, at_p, classes, features, gradient, b_pad, at_output):
    """The last layer's gradients and that at every position of the mean pool's input, from gradient[classes, b_pad]."""
    c, share = u[C], np.float32(1) / np.float32(u[H] * u[W])
    for b in range(batch):
        first = at_output[b * u[XP] : b * u[XP] + c]
        first[:] = 0
        mean = features[b * c : (b + 1) * c]
        for k in range(classes):
            g = gradient[k * b_pad + b]
            w, dw = p[at_p + k * c : at_p + (k + 1) * c], d[at_p + k * c : at_p + (k + 1) * c]
            for n in range(c):
                first[n] += g * share * w[n]
                dw[n] += g * mean[n]
            d[at_p + classes * c + k] += g
        for i in range(u[H]):
            for j in range(u[W]):
                at = (i * batch + b) * u[XP] + j * c
                row = at_output[at : at + c]
                for n in range(c):
                    row[n] = first[n]


@leaf
def _step(p, d, v, lr, momentum, decay):
    for i in range(len(p)):
        v[i] = momentum * v[i] + (d[i] + decay * p[i])
        p[i] = p[i] - lr * v[i] if v[i] == v[i] else p[i]


@jit
def _held(plan, branches, sizes, shortcuts, out, head, fixed_at):
    """Where the weights at fixed_at of the result lie in p."""
    held_at, classes, last = np.empty_like(fixed_at), sizes[-1], plan[len(shortcuts), C]
    for h in range(len(fixed_at)):
        if fixed_at[h] >= out:
            i, j = divmod(fixed_at[h] - out, classes)
            held_at[h] = head + j * last + i
        for k in range(len(shortcuts)):
            for side in range(1 + shortcuts[k]):
                u, t, n_out = plan[k], branches[k, side], sizes[k + 1]
                area, at = t[SIZE] * t[SIZE], fixed_at[h] - t[OUT]
                if 0 <= at < sizes[k] * area * n_out:
                    row, j = divmod(at, n_out)
                    i, q = divmod(row, area)
                    held_at[h] = t[P] + (q * u[C] + i) * u[N] + j
    return held_at


@jit
def _draw(p, s, u, t, c, n_out, seed, task, repeat):
    """A branch's weight, drawn as [c, size, size, n_out] and kept as [size, size, C, N], and its bias; gamma is 1."""
    area, n, at, bias = t[SIZE] * t[SIZE], u[N], t[P], bias_of(u, t)
    bound = np.float32(1 / math.sqrt(area * c))
    draw = philox.uniform(area * c * n_out, bound, seed, task, repeat, philox.INIT, t[ITEM])
    for i in range(c):
        for q in range(area):
            to, start = at + (q * u[C] + i) * n, (i * area + q) * n_out
            p[to : to + n_out] = draw[start : start + n_out]
    p[bias : bias + n_out] = philox.uniform(n_out, bound, seed, task, repeat, philox.INIT, t[ITEM] + 1)
    p[bias + n : bias + n + n_out] = 1
    s[t[S] + RUNNING_VARIANCE * n : t[S] + RUNNING_VARIANCE * n + n_out] = 1


@leaf
def _export(p, s, u, t, c, n_out, out):
    """A branch's parameters as declared, into out[t[OUT] :]."""
    area, n, bias, to = t[SIZE] * t[SIZE], u[N], bias_of(u, t), t[OUT]
    for i in range(c):
        for q in range(area):
            copy(p[t[P] + (q * u[C] + i) * n :], out[to : to + n_out])
            to += n_out
    for part in range(3):
        copy(p[bias + part * n :], out[to + part * n_out : to + (part + 1) * n_out])
    for row in range(2):
        copy(s[t[S] + (RUNNING_MEAN + row) * n :], out[to + (3 + row) * n_out : to + (4 + row) * n_out])


@jit
def train_cnn(x, train_rows, train_labels, test_rows, test_labels, sizes, slopes, strides, norm_last, pools, shortcuts,
              scale, shift, shape, lr, momentum, weight_decay, batch_size, pad, seed, task, repeat, fixed_at, fixed_to,
              gate_at, gates):  # fmt: skip
    """One network's whole run, arguments and results as `wsfast.reference.cnn.train_cnn`, in float32.

    x uint8 or float32 [n, c h w]; rows, labels, sizes, strides, flags, shape, gate_at int64; slopes, scale, shift, lr,
    gates float32; fixed_at int64, ascending, of weights; fixed_to float32. A gated unit has slope 1 and no norm_last.
    """
    layers, classes, n, epochs = len(slopes), sizes[-1], len(train_rows), len(lr)
    momentum, decay = np.float32(momentum), np.float32(weight_decay)
    batch_size = min(batch_size, max(n, len(test_rows), 1))
    b_pad = padded(batch_size)
    plan, branches, item, out, head, statistics, end, window, largest = plan_units(
        sizes, strides, norm_last, pools, shortcuts, gate_at, shape[1], shape[2], batch_size
    )
    f = pack(plan[:, GATE], sizes, gate_at, gates)
    last, width = plan[layers], sizes[layers]
    bias = head + classes * last[C]
    count = bias + padded(classes)
    p, v, d, s = zeros(count), zeros(count), zeros(count), zeros(statistics)
    images, gradients, windows = zeros(end), zeros(2 * largest), zeros(window)
    features, logits, gradient = zeros(batch_size * last[C]), zeros(classes * b_pad), zeros(classes * b_pad)
    top, norm, own = zeros(b_pad), zeros(b_pad), zeros(b_pad)
    products, losses = np.ones(b_pad), np.zeros(b_pad)

    widest = 0
    for k in range(layers):
        widest = max(widest, 10 * plan[k, C] * plan[k, N] if k > 0 else 0)
        for side in range(1 + shortcuts[k]):
            _draw(p, s, plan[k], branches[k, side], sizes[k], sizes[k + 1], seed, task, repeat)
    turned, bound = zeros(widest), np.float32(1 / math.sqrt(width))
    draw = philox.uniform(width * classes, bound, seed, task, repeat, philox.INIT, item)
    for i in range(width):
        for k in range(classes):
            p[head + k * last[C] + i] = draw[i * classes + k]
    p[bias : bias + classes] = philox.uniform(classes, bound, seed, task, repeat, philox.INIT, item + 1)

    held_at = _held(plan, branches, sizes, shortcuts, out, head, fixed_at)
    hold(p, v, held_at, fixed_to)

    loss_curve = np.zeros(epochs)
    crops = np.zeros((1, 3), np.int64)
    for epoch in range(epochs):
        order = philox.batch_order(n, epoch, seed, task, repeat, philox.ORDER)
        if pad >= 0:
            crops = philox.augmentation(n, pad, epoch, seed, task, repeat)
        total, undrained = 0.0, 0
        for start in range(0, n, batch_size):
            chosen = order[start : start + batch_size]
            batch = len(chosen)
            load_images(x, train_rows, chosen, scale, shift, shape, crops, pad, images, plan[0, XP])
            forward(plan, branches, slopes, p, s, f, images, batch, epochs > 0)
            classify(last, images, batch, p, head, classes, features, logits, b_pad)
            cross_entropy(logits, 0, train_labels, chosen, classes, b_pad, gradient, top, norm, own, products, losses)
            d[:] = 0
            _head_backward(last, batch, p, d, head, classes, features, gradient, b_pad, gradients)
            _backward(plan, branches, slopes, p, s, f, d, images, batch, gradients, windows, turned)
            _step(p, d, v, lr[epoch], momentum, decay)
            undrained += 1
            if undrained == DRAIN or start + batch_size >= n:
                total, undrained = total + drain(products, losses), 0
        loss_curve[epoch] = total / n

    release(p, v, held_at, fixed_to)

    record, training, whole = np.full(4, np.nan), epochs < 0, min(pad, -1)  # constants would each be compiled anew
    for split in range(2):
        rows, labels = (train_rows, train_labels) if split == 0 else (test_rows, test_labels)
        everything = np.arange(len(rows))
        total, hits = 0.0, 0
        for start in range(0, len(rows), batch_size):
            chosen = everything[start : start + batch_size]
            load_images(x, rows, chosen, scale, shift, shape, crops, whole, images, plan[0, XP])
            forward(plan, branches, slopes, p, s, f, images, len(chosen), training)
            classify(last, images, len(chosen), p, head, classes, features, logits, b_pad)
            cross_entropy(logits, 0, labels, chosen, classes, b_pad, gradient, top, norm, own, products, losses)
            total += drain(products, losses)
            hits += right(logits, 0, labels, chosen, classes, b_pad)
        if len(rows) > 0:
            record[2 * split], record[2 * split + 1] = total / len(rows), hits / len(rows)

    parameters = np.empty(out + (width + 1) * classes, np.float32)
    for k in range(layers):
        for side in range(1 + shortcuts[k]):
            _export(p, s, plan[k], branches[k, side], sizes[k], sizes[k + 1], parameters)
    for i in range(width):
        for k in range(classes):
            parameters[out + i * classes + k] = p[head + k * last[C] + i]
    parameters[out + width * classes :] = p[bias : bias + classes]
    return parameters, loss_curve, record
