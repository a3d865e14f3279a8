"""The loss and accuracy of a recurrent network on many names, letter by letter side by side: every weight is read once
for all of them.

The longest come first, so that those which go on are always the first ones; a name's state stays where it ended.
"""

import numpy as np

from .arrays import copy
from .gemm import multiply, multiply_add, padded, zeros
from .gru_cell import FC_B, FC_W, LAYER, B, C, U, W, cell, lengths, name_loss
from .jit import jit, leaf
from .tile import dot

NAMES = 96  # at a time: their rows stay in the cache beside the weights


@jit
def _longest_first(longs):
    """Positions, those of one length as they came: int64 [n]."""
    order, found = np.empty(len(longs), np.int64), 0
    for length in range(longs.max(), 0, -1):
        for i in range(len(longs)):
            if longs[i] == length:
                order[found] = i
                found += 1
    return order


@leaf
def _step(weights, at, first, x, xo, n, wide, begun, recurrent, gates, h):
    """A letter of n names in one layer: h [n, wide] in place; x[xo[i]:] is x_t W of name i."""
    ld = 3 * wide
    bias, c = weights[at[first + B] : at[first + B] + ld], at[first + C]
    for i in range(n):
        copy(weights[c : c + ld], recurrent[i * ld : (i + 1) * ld])
    if begun:
        u = at[first + U]
        multiply_add(h, 0, wide, 1, weights, u, ld, recurrent, 0, ld, n, ld, wide, 0)
    for i in range(n):
        own = h[i * wide : (i + 1) * wide]
        cell(x[xo[i] : xo[i] + ld], bias, recurrent[i * ld : (i + 1) * ld], gates, own, own)


@jit
def evaluate(weights, at, x, rows, labels, alphabet, hidden, classes):
    """(mean loss, accuracy) over rows of x, at least one; weights as `layout` places them."""
    wide = padded(hidden)
    ld, longs = 3 * wide, lengths(x, rows, alphabet)
    order, at_once = _longest_first(longs), min(NAMES, len(rows))
    inputs, recurrent, gates = zeros(at_once * ld), zeros(at_once * ld), zeros(ld)
    h1, h2 = zeros(at_once * wide), zeros(at_once * wide)
    letters, places = np.empty(at_once, np.int64), np.arange(at_once) * ld
    logits, gradient = np.zeros(classes, np.float32), np.zeros(classes, np.float32)
    total, hits = 0.0, 0
    for begin in range(0, len(rows), at_once):
        some = order[begin : begin + at_once]
        n = len(some)
        for t in range(longs[some[0]]):
            while longs[some[n - 1]] <= t:
                n -= 1
            for i in range(n):
                letters[i] = at[W] + x[rows[some[i]], t] * ld
            _step(weights, at, 0, weights, letters, n, wide, t > 0, recurrent, gates, h1)
            multiply(h1, 0, wide, 1, weights, at[LAYER + W], ld, inputs, 0, ld, n, ld, wide, np.float32(1))
            _step(weights, at, LAYER, inputs, places, n, wide, t > 0, recurrent, gates, h2)
        for i in range(len(some)):
            for c in range(classes):
                product: float = dot(h2, i * wide, weights, at[FC_W] + c * wide, wide)
                logits[c] = product + weights[at[FC_B] + c]
            total += name_loss(logits, labels[some[i]], gradient)
            hits += np.argmax(logits) == labels[some[i]]
        h1[:], h2[:] = 0, 0
    return total / len(rows), hits / len(rows)
