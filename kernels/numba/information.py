"""Binned mutual information between the units of many pairs of networks: integer counts, a table of logarithms."""

import numpy as np
from wsfast.reference.correlation import checked
from wsfast.reference.information import binned

from .factor import runs
from .jit import leaf
from .threads import each


@leaf
def _entropies(codes, table, counts, out):
    """out[i, u] = sum over the bins of c log c, c the unit's samples in a bin; codes [N, U, M]."""
    n, units, m = codes.shape
    for i in range(n):
        for u in range(units):
            counts[:] = 0
            for k in range(m):
                counts[codes[i, u, k]] += 1
            total = 0.0
            for c in counts:
                total += table[c]
            out[i, u] = total


@leaf
def _information(a, b, of_a, of_b, pairs, table, bins, counts, out):
    n, units, others = out.shape
    m = a.shape[2]
    for p in range(n):
        i, j = pairs[p, 0], pairs[p, 1]
        for u in range(units):
            for v in range(others):
                counts[:] = 0
                for k in range(m):
                    counts[a[i, u, k] * bins + b[j, v, k]] += 1
                total = table[m] - of_a[i, u] - of_b[j, v]
                for c in counts:
                    total += table[c]
                out[p, u, v] = max(total / m, 0.0)


def mutual_information(a, b, pairs, bins=8):
    """As `wsfast.reference.information.mutual_information`: float32 [P, U, V]."""
    pairs = checked("mutual_information", a, b, pairs)
    m = np.shape(a)[2]
    table = np.arange(m + 1) * np.log(np.maximum(np.arange(m + 1), 1))
    codes, entropies = [], []
    for x in (a, b):
        codes.append(np.stack([binned(own, bins) for own in x]))
        entropies.append(np.empty(codes[-1].shape[:2]))
        _entropies(codes[-1], table, np.zeros(bins, np.int64), entropies[-1])
    out = np.empty((len(pairs), np.shape(a)[1], np.shape(b)[1]), np.float32)

    def one(run):
        _information(*codes, *entropies, pairs[run], table, bins, np.zeros(bins * bins, np.int64), out[run])

    each(one, runs(len(pairs), out[0].size * m if len(out) else 1))
    return out
