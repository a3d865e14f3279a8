"""Convolutions of a batch of images as matrix products on the images as they lie in memory.

Layout: images [h, batch, w c], `pitch` numbers a row (b, :); weights [size, size, c, n]. The neighbours (q, c) of one
position are then a run of size c numbers, and equal positions of all images the rows of a matrix: one product for every
output position and kernel row p, of whose padding nothing is computed. n, and c where a data gradient is wanted, are
multiples of LANES.
"""

from .gemm import LINE, multiply_add
from .jit import leaf


@leaf
def pitch(width):
    """Numbers from row to row: a line more than needed, lest equal places of all rows fall into one cache set."""
    return (width + LINE - 1) // LINE * LINE + LINE


@leaf
def convolve_row(i, x, xo, xp, h, w, c, batch, weights, wo, size, stride, z, zo, zp, n):
    """Row i of z[h', batch, w' n] = the convolution of x[h, batch, w c], padded by size // 2."""
    edge, w_out = size // 2, (w - 1) // stride + 1
    top = i * stride - edge
    first = max(0, -top)
    for j in range(w_out):
        left = j * stride - edge
        q0, q1 = max(0, -left), min(size, w - left)
        for p in range(first, min(size, h - top)):
            at = xo + (top + p) * batch * xp + (left + q0) * c
            multiply_add(x, at, xp, 1, weights, wo + (p * size + q0) * c * n, n, z, zo + i * batch * zp + j * n, zp,
                         batch, n, (q1 - q0) * c, 1 if p == first else 0)  # fmt: skip


@leaf
def weight_gradient_row(i, x, xo, xp, h, w, c, batch, dz, zo, zp, n, size, stride, gradient, go):
    """gradient[size, size, c, n] += that of the weights from row i of dz."""
    edge, w_out = size // 2, (w - 1) // stride + 1
    top = i * stride - edge
    for p in range(max(0, -top), min(size, h - top)):
        for j in range(w_out):
            left = j * stride - edge
            q0, q1 = max(0, -left), min(size, w - left)
            at = xo + (top + p) * batch * xp + (left + q0) * c
            multiply_add(x, at, 1, xp, dz, zo + i * batch * zp + j * n, zp, gradient, go + (p * size + q0) * c * n, n,
                         (q1 - q0) * c, n, batch, 0)  # fmt: skip


@leaf
def data_gradient_row(i, dz, zo, zp, n, turned, to, size, stride, dx, xp, h, w, c, batch):
    """dx[h, batch, w c] += the gradient at x from row i of dz; turned[to:]: the weights as [size, n, size c]."""
    edge, w_out = size // 2, (w - 1) // stride + 1
    top = i * stride - edge
    for p in range(max(0, -top), min(size, h - top)):
        for j in range(w_out):
            left = j * stride - edge
            q0, q1 = max(0, -left), min(size, w - left)
            multiply_add(dz, zo + i * batch * zp + j * n, zp, 1, turned, to + p * n * size * c + q0 * c, size * c,
                         dx, (top + p) * batch * xp + (left + q0) * c, xp, batch, (q1 - q0) * c, n, 0)  # fmt: skip
