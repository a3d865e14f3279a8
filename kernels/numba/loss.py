"""Softmax cross-entropy of a batch of logits [classes, b_pad], its gradient and the hits, for every trained network."""

import math

import numpy as np

from .jit import leaf

DRAIN = 32  # batches whose softmax denominators are multiplied up before a logarithm is taken of each product


@leaf
def exp(x):
    """e^x of float32 x <= 0 to 1e-7, 0 below -87: the same bits on every machine, and the compiler can vectorise it."""
    x = x if not x < np.float32(-87) else np.float32(-87)
    n = np.int32(x * np.float32(1.44269504) - np.float32(0.5))  # nearest integer of x / ln 2
    r = (x - np.float32(n) * np.float32(0.693359375)) + np.float32(n) * np.float32(2.12194440e-4)
    p = np.float32(1.9875691500e-4)  # Cephes' expf polynomial
    p = p * r + np.float32(1.3981999507e-3)
    p = p * r + np.float32(8.3334519073e-3)
    p = p * r + np.float32(4.1665795894e-2)
    p = p * r + np.float32(1.6666665459e-1)
    p = p * r + np.float32(5.0000001201e-1)
    p = p * (r * r) + r + np.float32(1)
    return p * np.int32((n + np.int32(127)) << np.int32(23)).view(np.float32)


@leaf
def _largest(z, top):
    for b in range(len(top)):
        top[b] = z[b] if not z[b] <= top[b] else top[b]


@leaf
def _exponentials(z, top, out, norm):
    for b in range(len(norm)):
        e = exp(z[b] - top[b])
        out[b] = e
        norm[b] += e


@leaf
def _add_losses(norm, top, own, norms, losses):
    for b in range(len(norms)):
        norms[b] *= np.float64(norm[b])
        losses[b] += np.float64(top[b]) - np.float64(own[b])


@leaf
def drain(norms, losses):
    """The summed cross-entropy of all batches since the last call: sum of log(norm) + top - own logit."""
    total = 0.0
    for b in range(len(norms)):
        total += math.log(norms[b]) + losses[b]
    norms[:], losses[:] = 1, 0
    return total


@leaf
def cross_entropy(logits, at, labels, chosen, classes, b_pad, gradient, top, norm, own, norms, losses):
    """Writes d(mean loss)/d(logits) [classes, b_pad], zero past the batch, and adds the batch to norms and losses.

    top, norm, own: float32 [b_pad], overwritten; norms, losses: float64 [b_pad], see drain.
    """
    n = len(chosen)
    top[:], norm[:] = -np.inf, 0
    for c in range(classes):
        _largest(logits[at + c * b_pad : at + (c + 1) * b_pad], top)
    for c in range(classes):
        z, e = logits[at + c * b_pad : at + (c + 1) * b_pad], gradient[c * b_pad : (c + 1) * b_pad]
        _exponentials(z, top, e, norm)
    share = np.float32(1) / np.float32(n)
    for c in range(classes):
        e = gradient[c * b_pad : (c + 1) * b_pad]
        for b in range(len(norm)):
            e[b] *= share / norm[b]
        e[n:] = 0
    for b in range(n):
        label = labels[chosen[b]] * b_pad
        own[b] = logits[at + label + b]
        gradient[label + b] -= share
    _add_losses(norm, top, own, norms[:n], losses[:n])


@leaf
def right(logits, at, labels, chosen, classes, b_pad):
    """How many of the batch have their label's logit largest, the first of equals."""
    hits = 0
    for b in range(len(chosen)):
        best = 0
        for c in range(1, classes):
            if logits[at + c * b_pad + b] > logits[at + best * b_pad + b]:
                best = c
        hits += best == labels[chosen[b]]
    return hits
