"""FiGLU, y = sigmoid(F^T z) * z of feature-major z [n, b] or of images, and its gradient.

As `wsfast.reference.asymmetric.gate`. Of images, which lie as convolution.py says, z F is a 1x1 convolution, F padded
with zeros; y before the pool and the sigmoid are kept.
"""

import numpy as np

from .arrays import copy
from .batchnorm import NOTHING, SCALE, STATISTICS, outputs, window_gradient
from .convolution import convolve_row, data_gradient_row
from .gemm import multiply, multiply_add, padded, transpose, zeros
from .jit import jit, leaf
from .loss import exp


@leaf
def _sigmoid(x):
    for i in range(len(x)):
        e = exp(-abs(x[i]))
        large = np.float32(1) / (np.float32(1) + e)
        x[i] = large if x[i] >= 0 else e * large


@leaf
def _scale(y, s):
    for i in range(len(y)):
        y[i] *= s[i]


@leaf
def _through(z, s, gradient, out):
    for i in range(len(z)):
        out[i] = gradient[i] * z[i] * s[i] * (np.float32(1) - s[i])
        gradient[i] *= s[i]


@leaf
def gate(f, f_at, n, b_pad, outputs, z_at, y_at, s, s_at):
    """outputs[y_at:] = y of outputs[z_at:], and sigmoid into s[s_at:]; f[f_at:] is F [n, n]."""
    size = n * b_pad
    multiply(f, f_at, 1, n, outputs, z_at, b_pad, s, s_at, b_pad, n, b_pad, n, np.float32(1))
    _sigmoid(s[s_at : s_at + size])
    copy(outputs[z_at : z_at + size], outputs[y_at : y_at + size])
    _scale(outputs[y_at : y_at + size], s[s_at : s_at + size])


@leaf
def gate_backward(f, f_at, n, b_pad, outputs, z_at, s, s_at, gradients, here, scratch):
    """The gradient at z in place of that at y, gradients[here:]; scratch: [n b_pad], overwritten."""
    size = n * b_pad
    _through(outputs[z_at : z_at + size], s[s_at : s_at + size], gradients[here : here + size], scratch)
    multiply_add(f, f_at, n, 1, scratch, 0, b_pad, gradients, here, b_pad, n, b_pad, n, 0)


@leaf
def numbers(n):
    """Of one unit's gate in what `pack` makes."""
    return 2 * n * n + STATISTICS * n


@jit
def pack(places, sizes, gate_at, gates):
    """The gates of images: at places[k], for n = sizes[k + 1] padded, F [n, n], F^T, statistics that change nothing.

    gate_at, gates: as `wsfast.reference.cnn.train_cnn`.
    """
    end = 0
    for k in range(len(gate_at)):
        if gate_at[k] >= 0:
            end = places[k] + numbers(padded(sizes[k + 1]))
    f = zeros(end)
    for k in range(len(gate_at)):
        if gate_at[k] >= 0:
            units, n, at = sizes[k + 1], padded(sizes[k + 1]), places[k]
            for i in range(units):
                start = gate_at[k] + i * units
                f[at + i * n : at + i * n + units] = gates[start : start + units]
            transpose(f, at, n, f, at + n * n, n, n, n)
            f[at + 2 * n * n + SCALE * n : at + 2 * n * n + (SCALE + 1) * n] = 1
    return f


@leaf
def gate_images(f, at, images, y_at, s_at, zp, h, w, n, batch, pool, to, tp):
    """images[y_at:], z [h, batch, w n], becomes y; sigmoid into images[s_at:], the (pooled) y into images[to:]."""
    for i in range(h):
        convolve_row(i, images, y_at, zp, h, w, n, batch, f, at, 1, 1, images, s_at, zp, n)
        for b in range(i * batch, (i + 1) * batch):
            s, y = s_at + b * zp, y_at + b * zp
            _sigmoid(images[s : s + w * n])
            _scale(images[y : y + w * n], images[s : s + w * n])
    same = at + 2 * n * n
    nothing = same + NOTHING * n
    outputs(images, y_at, same, nothing, 0, y_at, same, nothing, f, f, zp, h, w, n, batch, np.float32(1), pool, images,
            to, tp)  # fmt: skip


@leaf
def _through_image(y, s, gradient):
    for i in range(len(y)):
        y[i] *= gradient[i] * (np.float32(1) - s[i])
        s[i] *= gradient[i]


@leaf
def gate_images_backward(f, at, images, y_at, s_at, zp, h, w, n, batch, pool, g, gp, windows):
    """images[s_at:] becomes the gradient at z from g, that at the (pooled) y; images[y_at:] is overwritten.

    gp: numbers a row of g; windows: two rows [w n], overwritten.
    """
    same = at + 2 * n * n
    nothing = same + NOTHING * n
    for i in range(0, h, 1 + pool):
        rows = min(1 + pool, h - i)
        for b in range(batch):
            window_gradient(i, b, images, y_at, same, nothing, 0, y_at, same, nothing, f, f, zp, h, w, n, batch,
                            np.float32(1), pool, g, gp, windows)  # fmt: skip
            for row in range(rows):
                off = ((i + row) * batch + b) * zp
                s, y = s_at + off, y_at + off
                _through_image(images[y : y + w * n], images[s : s + w * n], windows[row * w * n : (row + 1) * w * n])
        for row in range(i, i + rows):
            data_gradient_row(row, images, y_at, zp, n, f, at + n * n, 1, 1, images[s_at:], zp, h, w, n, batch)
