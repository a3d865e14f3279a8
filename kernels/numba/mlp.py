"""Train one fully connected network from its seed to its last step in one call.

Activations are stored feature-major, [n_k, batch]: forward and data gradient then vectorise over the batch and read
weights as scalars, in place; only the layer gradients are transposed, once, for the weight gradient. Per step and layer
the weights are read twice and written once; a weight gradient lives in registers only. A bias is one more row of its
layer's weights, met by one more input that is always 1.
"""

import math

import numpy as np

from . import philox
from .gemm import gather, multiply, multiply_backward, multiply_sgd, padded, transpose, zeros
from .jit import jit
from .tile import LANES

DRAIN = 32  # batches whose softmax denominators are multiplied up before a logarithm is taken of each product


@jit
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


@jit
def _load_batch(x, all_rows, chosen, scale, shift, shape, crops, pad, image, rows, outputs, b_pad):
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
def _pad(numbers):
    out = zeros(padded(len(numbers)))
    out[: len(numbers)] = numbers
    return out


@jit
def _deactivate(gradient, at, post, post_at, n, slope):
    """The gradient before the activation whose output is `post`."""
    for i in range(n):
        if not post[post_at + i] > 0:
            gradient[at + i] *= slope


@jit
def _forward(sizes, slopes, weights, w_at, outputs, o_at, b_pad):
    """outputs[k + 1] = activation(W_k^T outputs[k]), each [n_k + 1, b_pad] with a last row of ones."""
    for k in range(len(sizes) - 1):
        n_in, n_out = sizes[k], sizes[k + 1]
        multiply(weights, w_at[k], 1, padded(n_out), outputs, o_at[k], b_pad, outputs, o_at[k + 1], b_pad,
                         n_out, b_pad, n_in + 1, slopes[k])  # fmt: skip


@jit
def _exp(x):
    """e^x of float32 x <= 0 to 1e-7, 0 below -87: the same bits on every machine, and the compiler can vectorise it."""
    x = x if not x < np.float32(-87) else np.float32(-87)
    n = np.int32(x * np.float32(1.44269504) - np.float32(0.5))  # nearest integer of x / ln 2
    r = (x - np.float32(n) * np.float32(0.693359375)) + np.float32(n) * np.float32(2.12194440e-4)
    p = np.float32(1.9875691500e-4)  # Cephes' expf polynomial
    p = p * r + np.float32(1.3981999507e-3)
    p = p * r + np.float32(8.3334519073e-3)
    p = p * r + np.float32(4.1665795894e-2)
    p = p * r + np.float32(1.6666665459e-1)
    p = p * r + np.float32(5.0000001201e-1)
    p = p * (r * r) + r + np.float32(1)
    return p * np.int32((n + np.int32(127)) << np.int32(23)).view(np.float32)


@jit
def _largest(z, top):
    for b in range(len(top)):
        top[b] = z[b] if not z[b] <= top[b] else top[b]


@jit
def _exponentials(z, top, out, norm):
    for b in range(len(norm)):
        e = _exp(z[b] - top[b])
        out[b] = e
        norm[b] += e


@jit
def _add_losses(norm, top, own, norms, losses):
    for b in range(len(norms)):
        norms[b] *= np.float64(norm[b])
        losses[b] += np.float64(top[b]) - np.float64(own[b])


@jit
def _drain(norms, losses):
    """The summed cross-entropy of all batches since the last call: sum of log(norm) + top - own logit."""
    total = 0.0
    for b in range(len(norms)):
        total += math.log(norms[b]) + losses[b]
    norms[:], losses[:] = 1, 0
    return total


