"""Chain factors X_l = W_1 W_2 ... W_l on the CPU, float32."""

import numpy as np

from .gemm import WIDE, multiply_wide, padded
from .jit import jit, leaf
from .threads import each
from .tile import LANES

STRIP = 48  # rows of a product in work at a time


@leaf
def _inverse(squares):
    """1 / sqrt(squares), 1 for 0: what is zero stays zero."""
    return np.float32(1 / np.sqrt(squares)) if squares > 0 else np.float32(1)


@leaf
def unit_rows(x):
    """Every row of every matrix of x [n, rows, columns] to unit L2 length."""
    for i in range(x.shape[0]):
        for j in range(x.shape[1]):
            scale = _inverse(_sum_of_squares(x[i, j]))
            for k in range(x.shape[2]):
                x[i, j, k] *= scale


@leaf
def _sum_of_squares(row):
    total = 0.0
    for k in range(len(row)):
        total += np.float64(row[k]) * np.float64(row[k])
    return total


@leaf
def _unit_columns(x, total):
    """Every column of every matrix of x [n, rows, columns] to unit L2 length; total: float64 [columns]."""
    for i in range(x.shape[0]):
        total[:] = 0
        for j in range(x.shape[1]):
            for k in range(x.shape[2]):
                total[k] += np.float64(x[i, j, k]) * np.float64(x[i, j, k])
        for k in range(x.shape[2]):
            total[k] = _inverse(total[k])
        for j in range(x.shape[1]):
            for k in range(x.shape[2]):
                x[i, j, k] *= np.float32(total[k])


@leaf
def _extend(x, w, row_normalize, b, c, out):
    """out[n] = x[n] w[n], w's rows brought to unit length on their way into b; c: STRIP rows of the product."""
    k, m = w.shape[1], w.shape[2]
    ld, d = padded(m), x.shape[1]
    flat = x.reshape(-1)
    for net in range(len(x)):
        for i in range(k):
            row = w[net, i]
            scale = _inverse(_sum_of_squares(row)) if row_normalize else np.float32(1)
            for j in range(m):
                b[(j // WIDE * k + i) * WIDE + j % WIDE] = scale * row[j]
        for i0 in range(0, d, STRIP):
            rows = min(STRIP, d - i0)
            multiply_wide(flat, (net * d + i0) * k, k, 1, b, c, 0, ld, rows, ld, k)
            for i in range(rows):
                for j in range(m):
                    out[net, i0 + i, j] = c[i * ld + j]


@jit
def _product(x, w, row_normalize, out):
    ld = padded(w.shape[2])
    b = np.zeros((ld + LANES) * w.shape[1], np.float32)
    _extend(x, w, row_normalize, b, np.empty(STRIP * ld, np.float32), out)


def chain_factor(weights, row_normalize=False, column_normalize=False):
    """As `wsfast.reference.gram.chain_factor`: float32 [N, d, r]."""
    weights = [np.ascontiguousarray(w, np.float32) for w in weights]
    normalize = row_normalize and len(weights) > 1
    n, r = len(weights[0]), weights[-1].shape[-1]
    d = int(np.prod(weights[0].shape[1:-1])) * int(np.prod([np.prod(w.shape[2:-1]) for w in weights[1:]]))
    out = np.empty((n, d, r), np.float32)

    def one(run):
        found = out[run]
        x = weights[0][run].reshape(len(found), -1, weights[0].shape[-1])
        if normalize:
            x = x.copy()
            unit_rows(x)
        for w in weights[1:]:
            matrix = w[run].reshape(len(x), w.shape[1], -1)
            shape = len(x), x.shape[1], matrix.shape[2]
            product = found.reshape(shape) if w is weights[-1] else np.empty(shape, np.float32)
            _product(x, matrix, normalize, product)
            x = product.reshape(len(x), -1, w.shape[-1])
        if len(weights) == 1:
            found[:] = x
        if column_normalize:
            _unit_columns(found, np.empty(r))

    each(one, runs(n, d * r))
    return out


def runs(n, size):
    """Slices of networks with `size` numbers each: enough work for a call, enough calls for every core."""
    step = max(1, min(16, (1 << 20) // size))
    return [slice(i, i + step) for i in range(0, n, step)]
