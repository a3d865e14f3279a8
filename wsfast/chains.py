"""Chain features of a weight set (arXiv 2208.04369, eq. 6 and 18) and the raw layers they are compared with."""

import math

import numpy as np

from . import backends
from .network import Parameter
from .weights import WeightSet

GRAM_LIMIT = 4 << 30  # bytes; beyond this a Gram array is a mistake, not a wish


def chain_factor(
    zoo: WeightSet,
    chain: int = 1,
    *,
    row_normalize: bool = False,
    column_normalize: bool = False,
    backend: str | None = None,
) -> np.ndarray:
    """X_l = W_1 W_2 ... W_l of every network: [N, d, r], float32 (float64 from the reference).

    chain: l, from 1. row_normalize: every weight's rows to unit length first where l >= 2, as the paper's code does for
    MLPs (its text does not). column_normalize: every column of X_l to unit length, which also removes positive
    rescaling between layers. Reordering hidden units reorders the columns of X_l at most. ValueError for a chain that
    the network does not have.
    """
    weights = zoo.network.chain(chain)
    if row_normalize and any(len(p.shape) != 2 for p in weights):
        raise ValueError(f"chain_factor: row_normalize is for fully connected chains, {zoo.network.name} has others")
    arrays = [_matrix(p, zoo.parameters[p.name], chain) for p in weights]
    return backends.load("chain_factor", backend).chain_factor(arrays, row_normalize, column_normalize)


def _matrix(p: Parameter, array: np.ndarray, chain: int) -> np.ndarray:
    """A weight as the backends take it: [N, n_in, *offsets, n_out].

    A recurrent layer's [N, n_in, gates, hidden] has its gates in the columns in chain 1, as published, and as offsets
    in the others. Its W_hh follows the identity there: the factor's rows then hold W_ih and W_ih W_hh, so the Gram has
    their products W_ih W_hh W_ih^T.
    """
    if p.rows == len(p.shape) - 1:
        return array
    if chain == 1:
        return np.reshape(array, (len(array), p.shape[0], math.prod(p.shape[1:])))
    if p.axes[0] != p.axes[-1]:
        return np.asarray(array)
    unit = np.broadcast_to(np.eye(p.shape[0], dtype=np.float32)[:, None], (len(array), p.shape[0], 1, p.shape[0]))
    return np.concatenate([unit, array], axis=2)


def chain_gram(
    zoo: WeightSet,
    chain: int = 1,
    *,
    row_normalize: bool = False,
    column_normalize: bool = False,
    backend: str | None = None,
) -> np.ndarray:
    """G_l = X_l X_l^T of every network: [N, d, d]; options as chain_factor.

    Invariant to the order of hidden units. ValueError with the size where it would take over 4 GiB (use chain_kernel).
    """
    d = chain_width(zoo, chain)
    size = len(zoo) * d * d * 4
    if size > GRAM_LIMIT:
        raise ValueError(
            f"chain_gram: {len(zoo)} x {d} x {d} would take {size / 2**30:,.1f} GiB, the limit is "
            f"{GRAM_LIMIT / 2**30:.0f} (use chain_kernel, which never holds it, or fewer networks)"
        )
    x = chain_factor(zoo, chain, row_normalize=row_normalize, column_normalize=column_normalize, backend=backend)
    return backends.load("chain_gram", backend).chain_gram(x)


def chain_kernel(
    a: WeightSet,
    b: WeightSet | None = None,
    chain: int = 1,
    *,
    row_normalize: bool = False,
    column_normalize: bool = False,
    cosine: bool = False,
    form: str = "auto",
    backend: str | None = None,
) -> np.ndarray:
    """K_ij = <G_i, G_j>_F of all pairs: float64 [Na, Nb], [N, N] where b is None; no Gram of a whole set is stored.

    cosine: every G to unit Frobenius norm. form: "factorised" (||X_i^T X_j||^2), "packed" (tiles of G), or "auto", the
    cheaper of the two. The other options as chain_factor. ValueError where the sets' chains differ in d.
    """
    if form not in ("auto", "factorised", "packed"):
        raise ValueError(f"chain_kernel: form must be auto, factorised or packed, got {form!r}")
    if b is not None and chain_width(a, chain) != chain_width(b, chain):
        raise ValueError(
            f"chain_kernel: chain {chain} of {a.network.name} has d = {chain_width(a, chain)}, "
            f"of {b.network.name} d = {chain_width(b, chain)}: they cannot be compared"
        )
    options = {"row_normalize": row_normalize, "column_normalize": column_normalize, "backend": backend}
    x = chain_factor(a, chain, **options)  # type: ignore[arg-type]
    y = None if b is None else chain_factor(b, chain, **options)  # type: ignore[arg-type]
    if form == "auto":
        form = cheaper_form(len(x), len(x) if y is None else len(y), x.shape[1], x.shape[2])
    return backends.load("chain_kernel", backend).chain_kernel(x, y, form, cosine)


def cheaper_form(na: int, nb: int, d: int, r: int) -> str:
    """Factorised where pairs / network < d r / (2 r^2 - d), or always where 2 r^2 < d (operation counts)."""
    pairs_per_network = na * nb / (na + nb)
    return "factorised" if pairs_per_network * (2 * r * r - d) < d * r else "packed"


def chain_width(zoo: WeightSet, chain: int) -> int:
    """d of a chain: rows of X_l."""
    d = 1
    for k, p in enumerate(zoo.network.chain(chain)):
        d *= math.prod(_matrix(p, np.empty((0, *p.shape), np.float32), chain).shape[1 if k == 0 else 2 : -1])
    return d


def raw_layer(zoo: WeightSet, layer: int) -> np.ndarray:
    """The last weight of chain `layer` alone, flattened: float32 [N, n_in * n_out], the paper's unnormalised baseline.

    Fully connected weights have their rows brought to unit length first, as the paper's code does.
    """
    p = zoo.network.chain(layer)[-1]
    w = zoo.parameters[p.name]
    if len(p.shape) == 2:
        norm = np.linalg.norm(w, axis=2, keepdims=True)
        w = w / np.where(norm > 0, norm, 1)
    return w.reshape(len(zoo), -1)


def raw_kernel(a: WeightSet, b: WeightSet | None = None, layer: int = 1) -> np.ndarray:
    """Cosines of raw layers: float64 [Na, Nb]."""
    from .kernels.numba.gram import linear_kernel

    x = raw_layer(a, layer)
    y = None if b is None else raw_layer(b, layer)
    norm = [np.linalg.norm(v.astype(np.float64), axis=1) for v in (x, x if y is None else y)]
    return linear_kernel(x, y) / np.outer(*norm)


TITLES = {"chain": "chain", "chain_unit": "chain, unit columns", "raw": "raw layer"}
FEATURES = tuple(TITLES)


def feature_kernel(
    features: str,
    a: WeightSet,
    b: WeightSet | None = None,
    chain: int = 1,
    *,
    cosine: bool = True,
    backend: str | None = None,
) -> np.ndarray:
    """The N x N kernel of a named feature: "chain", "chain_unit" (unit columns) or "raw" (the layer alone)."""
    if features not in FEATURES:
        raise ValueError(f"features must be one of {', '.join(FEATURES)}, got {features!r}")
    if features == "raw":
        if not cosine:
            raise ValueError("features: raw layers are compared by cosine only")
        return raw_kernel(a, b, chain)
    return chain_kernel(a, b, chain, column_normalize=features == "chain_unit", cosine=cosine, backend=backend)
