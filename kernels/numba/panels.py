"""Dot products of many vectors with many others: float32 products, added up in float64.

A set of vectors stands in panels, flat float32 [panels, width, PANEL]: PANEL vectors side by side, so that one load
brings LANES of them. What a panel holds beyond the last vector is never read into another one's result.

An entry is the sum of its chunks of at most CHUNK products, in their order: its bits do not depend on the other
vectors, on threads, or on which side of the product a vector stands.
"""

from functools import partial

import numpy as np

from .jit import leaf
from .threads import each
from .tile import LANES, PANEL, PANEL_ROWS, PANEL_VECTORS, dots_tile, panel_tile, transpose_tile

CHUNK = 256  # products summed in float32 before they are added up in float64: an error of about 1e-7 at most
DEPTH = 128  # products of a tile of a Gram summed in one go


def aligned(n, kind=np.float32):
    """An uninitialised array [n] from an address that no vector load straddles two cache lines at."""
    line = 64 // np.dtype(kind).itemsize
    buffer = np.empty(n + line, kind)
    start = -buffer.ctypes.data // buffer.itemsize % line
    return buffer[start : start + n]


def panels(n: int) -> int:
    """How many panels n vectors take."""
    return -(-n // PANEL)


@leaf
def turn(x, at, r, n, out):
    """out: panels of n vectors of r components that lie one after the other at x[at:]."""
    whole = n // LANES * LANES if r >= LANES else 0
    for j in range(0, whole, LANES):
        for k in range(0, r, LANES):
            k = min(k, r - LANES)  # the last tile overlaps the one before
            transpose_tile(x, at + j * r + k, r, out, (j // PANEL * r + k) * PANEL + j % PANEL, PANEL)
    for j in range(whole, n):
        for k in range(r):
            out[(j // PANEL * r + k) * PANEL + j % PANEL] = x[at + j * r + k]


@leaf
def multiply_panels(a, m, b, n, r, symmetric, out, to, ld):
    """out[to + i ld + j] = a_i . b_j for m and n vectors of r components, in float32.

    Written are whole tiles: up to the next multiples of PANEL_ROWS and LANES. symmetric: b is a; tiles above the
    diagonal are left out.
    """
    for k in range(0, r, DEPTH):
        depth, first = min(DEPTH, r - k), 1 if k == 0 else 0
        for j in range(0, n, PANEL):
            at_b = (j // PANEL * r + k) * PANEL
            for i in range(j if symmetric else 0, m, PANEL_ROWS):
                at_a = (i // PANEL * r + k) * PANEL + i % PANEL
                end = min(n, i + PANEL_ROWS) if symmetric else n
                vectors = min(PANEL_VECTORS, (end - j + LANES - 1) // LANES)
                panel_tile(vectors, a, at_a, b, at_b, depth, first, out, to + i * ld + j, ld)


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
            for i in range(a0, a1, PANEL_ROWS):
                at_a = (i // PANEL * width + k) * PANEL + i % PANEL
                end = min(b1, i + PANEL_ROWS) if symmetric else b1
                for j in range(b0, end, PANEL):
                    vectors = min(PANEL_VECTORS, (end - j + LANES - 1) // LANES)
                    at_b = (j // PANEL * width + k) * PANEL
                    dots_tile(vectors, a, at_a, b, at_b, depth, weight, out, i * ld + j, ld)


@leaf
def _copy(out, ld, i0, i1, symmetric, result):
    """Rows i0 to i1 of the result, from the lower triangle where symmetric."""
    for j0 in range(0, result.shape[1], PANEL):
        for i in range(i0, i1):
            for j in range(j0, min(j0 + PANEL, result.shape[1])):
                result[i, j] = out[j * ld + i] if symmetric and j > i else out[i * ld + j]


def dot_kernel(blocks, na, nb=None):
    """Dot products of vectors that arrive some components at a time: float64 [Na, Nb], [Na, Na] where nb is None.

    blocks yields (width, parts, fill_a, fill_b): `width` components, fill(panel, out) writes those of one panel
    [width, PANEL] into the flat array of all; parts as in add_dots. Only the lower triangle of [Na, Na] is computed.
    """
    symmetric = nb is None
    columns = na if nb is None else nb
    ld = panels(columns) * PANEL
    out = aligned(panels(na) * PANEL * ld, np.float64)
    out[:] = 0
    side = PANEL * min(8, max(2, panels(na) // 4))  # of a call's part of the result: large for reuse, small for balance
    starts = [(i, j) for j in range(0, columns, side) for i in range(j if symmetric else 0, na, side)]
    a = b = aligned(0)
    for width, parts, fill_a, fill_b in blocks:
        if len(a) < panels(na) * width * PANEL:
            a = aligned(panels(na) * width * PANEL)
            b = a if symmetric else aligned(panels(columns) * width * PANEL)
        each(partial(fill_a, out=a), range(panels(na)))
        if not symmetric:
            each(partial(fill_b, out=b), range(panels(columns)))

        def add(job, width=width, parts=parts, a=a, b=b):
            i, j = job
            ends = min(i + side, na), min(j + side, columns)
            add_dots(a, i, ends[0], b, j, ends[1], width, parts, symmetric, out, ld)

        each(add, starts)
    result = np.empty((na, columns))
    each(lambda i: _copy(out, ld, i, min(i + PANEL, na), symmetric, result), range(0, na, PANEL))
    return result
