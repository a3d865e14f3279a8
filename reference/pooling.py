"""2x2 max pooling with stride 2 of images [B, n, h, w]; an odd last row or column is left out, as torch does."""

import numpy as np


def _windows(x):
    """[B, n, h // 2, w // 2, 4]: every window row by row."""
    b, n, h, w = x.shape[0], x.shape[1], x.shape[2] // 2, x.shape[3] // 2
    return x[:, :, : 2 * h, : 2 * w].reshape(b, n, h, 2, w, 2).transpose(0, 1, 2, 4, 3, 5).reshape(b, n, h, w, 4)


def max_pool(x):
    """[B, n, h // 2, w // 2]."""
    return _windows(x).max(axis=-1)


def max_pool_backward(x, gradient):
    """dx: a window's gradient goes to its largest number, the first of equals."""
    b, n, h, w = gradient.shape
    chosen = np.arange(4) == _windows(x).argmax(axis=-1)[..., None]
    spread = (gradient[..., None] * chosen).reshape(b, n, h, w, 2, 2).transpose(0, 1, 2, 4, 3, 5)
    dx = np.zeros_like(x)
    dx[:, :, : 2 * h, : 2 * w] = spread.reshape(b, n, 2 * h, 2 * w)
    return dx
