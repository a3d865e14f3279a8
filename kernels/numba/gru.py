"""Train one recurrent network from its seed to its last step in one call.

A name is a row of T letters, as long as it is: no padding, the first layer's product is a row of its weights, that
row's gradient its only one. Each recurrent matrix is read once a letter on the way forward and once on the way back,
and once more, to be changed in place, for all letters together. Weights lie as `gru_cell` places them.
"""

import math

import numpy as np

from . import philox
from .arrays import add, copy
from .gemm import multiply, padded, zeros
from .gru_cell import FC_B, FC_W, LAYER, B, C, U, W, cell, collect, count, layout, lengths, name_loss, place
from .gru_evaluate import evaluate
from .jit import jit, leaf
from .matvec import column_product, row_product
from .tile import dot


@leaf
def _new_gradient(d, update, new, out):
    for i in range(len(out)):
        out[i] = d[i] * (np.float32(1) - update[i]) * (np.float32(1) - new[i] * new[i])


@leaf
def _update_gradient(d, update, new, before, out):
    for i in range(len(out)):
        out[i] = d[i] * (before[i] - new[i]) * update[i] * (np.float32(1) - update[i])


@leaf
def _reset_gradient(d_new, recurrent, reset, out):
    for i in range(len(out)):
        out[i] = d_new[i] * recurrent[i] * reset[i] * (np.float32(1) - reset[i])


@leaf
def _times(a, b, out):
    for i in range(len(out)):
        out[i] = a[i] * b[i]


@leaf
def _scale(factor, out):
    for i in range(len(out)):
        out[i] *= factor


@leaf
def _layer_forward(weights, at, first, inputs, letters, steps, wide, recurrent, gates, h):
    """h[t + 1] from h[t]; inputs: x_t W, [T, 3 wide], or where `letters` has any, a row of W each.

    recurrent [T, 3 wide]: h_{t-1} U + c; gates [T, 3 wide]: r, z, n; h [T + 1, wide], h[0] zero.
    """
    ld = 3 * wide
    w, u, c = at[first + W], at[first + U], at[first + C]
    bias = weights[at[first + B] : at[first + B] + ld]
    for t in range(steps):
        here = t * ld
        if t > 0:
            row_product(h, t * wide, 1, weights, u, ld, wide, ld, weights, c, recurrent, here)
        else:
            copy(weights[c : c + ld], recurrent[:ld])
        source, row = (weights, w + letters[t] * ld) if len(letters) else (inputs, here)
        x, s, g = source[row : row + ld], recurrent[here : here + ld], gates[here : here + ld]
        cell(x, bias, s, g, h[t * wide : (t + 1) * wide], h[(t + 1) * wide : (t + 2) * wide])


@leaf
def _layer_backward(weights, at, first, steps, wide, recurrent, gates, h, d_h, d_input, d_recurrent, scratch):
    """d_input, d_recurrent [T, 3 wide], the gradients at x_t W + b and h_{t-1} U + c, from d_h [T, wide].

    d_h comes in as the loss's own gradient at every h_t; what the next step passes back is added to it.
    """
    ld, two = 3 * wide, 2 * wide
    for t in range(steps - 1, -1, -1):
        here, below = t * ld, (t - 1) * wide
        before, d = h[t * wide : (t + 1) * wide], d_h[t * wide : (t + 1) * wide]
        s, g = recurrent[here : here + ld], gates[here : here + ld]
        d_x, d_s = d_input[here : here + ld], d_recurrent[here : here + ld]
        _new_gradient(d, g[wide:two], g[two:], d_x[two:])
        _update_gradient(d, g[wide:two], g[two:], before, d_x[wide:two])
        _reset_gradient(d_x[two:], s[two:], g[:wide], d_x[:wide])
        copy(d_x[:two], d_s[:two])
        _times(d_x[two:], g[:wide], d_s[two:])
        if t > 0:
            _times(d, g[wide:two], scratch)
            add(d_h[below : below + wide], scratch)
            column_product(weights, at[first + U], ld, d_recurrent, here, wide, ld, scratch, 0, d_h, below)


@leaf
def _descend(weights, at, rows, columns, x, steps, d):
    """W[rows, columns] += x^T d: x [T, rows], d [T, columns] already times -lr."""
    for i in range(rows):
        row = at + i * columns
        row_product(x, i, rows, d, 0, columns, steps, columns, weights, row, weights, row)


@leaf
def _column_sums(d, steps, columns, bias):
    """bias += the sum of d [T, columns] over its rows."""
    for t in range(steps):
        add(d[t * columns : (t + 1) * columns], bias)


@leaf
def _forward(weights, at, letters, wide, inputs, recurrent, gates, h, logits):
    steps, ld = len(letters), 3 * wide
    _layer_forward(weights, at, 0, inputs, letters, steps, wide, recurrent[0], gates[0], h[0])
    multiply(h[0], wide, wide, 1, weights, at[LAYER + W], ld, inputs, 0, ld, steps, ld, wide, np.float32(1))
    _layer_forward(weights, at, LAYER, inputs, letters[:0], steps, wide, recurrent[1], gates[1], h[1])
    for c in range(len(logits)):
        product: float = dot(h[1], steps * wide, weights, at[FC_W] + c * wide, wide)
        logits[c] = product + weights[at[FC_B] + c]


