"""Networks without the symmetries of their hidden units: fixed weights, and gates with fixed weights.

Lim, Putterman, Walters, Maron, Jegelka, "The Empirical Impact of Neural Parameter Symmetries, or Lack Thereof" (NeurIPS
2024). W-asymmetric, M zero at n_fix random inputs of every output unit, no two units alike:

    W_eff = M * W + kappa (1 - M) * F           F ~ N(0, 1)

sigma-asymmetric (FiGLU): y = sigmoid(z F) * z, F [n, n] ~ N(0, 1) in fully connected layers, N(0, 1) / sqrt(n) over the
channels of images. M and F are pure functions of an integer seed and a place in the network, so every network of a
declaration has the same ones, whatever its task, repeat and own seed.
"""

import math

import numpy as np

from . import philox


def fixed_inputs(fan_in, n_out, n_fix, seed, item):
    """Where M is zero: int64 [n_out, n_fix], each row sorted, no two rows alike.

    Row j: the n_fix smallest of fan_in words, the stream's j-th; rows that equal an earlier one are drawn again from
    the next repeat's stream. ValueError where there are fewer than n_out different rows.
    """
    if not 0 < n_fix <= fan_in or math.comb(fan_in, n_fix) < n_out:
        raise ValueError(f"want {n_out} units with different {n_fix} of {fan_in} inputs fixed, there are not so many")
    found, again, repeat = np.empty((n_out, n_fix), np.int64), np.arange(n_out), 0
    while len(again):
        draw = philox.words(n_out * fan_in, seed, 0, repeat, philox.MASK, item).reshape(n_out, fan_in)
        found[again] = np.sort(np.argsort(draw, axis=1, kind="stable")[again, :n_fix], axis=1)
        again = np.setdiff1d(np.arange(n_out), np.unique(found, axis=0, return_index=True)[1])
        repeat += 1
    return found


def normal(n, seed, purpose, item):
    """n draws of N(0, 1), float64 [n]: Box and Muller's of words 2i and 2i + 1, a platform's log and cos in them."""
    u = (philox.words(2 * n, seed, 0, 0, purpose, item).reshape(n, 2) + 1.0) * 2.0**-32
    return np.sqrt(-2 * np.log(u[:, 0])) * np.cos(2 * np.pi * u[:, 1])


def hold(arrays, fixed_at, fixed_to):
    """Put the fixed entries into arrays, in place: fixed_at int [F] counts through all of them, each row-major."""
    start = 0
    for array in arrays:
        own = (fixed_at >= start) & (fixed_at < start + array.size)
        array.reshape(-1)[fixed_at[own] - start] = fixed_to[own]
        start += array.size


def sigmoid(x):
    return 1 / (1 + np.exp(-x))


def gate(z, f):
    """FiGLU of z [B, n] or [B, n, h, w] with f [n, n]: (y, s = sigmoid(z F))."""
    s = sigmoid(np.moveaxis(np.moveaxis(z, 1, -1) @ f, -1, 1))
    return s * z, s


def gate_backward(z, s, f, gradient):
    """The gradient at z from that at y."""
    through = gradient * z * s * (1 - s)
    return gradient * s + np.moveaxis(np.moveaxis(through, 1, -1) @ f.T, -1, 1)
