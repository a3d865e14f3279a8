"""Loss and error on the straight line between two networks, one pair a call and a core.

All points of the line go over a run of samples while it is in the cache. A fully connected network's first layer is
linear in its weights, so its products with the samples are made at the two ends only; every point blends them. A
recurrent one's are rows of its weights.
"""

import numpy as np

from . import cnn, figlu
from .gemm import multiply, padded, zeros
from .gru_cell import count, layout, place
from .gru_evaluate import evaluate
from .jit import jit, leaf
from .loss import cross_entropy, drain, right
from .mlp import A_AT, N_AT, block, forward, layer_places, load_batch, output, pad_vector, plan_layers
from .tile import LANES

SAMPLES, IMAGES = 384, 64  # at a time, at most


@leaf
def _blend(a, b, t, out):
    for i in range(len(out)):
        out[i] = (np.float32(1) - t) * a[i] + t * b[i]


@leaf
def _bend(x, slope):
    for i in range(len(x)):
        x[i] = x[i] if x[i] > 0 else slope * x[i]


@leaf
def _unpack(parameters, sizes, norms, w_at, plan, weights, extra):
    """Parameters [P] as declared into `weights` and the BatchNorm states of `extra`."""
    at = 0
    for k in range(len(sizes) - 1):
        n_out, ld = sizes[k + 1], padded(sizes[k + 1])
        for i in range(sizes[k] + 1):
            for j in range(n_out):
                weights[w_at[k] + i * ld + j] = parameters[at + j]
            at += n_out
        if norms[k]:
            for j in range(4 * n_out):
                extra[plan[k, N_AT] + j] = parameters[at + j]
            at += 4 * n_out


@leaf
def _point(t, n, sizes, slopes, norms, w_at, o_at, b_pad, plan, weights_a, weights_b, states_a, states_b, z_a, z_b,
           weights, extra, outputs, scratch, gates):  # fmt: skip
    """The outputs at t of the line, of samples whose first layer is z_a and z_b [n_1, b_pad] at the ends."""
    _blend(weights_a[w_at[1] :], weights_b[w_at[1] :], t, weights[w_at[1] :])
    for k in range(len(sizes) - 1):
        if norms[k]:
            at, size = plan[k, N_AT], 4 * sizes[k + 1]
            _blend(states_a[at : at + size], states_b[at : at + size], t, extra[at : at + size])
    first = outputs[plan[0, A_AT] : plan[0, A_AT] + sizes[1] * b_pad]
    _blend(z_a, z_b, t, first)
    if slopes[0] != 1:
        _bend(first, slopes[0])
    if plan[0, A_AT] != o_at[1]:
        output(0, sizes[1], n, b_pad, o_at[0] + sizes[0] * b_pad, outputs, o_at, plan, extra, scratch, gates, False)
    forward(1, sizes, slopes, weights, w_at, outputs, o_at, n, b_pad, plan, extra, scratch, gates, False)


