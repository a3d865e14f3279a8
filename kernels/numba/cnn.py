"""Train one convolutional network from its seed to its last step in one call.

Images lie as convolution.py says, [h, batch, w c]. Of every unit the convolutions' results z and the pooled output are
kept; on the way back z is overwritten by its own gradient. All parameters, their velocities and gradients are three
flat arrays of one layout, so one pass over them is the SGD step. A bias before BatchNorm changes nothing but the
running mean: it is added there only, and its gradient is zero.
"""

import math

import numpy as np

from . import philox
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
from .gemm import padded, transpose, zeros
from .jit import jit, leaf
from .loss import DRAIN, cross_entropy, drain, right
from .tile import dot

# A row of `plan` int64 [L + 1, COLUMNS] for each unit; row L has the mean pool's input in its first five.
X, XP, H, W, C = 0, 1, 2, 3, 4  # the input: where it starts, numbers a row, height, width, channels in memory
Z, ZP, ZH, ZW, N = 5, 6, 7, 8, 9  # the convolution's result, the same; N channels, padded
STRIDE, LAST, POOL, SIDE = 10, 11, 12, 13  # flags; SIDE: it has a shortcut
P, S, SIDE_P, SIDE_S, SIDE_Z = 14, 15, 16, 17, 18  # parameters, statistics of the branches, the shortcut's result
COLUMNS = 19


@leaf
def _branch_size(size, c, n):
    """Numbers of a branch's weight [size, size, c, n], then bias, gamma, beta [n]."""
    return size * size * c * n + 3 * n


@jit
def _plan(sizes, strides, norm_last, pools, shortcuts, height, width, batch):
    """(plan, numbers of parameters, statistics and images, of the largest window row and input with a gradient)."""
    layers = len(sizes) - 2
    plan = np.zeros((layers + 1, COLUMNS), np.int64)
    parameters, statistics, end, window, largest = 0, 0, 0, 0, 0
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
        u[Z], u[ZP] = end, pitch(width * u[N])
        size = height * batch * u[ZP]
        end, window = end + size, max(window, 2 * width * u[N])
        u[P], u[S] = parameters, statistics
        parameters, statistics = parameters + _branch_size(3, u[C], u[N]), statistics + STATISTICS * u[N]
        if shortcuts[k]:
            u[SIDE_P], u[SIDE_S], u[SIDE_Z] = parameters, statistics, end
            parameters, statistics = parameters + _branch_size(1, u[C], u[N]), statistics + STATISTICS * u[N]
            end += size
        if pools[k]:
            height, width = height // 2, width // 2
    return plan, parameters, statistics, end, window, largest


@leaf
def _load_images(x, rows, chosen, scale, shift, shape, crops, pad, images, xp):
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
def _branch(u, size, at_p, at_s, at_z, p, s, images, batch, slope, training):
    """A convolution of a unit's input and the statistics of its BatchNorm."""
    n, zp, w, last = u[N], u[ZP], u[ZW], u[LAST]
    bias = at_p + size * size * u[C] * n
    reset(s, at_s, n)
    for i in range(u[ZH]):
        convolve_row(i, images, u[X], u[XP], u[H], u[W], u[C], batch, p, at_p, size, u[STRIDE], images, at_z, zp, n)
        row = at_z + i * batch * zp
        if last:
            bend_row(images, row, zp, batch, w, n, p, bias, slope)
        if training and i == 0:
            moments(images, row, NOTHING, images, row, NOTHING, zp, batch, w, n, s, at_s)
            centre(s, at_s, n, batch * w)
        if training:
            moments(images, row, CENTRE, images, row, CENTRE, zp, batch, w, n, s, at_s)
            fold(s, at_s, n)
    met, met_at = (s, at_s + NOTHING * n) if last else (p, bias)
    if training:
        finish_statistics(s, at_s, met, met_at, n, u[ZH] * batch * w)
    else:
        running_statistics(s, at_s, met, met_at, n)
    set_scale(s, at_s, p, bias + n, n)


@leaf
def _beta(u, size, at_p):
    return at_p + size * size * u[C] * u[N] + 2 * u[N]


