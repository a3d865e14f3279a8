"""Chain normalisation: features of weights that do not see the order of hidden units.

Wang et al., arXiv 2208.04369, eq. 6 and 18:  X_l = W_1 W_2 ... W_l,  G_l = X_l X_l^T.

A weight is [N, n_in, ..., n_out] (input first): [N, n_in, n_out] for a linear layer, [N, c_in, 3, 3, c_out] for a
convolution; `columns` of its last axes are the output, the axes between are offsets. One formula covers both: multiply
the running factor by the weight as a matrix [n_in, rest], then regroup the offsets into the rows.
"""

import numpy as np


def _unit(x, axis):
    """x divided by its L2 norm along axis; what is zero stays zero."""
    norm = np.linalg.norm(x, axis=axis, keepdims=True)
    return x / np.where(norm > 0, norm, 1)


def chain_factor(weights, row_normalize=False, column_normalize=False):
    """X_l of N networks: float64 [N, d, r], with weights = [W_1, ..., W_l], each [N, n_in, *offsets, n_out].

    Rows of X_l: the previous factor's rows major, the offsets minor (method of the paper's CNNs; 9 d_{l-1} rows).
    row_normalize: for l >= 2 every weight's rows (an input's fan-out) get unit length first, as the paper's code does
    for its MLPs. column_normalize: every column of X_l gets unit length, a dead unit's zero column stays zero; this
    makes the feature invariant to positive rescaling between layers as well.
    """
    weights = [np.asarray(w, np.float64) for w in weights]
    if row_normalize and len(weights) > 1:
        weights = [_unit(w, axis=2) for w in weights]
    n, r = len(weights[0]), weights[0].shape[-1]
    x = weights[0].reshape(n, -1, r)
    for w in weights[1:]:
        r = w.shape[-1]
        x = (x @ w.reshape(n, w.shape[1], -1)).reshape(n, -1, r)
    return _unit(x, axis=1) if column_normalize else x


def host(x):
    """Factors as a NumPy array: they are one."""
    return x


def chain_gram(x):
    """G = X X^T: [N, d, r] -> [N, d, d]."""
    x = np.asarray(x, np.float64)
    return x @ x.transpose(0, 2, 1)


def chain_kernel(a, b=None, form="packed", cosine=False):
    """K_ij = <G_i, G_j>_F between chain factors a [Na, d, r] and b [Nb, d, r'] (b = a where absent): [Na, Nb].

    factorised: ||X_i^T X_j||_F^2, 2 d r r' operations a pair. packed: the dot product of the Grams' upper triangles,
    the entries off the diagonal counted twice, d (d + 1) operations a pair. cosine: divided by ||G_i|| ||G_j||, 0 where
    one of them is 0.
    """
    a = np.asarray(a, np.float64)
    other = a if b is None else np.asarray(b, np.float64)
    if form == "factorised":
        k = np.array([[((x.T @ y) ** 2).sum() for y in other] for x in a])
    else:
        upper = np.triu_indices(a.shape[1])
        weight = np.where(upper[0] == upper[1], 1.0, np.sqrt(2.0))
        k = (chain_gram(a)[:, *upper] * weight) @ (chain_gram(other)[:, *upper] * weight).T
    if cosine:
        norms = np.outer(gram_norm(a), gram_norm(other))
        k = k / np.where(norms == 0, 1, norms)
    return k


def gram_norm(x):
    """||G_i||_F = ||X_i^T X_i||_F of each chain factor [N, d, r]: [N]."""
    x = np.asarray(x, np.float64)
    return np.linalg.norm(x.transpose(0, 2, 1) @ x, axis=(1, 2))


def near_one(x):
    """Chain factors, each times a number that no cosine sees, so that products neither overflow nor vanish: [N, d, r].

    In float64 the factors themselves.
    """
    return x


def head(x, a):
    """Logits <A_c, X X^T> of a linear classifier on vec(G) for every chain factor: [N, d, r], [C, d, d] -> [N, C].

    The primal weight classifier of arXiv 2208.04369, Algorithm 1, without its bias.
    """
    return chain_gram(x).reshape(len(x), -1) @ np.asarray(a, np.float64).reshape(len(a), -1).T


def head_gradient(x, g):
    """The gradient of sum_n <g_n, head(x_n, A)> by A: sum_n g[n, c] X_n X_n^T, [N, d, r], [N, C] -> [C, d, d]."""
    gram = chain_gram(x)
    return np.tensordot(np.asarray(g, np.float64), gram, (0, 0))
