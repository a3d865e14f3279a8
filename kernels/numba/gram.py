"""Chain factors, Grams and N x N kernels on the CPU, float32 with float64 sums across blocks.

The N x N kernel streams: one block of every network's feature vector at a time, its dot products added to K, next
block. Nothing of size N d^2 is stored, and an entry of K does not depend on how many networks stand beside it.
"""

from collections.abc import Iterator

import numpy as np

from .gemm import multiply, padded
from .jit import jit
from .threads import each

TILE = 64  # a tile of G is TILE x TILE for all networks: 16 KB each
NONE = np.float32(1)  # no activation
COLUMNS, ROWS = 256, 64  # of K in one call: so many networks' transposed block stays in the cache
FLUSH = 256  # products summed in float32 before they are added up in float64


@jit
def _unit_rows(x, rows, width, ld):
    """Every row of x to unit L2 length; a zero row stays zero."""
    for i in range(rows):
        total = 0.0
        for j in range(width):
            total += np.float64(x[i * ld + j]) ** 2
        if total > 0:
            scale = np.float32(1 / np.sqrt(total))
            for j in range(width):
                x[i * ld + j] *= scale


@jit
def _unit_columns(x, rows, width, ld):
    """Every column of x to unit L2 length; a zero column stays zero."""
    total = np.zeros(width)
    for i in range(rows):
        for j in range(width):
            total[j] += np.float64(x[i * ld + j]) ** 2
    for j in range(width):
        total[j] = 1 / np.sqrt(total[j]) if total[j] > 0 else 1
    for i in range(rows):
        for j in range(width):
            x[i * ld + j] *= np.float32(total[j])


@jit
def _multiply(x, w, d, n, out, row_normalize):
    """out[d, m] = x[d, n] w[n, m], w's rows brought to unit length first where asked; x has row length n."""
    m = w.shape[1]
    ld = padded(m)
    b, c = np.zeros(n * ld, np.float32), np.empty(d * ld, np.float32)
    for i in range(n):
        b[i * ld : i * ld + m] = w[i]
    if row_normalize:
        _unit_rows(b, n, m, ld)
    multiply(x, 0, n, 1, b, 0, ld, c, 0, ld, d, ld, n, NONE)
    for i in range(d):
        out[i * m : (i + 1) * m] = c[i * ld : i * ld + m]


def chain_factor(weights, row_normalize=False, column_normalize=False):
    """As `wsfast.reference.gram.chain_factor`: float32 [N, d, r]."""
    weights = [np.ascontiguousarray(w, np.float32) for w in weights]
    normalize = row_normalize and len(weights) > 1
    n, r = len(weights[0]), weights[-1].shape[-1]
    d = int(np.prod(weights[0].shape[1:-1])) * int(np.prod([np.prod(w.shape[2:-1]) for w in weights[1:]]))
    out = np.empty((n, d, r), np.float32)

    def one(i):
        x = weights[0][i].reshape(-1, weights[0].shape[-1]).copy()
        if normalize:
            _unit_rows(x.ravel(), *x.shape, x.shape[1])
        for w in weights[1:]:
            matrix = w[i].reshape(w.shape[1], -1)
            product = np.empty(len(x) * matrix.shape[1], np.float32)
            _multiply(x.ravel(), matrix, len(x), len(matrix), product, normalize)
            x = product.reshape(-1, w.shape[-1])
        if column_normalize:
            _unit_columns(x.ravel(), d, r, r)
        out[i] = x

    each(one, range(n))
    return out


@jit
def _gram_tiles(x, i0, j0, rows, columns, weight, out):
    """out[n] = weight X[i0:i0+rows] X[j0:j0+columns]^T for every network's X [d, r]: out [N, rows * columns]."""
    n, d, r = x.shape
    ld = padded(columns)
    b, c = np.zeros(r * ld, np.float32), np.empty(rows * ld, np.float32)
    for net in range(n):
        for j in range(columns):
            for k in range(r):
                b[k * ld + j] = x[net, j0 + j, k]
        multiply(x.reshape(-1), (net * d + i0) * r, r, 1, b, 0, ld, c, 0, ld, rows, ld, r, NONE)
        for i in range(rows):
            for j in range(columns):
                out[net, i * columns + j] = weight * c[i * ld + j]


def _runs(n):
    """Slices of up to 16 networks: enough work for a call, enough calls for every core."""
    return [slice(i, i + 16) for i in range(0, n, 16)]


def chain_gram(x):
    """As `wsfast.reference.gram.chain_gram`: float32 [N, d, d], exactly symmetric."""
    x = np.ascontiguousarray(x, np.float32)
    n, d, _ = x.shape
    out = np.empty((n, d * d), np.float32)
    each(lambda run: _gram_tiles(x[run], 0, 0, d, d, np.float32(1), out[run]), _runs(n))
    return out.reshape(n, d, d)


def gram_norm(x):
    """As `wsfast.reference.gram.gram_norm`: float64 [N]."""
    x = np.ascontiguousarray(x, np.float32)
    out = np.empty(len(x))

    def one(i):
        out[i] = np.sqrt(_pair(x[i], x[i]))

    each(one, range(len(x)))
    return out