@leaf
def _forward(plan, slopes, p, s, images, batch, training):
    for k in range(len(slopes)):
        u, to = plan[k], plan[k + 1]
        _branch(u, 3, u[P], u[S], u[Z], p, s, images, batch, slopes[k], training)
        if u[SIDE]:
            _branch(u, 1, u[SIDE_P], u[SIDE_S], u[SIDE_Z], p, s, images, batch, slopes[k], training)
        outputs(images, u[Z], u[S], _beta(u, 3, u[P]), u[SIDE], u[SIDE_Z], u[SIDE_S], _beta(u, 1, u[SIDE_P]), s, p,
                u[ZP], u[ZH], u[ZW], u[N], batch, np.float32(1) if u[LAST] else slopes[k], u[POOL], images, to[X],
                to[XP])  # fmt: skip


@leaf
def _turn(p, at, size, c, n, turned, to):
    """A weight [size, size, c, n] as [size, n, size c]."""
    for row in range(size):
        transpose(p, at + row * size * c * n, n, turned, to + row * size * c * n, size * c, size * c, n)


@leaf
def _window(i, b, u, slope, p, s, images, batch, g, yp, out):
    window_gradient(i, b, images, u[Z], u[S], _beta(u, 3, u[P]), u[SIDE], u[SIDE_Z], u[SIDE_S], _beta(u, 1, u[SIDE_P]),
                    s, p, u[ZP], u[ZH], u[ZW], u[N], batch, np.float32(1) if u[LAST] else slope, u[POOL], g, yp,
                    out)  # fmt: skip


@leaf
def _affine(u, slope, p, s, d, images, batch, g, yp, windows):
    """The gradients of gamma and beta of a unit's branches."""
    n, w, step = u[N], u[ZW], 1 + u[POOL]
    reset(s, u[S], n)
    if u[SIDE]:
        reset(s, u[SIDE_S], n)
    for i in range(0, u[ZH], step):
        for b in range(batch):
            _window(i, b, u, slope, p, s, images, batch, g, yp, windows)
            for row in range(min(step, u[ZH] - i)):
                at = ((i + row) * batch + b) * u[ZP]
                moments(windows, row * w * n, NOTHING, images, u[Z] + at, MEAN, 0, 1, w, n, s, u[S])
                if u[SIDE]:
                    moments(windows, row * w * n, NOTHING, images, u[SIDE_Z] + at, MEAN, 0, 1, w, n, s, u[SIDE_S])
        fold(s, u[S], n)
        if u[SIDE]:
            fold(s, u[SIDE_S], n)
    affine_gradient(s, u[S], n, d, _beta(u, 3, u[P]) - n, _beta(u, 3, u[P]))
    if u[SIDE]:
        affine_gradient(s, u[SIDE_S], n, d, _beta(u, 1, u[SIDE_P]) - n, _beta(u, 1, u[SIDE_P]))


@leaf
def _convolution_backward(i, u, size, at_p, at_z, d, images, batch, turned, at_input, below):
    """Row i's part of a weight's gradient, and of that at the unit's input where it has one."""
    weight_gradient_row(i, images, u[X], u[XP], u[H], u[W], u[C], batch, images, at_z, u[ZP], u[N], size, u[STRIDE], d,
                        at_p)  # fmt: skip
    if below:
        data_gradient_row(i, images, at_z, u[ZP], u[N], turned, size, u[STRIDE], at_input, u[XP], u[H], u[W], u[C],
                          batch)  # fmt: skip