@jit
def interpolate_mlp(x, rows, labels, sizes, slopes, norms, adds, scale, shift, gate_at, gates, start, end, points):
    """As `wsfast.reference.interpolate.interpolate_mlp`, in float32: (loss, error), float64 [L].

    x uint8 or float32 [n, d]; rows, labels, sizes, norms, adds, gate_at int64; the others float32.
    """
    layers, classes, n = len(sizes) - 1, sizes[-1], len(rows)
    runs = (n + SAMPLES - 1) // SAMPLES  # of nearly one length: columns past the last sample are computed too
    b_pad = padded((n + runs - 1) // runs)
    w_at, o_at, widest = layer_places(sizes, b_pad)
    plan, extra = plan_layers(sizes, norms, adds, gate_at, o_at, b_pad)
    outputs, weights, weights_a, weights_b = zeros(o_at[-1]), zeros(w_at[-1]), zeros(w_at[-1]), zeros(w_at[-1])
    states_a, states_b, scratch = zeros(len(extra)), zeros(len(extra)), zeros(2 * widest * b_pad)
    z_a, z_b, gradient = zeros(sizes[1] * b_pad), zeros(sizes[1] * b_pad), zeros(padded(classes) * b_pad)
    top, norm, own, here = zeros(b_pad), zeros(b_pad), zeros(b_pad), np.empty(b_pad, np.int64)
    products, losses = np.ones(b_pad), np.zeros(b_pad)
    image, crops = zeros(b_pad * padded(sizes[0]) if sizes[0] < LANES else 0), np.zeros((1, 3), np.int64)
    shape, scale, shift = np.ones(3, np.int64), pad_vector(scale), pad_vector(shift)
    for k in range(layers + 1):
        block(outputs, o_at[k], sizes[k] + 1, b_pad)[sizes[k]] = 1
    _unpack(start, sizes, norms, w_at, plan, weights_a, states_a)
    _unpack(end, sizes, norms, w_at, plan, weights_b, states_b)

    loss, hits, everything = np.zeros(len(points)), np.zeros(len(points)), np.arange(n)
    for first in range(0, n, b_pad):
        chosen = everything[first : first + b_pad]
        load_batch(x, rows, chosen, scale, shift, shape, crops, -1, image, here, outputs, b_pad)
        for weights_of, z in ((weights_a, z_a), (weights_b, z_b)):
            multiply(weights_of, 0, 1, padded(sizes[1]), outputs, o_at[0], b_pad, z, 0, b_pad, sizes[1], b_pad,
                     sizes[0] + 1, np.float32(1))  # fmt: skip
        for i in range(len(points)):
            _point(np.float32(points[i]), len(chosen), sizes, slopes, norms, w_at, o_at, b_pad, plan, weights_a,
                   weights_b, states_a, states_b, z_a, z_b, weights, extra, outputs, scratch, gates)  # fmt: skip
            cross_entropy(outputs, o_at[layers], labels, chosen, classes, b_pad, gradient, top, norm, own, products,
                          losses)  # fmt: skip
            loss[i] += drain(products, losses)
            hits[i] += right(outputs, o_at[layers], labels, chosen, classes, b_pad)
    return loss / n, 1 - hits / n


@leaf
def _unpack_cnn(parameters, sizes, shortcuts, plan, branches, out, head, p, s):
    """Parameters [P] as declared into `p` and the BatchNorm statistics of `s`."""
    for k in range(len(shortcuts)):
        for side in range(1 + shortcuts[k]):
            u, t, n_out = plan[k], branches[k, side], sizes[k + 1]
            area, n, at, bias = t[cnn.SIZE] * t[cnn.SIZE], u[cnn.N], t[cnn.OUT], cnn.bias_of(u, t)
            for i in range(sizes[k]):
                for q in range(area):
                    for j in range(n_out):
                        p[t[cnn.P] + (q * u[cnn.C] + i) * n + j] = parameters[at + j]
                    at += n_out
            for part in range(3):
                for j in range(n_out):
                    p[bias + part * n + j] = parameters[at + j]
                at += n_out
            for row in range(2):
                for j in range(n_out):
                    s[t[cnn.S] + (cnn.RUNNING_MEAN + row) * n + j] = parameters[at + j]
                at += n_out
    classes, c = sizes[-1], plan[len(shortcuts), cnn.C]
    for i in range(sizes[-2]):
        for k in range(classes):
            p[head + k * c + i] = parameters[out + i * classes + k]
    for k in range(classes):
        p[head + classes * c + k] = parameters[out + sizes[-2] * classes + k]


@jit
def interpolate_cnn(x, rows, labels, sizes, slopes, strides, norm_last, pools, shortcuts, scale, shift, shape, gate_at,
                    gates, start, end, points):  # fmt: skip
    """As `wsfast.reference.interpolate.interpolate_cnn`, in float32: (loss, error), float64 [L]; types of train_cnn."""
    n, classes = len(rows), sizes[-1]
    runs = (n + IMAGES - 1) // IMAGES
    at_once = (n + runs - 1) // runs
    b_pad = padded(at_once)
    plan, branches, _, out, head, statistics, images_end, _, _ = cnn.plan_units(
        sizes, strides, norm_last, pools, shortcuts, gate_at, shape[1], shape[2], at_once
    )
    f = figlu.pack(plan[:, cnn.GATE], sizes, gate_at, gates)
    last = plan[len(slopes)]
    count = head + classes * last[cnn.C] + padded(classes)
    p, p_a, p_b = zeros(count), zeros(count), zeros(count)
    s, s_a, s_b = zeros(statistics), zeros(statistics), zeros(statistics)
    images, features = zeros(images_end), zeros(at_once * last[cnn.C])
    logits, gradient = zeros(classes * b_pad), zeros(classes * b_pad)
    top, norm, own = zeros(b_pad), zeros(b_pad), zeros(b_pad)
    products, losses, crops = np.ones(b_pad), np.zeros(b_pad), np.zeros((1, 3), np.int64)
    _unpack_cnn(start, sizes, shortcuts, plan, branches, out, head, p_a, s_a)
    _unpack_cnn(end, sizes, shortcuts, plan, branches, out, head, p_b, s_b)

    loss, hits, everything = np.zeros(len(points)), np.zeros(len(points)), np.arange(n)
    for first in range(0, n, at_once):
        chosen = everything[first : first + at_once]
        batch = len(chosen)
        cnn.load_images(x, rows, chosen, scale, shift, shape, crops, -1, images, plan[0, cnn.XP])
        for i in range(len(points)):
            _blend(p_a, p_b, np.float32(points[i]), p)
            _blend(s_a, s_b, np.float32(points[i]), s)
            cnn.forward(plan, branches, slopes, p, s, f, images, batch, False)
            cnn.classify(last, images, batch, p, head, classes, features, logits, b_pad)
            cross_entropy(logits, 0, labels, chosen, classes, b_pad, gradient, top, norm, own, products, losses)
            loss[i] += drain(products, losses)
            hits[i] += right(logits, 0, labels, chosen, classes, b_pad)
    return loss / n, 1 - hits / n


@jit
def interpolate_gru(x, rows, labels, alphabet, hidden, classes, start, end, points):
    """As `wsfast.reference.interpolate.interpolate_gru`, in float32: (loss, error), float64 [L]; types of train_gru."""
    at, pieces = layout(alphabet, hidden, classes)
    weights, first, last = zeros(at[-1]), zeros(at[-1]), zeros(at[-1])
    numbers, done = count(pieces), 0
    for k in range(len(pieces)):
        for flat, ends in ((start, first), (end, last)):
            place(flat[done : done + numbers[k]], pieces[k], ends, at[k])
        done += numbers[k]
    loss, error = np.zeros(len(points)), np.zeros(len(points))
    for i in range(len(points)):
        _blend(first, last, np.float32(points[i]), weights)
        loss[i], accuracy = evaluate(weights, at, x, rows, labels, alphabet, hidden, classes)
        error[i] = 1 - accuracy
    return loss, error
