"""Train one fully connected network from its seed to its last step in one call.

Activations are stored feature-major, [n_k, batch]: forward and data gradient then vectorise over the batch and read
weights as scalars, in place; only the layer gradients are transposed, once, for the weight gradient. Per step and layer
the weights are read twice and written once; a weight gradient lives in registers only.
"""

import math

import numpy as np

from . import philox
from .gemm import multiply_add, multiply_sgd, padded, transpose
from .jit import jit


@jit
def _load_batch(x, rows, chosen, scale, shift, shape, crops, pad, image, b_pad):
    """image[b] = x[rows[chosen[b]]] * scale + shift, cropped and mirrored where pad >= 0; the rest is zero."""
    d = x.shape[1]
    d_pad = padded(d)
    for b in range(len(chosen)):
        row, at = rows[chosen[b]], b * d_pad
        if pad < 0:
            for j in range(d):
                image[at + j] = np.float32(x[row, j]) * scale[j] + shift[j]
        else:
            channels, height, width = shape
            dy, dx, flip = crops[chosen[b]]
            for c in range(channels):
                for i in range(height):
                    for j in range(width):
                        source_i, source_j = i + dy - pad, (width - 1 - j if flip else j) + dx - pad
                        inside = 0 <= source_i < height and 0 <= source_j < width
                        source = (c * height + source_i) * width + source_j
                        pixel = np.float32(x[row, source]) if inside else np.float32(0)
                        target = (c * height + i) * width + j
                        image[at + target] = pixel * scale[target] + shift[target]
        image[at + d : at + d_pad] = 0
    image[len(chosen) * d_pad : b_pad * d_pad] = 0


@jit
def _activate(z, slope):
    """z <- z where z > 0, slope z elsewhere (a NaN stays one)."""
    for i in range(len(z)):
        z[i] = z[i] if z[i] > 0 else slope * z[i]


@jit
def _deactivate(gradient, post, slope):
    """The gradient before the activation whose output is `post`."""
    for i in range(len(post)):
        gradient[i] = gradient[i] if post[i] > 0 else slope * gradient[i]


@jit
def _add_rows(source, rows, total):
    """total <- the sum of `rows` rows of source, in order."""
    width = len(total)
    total[:] = 0
    for b in range(rows):
        row = source[b * width : (b + 1) * width]
        for j in range(width):
            total[j] += row[j]


@jit
def _forward(sizes, slopes, weights, w_at, biases, b_at, outputs, o_at, b_pad):
    """outputs[k + 1] = activation(W_k^T outputs[k] + b_k), each [n_k, b_pad]."""
    for k in range(len(sizes) - 1):
        n_in, n_out = sizes[k], sizes[k + 1]
        out, end = o_at[k + 1], o_at[k + 1] + n_out * b_pad
        for i in range(n_out):
            outputs[out + i * b_pad : out + (i + 1) * b_pad] = biases[b_at[k] + i]
        ld = padded(n_out)
        multiply_add(weights, w_at[k], 1, ld, outputs, o_at[k], b_pad, outputs, out, b_pad, n_out, b_pad, n_in)
        if slopes[k] != 1:
            _activate(outputs[out:end], slopes[k])


@jit
def _loss(logits, at, labels, chosen, classes, b_pad, gradient):
    """(summed cross-entropy, number right); writes d(mean loss)/d(logits) [classes, b_pad], zero past the batch."""
    n = len(chosen)
    total, right = 0.0, 0
    share = np.float32(1) / np.float32(n)
    gradient[: classes * b_pad] = 0
    for b in range(n):
        label = labels[chosen[b]]
        top, best = logits[at + b], 0
        for c in range(1, classes):
            z = logits[at + c * b_pad + b]
            if z > top:
                top, best = z, c
        norm = np.float32(0)
        for c in range(classes):
            e = math.exp(logits[at + c * b_pad + b] - top)
            gradient[c * b_pad + b] = e
            norm += e
        total += math.log(norm) + top - logits[at + label * b_pad + b]
        right += best == label
        for c in range(classes):
            p = gradient[c * b_pad + b] / norm
            gradient[c * b_pad + b] = (p - np.float32(c == label)) * share
    return total, right