@leaf
def _unit_backward(u, slope, p, s, d, images, batch, g, yp, windows, turned, at_input, below):
    """The gradients of a unit's parameters, and into at_input that at its input where it has one.

    Row by row, so that a row of z, then of its gradient, is used while it is in the cache.
    """
    n, w, step, count, bend = u[N], u[ZW], 1 + u[POOL], u[ZH] * u[ZW] * batch, slope if u[LAST] else np.float32(1)
    side_turned = turned[9 * u[C] * n :]
    _affine(u, slope, p, s, d, images, batch, g, yp, windows)
    if below:
        at_input[: u[H] * batch * u[XP]] = 0
        _turn(p, u[P], 3, u[C], n, turned, 0)
        if u[SIDE]:
            _turn(p, u[SIDE_P], 1, u[C], n, side_turned, 0)
    reset(s, u[S], n)
    for i in range(0, u[ZH], step):
        rows = min(step, u[ZH] - i)
        for b in range(batch):
            _window(i, b, u, slope, p, s, images, batch, g, yp, windows)
            for row in range(rows):
                at, beta = ((i + row) * batch + b) * u[ZP], _beta(u, 3, u[P])
                normalise_backward(images, u[Z] + at, u[S], s, d, beta - n, beta, windows, row * w * n, w, n, count,
                                   bend)  # fmt: skip
                if u[LAST]:
                    moments(images, u[Z] + at, NOTHING, images, u[Z] + at, NOTHING, 0, 1, w, n, s, u[S])
                if u[SIDE]:
                    beta = _beta(u, 1, u[SIDE_P])
                    normalise_backward(images, u[SIDE_Z] + at, u[SIDE_S], s, d, beta - n, beta, windows, row * w * n, w,
                                       n, count, bend)  # fmt: skip
        fold(s, u[S], n)
        for row in range(i, i + rows):
            _convolution_backward(row, u, 3, u[P], u[Z], d, images, batch, turned, at_input, below)
            if u[SIDE]:
                _convolution_backward(row, u, 1, u[SIDE_P], u[SIDE_Z], d, images, batch, side_turned, at_input, below)
    for c in range(n):
        d[u[P] + 9 * u[C] * n + c] = s[u[S] + FIRST * n + c]


@leaf
def _backward(plan, slopes, p, s, d, images, batch, gradients, windows, turned):
    """Every unit's gradients into d, from the gradient at the last output in the first half of `gradients`."""
    here, there = 0, len(gradients) // 2
    for k in range(len(slopes) - 1, -1, -1):
        _unit_backward(plan[k], slopes[k], p, s, d, images, batch, gradients[here:], plan[k + 1, XP], windows, turned,
                       gradients[there:], k > 0)  # fmt: skip
        here, there = there, here


@leaf
def _head(u, images, batch, p, at_p, classes, features, logits, b_pad):
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
        p[i] -= lr * v[i]


@jit
def _draw(p, at, size, c, ld, n_out, n, key, item):
    """A branch's weight, drawn as [c, size, size, n_out] and kept as [size, size, ld, n], and its bias; gamma is 1."""
    seed, task, repeat = key
    bound = np.float32(1 / math.sqrt(size * size * c))
    draw = philox.uniform(size * size * c * n_out, bound, seed, task, repeat, philox.INIT, item)
    for i in range(c):
        for q in range(size * size):
            to, start = at + (q * ld + i) * n, (i * size * size + q) * n_out
            p[to : to + n_out] = draw[start : start + n_out]
    bias = at + size * size * ld * n
    p[bias : bias + n_out] = philox.uniform(n_out, bound, seed, task, repeat, philox.INIT, item + 1)
    p[bias + n : bias + n + n_out] = 1


@jit
def _export(p, s, at, at_s, size, c, ld, n_out, n, out, to):
    """A branch's parameters as declared, into out[to:]; returns where the next one starts."""
    for i in range(c):
        for q in range(size * size):
            start = at + (q * ld + i) * n
            out[to : to + n_out] = p[start : start + n_out]
            to += n_out
    bias = at + size * size * ld * n
    for part in range(3):
        out[to : to + n_out] = p[bias + part * n : bias + part * n + n_out]
        to += n_out
    for row in (RUNNING_MEAN, RUNNING_VARIANCE):
        out[to : to + n_out] = s[at_s + row * n : at_s + row * n + n_out]
        to += n_out
    return to


