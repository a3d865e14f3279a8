"""FiGLU, y = sigmoid(F^T z) * z of feature-major z [n, b], and its gradient: `wsfast.reference.asymmetric.gate`."""

import numpy as np

from .gemm import multiply, multiply_add
from .jit import leaf
from .loss import exp


@leaf
def _sigmoid_times(z, s, y):
    """s = sigmoid(s), y = s z."""
    for i in range(len(z)):
        e = exp(-abs(s[i]))
        large = np.float32(1) / (np.float32(1) + e)
        s[i] = large if s[i] >= 0 else e * large
        y[i] = s[i] * z[i]


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
    _sigmoid_times(outputs[z_at : z_at + size], s[s_at : s_at + size], outputs[y_at : y_at + size])


@leaf
def gate_backward(f, f_at, n, b_pad, outputs, z_at, s, s_at, gradients, here, scratch):
    """The gradient at z in place of that at y, gradients[here:]; scratch: [n b_pad], overwritten."""
    size = n * b_pad
    _through(outputs[z_at : z_at + size], s[s_at : s_at + size], gradients[here : here + size], scratch)
    multiply_add(f, f_at, n, 1, scratch, 0, b_pad, gradients, here, b_pad, n, b_pad, n)