@jit
def _backward_and_step(sizes, slopes, weights, v_weights, w_at, biases, v_biases, b_at, outputs, o_at, n, b_pad,
                       gradient, other, rows_first, bias_sum, lr, momentum, decay):  # fmt: skip
    """Data gradients, then each layer's weight gradient and SGD step in one pass over its weights."""
    for k in range(len(sizes) - 2, -1, -1):
        n_in, n_out = sizes[k], sizes[k + 1]
        ld = padded(n_out)
        if slopes[k] != 1:
            _deactivate(gradient, outputs[o_at[k + 1] : o_at[k + 1] + n_out * b_pad], slopes[k])
        gradient[n_out * b_pad : ld * b_pad] = 0
        transpose(gradient, 0, b_pad, rows_first, 0, ld, ld, b_pad)
        if k > 0:  # before the step: the data gradient is taken at the old weights
            other[: n_in * b_pad] = 0
            multiply_add(weights, w_at[k], ld, 1, gradient, 0, b_pad, other, 0, b_pad, n_in, b_pad, n_out)
        multiply_sgd(outputs, o_at[k], b_pad, 1, rows_first, 0, ld, weights, v_weights, w_at[k], ld, n_in, ld, n,
                     lr, momentum, decay)  # fmt: skip
        _add_rows(rows_first, n, bias_sum[:ld])
        for j in range(n_out):
            v = momentum * v_biases[b_at[k] + j] + (bias_sum[j] + decay * biases[b_at[k] + j])
            v_biases[b_at[k] + j] = v
            biases[b_at[k] + j] -= lr * v
        gradient, other = other, gradient


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

    w_at, b_at, o_at = np.zeros(layers + 1, np.int64), np.zeros(layers + 1, np.int64), np.zeros(layers + 2, np.int64)
    for k in range(layers + 1):
        o_at[k + 1] = o_at[k] + padded(sizes[k]) * b_pad
    for k in range(layers):
        w_at[k + 1] = w_at[k] + sizes[k] * padded(sizes[k + 1])
        b_at[k + 1] = b_at[k] + sizes[k + 1]
    weights, biases = np.zeros(w_at[-1], np.float32), np.zeros(b_at[-1], np.float32)
    v_weights, v_biases = np.zeros_like(weights), np.zeros_like(biases)
    widest = 0
    for k in range(1, layers + 1):
        widest = max(widest, padded(sizes[k]))
    outputs = np.zeros(o_at[-1], np.float32)
    image = np.zeros(b_pad * padded(d), np.float32)
    gradient, other = np.zeros(widest * b_pad, np.float32), np.zeros(widest * b_pad, np.float32)
    rows_first, bias_sum = np.zeros(widest * b_pad, np.float32), np.zeros(widest, np.float32)

    for k in range(layers):
        n_in, n_out, ld = sizes[k], sizes[k + 1], padded(sizes[k + 1])
        bound = np.float32(1 / math.sqrt(n_in))
        draw = philox.uniform(n_in * n_out, bound, seed, task, repeat, philox.INIT, 2 * k)
        for i in range(n_in):
            weights[w_at[k] + i * ld : w_at[k] + i * ld + n_out] = draw[i * n_out : (i + 1) * n_out]
        draw = philox.uniform(n_out, bound, seed, task, repeat, philox.INIT, 2 * k + 1)
        biases[b_at[k] : b_at[k] + n_out] = draw

    loss_curve = np.zeros(epochs)
    crops = np.zeros((1, 3), np.int64)
    for epoch in range(epochs):
        order = philox.batch_order(n, epoch, seed, task, repeat, philox.ORDER)
        if pad >= 0:
            crops = philox.augmentation(n, pad, epoch, seed, task, repeat)
        total = 0.0
        for start in range(0, n, batch_size):
            chosen = order[start : start + batch_size]
            _load_batch(x, train_rows, chosen, scale, shift, shape, crops, pad, image, b_pad)
            transpose(image, 0, padded(d), outputs, 0, b_pad, b_pad, padded(d))
            _forward(sizes, slopes, weights, w_at, biases, b_at, outputs, o_at, b_pad)
            loss, _ = _loss(outputs, o_at[layers], train_labels, chosen, classes, b_pad, gradient)
            total += loss
            _backward_and_step(sizes, slopes, weights, v_weights, w_at, biases, v_biases, b_at, outputs, o_at,
                               len(chosen), b_pad, gradient, other, rows_first, bias_sum, lr[epoch], momentum,
                               decay)  # fmt: skip
        loss_curve[epoch] = total / n

    record = np.full(4, np.nan)
    for split in range(2):
        rows, labels = (train_rows, train_labels) if split == 0 else (test_rows, test_labels)
        everything = np.arange(len(rows))
        total, hits = 0.0, 0
        for start in range(0, len(rows), batch_size):
            chosen = everything[start : start + batch_size]
            _load_batch(x, rows, chosen, scale, shift, shape, crops, -1, image, b_pad)
            transpose(image, 0, padded(d), outputs, 0, b_pad, b_pad, padded(d))
            _forward(sizes, slopes, weights, w_at, biases, b_at, outputs, o_at, b_pad)
            loss, right = _loss(outputs, o_at[layers], labels, chosen, classes, b_pad, gradient)
            total += loss
            hits += right
        if len(rows) > 0:
            record[2 * split], record[2 * split + 1] = total / len(rows), hits / len(rows)

    parameters = np.empty(b_at[-1] + _count(sizes), np.float32)
    at = 0
    for k in range(layers):
        n_in, n_out, ld = sizes[k], sizes[k + 1], padded(sizes[k + 1])
        for i in range(n_in):
            parameters[at : at + n_out] = weights[w_at[k] + i * ld : w_at[k] + i * ld + n_out]
            at += n_out
        parameters[at : at + n_out] = biases[b_at[k] : b_at[k] + n_out]
        at += n_out
    return parameters, loss_curve, record


@jit
def _count(sizes):
    """How many weights, biases not counted, the layers have."""
    total = 0
    for k in range(len(sizes) - 1):
        total += sizes[k] * sizes[k + 1]
    return total
