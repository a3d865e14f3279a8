"""BatchNorm of images [B, n, h, w], float64: every channel over the batch and all positions, M = B h w numbers.

    y = gamma (x - m) / sqrt(v + EPS) + beta

In training m and v are the batch's mean and biased variance, and the running statistics move as torch's: mean <- 0.9
mean + 0.1 m, variance <- 0.9 variance + 0.1 v M / (M - 1); of a single number, which torch refuses, v is 0 and taken as
it is. In evaluation m and v are the running statistics. State: float64 [4, n], gamma (from 1), beta (0), running mean
(0), running variance (1).
"""

import numpy as np

from .mlp import EPS, MOVE

AXES = (0, 2, 3)


def initial_state(n):
    return np.repeat([[1.0], [0.0], [0.0], [1.0]], n, axis=1)


def normalise(x, state, training):
    """y as above; the running statistics stay as they are."""
    gamma, beta, mean, variance = (row[:, None, None] for row in state)
    if training:
        mean, variance = x.mean(AXES, keepdims=True), x.var(AXES, keepdims=True)
    return gamma * (x - mean) / np.sqrt(variance + EPS) + beta


def move_statistics(x, state):
    """The running statistics after a training step that normalised x, in place."""
    m = x[:, 0].size
    state[2] += MOVE * (x.mean(AXES) - state[2])
    state[3] += MOVE * (x.var(AXES) * m / max(m - 1, 1) - state[3])


def normalise_backward(x, state, gradient):
    """(dx, [d gamma, d beta]) in training from the gradient at y, through the batch's own mean and variance."""
    root = np.sqrt(x.var(AXES, keepdims=True) + EPS)
    unit = (x - x.mean(AXES, keepdims=True)) / root
    d_gamma, d_beta = (gradient * unit).sum(AXES), gradient.sum(AXES)
    through = (d_beta[:, None, None] + unit * d_gamma[:, None, None]) / x[:, 0].size
    return state[0][:, None, None] / root * (gradient - through), np.stack([d_gamma, d_beta])
