"""X X^T by tiles, dot products of tiles, and ||X^T Y||: what the N x N kernel of many networks is made of.

An entry for (i, j) has the bits of that for (j, i), and neither depends on the other networks beside them: tiles and
the order of every sum are set by d and r alone.
"""

import triton
import triton.language as tl

from .layers import _tf32
from .products import _load, _place


@triton.jit
def _add(a, b, acc, PRECISION: tl.constexpr):
    """acc + a b^T, the same bits as (acc^T + b a^T)^T: a [M, K], b [N, K].

    Triton's own tf32x3 adds the two mixed products in turn, which depends on the order of a and b. And sums over K stay
    short: a product that is added would go on from its summand inside the matrix unit, which truncates; one that is
    subtracted does not.
    """
    if PRECISION == "tf32x3":
        high_a, high_b = _tf32(a), _tf32(b)
        right = tl.trans(high_b)
        mixed = tl.dot(a - high_a, right, input_precision="tf32")
        mixed -= -1.0 * tl.dot(high_a, tl.trans(b - high_b), input_precision="tf32")
        return acc + tl.dot(high_a, right, mixed, input_precision="tf32")
    elif PRECISION == "tf32":
        return acc - -1.0 * tl.dot(_tf32(a), tl.trans(_tf32(b)), input_precision="tf32")
    else:
        return acc - -1.0 * tl.dot(a, tl.trans(b), input_precision="ieee")


@triton.jit
def _tile(x, scale, rows, columns, D: tl.constexpr, R: tl.constexpr, T: tl.constexpr, BK: tl.constexpr,
          PRECISION: tl.constexpr):  # fmt: skip
    """scale^2 X X^T at `rows` and `columns`: [T, T] of one network's X [D, R], zero outside [D, D]."""
    g = tl.zeros((T, T), tl.float32)
    for first in range(0, R, BK):
        k = first + tl.arange(0, BK)
        a = _load(x, rows, k, D, R, T, BK) * scale
        b = _load(x, columns, k, D, R, T, BK) * scale
        g = _add(a, b, g, PRECISION)
    return g


@triton.jit
def _gram_kernel(x_ptr, g_ptr, D: tl.constexpr, R: tl.constexpr, T: tl.constexpr, BK: tl.constexpr,
                 PRECISION: tl.constexpr):  # fmt: skip
    """G = X X^T: x [N, D, R], g [N, D, D]. Grid (networks, tiles, tiles); one triangle is computed, both stored."""
    net, p, q = tl.program_id(0).to(tl.int64), tl.program_id(1), tl.program_id(2)
    if q > p:
        return
    rows, columns = p * T + tl.arange(0, T), q * T + tl.arange(0, T)
    g = _tile(x_ptr + net * D * R, 1.0, rows, columns, D, R, T, BK, PRECISION)
    at = g_ptr + net * D * D
    here = at + _place(rows[:, None], columns[None, :], D, D)
    there = at + _place(columns[None, :], rows[:, None], D, D)
    if D % T:
        inside = (rows < D)[:, None] & (columns < D)[None, :]
        tl.store(here, g, mask=inside)
        if p != q:
            tl.store(there, g, mask=inside)
    else:
        tl.store(here, g)
        if p != q:
            tl.store(there, g)


@triton.jit(do_not_specialize=["p", "q"])
def _tile_kernel(x_ptr, scale_ptr, g_ptr, p, q, D: tl.constexpr, R: tl.constexpr, T: tl.constexpr, BK: tl.constexpr,
                 PRECISION: tl.constexpr):  # fmt: skip
    """Tile (p, q) of every network's scaled G: x [N, D, R], scale [N], g [N, T * T]. Grid (networks,)."""
    net = tl.program_id(0).to(tl.int64)
    t = tl.arange(0, T)
    g = _tile(x_ptr + net * D * R, tl.load(scale_ptr + net), p * T + t, q * T + t, D, R, T, BK, PRECISION)
    tl.store(g_ptr + net * T * T + t[:, None] * T + t[None, :], g)


