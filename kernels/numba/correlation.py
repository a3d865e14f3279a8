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

PARTS = 16  # of a sum
CALL = 1 << 24  # products in a call: shorter ones would wait for threads as long as they run


@leaf
def _power_sum(x, shift, square, parts):
    """The sum of x - shift, or of its squares, as PARTS sums side by side: one alone would wait for every addition."""
    whole = len(x) // PARTS * PARTS
    parts[:] = 0
    for k in range(0, whole, PARTS):
        for l in range(PARTS):
            d = x[k + l] - shift
            parts[l] += d * d if square else d
    for k in range(whole, len(x)):
        d = x[k] - shift
        parts[k - whole] += d * d if square else d
    total = 0.0
    for part in parts:
        total += part
    return total


@leaf
def _standardise(x, parts, rows):
    """rows [U, M] = z / sqrt(M) of one network's activations x [U, M], 0 for a unit that is constant."""
    m = x.shape[1]
    for u in range(x.shape[0]):
        differs = False
        for k in range(m):
            differs |= x[u, k] != x[u, 0]
        mean = _power_sum(x[u], 0.0, False, parts) / m
        scale = 1 / np.sqrt(_power_sum(x[u], mean, True, parts)) if differs else 0.0
        for k in range(m):
            rows[u, k] = np.float32((x[u, k] - mean) * scale)


@jit
def _panels(x, out):
    """The standardised units of every network as panels, out [N, panels * M * PANEL]."""
    n, u, m = x.shape
    rows, parts = np.empty((u, m), np.float32), np.empty(PARTS)
    for i in range(n):
        _standardise(x[i], parts, rows)
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

    step = max(1, CALL // (u * v * m))
    each(one, [slice(p, p + step) for p in range(0, len(pairs), step)])
    return out
