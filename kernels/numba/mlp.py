"""Train one fully connected network from its seed to its last step in one call.

Activations are stored feature-major, [n_k, batch]: forward and data gradient then vectorise over the batch and read
weights as scalars, in place; only the layer gradients are transposed, once, for the weight gradient. Per step and layer
the weights are read twice and written once; a weight gradient lives in registers only. A bias is one more row of its
layer's weights, met by one more input that is always 1.

A layer with BatchNorm or a residual sum keeps its activation a_k beside its output y_k, a gated one its z_k, and its
gradient at y_k is finished before the activation's slope; for all others both are one array, and the slope is part of
the product.
"""

import math
from functools import partial

import numpy as np

from . import philox
from .arrays import add, copy
from .figlu import gate, gate_backward
from .fixed import hold, release
from .gemm import gather, multiply, multiply_backward, multiply_sgd, multiply_sgd_narrow, padded, transpose, zeros
from .jit import jit, leaf
from .loss import DRAIN, cross_entropy, drain, right
from .tile import LANES

# What BatchNorm, residual sums and gates need lies in `plan` int64 [L, 9], a row a layer, and in the buffer `extra`,
# whose start is scratch. Two plain arrays: a tuple of many cost 7 % of a small network's step.
NORM, ADD, DIRECT = 0, 1, 2  # norms[k], adds[k]; 1 where y_k is a_k and only the next layer reads it
A_AT, N_AT, S_AT = 3, 4, 5  # where a_k starts in `outputs`, the state and the gradient from residual sums in `extra`
LAST = 6  # 1 where no later layer adds the same y_j: on the way back it is the first
GATE, GATE_AT = 7, 8  # where a gated layer's F starts in `gates`, -1 for others, and its sigmoid in `extra`

GAMMA, BETA, MEAN, VARIANCE = 0, 1, 2, 3  # rows of a layer's state [STATE, n_k]: the first four are the result
BATCH_MEAN, BATCH_ROOT, GAMMA_VELOCITY, BETA_VELOCITY = 4, 5, 6, 7  # BATCH_ROOT: 1 / sqrt(variance + EPS)
GAMMA_GRADIENT, BETA_GRADIENT = 8, 9
STATE = 10
EPS, MOVE = np.float32(1e-5), np.float32(0.1)

NARROW = 4  # so few outputs, padded to a whole vector, cost more than a dot product each


@leaf
def _copy_batch(x, rows, n, shape, crops, chosen, pad, image, d_pad):
    """image[b] = x[rows[b]], cropped and mirrored as crops[chosen[b]] says where pad >= 0."""
    for b in range(n):
        row, at = rows[b], b * d_pad
        if pad < 0:
            for j in range(x.shape[1]):
                image[at + j] = np.float32(x[row, j])
            continue
        channels, height, width = shape
        dy, dx, flip = crops[chosen[b]]
        for c in range(channels):
            for i in range(height):
                for j in range(width):
                    source_i, source_j = i + dy - pad, (width - 1 - j if flip else j) + dx - pad
                    inside = 0 <= source_i < height and 0 <= source_j < width
                    source = (c * height + source_i) * width + source_j
                    image[at + (c * height + i) * width + j] = np.float32(x[row, source]) if inside else np.float32(0)


@leaf
def load_batch(x, all_rows, chosen, scale, shift, shape, crops, pad, image, rows, outputs, b_pad):
    """The first layer's input [d + 1, b_pad] of x[all_rows[chosen]] * scale + shift, its last row ones.

    Columns past the batch repeat its last sample. rows: int64 [b_pad], overwritten; scale, shift: padded to LANES.
    """
    n, d, d_pad = len(chosen), x.shape[1], padded(x.shape[1])
    for b in range(b_pad):
        rows[b] = all_rows[chosen[min(b, n - 1)]]
    if pad < 0 and d >= LANES:
        gather(x, d, d, rows, b_pad, scale, shift, outputs, b_pad)
    else:
        _copy_batch(x, rows, n, shape, crops, chosen, pad, image, d_pad)
        for b in range(b_pad):
            rows[b] = min(b, n - 1)
        gather(image, d_pad, max(d, LANES), rows, b_pad, scale, shift, outputs, b_pad)
    outputs[d * b_pad : (d + 1) * b_pad] = 1


@jit
def pad_vector(numbers):
    out = zeros(padded(len(numbers)))
    out[: len(numbers)] = numbers
    return out


