"""The dual weight classifier's SGD, as `wsfast.reference.classifier.dual_sgd`, and sums of a matrix's rows by class."""

import numpy as np

from .jit import leaf

STEPS = 64  # steps whose logits are prepared by one matrix product


@leaf
def class_sums(x, labels, sums):
    """sums[p, labels[p, i]] += x[i]. x [n, m] contiguous, labels int [P, n] below C, sums [P, C, m]."""
    for p in range(len(labels)):
        for i in range(len(x)):
            c = labels[p, i]
            for j in range(x.shape[1]):
                sums[p, c, j] += x[i, j]


def dual_sgd(kernel, labels, offset, b0, order, lr, momentum):
    """kernel [N, N], offset [N, C], b0 [C], lr [epochs] float64; labels [N], order [epochs, N] int64.

    A step moves every coefficient, but through the momentum alone, and that in closed form: with m_j = momentum + ... +
    momentum^j, j steps after a block's start the coefficients are coef - lr m_j velocity, less lr (1 + m_{j-i}) g_i at
    the network of each step i = 1 .. j. So a block's logits are two matrix products and a sum over its own networks.
    """
    coef, v_coef = np.zeros_like(offset), np.zeros_like(offset)
    b, v_b = b0.copy(), np.zeros_like(b0)
    ages = np.arange(STEPS + 1)
    moved = np.cumsum(np.where(ages > 0, float(momentum) ** ages, 0))  # m_0, m_1, ...
    for rate, epoch in zip(lr, order, strict=True):
        for start in range(0, len(epoch), STEPS):
            rows = epoch[start : start + STEPS]
            near, steps = kernel[rows], len(rows)
            gradient = near @ coef + offset[rows]  # the logits first, each row replaced by its gradient
            _steps(gradient, near @ v_coef, near[:, rows], labels[rows], b, v_b, rate, momentum, moved)
            age = steps - 1 - np.arange(steps)[:, None]
            coef -= rate * moved[steps] * v_coef
            coef[rows] -= rate * (1 + moved[age]) * gradient
            v_coef *= momentum**steps
            v_coef[rows] += momentum**age * gradient
    return coef, b


@leaf
def _steps(logits, drift, near, labels, b, v_b, rate, momentum, moved):
    """The steps of one block: logits [S, C] of its networks at its start become their gradients; b, v_b [C] move."""
    steps, classes = logits.shape
    for j in range(steps):
        for i in range(j):
            weight = rate * (1 + moved[j - 1 - i]) * near[j, i]
            for c in range(classes):
                logits[j, c] -= weight * logits[i, c]
        top = -np.inf
        for c in range(classes):
            logits[j, c] += b[c] - rate * moved[j] * drift[j, c]
            top = max(top, logits[j, c])
        total = 0.0
        for c in range(classes):
            logits[j, c] = np.exp(logits[j, c] - top)
            total += logits[j, c]
        for c in range(classes):
            logits[j, c] = logits[j, c] / total - (1.0 if c == labels[j] else 0.0)
            v_b[c] = momentum * v_b[c] + logits[j, c]
            b[c] -= rate * v_b[c]
