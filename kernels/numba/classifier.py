"""The dual weight classifier's SGD, one network a step, as `wsfast.reference.classifier.dual_sgd`."""

import numpy as np

from .jit import jit


@jit
def dual_sgd(kernel, labels, offset, b0, order, lr, momentum):
    """kernel [N, N], offset [N, C], b0 [C], lr [epochs] float64; labels [N], order [epochs, N] int64."""
    n, classes = offset.shape
    coef, v_coef = np.zeros((n, classes)), np.zeros((n, classes))
    b, v_b = b0.copy(), np.zeros(classes)
    p = np.empty(classes)
    for epoch in range(len(order)):
        rate = lr[epoch]
        for i in order[epoch]:
            p[:] = offset[i] + b
            for j in range(n):
                k = kernel[i, j]
                for c in range(classes):
                    p[c] += k * coef[j, c]
            p -= p.max()
            p[:] = np.exp(p)
            p /= p.sum()
            p[labels[i]] -= 1
            for j in range(n):
                for c in range(classes):
                    v_coef[j, c] *= momentum
            for c in range(classes):
                v_coef[i, c] += p[c]
            for j in range(n):
                for c in range(classes):
                    coef[j, c] -= rate * v_coef[j, c]
            for c in range(classes):
                v_b[c] = momentum * v_b[c] + p[c]
                b[c] -= rate * v_b[c]
    return coef, b