@jit
def _pair(x, y):
    """||X^T Y||_F^2 of X [d, r] and Y [d, s]; the same bits for (Y, X) where r = s."""
    d, r = x.shape
    s = y.shape[1]
    ld = padded(s)
    b, c, total = np.zeros(d * ld, np.float32), np.empty(r * ld, np.float32), np.zeros((r, ld))
    for i in range(d):
        b[i * ld : i * ld + s] = y[i]
    for k in range(0, d, FLUSH):
        multiply(x.reshape(-1), k * r, 1, r, b, k * ld, ld, c, 0, ld, r, ld, min(FLUSH, d - k), NONE)
        for i in range(r):
            for j in range(ld):
                total[i, j] += np.float64(c[i * ld + j])
    squares = 0.0
    if r == s:  # entries (i, j) and (j, i) change places in (Y, X)
        for i in range(r):
            squares += total[i, i] ** 2
            for j in range(i):
                squares += total[i, j] ** 2 + total[j, i] ** 2
    else:
        for i in range(r):
            for j in range(s):
                squares += total[i, j] ** 2
    return squares


@jit
def _pairs(x, others, first, out):
    for j in range(first, len(others)):
        out[j] = _pair(x, others[j])


@jit
def _transposed(block, out, columns):
    """out[width, COLUMNS] = block[columns, width]^T, the rest zero."""
    width = block.shape[1]
    out[:] = 0
    for i in range(columns):
        for j in range(width):
            out[j * COLUMNS + i] = block[i, j]


@jit
def _add_dots(a, rows0, rows, other, columns, kernel, column0):
    """kernel[rows0 + i, column0 + j] += a[rows0 + i] . b[column0 + j], with b's block transposed in `other`.

    float32 sums of FLUSH products each, float64 across them: an error near 1e-7 however long the vectors are.
    """
    width = a.shape[1]
    ld = padded(columns)
    flat, c = a.reshape(-1), np.empty(rows * ld, np.float32)
    for k in range(0, width, FLUSH):
        at, count = rows0 * width + k, min(FLUSH, width - k)
        multiply(flat, at, width, 1, other, k * COLUMNS, COLUMNS, c, 0, ld, rows, ld, count, NONE)
        for i in range(rows):
            target, part = kernel[rows0 + i, column0 : column0 + columns], c[i * ld : i * ld + columns]
            for j in range(columns):
                target[j] += np.float64(part[j])


def dot_kernel(blocks: Iterator[tuple[np.ndarray, np.ndarray]], na: int, nb: int, symmetric: bool) -> np.ndarray:
    """Dot products of Na and Nb feature vectors that arrive block by block ([Na, w], [Nb, w]): float64 [Na, Nb].

    symmetric: both sides are the same networks; only the lower triangle is computed, the upper is its mirror image.
    """
    kernel = np.zeros((na, nb))
    starts = range(0, nb, COLUMNS)
    jobs = [(i, j) for j in starts for i in range(j if symmetric else 0, na, ROWS)]
    for a, b in blocks:
        others = {j: np.empty(b.shape[1] * COLUMNS, np.float32) for j in starts}

        def turn(j, b=b, others=others):
            _transposed(b[j : j + COLUMNS], others[j], min(COLUMNS, nb - j))

        each(turn, starts)

        def add(job, a=a, others=others):
            i, j = job
            _add_dots(a, i, min(ROWS, na - i), others[j], min(COLUMNS, nb - j), kernel, j)

        each(add, jobs)
    if symmetric:
        lower = np.tril_indices(na, -1)
        kernel.T[lower] = kernel[lower]
    return kernel


def _gram_blocks(a, b, symmetric):
    """One tile of G for all networks after the other; tiles off the diagonal stand for two and weigh sqrt 2."""
    d = a.shape[1]
    for i0 in range(0, d, TILE):
        for j0 in range(0, i0 + 1, TILE):
            rows, columns = min(TILE, d - i0), min(TILE, d - j0)

            def block(x, i0=i0, j0=j0, rows=rows, columns=columns):
                out = np.empty((len(x), rows * columns), np.float32)
                weight = np.float32(1 if i0 == j0 else np.sqrt(2))
                each(lambda run: _gram_tiles(x[run], i0, j0, rows, columns, weight, out[run]), _runs(len(x)))
                return out

            first = block(a)
            yield first, first if symmetric else block(b)


def linear_kernel(a, b=None):
    """Dot products of flat feature vectors a [Na, D] and b [Nb, D]: float64 [Na, Nb]."""
    symmetric = b is None
    a = np.ascontiguousarray(a, np.float32)
    other = a if b is None else np.ascontiguousarray(b, np.float32)
    width = TILE * TILE

    def blocks():
        for k in range(0, a.shape[1], width):
            first = np.ascontiguousarray(a[:, k : k + width])
            yield first, first if symmetric else np.ascontiguousarray(other[:, k : k + width])

    return dot_kernel(blocks(), len(a), len(other), symmetric)


def _near_one(x):
    """Every network's factor times a power of two (exact) that brings it near 1, so that no product overflows."""
    largest = np.abs(x).max(axis=(1, 2))
    return np.ldexp(x, -np.frexp(np.where(np.isfinite(largest), largest, 1))[1][:, None, None])


def chain_kernel(a, b=None, form="packed", cosine=False):
    """As `wsfast.reference.gram.chain_kernel`: float64 [Na, Nb] of float32 products."""
    symmetric = b is None
    a = np.ascontiguousarray(a, np.float32)
    other = a if b is None else np.ascontiguousarray(b, np.float32)
    if cosine:
        a = _near_one(a)
        other = a if symmetric else _near_one(other)
    if form == "factorised":
        kernel = np.empty((len(a), len(other)))
        each(lambda i: _pairs(a[i], other, i if symmetric else 0, kernel[i]), range(len(a)))
        if symmetric:
            lower = np.tril_indices(len(a), -1)
            kernel[lower] = kernel.T[lower]
    else:
        kernel = dot_kernel(_gram_blocks(a, other, symmetric), len(a), len(other), symmetric)
    if cosine:
        norm = gram_norm(a)
        kernel /= np.outer(norm, norm if symmetric else gram_norm(other))
    return kernel
