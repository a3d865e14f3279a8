"""Mutual information between the units of two networks, from histograms of their activations over the same samples.

Every unit's range is cut into `bins` of equal width; with p_st the share of samples in bin s of unit u and bin t of
unit v,  I_uv = sum_st p_st log(p_st / (p_s p_t))  in nats (Li et al., ICLR 2016, section 3.2, use it beside
correlation). A constant unit has one bin and tells nothing: 0.
"""

import numpy as np

from .correlation import checked


def binned(x, bins):
    """The bin of every activation [..., M]: uint8."""
    x = np.asarray(x, np.float64)
    low, high = x.min(axis=-1, keepdims=True), x.max(axis=-1, keepdims=True)
    share = (x - low) / np.where(high > low, high - low, 1)
    return np.minimum(share * bins, bins - 1).astype(np.uint8)


def mutual_information(a, b, pairs, bins=8):
    """I of pairs of networks: a [Na, U, M], b [Nb, V, M], pairs int [P, 2], bins 2 .. 16: [P, U, V].

    ValueError where M differs or a pair names a network that is not there.
    """
    pairs = checked("mutual_information", a, b, pairs)
    x, y = (np.eye(bins)[binned(z, bins)] for z in (a, b))  # [N, units, M, bins]
    found = np.zeros((len(pairs), x.shape[1], y.shape[1]))
    for k, (i, j) in enumerate(pairs):
        p = np.einsum("ums,vmt->uvst", x[i], y[j], optimize=True) / x.shape[2]
        alone = p.sum(axis=3, keepdims=True) * p.sum(axis=2, keepdims=True)
        found[k] = (p * np.log(np.where(p > 0, p, 1) / np.where(p > 0, alone, 1))).sum(axis=(2, 3))
    return np.maximum(found, 0)
