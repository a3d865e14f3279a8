"""Chain Grams and what is made of them, on the CPU: float32 products, float64 sums across blocks.

G = X X^T is computed in tiles of at most TILE x TILE, on and below the diagonal only. The N x N kernel streams: some
tiles of every network's G at a time, their dot products added to K, next tiles; nothing of size N d^2 is stored.
"""

import numpy as np

from .factor import chain_factor, runs
from .gemm import multiply_add, padded, transpose
from .jit import jit, leaf
from .panels import CHUNK, add_dots, aligned, dot_kernel, multiply_panels, panels, turn
from .threads import each
from .tile import LANES, PANEL, PANEL_ROWS, transpose_tile

__all__ = [
    "chain_factor",
    "chain_gram",
    "chain_kernel",
    "gram_norm",
    "head",
    "head_gradient",
    "host",
    "linear_kernel",
    "near_one",
]

TILE = 3 * PANEL  # rows and columns of a tile of G
BLOCK = 1 << 26  # bytes of tiles in work at a time, at least one tile of every network
NETWORKS = 32  # whose tiles are summed up at a time in head_gradient
PART = 64  # products summed in float32 in the factorised form
STACK = 192  # columns of factors that are multiplied together in the factorised form


def host(x):
    """Factors as a NumPy array: they are one."""
    return x


@leaf
def _tile(x, at, r, i0, rows, j0, columns, left, right, out, to):
    """out[to:] [rows, padded(columns)] = X[i0 : i0 + rows] X[j0 : j0 + columns]^T of X at x[at:].

    Below the diagonal, and on it (i0 = j0) up to whole blocks of LANES. Up to PANEL_ROWS - 1 rows more are written.
    """
    turn(x, at + j0 * r, r, columns, right)
    if i0 == j0:
        multiply_panels(right, rows, right, columns, r, True, out, to, padded(columns))
    else:
        turn(x, at + i0 * r, r, rows, left)
        multiply_panels(left, rows, right, columns, r, False, out, to, padded(columns))


@leaf
def _place(square, at, i0, rows, j0, columns, out, to, d):
    """A tile as `_tile` leaves it and its mirror image into the matrix [d, d] at out[to:]."""
    ld = padded(columns)
    if i0 == j0:
        for j in range(0, columns, LANES):
            for i in range(j + LANES, rows, LANES):
                transpose_tile(square, at + i * ld + j, ld, square, at + j * ld + i, ld)
    for i in range(rows):
        for j in range(columns):
            out[to + (i0 + i) * d + j0 + j] = square[at + i * ld + j]
    if i0 != j0:
        whole = rows // LANES * LANES
        for i in range(0, whole, LANES):
            for j in range(0, columns, LANES):
                transpose_tile(square, at + i * ld + j, ld, out, to + (j0 + j) * d + i0 + i, d)
        for i in range(whole, rows):
            for j in range(columns):
                out[to + (j0 + j) * d + i0 + i] = square[at + i * ld + j]


def _tiles(d):
    """(i0, rows, j0, columns) of every tile on or below the diagonal."""
    starts = range(0, d, TILE)
    return np.array([(i, min(TILE, d - i), j, min(TILE, d - j)) for i in starts for j in starts if j <= i])


def _scratch(r):
    """Room for two sides of a tile, turned, and for a tile."""
    return aligned(TILE * r), aligned(TILE * r), aligned((TILE + PANEL_ROWS) * TILE)


def _rows(width):
    """Room for LANES vectors; a line more apart than they are long, so that they do not share the cache's sets."""
    rows = aligned(LANES * (width + LANES) + PANEL_ROWS * TILE)
    rows[:] = 0
    return rows


@leaf
def _grams(x, tiles, left, right, square, out):
    n, d, r = x.shape
    flat, to = x.reshape(-1), out.reshape(-1)
    for net in range(n):
        for t in range(len(tiles)):
            i0, rows, j0, columns = tiles[t, 0], tiles[t, 1], tiles[t, 2], tiles[t, 3]
            _tile(flat, net * d * r, r, i0, rows, j0, columns, left, right, square, 0)
            _place(square, 0, i0, rows, j0, columns, to, net * d * d, d)