@jit
def _loss(logits, at, labels, chosen, classes, b_pad, gradient, top, norm, own, norms, losses):
    """Writes d(mean loss)/d(logits) [classes, b_pad], zero past the batch, and adds the batch to norms and losses.

    top, norm, own: float32 [b_pad], overwritten; norms, losses: float64 [b_pad], see _drain.
    """
    n = len(chosen)
    top[:], norm[:] = logits[at : at + b_pad], 0
    for c in range(1, classes):
        _largest(logits[at + c * b_pad : at + (c + 1) * b_pad], top)
    for c in range(classes):
        z, e = logits[at + c * b_pad : at + (c + 1) * b_pad], gradient[c * b_pad : (c + 1) * b_pad]
        _exponentials(z, top, e, norm)
    share = np.float32(1) / np.float32(n)
    for c in range(classes):
        e = gradient[c * b_pad : (c + 1) * b_pad]
        for b in range(len(norm)):
            e[b] *= share / norm[b]
        e[n:] = 0
    for b in range(n):
        label = labels[chosen[b]] * b_pad
        own[b] = logits[at + label + b]
        gradient[label + b] -= share
    _add_losses(norm, top, own, norms[:n], losses[:n])


@jit
def _right(logits, at, labels, chosen, classes, b_pad):
    """How many of the batch have their label's logit largest, the first of equals."""
    hits = 0
    for b in range(len(chosen)):
        best = 0
        for c in range(1, classes):
            if logits[at + c * b_pad + b] > logits[at + best * b_pad + b]:
                best = c
        hits += best == labels[chosen[b]]
    return hits


@jit
def _backward_and_step(sizes, slopes, weights, velocities, w_at, outputs, o_at, n, b_pad, gradients, rows_first, lr,
                       momentum, decay):  # fmt: skip
    """Data gradients, then each layer's weight gradient and SGD step in one pass over its weights."""
    here, there = 0, len(gradients) // 2
    for k in range(len(sizes) - 2, -1, -1):
        n_in, n_out = sizes[k], sizes[k + 1]
        ld = padded(n_out)
        if k == len(sizes) - 2 and slopes[k] != 1:
            _deactivate(gradients, here, outputs, o_at[k + 1], n_out * b_pad, slopes[k])
        gradients[here + n_out * b_pad : here + ld * b_pad] = 0
        transpose(gradients, here, b_pad, rows_first, 0, ld, ld, b_pad)
        if k > 0:  # before the step: the data gradient is taken at the old weights
            multiply_backward(weights, w_at[k], ld, 1, gradients, here, b_pad, gradients, there, b_pad, n_in, b_pad,
                              n_out, outputs, o_at[k], slopes[k - 1])  # fmt: skip
        multiply_sgd(outputs, o_at[k], b_pad, 1, rows_first, 0, ld, weights, velocities, w_at[k], ld, n_in + 1, ld, n,
                     lr, momentum, decay)  # fmt: skip
        here, there = there, here