@jit
def train_cnn(x, train_rows, train_labels, test_rows, test_labels, sizes, slopes, strides, norm_last, pools, shortcuts,
              scale, shift, shape, lr, momentum, weight_decay, batch_size, pad, seed, task, repeat):  # fmt: skip
    """One network's whole run, arguments and results as `wsfast.reference.cnn.train_cnn`, in float32.

    x uint8 or float32 [n, c h w]; rows, labels, sizes, strides, flags, shape int64; slopes, scale, shift, lr float32.
    """
    layers, classes, n, epochs = len(slopes), sizes[-1], len(train_rows), len(lr)
    momentum, decay = np.float32(momentum), np.float32(weight_decay)
    batch_size = min(batch_size, max(n, len(test_rows), 1))
    b_pad = padded(batch_size)
    plan, head, statistics, end, window, largest = _plan(
        sizes, strides, norm_last, pools, shortcuts, shape[1], shape[2], batch_size
    )
    last = plan[layers]
    count = head + classes * last[C] + padded(classes)
    p, v, d, s = zeros(count), zeros(count), zeros(count), zeros(statistics)
    images, gradients, windows = zeros(end), zeros(2 * largest), zeros(window)
    features, logits, gradient = zeros(batch_size * last[C]), zeros(classes * b_pad), zeros(classes * b_pad)
    top, norm, own = zeros(b_pad), zeros(b_pad), zeros(b_pad)
    products, losses = np.ones(b_pad), np.zeros(b_pad)

    key, item, total_size, widest = (seed, task, repeat), 0, 0, 0
    for k in range(layers):
        u = plan[k]
        widest = max(widest, 10 * u[C] * u[N] if k > 0 else 0)
        for branch in range(1 + u[SIDE]):
            size, at, at_s = (3, u[P], u[S]) if branch == 0 else (1, u[SIDE_P], u[SIDE_S])
            _draw(p, at, size, sizes[k], u[C], sizes[k + 1], u[N], key, item)
            s[at_s + RUNNING_VARIANCE * u[N] : at_s + RUNNING_VARIANCE * u[N] + sizes[k + 1]] = 1
            item += 6
            total_size += size * size * sizes[k] * sizes[k + 1] + 5 * sizes[k + 1]
    turned, width = zeros(widest), sizes[-2]
    bound = np.float32(1 / math.sqrt(width))
    draw = philox.uniform(width * classes, bound, seed, task, repeat, philox.INIT, item)
    for i in range(width):
        for k in range(classes):
            p[head + k * last[C] + i] = draw[i * classes + k]
    bias = head + classes * last[C]
    p[bias : bias + classes] = philox.uniform(classes, bound, seed, task, repeat, philox.INIT, item + 1)
    total_size += (width + 1) * classes

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
            _load_images(x, train_rows, chosen, scale, shift, shape, crops, pad, images, plan[0, XP])
            _forward(plan, slopes, p, s, images, batch, True)
            _head(last, images, batch, p, head, classes, features, logits, b_pad)
            cross_entropy(logits, 0, train_labels, chosen, classes, b_pad, gradient, top, norm, own, products, losses)
            d[:] = 0
            _head_backward(last, batch, p, d, head, classes, features, gradient, b_pad, gradients)
            _backward(plan, slopes, p, s, d, images, batch, gradients, windows, turned)
            _step(p, d, v, lr[epoch], momentum, decay)
            undrained += 1
            if undrained == DRAIN or start + batch_size >= n:
                total, undrained = total + drain(products, losses), 0
        loss_curve[epoch] = total / n

    record = np.full(4, np.nan)
    for split in range(2):
        rows, labels = (train_rows, train_labels) if split == 0 else (test_rows, test_labels)
        everything = np.arange(len(rows))
        total, hits = 0.0, 0
        for start in range(0, len(rows), batch_size):
            chosen = everything[start : start + batch_size]
            _load_images(x, rows, chosen, scale, shift, shape, crops, -1, images, plan[0, XP])
            _forward(plan, slopes, p, s, images, len(chosen), False)
            _head(last, images, len(chosen), p, head, classes, features, logits, b_pad)
            cross_entropy(logits, 0, labels, chosen, classes, b_pad, gradient, top, norm, own, products, losses)
            total += drain(products, losses)
            hits += right(logits, 0, labels, chosen, classes, b_pad)
        if len(rows) > 0:
            record[2 * split], record[2 * split + 1] = total / len(rows), hits / len(rows)

    parameters, at = np.empty(total_size, np.float32), 0
    for k in range(layers):
        u = plan[k]
        at = _export(p, s, u[P], u[S], 3, sizes[k], u[C], sizes[k + 1], u[N], parameters, at)
        if u[SIDE]:
            at = _export(p, s, u[SIDE_P], u[SIDE_S], 1, sizes[k], u[C], sizes[k + 1], u[N], parameters, at)
    for i in range(width):
        for k in range(classes):
            parameters[at] = p[head + k * last[C] + i]
            at += 1
    parameters[at:] = p[bias : bias + classes]
    return parameters, loss_curve, record
