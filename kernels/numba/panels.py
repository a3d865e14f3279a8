"""Dot products of many vectors with many others: float32 products, added up in float64.

A set of vectors stands in panels, flat float32 [panels, width, PANEL]: PANEL vectors side by side, so that one load
brings LANES of them. What a panel holds beyond the last vector is never read into another one's result.

An entry is the sum of its chunks of at most CHUNK products, in their order: its bits do not depend on the other
vectors, on threads, or on which side of the product a vector stands.
"""

import numpy as np

from .jit import leaf
from .threads import each
from .tile import DOT_ROWS, DOT_WIDTH, LANES, PANEL, dots_tile

CHUNK = 256  # products summed in float32 before they are added up in float64: an error near 1e-8 however many there are
SIDE = 4 * PANEL  # vectors of a side in one call: its chunks of both sides and its part of the result fit in the cache


def panels(n: int) -> int:
    """How many panels n vectors take."""
    return -(-n // PANEL)


@leaf
def add_dots(a, a0, a1, b, b0, b1, width, parts, symmetric, out, ld):
    """out[i ld + j] += a_i . b_j for vectors a0 <= i < a1 and b0 <= j < b1, a0 and b0 multiples of PANEL.

    parts int64 [P, 3]: first component, how many, and how often they count (1 or 2). out: float64, written up to the
    next multiple of PANEL. symmetric: b is a; entries above the diagonal are left out as far as tiles allow.
    """
    for p in range(len(parts)):
        first, count, weight = parts[p, 0], parts[p, 1], np.float64(parts[p, 2])
        for k in range(first, first + count, CHUNK):
            depth = min(CHUNK, first + count - k)
            for i in range(a0, a1, DOT_ROWS):
                at_a = (i // PANEL * width + k) * PANEL + i % PANEL
                end = min(b1, i + DOT_ROWS) if symmetric else b1
                for j in range(b0, end, PANEL):
                    vectors = min(DOT_WIDTH, (end - j + LANES - 1) // LANES)
                    at_b = (j // PANEL * width + k) * PANEL
                    dots_tile(vectors, a, at_a, b, at_b, depth, weight, out, i * ld + j, ld)


def dot_kernel(blocks, na, nb=None):
    """Dot products of vectors that arrive some components at a time: float64 [Na, Nb], [Na, Na] where nb is None.

    blocks yields (width, parts, fill_a, fill_b): `width` components, fill(panel, out) writes those of one panel
    [width, PANEL] into the flat array of all; parts as in add_dots. Only the lower triangle of [Na, Na] is computed.
    """
    symmetric = nb is None
    columns = na if nb is None else nb
    ld = panels(columns) * PANEL
    out = np.zeros((panels(na) * PANEL, ld))
    starts = [(i, j) for i in range(0, na, SIDE) for j in range(0, i + 1 if symmetric else columns, SIDE)]
    a = b = np.empty(0, np.float32)
    for width, parts, fill_a, fill_b in blocks:
        if len(a) < panels(na) * width * PANEL:
            a = np.empty(panels(na) * width * PANEL, np.float32)
            b = a if symmetric else np.empty(panels(columns) * width * PANEL, np.float32)
        each(lambda p, fill=fill_a, a=a: fill(p, a), range(panels(na)))
        if not symmetric:
            each(lambda p, fill=fill_b, b=b: fill(p, b), range(panels(columns)))

        def add(job, width=width, parts=parts, a=a, b=b):
            i, j = job
            ends = min(i + SIDE, na), min(j + SIDE, columns)
            add_dots(a, i, ends[0], b, j, ends[1], width, parts, symmetric, out.reshape(-1), ld)

        each(add, starts)
    out = out[:na, :columns]
    if symmetric:
        return np.tril(out) + np.tril(out, -1).T
    return np.ascontiguousarray(out)