@leaf
def _deactivate(gradient, post, slope):
    """The gradient before the activation whose output is `post`."""
    for i in range(len(gradient)):
        gradient[i] = gradient[i] if post[i] > 0 else slope * gradient[i]


@partial(jit, inline="always")
def block(buffer, at, n, width):
    """buffer[at:] as [n, width]; loops over it vectorise, loops that add an offset to every index do not."""
    return buffer[at : at + n * width].reshape(n, width)


@leaf
def _row_sums(source, at, m, n, b_pad, outputs, ones, sums, out):
    """out[i] = the sum of the first n numbers of row i of source[at:] as [m, b_pad]: a product with ones."""
    multiply(source, at, b_pad, 1, outputs, ones, 0, sums, 0, LANES, m, LANES, n, np.float32(1))
    for i in range(m):
        out[i] = sums[i * LANES]


@leaf
def _squares(a, mean, out):
    for i in range(a.shape[0]):
        m = mean[i]
        for b in range(a.shape[1]):
            out[i, b] = (a[i, b] - m) * (a[i, b] - m)


@leaf
def _statistics(outputs, a_at, n_out, n, b_pad, ones, state, scratch, sums):
    """The batch's mean and variance, in two passes, into the state; the running ones moved."""
    mean, root, share = state[BATCH_MEAN], state[BATCH_ROOT], np.float32(1) / np.float32(n)
    _row_sums(outputs, a_at, n_out, n, b_pad, outputs, ones, sums, mean)
    mean *= share
    _squares(block(outputs, a_at, n_out, b_pad), mean, block(scratch, 0, n_out, b_pad))
    _row_sums(scratch, 0, n_out, n, b_pad, outputs, ones, sums, root)
    unbiased = np.float32(n) / np.float32(max(n - 1, 1))
    for i in range(n_out):
        variance = root[i] * share
        state[MEAN, i] += MOVE * (mean[i] - state[MEAN, i])
        state[VARIANCE, i] += MOVE * (variance * unbiased - state[VARIANCE, i])
        root[i] = np.float32(1) / np.sqrt(variance + EPS)


@leaf
def _normalise(a, state, y):
    for i in range(a.shape[0]):
        m, scale, beta = state[BATCH_MEAN, i], state[GAMMA, i] * state[BATCH_ROOT, i], state[BETA, i]
        for b in range(a.shape[1]):
            y[i, b] = (a[i, b] - m) * scale + beta


@leaf
def output(k, n_out, n, b_pad, ones, outputs, o_at, plan, extra, scratch, gates, training):
    """y_k from a_k: BatchNorm by the batch's first n columns (training) or the running statistics, then the sum."""
    a_at, y_at, size = plan[k, A_AT], o_at[k + 1], n_out * b_pad
    if plan[k, GATE] >= 0:
        gate(gates, plan[k, GATE], n_out, b_pad, outputs, a_at, y_at, extra, plan[k, GATE_AT])
    elif plan[k, NORM]:
        state = block(extra, plan[k, N_AT], STATE, n_out)
        if training:
            _statistics(outputs, a_at, n_out, n, b_pad, ones, state, scratch, extra)
        else:
            for i in range(n_out):
                state[BATCH_MEAN, i] = state[MEAN, i]
                state[BATCH_ROOT, i] = np.float32(1) / np.sqrt(state[VARIANCE, i] + EPS)
        _normalise(block(outputs, a_at, n_out, b_pad), state, block(outputs, y_at, n_out, b_pad))
    else:
        copy(outputs[a_at : a_at + size], outputs[y_at : y_at + size])
    if plan[k, ADD] >= 0:
        from_at = o_at[plan[k, ADD] + 1]
        add(outputs[from_at : from_at + size], outputs[y_at : y_at + size])


@leaf
def forward(first, sizes, slopes, weights, w_at, outputs, o_at, n, b_pad, plan, extra, scratch, gates, training):
    """a_k = activation(W_k^T y_{k-1}) and y_k of layers from `first` on, [n_k + 1, b_pad], last row of y_k ones."""
    for k in range(first, len(sizes) - 1):
        n_in, n_out = sizes[k], sizes[k + 1]
        multiply(weights, w_at[k], 1, padded(n_out), outputs, o_at[k], b_pad, outputs, plan[k, A_AT], b_pad,
                         n_out, b_pad, n_in + 1, slopes[k])  # fmt: skip
        if plan[k, A_AT] != o_at[k + 1]:
            ones = o_at[0] + sizes[0] * b_pad
            output(k, n_out, n, b_pad, ones, outputs, o_at, plan, extra, scratch, gates, training)