def chain_gram(x):
    """As `wsfast.reference.gram.chain_gram`: float32 [N, d, d], exactly symmetric."""
    x = np.ascontiguousarray(x, np.float32)
    n, d, r = x.shape
    out, tiles = np.empty((n, d, d), np.float32), _tiles(d)

    def one(run):
        _grams(x[run], tiles, *_scratch(r), out[run])

    each(one, runs(n, d * max(d, r)))
    return out


@leaf
def _features(x, at, r, tiles, left, right, square, out, to):
    """The tiles' numbers of G, X at x[at:], as one vector at out[to:]: each below the diagonal once, then the diagonal.

    tiles int64 [T, 6]: i0, rows, j0, columns, where its numbers start, where its diagonal does.
    """
    for t in range(len(tiles)):
        i0, rows, j0, columns, below = tiles[t, 0], tiles[t, 1], tiles[t, 2], tiles[t, 3], to + tiles[t, 4]
        if i0 != j0:
            _tile(x, at, r, i0, rows, j0, columns, left, right, out, below)
            continue
        ld, diagonal = padded(columns), to + tiles[t, 5]
        _tile(x, at, r, i0, rows, j0, columns, left, right, square, 0)
        for i in range(rows):
            for j in range(i):
                out[below + j] = square[i * ld + j]
            out[diagonal + i] = square[i * ld + i]
            below += i


@leaf
def _fill(x, panel, tiles, width, left, right, square, rows, out):
    n, d, r = x.shape
    flat = x.reshape(-1)
    for first in range(panel * PANEL, min(n, (panel + 1) * PANEL), LANES):
        for i in range(min(LANES, n - first)):
            _features(flat, (first + i) * d * r, r, tiles, left, right, square, rows, i * (width + LANES))
        transpose(rows, 0, width + LANES, out, panel * width * PANEL + first % PANEL, PANEL, LANES, width)


@leaf
def _fill_heads(a, panel, tiles, width, rows, out):
    """The same numbers of (A + A^T) / 2 for every matrix of a [C, d, d]."""
    for first in range(panel * PANEL, min(len(a), (panel + 1) * PANEL), LANES):
        for c in range(min(LANES, len(a) - first)):
            matrix = a[first + c]
            for t in range(len(tiles)):
                i0, count, j0, columns = tiles[t, 0], tiles[t, 1], tiles[t, 2], tiles[t, 3]
                at = c * (width + LANES)
                below, diagonal = at + tiles[t, 4], at + tiles[t, 5]
                for i in range(i0, i0 + count):
                    end = i if i0 == j0 else j0 + columns
                    for j in range(j0, end):
                        rows[below + j - j0] = np.float32(0.5) * (matrix[i, j] + matrix[j, i])
                    below += end - j0
                    if i0 == j0:
                        rows[diagonal + i - i0] = matrix[i, i]
        transpose(rows, 0, width + LANES, out, panel * width * PANEL + first % PANEL, PANEL, LANES, width)