@triton.jit(do_not_specialize=["na", "nb", "stride", "weight"])
def _dots_kernel(a_ptr, b_ptr, k_ptr, na, nb, stride, weight, LENGTH: tl.constexpr, BM: tl.constexpr, BN: tl.constexpr,
                 BK: tl.constexpr, LOWER: tl.constexpr, PRECISION: tl.constexpr):  # fmt: skip
    """k [na, nb] (float64, rows `stride` apart) += weight a b^T of a [na, LENGTH] and b [nb, LENGTH].

    Grid (tiles of rows, tiles of columns); LOWER: only tiles that touch the lower triangle.
    """
    first_row, first_column = tl.program_id(0).to(tl.int64) * BM, tl.program_id(1).to(tl.int64) * BN
    if LOWER:  # noqa: SIM102 - a constant
        if first_column >= first_row + BM:
            return
    rows, columns, k = tl.arange(0, BM), tl.arange(0, BN), tl.arange(0, BK)
    rows_left, columns_left = (na - first_row).to(tl.int32), (nb - first_column).to(tl.int32)
    a_ptr += first_row * LENGTH + (tl.minimum(rows, rows_left - 1)[:, None] * LENGTH + k[None, :])
    b_ptr += first_column * LENGTH + (tl.minimum(columns, columns_left - 1)[:, None] * LENGTH + k[None, :])
    acc = tl.zeros((BM, BN), tl.float32)
    for first in range(0, LENGTH, BK):
        acc = _add(tl.load(a_ptr + first), tl.load(b_ptr + first), acc, PRECISION)
    k_ptr += first_row * stride + first_column
    halves = tl.split(tl.permute(tl.reshape(acc, (BM, 2, BN // 2)), (0, 2, 1)))  # one by one: they fit the registers
    for half in tl.static_range(2):
        columns = half * (BN // 2) + tl.arange(0, BN // 2)
        place = k_ptr + (rows[:, None] * stride + columns[None, :])
        inside = (rows < rows_left)[:, None] & (columns < columns_left)[None, :]
        entry = tl.load(place, mask=inside, other=0.0)
        tl.store(place, entry + weight * halves[half].to(tl.float64), mask=inside)


@triton.jit
def _cross(x, y, x_scale, y_scale, p, q, D: tl.constexpr, RX: tl.constexpr, RY: tl.constexpr, T: tl.constexpr,
           BK: tl.constexpr, PRECISION: tl.constexpr):  # fmt: skip
    """Tile (p, q) of X^T Y, float64 [T, T], of X [D, RX] and Y [D, RY]."""
    t = tl.arange(0, T)
    c = tl.zeros((T, T), tl.float32)
    for first in range(0, D, BK):
        k = first + tl.arange(0, BK)
        a = _load(x, k, p * T + t, D, RX, BK, T) * x_scale
        b = _load(y, k, q * T + t, D, RY, BK, T) * y_scale
        c = _add(tl.trans(a), tl.trans(b), c, PRECISION)
    return c.to(tl.float64)


@triton.jit(do_not_specialize=["nb", "stride"])
def _pair_kernel(a_ptr, b_ptr, a_scale_ptr, b_scale_ptr, k_ptr, nb, stride, D: tl.constexpr, RA: tl.constexpr,
                 RB: tl.constexpr, TILES: tl.constexpr, T: tl.constexpr, BK: tl.constexpr, LOWER: tl.constexpr,
                 OWN: tl.constexpr, PRECISION: tl.constexpr):  # fmt: skip
    """k[i, j] = ||A_i^T B_j||_F^2, float64: a [na, D, RA], b [nb, D, RB], both scaled. Grid (na * nb,).

    LOWER: only j <= i. OWN: k[i] of the pairs (i, i) alone. A tile and its mirror image in A_i^T B_j are squared and
    added before anything is summed, so that (j, i), where they change places, has the same bits.
    """
    pair = tl.program_id(0).to(tl.int64)
    i, j = pair // nb, pair % nb
    if OWN:
        i, j = pair, pair
    if LOWER:  # noqa: SIM102 - a constant
        if j > i:
            return
    a, b = a_ptr + i * D * RA, b_ptr + j * D * RB
    a_scale, b_scale = tl.load(a_scale_ptr + i), tl.load(b_scale_ptr + j)
    total = tl.zeros((), tl.float64)
    for p in range(TILES):
        c = _cross(a, b, a_scale, b_scale, p, p, D, RA, RB, T, BK, PRECISION)
        mirror = tl.trans(c)
        total += tl.sum(tl.sum(c * c + mirror * mirror, axis=1), axis=0) * 0.5
        for q in range(p):
            c = _cross(a, b, a_scale, b_scale, p, q, D, RA, RB, T, BK, PRECISION)
            mirror = _cross(b, a, b_scale, a_scale, p, q, D, RB, RA, T, BK, PRECISION)
            total += tl.sum(tl.sum(c * c + mirror * mirror, axis=1), axis=0)
    tl.store(k_ptr + (i if OWN else i * stride + j), total)