@leaf
def _products(a, state, gradient, out):
    for i in range(a.shape[0]):
        m = state[BATCH_MEAN, i]
        for b in range(a.shape[1]):
            out[i, b] = gradient[i, b] * (a[i, b] - m)


@leaf
def _denormalise(a, state, d_gamma, d_beta, n, gradient):
    """The gradient at the activation a in place of that at BatchNorm's output; zero in the columns past the batch."""
    share = np.float32(1) / np.float32(n)
    for i in range(a.shape[0]):
        m, root = state[BATCH_MEAN, i], state[BATCH_ROOT, i]
        scale = state[GAMMA, i] * root
        shift, tilt = scale * (d_beta[i] * share), scale * (root * d_gamma[i] * share)
        for b in range(a.shape[1]):
            gradient[i, b] = scale * gradient[i, b] - shift - tilt * (a[i, b] - m)
        gradient[i, n:] = 0


@leaf
def _step(parameter, gradient, velocity, lr, momentum, decay):
    for i in range(len(parameter)):
        velocity[i] = momentum * velocity[i] + (gradient[i] + decay * parameter[i])
        parameter[i] -= lr * velocity[i]


@leaf
def _output_backward(
    k, n_out, n, b_pad, ones, outputs, plan, extra, gradients, here, scratch, gates, lr, momentum, decay
):
    """The gradient at a_k in place of that at y_k; that of a residual sum noted for its layer; gamma's, beta's step."""
    size, j = n_out * b_pad, plan[k, ADD]
    gradient = gradients[here : here + size]
    if plan[k, S_AT] >= 0:
        add(extra[plan[k, S_AT] : plan[k, S_AT] + size], gradient)
    if j >= 0:
        passed_back = extra[plan[j, S_AT] : plan[j, S_AT] + size]
        if plan[k, LAST]:
            copy(gradient, passed_back)
        else:
            add(gradient, passed_back)
    if plan[k, GATE] >= 0:
        gate_backward(gates, plan[k, GATE], n_out, b_pad, outputs, plan[k, A_AT], extra, plan[k, GATE_AT], gradients,
                      here, scratch)  # fmt: skip
    if plan[k, NORM]:
        a = block(outputs, plan[k, A_AT], n_out, b_pad)
        state = block(extra, plan[k, N_AT], STATE, n_out)
        d_gamma, d_beta = state[GAMMA_GRADIENT], state[BETA_GRADIENT]
        _products(a, state, block(gradients, here, n_out, b_pad), block(scratch, 0, n_out, b_pad))
        _row_sums(scratch, 0, n_out, n, b_pad, outputs, ones, extra, d_gamma)
        _row_sums(gradients, here, n_out, n, b_pad, outputs, ones, extra, d_beta)
        for i in range(n_out):
            d_gamma[i] *= state[BATCH_ROOT, i]
        _denormalise(a, state, d_gamma, d_beta, n, block(gradients, here, n_out, b_pad))
        _step(state[GAMMA], d_gamma, state[GAMMA_VELOCITY], lr, momentum, decay)
        _step(state[BETA], d_beta, state[BETA_VELOCITY], lr, momentum, decay)


@leaf
def _backward_and_step(sizes, slopes, weights, velocities, w_at, outputs, o_at, n, b_pad, plan, extra, gradients,
                       rows_first, gates, lr, momentum, decay):  # fmt: skip
    """Data gradients, then each layer's weight gradient and SGD step in one pass over its weights."""
    here, there = 0, len(gradients) // 2
    for k in range(len(sizes) - 2, -1, -1):
        n_in, n_out = sizes[k], sizes[k + 1]
        ld = padded(n_out)
        if not plan[k, DIRECT]:
            ones = o_at[0] + sizes[0] * b_pad
            _output_backward(k, n_out, n, b_pad, ones, outputs, plan, extra, gradients, here, rows_first, gates, lr,
                             momentum, decay)  # fmt: skip
        if (k == len(sizes) - 2 or not plan[k, DIRECT]) and slopes[k] != 1:
            size, post = n_out * b_pad, plan[k, A_AT]
            _deactivate(gradients[here : here + size], outputs[post : post + size], slopes[k])
        if n_out > NARROW:
            gradients[here + n_out * b_pad : here + ld * b_pad] = 0
            transpose(gradients, here, b_pad, rows_first, 0, ld, ld, b_pad)
        if k > 0:  # before the step: the data gradient is taken at the old weights
            slope = slopes[k - 1] if plan[k - 1, DIRECT] else np.float32(1)
            multiply_backward(weights, w_at[k], ld, 1, gradients, here, b_pad, gradients, there, b_pad, n_in, b_pad,
                              n_out, outputs, o_at[k], slope)  # fmt: skip
        if n_out > NARROW:
            multiply_sgd(outputs, o_at[k], b_pad, 1, rows_first, 0, ld, weights, velocities, w_at[k], ld, n_in + 1, ld,
                         n, lr, momentum, decay)  # fmt: skip
        else:
            multiply_sgd_narrow(outputs, o_at[k], b_pad, gradients, here, b_pad, weights, velocities, w_at[k], ld,
                                n_in + 1, n_out, b_pad, lr, momentum, decay)  # fmt: skip
        here, there = there, here


