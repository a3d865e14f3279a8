"""A convolution of images padded with zeros, size x size with odd size, and its gradients. All arrays float64.

    z[b, o, i, j] = bias[o] + sum_{c, p, q} w[c, p, q, o] x[b, c, s i + p - size // 2, s j + q - size // 2]

Shapes: x [B, c, h, w], weight [c, size, size, n] (input first), bias [n], z [B, n, (h - 1) // s + 1, (w - 1) // s + 1]
for stride s.
"""

import numpy as np


def _views(x, size, stride):
    """(p, q, x as offset (p, q) of the kernel meets it [B, c, h', w']) of every offset; x is padded, views of it."""
    h, w = ((n - size) // stride + 1 for n in x.shape[2:])
    for p in range(size):
        for q in range(size):
            yield p, q, x[:, :, p : p + stride * (h - 1) + 1 : stride, q : q + stride * (w - 1) + 1 : stride]


def _padded(x, size):
    return np.pad(x, ((0, 0), (0, 0), (size // 2, size // 2), (size // 2, size // 2)))


def convolve(x, weight, bias, stride=1):
    """z as above."""
    size = weight.shape[1]
    total = sum(
        np.einsum("bcij,co->boij", v, weight[:, p, q], optimize=True)
        for p, q, v in _views(_padded(x, size), size, stride)
    )
    return total + bias[:, None, None]


def convolve_backward(x, weight, gradient, stride=1):
    """(dx, d weight, d bias) from the gradient at z."""
    size = weight.shape[1]
    wide = _padded(np.zeros_like(x), size)
    d_weight = np.empty_like(weight)
    for (p, q, v), (_, _, d) in zip(_views(_padded(x, size), size, stride), _views(wide, size, stride), strict=True):
        d_weight[:, p, q] = np.einsum("bcij,boij->co", v, gradient, optimize=True)
        d += np.einsum("boij,co->bcij", gradient, weight[:, p, q], optimize=True)
    edge = size // 2
    return wide[:, :, edge : edge + x.shape[2], edge : edge + x.shape[3]], d_weight, gradient.sum(axis=(0, 2, 3))
