"""A linear classifier on vec(X X^T): its logits and its gradient, with at most one tile of G a network at a time."""

import triton
import triton.language as tl

from .grams import _tile
from .layers import _dot
from .products import _load, _place


@triton.jit(do_not_specialize=["C"])
def _head_kernel(x_ptr, a_ptr, out_ptr, C, D: tl.constexpr, R: tl.constexpr, T: tl.constexpr, BK: tl.constexpr,
                 CLASSES: tl.constexpr, PRECISION: tl.constexpr):  # fmt: skip
    """<A_c, X X^T> over the tiles of one row of tiles up to the diagonal and their mirror images.

    x [N, D, R], a [C, D, D], out float64 [N, rows of tiles, C], C <= CLASSES. Grid (networks, rows of tiles).
    """
    net, p = tl.program_id(0).to(tl.int64), tl.program_id(1)
    t, classes = tl.arange(0, T), tl.arange(0, CLASSES)
    rows = p * T + t
    logits = tl.zeros((CLASSES,), tl.float64)
    for q in range(p + 1):
        columns = q * T + t
        g = _tile(x_ptr + net * D * R, 1.0, rows, columns, D, R, T, BK, PRECISION)
        a = a_ptr
        for c in range(C):
            own = _load(a, rows, columns, D, D, T, T)
            if q < p:
                own += tl.trans(_load(a, columns, rows, D, D, T, T))
            logit = tl.sum(tl.sum(g * own, axis=1).to(tl.float64), axis=0)
            logits += tl.where(classes == c, logit, 0.0)
            a += D * D
    at = (net * tl.num_programs(1) + p) * C + classes
    tl.store(out_ptr + at, logits, mask=classes < C)


@triton.jit(do_not_specialize=["n", "C", "p", "q"])
def _head_gradient_kernel(g_ptr, s_ptr, out_ptr, n, C, p, q, D: tl.constexpr, T: tl.constexpr, BC: tl.constexpr,
                          BQ: tl.constexpr, BK: tl.constexpr, PRECISION: tl.constexpr):  # fmt: skip
    """out[c] at tile (p, q) += sum over n networks of g[n, c] s[n], and at its mirror image the same.

    g [n, C], s [n, T * T], out [C, D, D]. Grid (parts of the tile, tiles of classes).
    """
    places, classes = tl.program_id(0) * BQ + tl.arange(0, BQ), tl.program_id(1) * BC + tl.arange(0, BC)
    acc = tl.zeros((BC, BQ), tl.float32)
    for first in range(0, n, BK):
        k = first + tl.arange(0, BK)
        g = tl.load(g_ptr + k[None, :] * C + classes[:, None], mask=(k < n)[None, :] & (classes < C)[:, None],
                    other=0.0)  # [BC, BK] # fmt: skip
        s = tl.load(s_ptr + k.to(tl.int64)[:, None] * T * T + places[None, :], mask=(k < n)[:, None], other=0.0)
        acc = _dot(g, s, acc, PRECISION)
    rows, columns = p * T + places // T, q * T + places % T
    inside = (classes < C)[:, None] & ((rows < D) & (columns < D))[None, :]
    at = out_ptr + classes.to(tl.int64)[:, None] * D * D
    here = at + _place(rows, columns, D, D)[None, :]
    acc += tl.load(here, mask=inside, other=0.0)
    tl.store(here, acc, mask=inside)
    if p != q:
        tl.store(at + _place(columns, rows, D, D)[None, :], acc, mask=inside)