@jit
def plan_layers(sizes, norms, adds, gate_at, o_at, b_pad):
    """(plan, extra); o_at[-1], where outputs end, grows by the activations kept beside their outputs."""
    layers = len(sizes) - 1
    plan, end = np.zeros((layers, 9), np.int64), 0
    for k in range(layers):
        plan[k, NORM], plan[k, ADD], plan[k, DIRECT], plan[k, S_AT] = norms[k], adds[k], 1, -1
        plan[k, A_AT], plan[k, GATE] = o_at[k + 1], gate_at[k]
        if norms[k]:
            end = max(end, padded(sizes[k + 1]) * LANES)
    for k in range(layers - 1, -1, -1):
        size, j = sizes[k + 1] * b_pad, adds[k]
        if norms[k] or j >= 0 or gate_at[k] >= 0:
            plan[k, DIRECT], plan[k, A_AT] = 0, o_at[-1]
            o_at[-1] += size
        if j >= 0 and plan[j, S_AT] < 0:
            plan[j, DIRECT], plan[j, S_AT], plan[k, LAST] = 0, end, 1
            end += size
        if norms[k]:
            plan[k, N_AT] = end
            end += padded(STATE * sizes[k + 1])
        if gate_at[k] >= 0:
            plan[k, GATE_AT] = end
            end += size
    return plan, zeros(end)


@jit
def layer_places(sizes, b_pad):
    """(where every layer's weights start, where every output does, the widest layer padded); the ends come last."""
    layers, widest = len(sizes) - 1, 0
    w_at, o_at = np.zeros(layers + 1, np.int64), np.zeros(layers + 2, np.int64)
    for k in range(layers):
        w_at[k + 1] = w_at[k] + (sizes[k] + 1) * padded(sizes[k + 1])
    for k in range(layers + 1):
        o_at[k + 1] = o_at[k] + (padded(sizes[k]) + 1) * b_pad
        widest = max(widest, padded(sizes[k]) if k > 0 else 0)
    return w_at, o_at, widest


@jit
def _held(sizes, norms, w_at, fixed_at):
    """fixed_at as places in `weights`."""
    held_at, h, start = np.empty_like(fixed_at), 0, 0
    for k in range(len(sizes) - 1):
        n_out = sizes[k + 1]
        while h < len(fixed_at) and fixed_at[h] < start + sizes[k] * n_out:
            at = fixed_at[h] - start
            held_at[h] = w_at[k] + at // n_out * padded(n_out) + at % n_out
            h += 1
        start += (sizes[k] + 1 + 4 * norms[k]) * n_out
    return held_at


