"""The linear weight classifier softmax(P vec(G) + b), trained by SGD one network at a time.

Wang et al., arXiv 2208.04369, Algorithm 1: batch size 1, lr 1e-3, momentum 0.9, 10 epochs, lr x 0.1 after 6. From any
w0 the iterates stay in w0 + span{vec G_i}, so the same trajectory can be followed in N coefficients a class instead
of d^2 weights, with the kernel K_ij = <G_i, G_j> (method.md, section 1).
"""

import numpy as np

from . import philox
from .mlp import cross_entropy


def initial_head(features, classes, seed):
    """torch's default for a linear layer: w0 [D, C], b0 [C] ~ U(+-1/sqrt(D))."""
    bound = 1 / np.sqrt(features)
    w0 = philox.uniform(features * classes, bound, seed, 0, 0, philox.CLASSIFIER, 0).reshape(features, classes)
    return w0, philox.uniform(classes, bound, seed, 0, 0, philox.CLASSIFIER, 1)


def visiting_order(n, epochs, seed):
    """The order in which each epoch visits n networks: int64 [epochs, n]."""
    return np.array([philox.batch_order(n, 2 + e, seed, 0, 0, philox.CLASSIFIER) for e in range(epochs)])


def primal_sgd(features, labels, w0, b0, order, lr, momentum):
    """features [N, D], labels int [N], order [epochs, N], lr [epochs] -> (w [D, C], b [C])."""
    w, b = w0.copy(), b0.copy()
    v_w, v_b = np.zeros_like(w), np.zeros_like(b)
    for epoch, rows in enumerate(order):
        for i in rows:
            _, gradient = cross_entropy((features[i] @ w + b)[None], labels[i : i + 1])
            v_w = momentum * v_w + np.outer(features[i], gradient[0])
            v_b = momentum * v_b + gradient[0]
            w -= lr[epoch] * v_w
            b -= lr[epoch] * v_b
    return w, b


def dual_sgd(kernel, labels, offset, b0, order, lr, momentum):
    """The same run in the dual: w = w0 + sum_i coef_i vec(G_i).

    kernel [N, N] = <G_i, G_j>; offset [N, C] = <w0, vec G_i>, zero for w0 = 0. Returns (coef [N, C], b [C]); the
    logits of a network with kernel row k [N] and offset o [C] are k @ coef + o + b.
    """
    coef, b = np.zeros_like(offset), b0.copy()
    v_coef, v_b = np.zeros_like(coef), np.zeros_like(b)
    for epoch, rows in enumerate(order):
        for i in rows:
            _, gradient = cross_entropy((kernel[i] @ coef + offset[i] + b)[None], labels[i : i + 1])
            v_coef *= momentum
            v_coef[i] += gradient[0]
            v_b = momentum * v_b + gradient[0]
            coef -= lr[epoch] * v_coef
            b -= lr[epoch] * v_b
    return coef, b
