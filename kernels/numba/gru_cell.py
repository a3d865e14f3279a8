"""A step of a GRU layer, the loss on a name, and where a network's parameters lie.

Gates of a layer lie side by side, r, z, n, each padded to whole vectors: a row of a weight is [3 wide], wide =
padded(hidden). Padded units have zero weights and stay zero. All weights are one array.
"""

import math

import numpy as np

from .gemm import padded
from .jit import jit, leaf
from .loss import exp

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
def cell(x, bias, recurrent, gates, before, after):
    """h_t from h_{t-1}: after and before [wide], the same array if need be; x = x_t W, bias, recurrent = h_{t-1} U + c
    and gates, the r, z, n that it writes, [3 wide]."""
    wide = len(after)
    two = 2 * wide
    _open(x[:two], bias[:two], recurrent[:two], gates[:two])
    _propose(x[two:], bias[two:], recurrent[two:], gates[:wide], gates[two:])
    _blend(gates[wide:two], gates[two:], before, after)


@leaf
def name_loss(logits, label, gradient):
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


@jit
def layout(alphabet, hidden, classes):
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


@jit
def count(pieces):
    """Numbers of each parameter, in its own order."""
    return pieces[:, 0] * pieces[:, 1]


@leaf
def place(flat, pieces, weights, at):
    """One parameter from its own order into `weights`."""
    number, length, across, along = pieces[0], pieces[1], pieces[2], pieces[3]
    for j in range(number):
        for i in range(length):
            weights[at + j * padded(length) + i] = flat[j * across + i * along]


@leaf
def collect(weights, at, pieces, flat):
    """place the other way."""
    number, length, across, along = pieces[0], pieces[1], pieces[2], pieces[3]
    for j in range(number):
        for i in range(length):
            flat[j * across + i * along] = weights[at + j * padded(length) + i]


@jit
def lengths(x, rows, alphabet):
    """Letters of each name: int64 [len(rows)]."""
    out = np.zeros(len(rows), np.int64)
    for i in range(len(rows)):
        while out[i] < x.shape[1] and x[rows[i], out[i]] < alphabet:
            out[i] += 1
    return out