@leaf
def _backward_and_step(weights, at, letters, wide, recurrent, gates, h, gradient, d_h, d_input, d_recurrent, scratch,
                       lr):  # fmt: skip
    """Every gradient is taken at the weights before the step: a layer is changed after what lies below has read it."""
    steps, ld = len(letters), 3 * wide
    last = (steps - 1) * wide
    d_h[: last + wide] = 0
    for c in range(len(gradient)):
        row, factor = at[FC_W] + c * wide, -lr * gradient[c]
        for i in range(wide):
            d_h[last + i] += gradient[c] * weights[row + i]
            weights[row + i] += factor * h[1, last + wide + i]
        weights[at[FC_B] + c] += factor
    for layer in (1, 0):
        first = LAYER * layer
        _layer_backward(weights, at, first, steps, wide, recurrent[layer], gates[layer], h[layer], d_h, d_input,
                        d_recurrent, scratch)  # fmt: skip
        if layer == 1:
            scratch[:] = 0
            for t in range(steps):
                column_product(weights, at[LAYER + W], ld, d_input, t * ld, wide, ld, scratch, 0, d_h, t * wide)
        _scale(-lr, d_input[: steps * ld])
        _scale(-lr, d_recurrent[: steps * ld])
        if layer == 1:
            _descend(weights, at[LAYER + W], wide, ld, h[0, wide:], steps, d_input)
        else:
            for t in range(steps):
                row = at[W] + letters[t] * ld
                add(d_input[t * ld : (t + 1) * ld], weights[row : row + ld])
        _descend(weights, at[first + U], wide, ld, h[layer, wide:], steps - 1, d_recurrent[ld:])
        _column_sums(d_input, steps, ld, weights[at[first + B] : at[first + B] + ld])
        _column_sums(d_recurrent, steps, ld, weights[at[first + C] : at[first + C] + ld])


@jit
def train_gru(x, train_rows, train_labels, test_rows, test_labels, alphabet, hidden, classes, lr, steps, seed, task,
              repeat):  # fmt: skip
    """One network's whole run, arguments and results as `wsfast.reference.gru.train_gru`, in float32.

    x uint8 [n, longest]; rows and labels int64; lr float32.
    """
    wide, longest = padded(hidden), x.shape[1]
    room = 3 * wide * longest
    at, pieces = layout(alphabet, hidden, classes)
    weights, bound = zeros(at[-1]), np.float32(1 / math.sqrt(hidden))
    for k in range(10):
        draw = philox.uniform(count(pieces)[k], bound, seed, task, repeat, philox.INIT, k)
        place(draw, pieces[k], weights, at[k])
    inputs, d_input, d_recurrent = zeros(room), zeros(room), zeros(room)
    recurrent, gates = zeros(2 * room).reshape(2, room), zeros(2 * room).reshape(2, room)
    h, d_h, scratch = zeros(2 * (longest + 1) * wide).reshape(2, -1), zeros(longest * wide), zeros(wide)
    logits, gradient = np.zeros(classes, np.float32), np.zeros(classes, np.float32)

    longs = lengths(x, train_rows, alphabet)
    members, starts, found = np.empty(len(train_rows), np.int64), np.empty(classes, np.int64), 0  # sorted by class
    sizes = np.zeros(classes, np.int64)
    for c in range(classes):
        starts[c] = found
        for i in range(len(train_labels)):
            if train_labels[i] == c:
                members[found] = i
                found += 1
        sizes[c] = found - starts[c]

    loss_curve = np.zeros(len(lr))
    for epoch in range(len(lr)):
        drawn, total = philox.sample(sizes, steps, epoch, seed, task, repeat), 0.0
        for i in range(steps):
            label = drawn[i, 0]
            chosen = members[starts[label] + drawn[i, 1]]
            letters = x[train_rows[chosen], : longs[chosen]]
            _forward(weights, at, letters, wide, inputs, recurrent, gates, h, logits)
            total += name_loss(logits, label, gradient)
            _backward_and_step(weights, at, letters, wide, recurrent, gates, h, gradient, d_h, d_input, d_recurrent,
                               scratch, lr[epoch])  # fmt: skip
        loss_curve[epoch] = total / steps

    record = np.full(4, np.nan)
    if len(train_rows) > 0:
        record[0], record[1] = evaluate(weights, at, x, train_rows, train_labels, alphabet, hidden, classes)
    if len(test_rows) > 0:
        record[2], record[3] = evaluate(weights, at, x, test_rows, test_labels, alphabet, hidden, classes)

    numbers = count(pieces)
    parameters, done = np.empty(numbers.sum(), np.float32), 0
    for k in range(10):
        collect(weights, at[k], pieces[k], parameters[done : done + numbers[k]])
        done += numbers[k]
    return parameters, loss_curve, record
