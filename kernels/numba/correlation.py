"""Correlations between the units of many pairs of networks, on the CPU: every network is standardised once.

float32 products of activations standardised in float64; an entry's bits depend on its two units alone.
"""

import numpy as np
from wsfast.reference.correlation import checked

from .factor import runs
from .gemm import padded
from .jit import jit, leaf
from .panels import aligned, multiply_panels, panels, turn
from .threads import each
from .tile import PANEL, PANEL_ROWS


@leaf
def _standardise(x, rows):
    """rows [U, M] = z / sqrt(M) of one network's activations x [U, M], 0 for a unit that is constant."""
    m = x.shape[1]
    for u in range(x.shape[0]):
        low, high, total = x[u, 0], x[u, 0], 0.0
        for k in range(m):
            low, high = min(low, x[u, k]), max(high, x[u, k])
            total += x[u, k]
        mean, squares = total / m, 0.0
        for k in range(m):
            squares += (x[u, k] - mean) ** 2
        scale = 1 / np.sqrt(squares) if high > low else 0.0
        for k in range(m):
            rows[u, k] = np.float32((x[u, k] - mean) * scale)


@jit
def _panels(x, out):
    """The standardised units of every network as panels, out [N, panels * M * PANEL]."""
    n, u, m = x.shape
    rows = np.empty((u, m), np.float32)
    for i in range(n):
        _standardise(x[i], rows)
        turn(rows.reshape(-1), 0, m, u, out[i])


def _ready(x):
    """Panels of every network: float32 [N, panels * M * PANEL]."""
    n, u, m = x.shape
    size = panels(u) * m * PANEL
    out = aligned(n * size).reshape(n, size)
    each(lambda run: _panels(x[run], out[run]), runs(n, u * m))
    return out


@leaf
def _correlations(a, b, pairs, m, square, out):
    n, u, v = out.shape
    ld = padded(v)
    for p in range(n):
        multiply_panels(a[pairs[p, 0]], u, b[pairs[p, 1]], v, m, False, square, 0, ld)
        for i in range(u):
            for j in range(v):
                out[p, i, j] = square[i * ld + j]


def correlation(a, b, pairs):
    """As `wsfast.reference.correlation.correlation`: float32 [P, U, V]."""
    pairs = checked("correlation", a, b, pairs)
    x = np.ascontiguousarray(a, np.float32)
    y = x if b is a else np.ascontiguousarray(b, np.float32)
    u, v, m = x.shape[1], y.shape[1], x.shape[2]
    left = _ready(x)
    right = left if b is a else _ready(y)
    out = np.empty((len(pairs), u, v), np.float32)

    def one(run):
        square = aligned((u + PANEL_ROWS) * padded(v))
        _correlations(left, right, pairs[run], m, square, out[run])

    each(one, runs(len(pairs), u * v * m))
    return out