def _blocks(d, n):
    """(width, parts, tiles) of tiles of n networks that take up to BLOCK bytes; parts as in panels.add_dots."""
    tiles: list[tuple[int, ...]] = []
    parts: list[tuple[int, ...]] = []
    width = 0
    for i0, rows, j0, columns in _tiles(d):
        below = rows * columns if i0 != j0 else rows * (rows - 1) // 2
        diagonal = -(-below // LANES) * LANES
        size = diagonal + (-(-rows // LANES) * LANES if i0 == j0 else 0)
        if tiles and (width + size) * n * 4 > BLOCK:
            yield width, np.array(parts), np.array(tiles)
            tiles, parts, width = [], [], 0
        tiles.append((i0, rows, j0, columns, width, width + diagonal))
        parts.append((width, below, 2))
        if i0 == j0:
            parts.append((width + diagonal, rows, 1))
        width += size
    yield width, np.array(parts), np.array(tiles)


def _packed(a, b, heads):
    """<G_i, G_j> of all pairs by the streamed form; heads: b holds dense matrices [C, d, d] instead of factors."""
    d = a.shape[1]

    def filler(x, width, tiles):
        def fill(panel, out):
            rows = _rows(width)
            if heads and x is b:
                _fill_heads(x, panel, tiles, width, rows, out)
            else:
                _fill(x, panel, tiles, width, *_scratch(x.shape[2]), rows, out)

        return fill

    def blocks():
        for width, parts, tiles in _blocks(d, len(a) + (0 if b is None else len(b))):
            yield width, parts, filler(a, width, tiles), None if b is None else filler(b, width, tiles)

    return dot_kernel(blocks(), len(a), None if b is None else len(b))


@leaf
def _stack(x, n0, n1, k0, k1, out):
    """out [panels, k1 - k0, PANEL] = the columns of X_n0 ... X_{n1 - 1} side by side, rows k0 to k1."""
    r, depth = x.shape[2], k1 - k0
    for net in range(n0, n1):
        c = 0
        while c < r:
            v = (net - n0) * r + c
            count, at = min(r - c, PANEL - v % PANEL), (v // PANEL * depth) * PANEL + v % PANEL
            for k in range(depth):
                for i in range(count):
                    out[at + k * PANEL + i] = x[net, k0 + k, c + i]
            c += count


@leaf
def _sum_of_squares(total, at, ld, r, s):
    """Of total[at:] [r, s] with row length ld; the same bits for its transpose where r = s."""
    squares = 0.0
    if r == s:
        for i in range(r):
            squares += total[at + i * ld + i] ** 2
            for j in range(i):
                squares += total[at + i * ld + j] ** 2 + total[at + j * ld + i] ** 2
    else:
        for i in range(r):
            for j in range(s):
                squares += total[at + i * ld + j] ** 2
    return squares


@leaf
def _pairs(x, i0, i1, y, j0, j1, left, right, total, ld, parts, out):
    """out[i, j] = ||X_i^T Y_j||_F^2 for networks i0 <= i < i1 and j0 <= j < j1; left: X stacked, the rest scratch."""
    d, r, s = x.shape[1], x.shape[2], y.shape[2]
    total[:] = 0
    for k in range(0, d, CHUNK):
        end = min(d, k + CHUNK)
        for p in range(len(parts)):  # short sums: a norm's terms all have one sign, and so do their roundings
            parts[p, 0], parts[p, 1], parts[p, 2] = p * PART, max(0, min(PART, end - k - p * PART)), 1
        _stack(y, j0, j1, k, end, right)
        _stack(x, i0, i1, k, end, left)
        add_dots(left, 0, (i1 - i0) * r, right, 0, (j1 - j0) * s, end - k, parts, False, total, ld)
    for i in range(i0, i1):
        for j in range(j0, j1):
            out[i, j] = _sum_of_squares(total, (i - i0) * r * ld + (j - j0) * s, ld, r, s)


@jit
def _rows_of_pairs(x, i0, i1, y, first, last, step, out):
    """The rows i0 to i1 of out from column `first` to `last`, `step` networks of y at a time."""
    r, s = x.shape[2], y.shape[2]
    height, ld = ((i1 - i0) * r + PANEL - 1) // PANEL * PANEL, (step * s + PANEL - 1) // PANEL * PANEL
    left, right = np.zeros(height * CHUNK, np.float32), np.zeros(ld * CHUNK, np.float32)
    total, parts = np.empty(height * ld), np.empty((CHUNK // PART, 3), np.int64)
    for j in range(first, last, step):
        _pairs(x, i0, i1, y, j, min(j + step, last), left, right, total, ld, parts, out)


def _factorised(a, b):
    """||X_i^T Y_j||_F^2 of all pairs, the columns of several networks multiplied together."""
    symmetric = b is None
    other = a if b is None else b
    out = np.empty((len(a), len(other)))
    steps = [max(1, STACK // x.shape[2]) for x in (a, other)]

    def one(i):
        _rows_of_pairs(a, i, min(i + steps[0], len(a)), other, i if symmetric else 0, len(other), steps[1], out)

    each(one, range(0, len(a), steps[0]))
    return np.triu(out) + np.triu(out, 1).T if symmetric else out


def gram_norm(x):
    """As `wsfast.reference.gram.gram_norm`: float64 [N]."""
    x = np.ascontiguousarray(x, np.float32)
    out = np.empty(len(x))

    def one(i):
        square = np.empty((1, 1))
        _rows_of_pairs(x[i : i + 1], 0, 1, x[i : i + 1], 0, 1, 1, square)
        out[i] = np.sqrt(square[0, 0])

    each(one, range(len(x)))
    return out


def near_one(x):
    """As `wsfast.reference.gram.near_one`: times powers of two, which are exact."""
    x = np.ascontiguousarray(x, np.float32)
    flat = x.reshape(len(x), -1)
    largest = np.maximum(flat.max(axis=1), -flat.min(axis=1))
    exponent = np.frexp(np.where(np.isfinite(largest), largest, 1))[1]
    exponent[abs(exponent) < 8] = 0
    return np.ldexp(x, -exponent[:, None, None]) if exponent.any() else x


def chain_kernel(a, b=None, form="packed", cosine=False):
    """As `wsfast.reference.gram.chain_kernel`: float64 [Na, Nb] of float32 products."""
    a, b = (None if x is None else near_one(x) if cosine else np.ascontiguousarray(x, np.float32) for x in (a, b))
    kernel = _factorised(a, b) if form == "factorised" else _packed(a, b, False)
    if cosine:
        norm = gram_norm(a)
        norms = np.outer(norm, norm if b is None else gram_norm(b))
        kernel /= np.where(norms == 0, 1, norms)
    return kernel


@leaf
def _fill_flat(x, panel, k0, width, rows, out):
    for first in range(panel * PANEL, min(len(x), (panel + 1) * PANEL), LANES):
        for i in range(min(LANES, len(x) - first)):
            for k in range(min(width, x.shape[1] - k0)):
                rows[i * (width + LANES) + k] = x[first + i, k0 + k]
        transpose(rows, 0, width + LANES, out, panel * width * PANEL + first % PANEL, PANEL, LANES, width)


def linear_kernel(a, b=None):
    """Dot products of flat feature vectors a [Na, D] and b [Nb, D]: float64 [Na, Nb]."""
    a = np.ascontiguousarray(a, np.float32)
    b = None if b is None else np.ascontiguousarray(b, np.float32)

    def filler(x, k0, width):
        return lambda panel, out: _fill_flat(x, panel, k0, width, _rows(width), out)

    networks = PANEL * (panels(len(a)) + (0 if b is None else panels(len(b))))
    step = max(1, BLOCK // (4 * CHUNK * networks)) * CHUNK  # sums end at multiples of CHUNK whatever the step

    def blocks():
        for k0 in range(0, a.shape[1], step):
            count = min(step, a.shape[1] - k0)
            width = -(-count // LANES) * LANES
            yield width, np.array([(0, count, 1)]), filler(a, k0, width), None if b is None else filler(b, k0, width)

    return dot_kernel(blocks(), len(a), None if b is None else len(b))


def head(x, a):
    """As `wsfast.reference.gram.head`: float64 [N, C]; x [N, d, r], a [C, d, d]."""
    return _packed(np.ascontiguousarray(x, np.float32), np.ascontiguousarray(a, np.float32), True)


@leaf
def _add_tiles(x, g, i0, rows, j0, columns, left, right, squares, total):
    """total, C matrices [rows + LANES, padded(columns)], += sum_n g[n, c] times the tile of X_n X_n^T."""
    n, d, r = x.shape
    size = (rows + LANES) * padded(columns)
    flat, share = x.reshape(-1), g.reshape(-1)
    classes = g.shape[1]
    for first in range(0, n, NETWORKS):
        count = min(NETWORKS, n - first)
        for i in range(count):
            _tile(flat, (first + i) * d * r, r, i0, rows, j0, columns, left, right, squares, i * size)
        multiply_add(share, first * classes, 1, classes, squares, 0, size, total, 0, size, classes, size, count, 0)


def head_gradient(x, g):
    """As `wsfast.reference.gram.head_gradient`: float32 [C, d, d], exactly symmetric; x [N, d, r], g [N, C]."""
    x, g = np.ascontiguousarray(x, np.float32), np.ascontiguousarray(g, np.float32)
    (n, d, r), classes = x.shape, g.shape[1]
    out = np.empty((classes, d, d), np.float32)

    def one(tile):
        i0, rows, j0, columns = tile
        size = (rows + LANES) * padded(columns)
        total = np.zeros(classes * size, np.float32)
        squares = np.zeros(min(n, NETWORKS) * size, np.float32)
        _add_tiles(x, g, i0, rows, j0, columns, *_scratch(r)[:2], squares, total)
        for c in range(classes):
            _place(total, c * size, i0, rows, j0, columns, out.reshape(-1), c * d * d, d)

    each(one, _tiles(d))
    return out
