"""Linear prediction of one network's units from another's with an L1 penalty, from correlations alone.

With G [U, U] the correlations among the predicting units and c [U] those with a predicted one (all standardised), its
weights w minimise  (1 - 2 w.c + w.G w) / 2 + lambda |w|_1  (Li et al., ICLR 2016, section 3.3; Tibshirani 1996). The
bracket is the share of its variance that is left.
"""

import numpy as np

TOLERANCE, SWEEPS = 1e-4, 10_000  # of a weight's move in a sweep; sweeps at most


def soft(z, penalty):
    return np.sign(z) * np.maximum(abs(z) - penalty, 0)


def lasso_path(g, c, penalties):
    """w for every penalty, falling ones warm-started: g [U, U], c [U, V], penalties [L] -> [L, V, U].

    Coordinate descent until no weight moves by more than TOLERANCE. A predicting unit with g_uu = 0 (a dead one) gets
    no weight.
    """
    found = np.zeros((len(penalties), c.shape[1], len(g)))
    for v in range(c.shape[1]):
        w = np.zeros(len(g))
        for k, penalty in enumerate(penalties):
            for _ in range(SWEEPS):
                before = w.copy()
                for u in np.flatnonzero(np.diag(g) > 0):
                    w[u] = soft(c[u, v] - g[u] @ w + g[u, u] * w[u], penalty) / g[u, u]
                if abs(w - before).max() <= TOLERANCE:
                    break
            found[k, v] = w
    return found
