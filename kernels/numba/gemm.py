"""Matrix products from register tiles. Arrays are flat float32; widths are padded to LANES, heights need no padding.

Every function takes offsets into its arrays, so that all buffers of one network live in a few allocations.
"""

import numpy as np

from .jit import jit, leaf
from .tile import LANES, ROWS, backward_tile, dot, gather_tile, product_tile, sgd_tile, transpose_tile

LINE = 16  # numbers in a cache line
WIDE = 2 * LANES  # columns of a matrix that stand together in multiply_wide
_K = 128  # products summed in one go: short sums added up err less than one long one, and their B stays in the cache


@leaf
def padded(n):
    """n rounded up to a multiple of LANES."""
    return (n + LANES - 1) // LANES * LANES


@jit
def zeros(n):
    """float32 [n] from an address that no vector load straddles two cache lines at."""
    buffer = np.zeros(n + LINE, np.float32)
    start = (-buffer.ctypes.data // 4) % LINE
    return buffer[start : start + n]


@leaf
def _tile_rows(left):
    """The height of the next tile: as few tiles as ROWS allows, of nearly one height."""
    tiles = (left + ROWS - 1) // ROWS
    return (left + tiles - 1) // tiles


@leaf
def multiply(a, ao, rs, cs, b, bo, ldb, c, co, ldc, m, n, k, slope):
    """C[m, n] = activation(A[m, k] B[k, n]), k at least 1, n a multiple of LANES; slope 1 is no activation.

    Element (i, k) of A is a[ao + i rs + k cs], (k, j) of B is b[bo + k ldb + j], (i, j) of C is c[co + i ldc + j].
    """
    for k0 in range(0, k, _K):
        kc = min(_K, k - k0)
        first, bend = 1 if k0 == 0 else 0, slope if k0 + kc == k else np.float32(1)
        for j in range(0, n, 2 * LANES):
            wide, i = 1 if j + LANES < n else 0, 0
            while i < m:
                rows = _tile_rows(m - i)
                at_a, at_b, at_c = ao + i * rs + k0 * cs, bo + k0 * ldb + j, co + i * ldc + j
                product_tile(rows, wide, a, at_a, rs, cs, b, at_b, ldb, c, at_c, ldc, kc, first, bend)
                i += rows


@leaf
def multiply_add(a, ao, rs, cs, b, bo, ldb, c, co, ldc, m, n, k, first):
    """C[m, n] += A[m, k] B[k, n], without what C was where `first` is 1; arguments as multiply."""
    for k0 in range(0, k, _K):
        kc, alone = min(_K, k - k0), first if k0 == 0 else 0
        for j in range(0, n, 2 * LANES):
            wide, i = 1 if j + LANES < n else 0, 0
            while i < m:
                rows = _tile_rows(m - i)
                at_a, at_b, at_c = ao + i * rs + k0 * cs, bo + k0 * ldb + j, co + i * ldc + j
                product_tile(rows, wide, a, at_a, rs, cs, b, at_b, ldb, c, at_c, ldc, kc, alone, np.float32(1))
                i += rows


@leaf
def multiply_wide(a, ao, rs, cs, b, c, co, ldc, m, n, k):
    """C[m, n] = A[m, k] B[k, n], n a multiple of LANES, B in [n / WIDE, k, WIDE]; the rest as multiply."""
    for j in range(0, n, WIDE):
        multiply(a, ao, rs, cs, b, j * k, WIDE, c, co + j, ldc, m, min(WIDE, n - j), k, np.float32(1))


@leaf
def multiply_backward(a, ao, rs, cs, b, bo, ldb, c, co, ldc, m, n, k, post, po, slope):
    """C[m, n] = A[m, k] B[k, n] times the slope of the activation whose output is post[po + i ldc + j]."""
    for k0 in range(0, k, _K):
        kc = min(_K, k - k0)
        first, bend = 1 if k0 == 0 else 0, slope if k0 + kc == k else np.float32(1)
        for j in range(0, n, 2 * LANES):
            wide, i = 1 if j + LANES < n else 0, 0
            while i < m:
                rows = _tile_rows(m - i)
                at_a, at_b, at = ao + i * rs + k0 * cs, bo + k0 * ldb + j, i * ldc + j
                backward_tile(rows, wide, a, at_a, rs, cs, b, at_b, ldb, c, co + at, ldc, kc, first, post, po + at,
                              bend)  # fmt: skip
                i += rows


@leaf
def multiply_sgd(a, ao, rs, cs, b, bo, ldb, w, v, co, ldc, m, n, k, lr, momentum, decay):
    """The SGD step of W[m, n] for the gradient A[m, k] B[k, n]; W and V at co + i ldc + j, the rest as multiply.

    W is fixed where V is NaN.
    """
    i = 0
    while i < m:
        rows = _tile_rows(m - i)
        for j in range(0, n, 2 * LANES):
            wide = 1 if j + LANES < n else 0
            at_a, at_w = ao + i * rs, co + i * ldc + j
            sgd_tile(rows, wide, a, at_a, rs, cs, b, bo + j, ldb, w, v, at_w, ldc, k, lr, momentum, decay)
        i += rows


@leaf
def multiply_sgd_narrow(x, xo, ldx, g, go, ldg, w, v, wo, ldw, m, n, k, lr, momentum, decay):
    """The SGD step of W[m, n] for the gradient X[m, k] G[n, k]^T, both row-major; k a multiple of LANES, n small."""
    for i in range(m):
        for j in range(n):
            at = wo + i * ldw + j
            gradient: float = dot(x, xo + i * ldx, g, go + j * ldg, k)
            v[at] = momentum * v[at] + (gradient + decay * w[at])
            if v[at] == v[at]:
                w[at] -= lr * v[at]


@leaf
def transpose(source, so, lds, target, to, ldt, m, n):
    """target[n, m] = source[m, n]^T; m and n multiples of LANES."""
    for i in range(0, m, LANES):
        for j in range(0, n, LANES):
            transpose_tile(source, so + i * lds + j, lds, target, to + j * ldt + i, ldt)


@leaf
def gather(source, lds, d, rows, n, scale, shift, target, ldt):
    """target[d, n] = (source[rows, :d] * scale + shift)^T; d at least LANES, n a multiple of LANES."""
    for i in range(0, n, LANES):
        for j in range(0, d, LANES):
            at = min(j, d - LANES)  # the last tile overlaps the one before
            gather_tile(source, lds, rows, i, at, scale, shift, target, at * ldt + i, ldt)
