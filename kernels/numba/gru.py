"""Train one recurrent network from its seed to its last step in one call.

A name is a row of T letters, as long as it is: no padding, the first layer's product is a row of its weights, that
row's gradient its only one. Each recurrent matrix is read once a letter on the way forward and once on the way back,
and once more, to be changed in place, for all letters together.

Gates of a layer lie side by side, r, z, n, each padded to whole vectors: a row of a weight is [3 wide], wide =
padded(hidden). Padded units have zero weights and stay zero. All weights are one array, all buffers of a run another.
"""

import math

import numpy as np

from . import philox
from .arrays import add, copy
from .gemm import multiply, padded, zeros
from .jit import jit, leaf
from .loss import exp
from .matvec import column_product, row_product
from .tile import dot

W, U, B, C, LAYER = 0, 1, 2, 3, 4  # a layer's parameters in `reference.gru`'s list of ten; the second layer's follow
FC_W, FC_B = 8, 9


@leaf
def _logistic(a):
    e = exp(-abs(a))
    return (np.float32(1) if a >= 0 else e) / (np.float32(1) + e)


@leaf
def _tanh(a):
    """To 1e-7 of its value; near zero Cephes' tanhf polynomial, where 1 - e would cancel."""
    size, square = abs(a), a * a
    p = np.float32(-5.70498872745e-3)
    p = p * square + np.float32(2.06390887954e-2)
    p = p * square + np.float32(-5.37397155531e-2)
    p = p * square + np.float32(1.33314422036e-1)
    p = p * square + np.float32(-3.33332819422e-1)
    near = p * square * a + a
    e = exp(np.float32(-2) * size)
    far = (np.float32(1) - e) / (np.float32(1) + e)
    return near if size < np.float32(0.625) else (far if a >= 0 else -far)


@leaf
def _open(inputs, bias, recurrent, gates):
    """r and z, side by side."""
    for i in range(len(gates)):
        gates[i] = _logistic(inputs[i] + bias[i] + recurrent[i])


@leaf
def _propose(inputs, bias, recurrent, reset, new):
    for i in range(len(new)):
        new[i] = _tanh(inputs[i] + bias[i] + reset[i] * recurrent[i])


@leaf
def _blend(update, new, before, after):
    for i in range(len(after)):
        after[i] = new[i] + update[i] * (before[i] - new[i])


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
    ld, two = 3 * wide, 2 * wide
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
        _open(x[:two], bias[:two], s[:two], g[:two])
        _propose(x[two:], bias[two:], s[two:], g[:wide], g[two:])
        _blend(g[wide:two], g[two:], h[t * wide : (t + 1) * wide], h[(t + 1) * wide : (t + 2) * wide])


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
def _loss(logits, label, gradient):
    """The cross-entropy; writes its gradient at the logits."""
    top = logits[0]
    for c in range(1, len(logits)):
        top = logits[c] if not logits[c] <= top else top
    total = np.float32(0)
    for c in range(len(logits)):
        gradient[c] = exp(logits[c] - top)
        total += gradient[c]
    for c in range(len(logits)):
        gradient[c] /= total
    gradient[label] -= np.float32(1)
    return math.log(total) + np.float64(top) - np.float64(logits[label])


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
def _layout(alphabet, hidden, classes):
    """(where each parameter starts int64 [11], the last the end; its pieces int64 [10, 4]).

    A parameter is `pieces` runs of `length` numbers, padded(length) apart here; number i of run j is number j across +
    i along in the parameter's own order.
    """
    at, pieces = np.zeros(11, np.int64), np.zeros((10, 4), np.int64)
    for k in range(8):
        bias = k % LAYER > U
        rows = 1 if bias else alphabet if k == W else hidden
        pieces[k] = 3 * rows, hidden, hidden, 1
        at[k + 1] = at[k] + 3 * padded(hidden) * (rows if bias or k == W else padded(hidden))
    pieces[FC_W] = classes, hidden, 1, classes  # [hidden, classes], transposed here
    pieces[FC_B] = 1, classes, classes, 1
    at[FC_W + 1] = at[FC_W] + classes * padded(hidden)
    at[FC_B + 1] = at[FC_B] + padded(classes)
    return at, pieces


@leaf
def _place(flat, pieces, weights, at):
    count, length, across, along = pieces[0], pieces[1], pieces[2], pieces[3]
    for j in range(count):
        for i in range(length):
            weights[at + j * padded(length) + i] = flat[j * across + i * along]


@leaf
def _collect(weights, at, pieces, flat):
    count, length, across, along = pieces[0], pieces[1], pieces[2], pieces[3]
    for j in range(count):
        for i in range(length):
            flat[j * across + i * along] = weights[at + j * padded(length) + i]


@jit
def _lengths(x, rows, alphabet):
    """Letters of each name: int64 [len(rows)]."""
    out = np.zeros(len(rows), np.int64)
    for i in range(len(rows)):
        while out[i] < x.shape[1] and x[rows[i], out[i]] < alphabet:
            out[i] += 1
    return out


@jit
def train_gru(x, train_rows, train_labels, test_rows, test_labels, alphabet, hidden, classes, lr, steps, seed, task,
              repeat):  # fmt: skip
    """One network's whole run, arguments and results as `wsfast.reference.gru.train_gru`, in float32.

    x uint8 [n, longest]; rows and labels int64; lr float32.
    """
    wide, longest = padded(hidden), x.shape[1]
    room = 3 * wide * longest
    at, pieces = _layout(alphabet, hidden, classes)
    weights, bound = zeros(at[-1]), np.float32(1 / math.sqrt(hidden))
    for k in range(10):
        draw = philox.uniform(pieces[k, 0] * pieces[k, 1], bound, seed, task, repeat, philox.INIT, k)
        _place(draw, pieces[k], weights, at[k])
    inputs, d_input, d_recurrent = zeros(room), zeros(room), zeros(room)
    recurrent, gates = zeros(2 * room).reshape(2, room), zeros(2 * room).reshape(2, room)
    h, d_h, scratch = zeros(2 * (longest + 1) * wide).reshape(2, -1), zeros(longest * wide), zeros(wide)
    logits, gradient = np.zeros(classes, np.float32), np.zeros(classes, np.float32)

    lengths = _lengths(x, train_rows, alphabet)
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
            letters = x[train_rows[chosen], : lengths[chosen]]
            _forward(weights, at, letters, wide, inputs, recurrent, gates, h, logits)
            total += _loss(logits, label, gradient)
            _backward_and_step(weights, at, letters, wide, recurrent, gates, h, gradient, d_h, d_input, d_recurrent,
                               scratch, lr[epoch])  # fmt: skip
        loss_curve[epoch] = total / steps

    record = np.full(4, np.nan)
    for split in range(2):
        rows, labels = (train_rows, train_labels) if split == 0 else (test_rows, test_labels)
        total, hits = 0.0, 0
        lengths = _lengths(x, rows, alphabet)
        for i in range(len(rows)):
            _forward(weights, at, x[rows[i], : lengths[i]], wide, inputs, recurrent, gates, h, logits)
            total += _loss(logits, labels[i], gradient)
            hits += np.argmax(logits) == labels[i]
        if len(rows) > 0:
            record[2 * split], record[2 * split + 1] = total / len(rows), hits / len(rows)

    count = 0
    for k in range(10):
        count += pieces[k, 0] * pieces[k, 1]
    parameters, done = np.empty(count, np.float32), 0
    for k in range(10):
        size = pieces[k, 0] * pieces[k, 1]
        _collect(weights, at[k], pieces[k], parameters[done : done + size])
        done += size
    return parameters, loss_curve, record
