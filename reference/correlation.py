"""Pearson correlations between the units of two networks, from their activations over the same samples.

Li et al., "Convergent Learning: Do different neural networks learn the same representations?", ICLR 2016, section 2.1:
with z_u = (x_u - mean x_u) / deviation of x_u over the M samples (and positions),  r_uv = (1 / M) sum_m z_um z_vm.
A unit that answers the same to every sample (a dead one) has z = 0, so its correlation with every unit is 0.
"""

import numpy as np


def standardise(x):
    """z of activations [..., M]; zero where all M are equal."""
    x = np.asarray(x, np.float64)
    alive = x.max(axis=-1, keepdims=True) > x.min(axis=-1, keepdims=True)
    z = x - x.mean(axis=-1, keepdims=True)
    return np.where(alive, z / np.where(alive, np.sqrt((z**2).mean(axis=-1, keepdims=True)), 1), 0)


def checked(op, a, b, pairs):
    """pairs as int64 [P, 2]; ValueError where activations a [Na, U, M] and b [Nb, V, M] cannot be paired so."""
    if np.ndim(a) != 3 or np.ndim(b) != 3 or np.shape(a)[2] != np.shape(b)[2]:
        raise ValueError(f"{op}: activations must have one M, got {list(np.shape(a))} and {list(np.shape(b))}")
    index = np.asarray(pairs, np.int64).reshape(-1, 2)
    if (index < 0).any() or (index >= (len(a), len(b))).any():
        raise ValueError(f"{op}: pairs must name networks 0..{len(a) - 1} and 0..{len(b) - 1}, got {index.tolist()}")
    return index


def correlation(a, b, pairs):
    """r of pairs of networks: a [Na, U, M], b [Nb, V, M], pairs int [P, 2] of (network of a, network of b): [P, U, V].

    ValueError where M differs or a pair names a network that is not there.
    """
    pairs = checked("correlation", a, b, pairs)
    x, y = standardise(a), standardise(b)
    return np.array([x[i] @ y[j].T / x.shape[2] for i, j in pairs]).reshape(len(pairs), x.shape[1], y.shape[1])