@jit
def train_mlp(x, train_rows, train_labels, test_rows, test_labels, sizes, slopes, scale, shift, shape, lr,
              momentum, weight_decay, batch_size, pad, seed, task, repeat):  # fmt: skip
    """One network's whole run, arguments and results as `wsfast.reference.mlp.train_mlp`, in float32.

    x uint8 or float32 [n, d]; rows and labels, sizes, shape int64; slopes, scale, shift, lr float32.
    """
    layers, d, classes = len(sizes) - 1, sizes[0], sizes[-1]
    n, epochs = len(train_rows), len(lr)
    momentum, decay = np.float32(momentum), np.float32(weight_decay)
    b_pad = padded(min(batch_size, max(n, len(test_rows), 1)))
    batch_size = min(batch_size, b_pad)

    w_at, o_at = np.zeros(layers + 1, np.int64), np.zeros(layers + 2, np.int64)
    for k in range(layers):
        w_at[k + 1] = w_at[k] + (sizes[k] + 1) * padded(sizes[k + 1])
    widest = 0
    for k in range(layers + 1):
        o_at[k + 1] = o_at[k] + (padded(sizes[k]) + 1) * b_pad
        widest = max(widest, padded(sizes[k]) if k > 0 else 0)
    weights, velocities, outputs = zeros(w_at[-1]), zeros(w_at[-1]), zeros(o_at[-1])
    top, norm, own, here = zeros(b_pad), zeros(b_pad), zeros(b_pad), np.empty(b_pad, np.int64)
    norms, losses = np.ones(b_pad), np.zeros(b_pad)
    image = zeros(b_pad * padded(d) if pad >= 0 or d < LANES else 0)
    scale, shift = _pad(scale), _pad(shift)
    gradients, rows_first = zeros(2 * widest * b_pad), zeros(widest * b_pad)

    count = 0
    for k in range(layers):
        n_in, n_out, ld = sizes[k], sizes[k + 1], padded(sizes[k + 1])
        outputs[o_at[k] + n_in * b_pad : o_at[k] + (n_in + 1) * b_pad] = 1
        bound = np.float32(1 / math.sqrt(n_in))
        draw = philox.uniform(n_in * n_out, bound, seed, task, repeat, philox.INIT, 2 * k)
        for i in range(n_in):
            weights[w_at[k] + i * ld : w_at[k] + i * ld + n_out] = draw[i * n_out : (i + 1) * n_out]
        draw = philox.uniform(n_out, bound, seed, task, repeat, philox.INIT, 2 * k + 1)
        weights[w_at[k] + n_in * ld : w_at[k] + n_in * ld + n_out] = draw
        count += (n_in + 1) * n_out

    loss_curve = np.zeros(epochs)
    crops = np.zeros((1, 3), np.int64)
    for epoch in range(epochs):
        order = philox.batch_order(n, epoch, seed, task, repeat, philox.ORDER)
        if pad >= 0:
            crops = philox.augmentation(n, pad, epoch, seed, task, repeat)
        total, undrained = 0.0, 0
        for start in range(0, n, batch_size):
            chosen = order[start : start + batch_size]
            _load_batch(x, train_rows, chosen, scale, shift, shape, crops, pad, image, here, outputs, b_pad)
            _forward(sizes, slopes, weights, w_at, outputs, o_at, b_pad)
            _loss(outputs, o_at[layers], train_labels, chosen, classes, b_pad, gradients, top, norm, own, norms, losses)
            _backward_and_step(sizes, slopes, weights, velocities, w_at, outputs, o_at, len(chosen), b_pad, gradients,
                               rows_first, lr[epoch], momentum, decay)  # fmt: skip
            undrained += 1
            if undrained == DRAIN or start + batch_size >= n:
                total, undrained = total + _drain(norms, losses), 0
        loss_curve[epoch] = total / n

    record = np.full(4, np.nan)
    for split in range(2):
        rows, labels = (train_rows, train_labels) if split == 0 else (test_rows, test_labels)
        everything = np.arange(len(rows))
        total, hits = 0.0, 0
        for start in range(0, len(rows), batch_size):
            chosen = everything[start : start + batch_size]
            _load_batch(x, rows, chosen, scale, shift, shape, crops, -1, image, here, outputs, b_pad)
            _forward(sizes, slopes, weights, w_at, outputs, o_at, b_pad)
            _loss(outputs, o_at[layers], labels, chosen, classes, b_pad, gradients, top, norm, own, norms, losses)
            total += _drain(norms, losses)
            hits += _right(outputs, o_at[layers], labels, chosen, classes, b_pad)
        if len(rows) > 0:
            record[2 * split], record[2 * split + 1] = total / len(rows), hits / len(rows)

    parameters = np.empty(count, np.float32)
    at = 0
    for k in range(layers):
        n_out, ld = sizes[k + 1], padded(sizes[k + 1])
        for i in range(sizes[k] + 1):
            parameters[at : at + n_out] = weights[w_at[k] + i * ld : w_at[k] + i * ld + n_out]
            at += n_out
    return parameters, loss_curve, record