@jit
def train_mlp(x, train_rows, train_labels, test_rows, test_labels, sizes, slopes, norms, adds, scale, shift, shape, lr,
              momentum, weight_decay, batch_size, pad, seed, task, repeat, fixed_at, fixed_to, gate_at,
              gates):  # fmt: skip
    """One network's whole run, arguments and results as `wsfast.reference.mlp.train_mlp`, in float32.

    x uint8 or float32 [n, d]; rows and labels, sizes, norms, adds, shape int64; slopes, scale, shift, lr float32;
    fixed_at int64 ascending, no biases among them; fixed_to, gates float32; gate_at int64.
    """
    layers, d, classes = len(sizes) - 1, sizes[0], sizes[-1]
    n, epochs = len(train_rows), len(lr)
    momentum, decay = np.float32(momentum), np.float32(weight_decay)
    b_pad = padded(min(batch_size, max(n, len(test_rows), 1)))
    batch_size = min(batch_size, b_pad)

    w_at, o_at, widest = layer_places(sizes, b_pad)
    plan, extra = plan_layers(sizes, norms, adds, gate_at, o_at, b_pad)
    weights, velocities, outputs = zeros(w_at[-1]), zeros(w_at[-1]), zeros(o_at[-1])
    top, norm, own, here = zeros(b_pad), zeros(b_pad), zeros(b_pad), np.empty(b_pad, np.int64)
    products, losses = np.ones(b_pad), np.zeros(b_pad)
    image = zeros(b_pad * padded(d) if pad >= 0 or d < LANES else 0)
    scale, shift = pad_vector(scale), pad_vector(shift)
    gradients, rows_first = zeros(2 * widest * b_pad), zeros(widest * b_pad)

    count, item = 0, 0
    for k in range(layers):
        n_in, n_out, ld = sizes[k], sizes[k + 1], padded(sizes[k + 1])
        outputs[o_at[k] + n_in * b_pad : o_at[k] + (n_in + 1) * b_pad] = 1
        bound = np.float32(1 / math.sqrt(n_in))
        draw = philox.uniform(n_in * n_out, bound, seed, task, repeat, philox.INIT, item)
        for i in range(n_in):
            weights[w_at[k] + i * ld : w_at[k] + i * ld + n_out] = draw[i * n_out : (i + 1) * n_out]
        draw = philox.uniform(n_out, bound, seed, task, repeat, philox.INIT, item + 1)
        weights[w_at[k] + n_in * ld : w_at[k] + n_in * ld + n_out] = draw
        count += (n_in + 1) * n_out
        item += 2
        if norms[k]:
            state = block(extra, plan[k, N_AT], STATE, n_out)
            state[GAMMA], state[VARIANCE] = 1, 1
            count += 4 * n_out
            item += 4

    held_at = _held(sizes, norms, w_at, fixed_at)
    hold(weights, velocities, held_at, fixed_to)

    loss_curve = np.zeros(epochs)
    crops = np.zeros((1, 3), np.int64)
    for epoch in range(epochs):
        order = philox.batch_order(n, epoch, seed, task, repeat, philox.ORDER)
        if pad >= 0:
            crops = philox.augmentation(n, pad, epoch, seed, task, repeat)
        total, undrained = 0.0, 0
        for start in range(0, n, batch_size):
            chosen = order[start : start + batch_size]
            load_batch(x, train_rows, chosen, scale, shift, shape, crops, pad, image, here, outputs, b_pad)
            forward(
                0, sizes, slopes, weights, w_at, outputs, o_at, len(chosen), b_pad, plan, extra, gradients, gates, True
            )
            cross_entropy(outputs, o_at[layers], train_labels, chosen, classes, b_pad, gradients, top, norm, own,
                          products, losses)  # fmt: skip
            _backward_and_step(sizes, slopes, weights, velocities, w_at, outputs, o_at, len(chosen), b_pad, plan, extra,
                               gradients, rows_first, gates, lr[epoch], momentum, decay)  # fmt: skip
            undrained += 1
            if undrained == DRAIN or start + batch_size >= n:
                total, undrained = total + drain(products, losses), 0
        loss_curve[epoch] = total / n

    release(weights, velocities, held_at, fixed_to)

    record = np.full(4, np.nan)
    for split in range(2):
        rows, labels = (train_rows, train_labels) if split == 0 else (test_rows, test_labels)
        everything = np.arange(len(rows))
        total, hits = 0.0, 0
        for start in range(0, len(rows), batch_size):
            chosen = everything[start : start + batch_size]
            load_batch(x, rows, chosen, scale, shift, shape, crops, -1, image, here, outputs, b_pad)
            forward(
                0, sizes, slopes, weights, w_at, outputs, o_at, len(chosen), b_pad, plan, extra, gradients, gates, False
            )
            cross_entropy(
                outputs, o_at[layers], labels, chosen, classes, b_pad, gradients, top, norm, own, products, losses
            )
            total += drain(products, losses)
            hits += right(outputs, o_at[layers], labels, chosen, classes, b_pad)
        if len(rows) > 0:
            record[2 * split], record[2 * split + 1] = total / len(rows), hits / len(rows)

    parameters = np.empty(count, np.float32)
    at = 0
    for k in range(layers):
        n_out, ld = sizes[k + 1], padded(sizes[k + 1])
        for i in range(sizes[k] + 1):
            parameters[at : at + n_out] = weights[w_at[k] + i * ld : w_at[k] + i * ld + n_out]
            at += n_out
        if norms[k]:
            parameters[at : at + 4 * n_out] = extra[plan[k, N_AT] : plan[k, N_AT] + 4 * n_out]
            at += 4 * n_out
    return parameters, loss_curve, record
