"""Chain features of a weight set (arXiv 2208.04369, eq. 6 and 18) and the raw layers they are compared with."""

import math
from functools import partial
from typing import Any

import numpy as np

from . import backends
from .declaration import Network, Parameter
from .pairs import PairKernel, all_pairs
from .reference.batchnorm import EPS
from .weights import WeightSet

GRAM_LIMIT = 4 << 30  # bytes; beyond this a Gram array is a mistake, not a wish


def chain_factor(
    zoo: WeightSet,
    chain: int = 1,
    *,
    row_normalize: bool = False,
    column_normalize: bool = False,
    fold_norm: bool = False,
    backend: str | None = None,
    device: str | None = None,
) -> np.ndarray:
    """X_l = W_1 W_2 ... W_l of every network: [N, d, r], float32 (float64 from the reference).

    chain: l, from 1. row_normalize: every weight's rows to unit length first where l >= 2, as the paper's code does for
    MLPs (its text does not). column_normalize: every column of X_l to unit length, which also removes positive
    rescaling between layers. fold_norm: every W_k's outputs first multiplied by gamma / sqrt(variance + 1e-5) of the
    BatchNorm that follows it, before or after the activation: a scale that BatchNorm takes out again is then no part of
    the chain. Reordering hidden units reorders the columns of X_l at most. device: "cpu" or "cuda", where the backend
    runs where None. ValueError for a chain that the network does not have, and for fold_norm where it has no BatchNorm.
    """
    _check_sets("chain_factor", zoo)
    gram = backends.load("chain_factor", backend, device)
    weights = _weights(zoo, chain, row_normalize, fold_norm)
    return gram.host(gram.chain_factor(weights, row_normalize, column_normalize))


def _check_sets(op: str, *sets: Any) -> None:
    for zoo in sets:
        if not isinstance(zoo, WeightSet):
            more = f", chain={zoo}" if isinstance(zoo, (int, np.integer)) else ""
            raise TypeError(f"{op}: want a WeightSet, got {type(zoo).__name__} ({op}(zoo{more}))")
        if not len(zoo):
            raise ValueError(f"{op}: want one network or more, got an empty set")


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
    fold_norm: bool = False,
    backend: str | None = None,
    device: str = "cpu",
) -> np.ndarray:
    """G_l = X_l X_l^T of every network: [N, d, d]; options as chain_factor.

    Invariant to the order of hidden units. ValueError with the size where it would take over 4 GiB (use chain_kernel).
    """
    _check_sets("chain_gram", zoo)
    d, _ = factor_shape(zoo.network, chain)
    size = len(zoo) * d * d * 4
    if size > GRAM_LIMIT:
        raise ValueError(
            f"chain_gram: {len(zoo)} x {d} x {d} would take {size / 2**30:,.1f} GiB, the limit is "
            f"{GRAM_LIMIT / 2**30:.0f} (use chain_kernel, which never holds it, or fewer networks)"
        )
    gram = backends.load("chain_gram", backend, device)
    x = gram.chain_factor(_weights(zoo, chain, row_normalize, fold_norm), row_normalize, column_normalize)
    return gram.host(gram.chain_gram(x))


def chain_kernel(
    a: WeightSet,
    b: WeightSet | None = None,
    chain: int = 1,
    *,
    row_normalize: bool = False,
    column_normalize: bool = False,
    fold_norm: bool = False,
    cosine: bool = False,
    form: str = "auto",
    backend: str | None = None,
    device: str = "cpu",
    memory: int | None = None,
    engine: str = "local",
    address: str | None = None,
) -> np.ndarray:
    """K_ij = <G_i, G_j>_F of all pairs: float64 [Na, Nb], [N, N] where b is None; no Gram of a whole set is stored.

    cosine: every G to unit Frobenius norm; 0 with a network whose G is zero. form: "factorised" (||X_i^T X_j||^2),
    "packed" (tiles of G), or "auto", the cheaper of the two. memory: bytes that the weights and factors in hand may
    take, half of what is free where None; networks are taken in runs that fit, the next run read while one is computed,
    so the parameters may be memory-mapped arrays larger than the machine. The result has the same bits whatever the
    limit. engine, address: as generate; a Ray task has the pairs of two runs, `memory` is then each task's, and a
    stored set is read by the tasks themselves: its folder must have the same path on every machine. The other options
    as chain_factor. ValueError where the sets' chains differ in d, where one is empty, or where not even one network
    fits; TypeError for what is no WeightSet.
    """
    if form not in ("auto", "factorised", "packed"):
        raise ValueError(f"chain_kernel: form must be auto, factorised or packed, got {form!r}")
    _check_sets("chain_kernel", a, a if b is None else b)
    sides = [a, a if b is None else b]
    (d, ra), (other, rb) = (factor_shape(zoo.network, chain) for zoo in sides)
    if d != other:
        raise ValueError(
            f"chain_kernel: chain {chain} of {a.network.name} has d = {d}, "
            f"of {sides[1].network.name} d = {other}: they cannot be compared"
        )
    gram = partial(backends.load, "chain_kernel", backend, device)  # loaded where it computes
    if engine == "local":
        gram()  # before the device is asked for its memory
    if form == "auto":
        form = cheaper_form(len(sides[0]), len(sides[1]), d, ra, rb)
    size = max(4 * (sum(p.size for p in zoo.network.chain(chain)) + d * max(ra, rb)) for zoo in sides)

    def ready(weights: list[np.ndarray]) -> Any:
        x = gram().chain_factor(weights, row_normalize, column_normalize)
        return gram().near_one(x) if cosine else x

    kernel = PairKernel(
        lambda zoo: _needed(zoo.network, chain, fold_norm),
        lambda zoo, run: [_in_memory(w) for w in _weights(zoo, chain, row_normalize, fold_norm, run)],
        ready,
        lambda x, y: gram().chain_kernel(x, y, form),
        size,
        (lambda x: gram().gram_norm(x)) if cosine else None,
    )
    return all_pairs(a, b, kernel, memory, device, engine, address)


def _weights(
    zoo: WeightSet, chain: int, row_normalize: bool, fold_norm: bool, run: slice = slice(None)
) -> list[np.ndarray]:
    """The weights of the chain of a run of networks, each [n, n_in, *offsets, n_out]."""
    weights = zoo.network.chain(chain)
    if fold_norm and not has_norm(zoo.network, chain):
        raise ValueError(f"chain_factor: fold_norm wants BatchNorm, chain {chain} of {zoo.network.name} has none")
    if row_normalize and any(len(p.shape) != 2 for p in weights):
        raise ValueError(f"chain_factor: row_normalize is for fully connected chains, {zoo.network.name} has others")
    arrays = (_folded(zoo, p, run) if fold_norm else zoo.parameters[p.name][run] for p in weights)
    return [_matrix(p, array, chain) for p, array in zip(weights, arrays, strict=True)]


def _needed(network: Network, chain: int, fold_norm: bool) -> list[Parameter]:
    """What _weights reads."""
    weights = network.chain(chain)
    norms = [norm for p in weights if fold_norm and (norm := network.norm_after(p.name))]
    return [*weights, *(p for norm in norms for p in norm.parameters)]


def has_norm(network: Network, chain: int) -> bool:
    return any(network.norm_after(p.name) for p in network.chain(chain))


def _folded(zoo: WeightSet, p: Parameter, run: slice) -> np.ndarray:
    """A weight, each of its output units multiplied by the gain of the BatchNorm behind it, if there is one."""
    array, norm = zoo.parameters[p.name][run], zoo.network.norm_after(p.name)
    if norm is None:
        return array
    gamma, _, _, variance = (np.asarray(zoo.parameters[each.name][run]) for each in norm.parameters)
    gain = gamma / np.sqrt(variance + np.float32(EPS))
    return np.asarray(array) * gain.reshape(len(gain), *[1] * (len(p.shape) - 1), -1)


def _in_memory(array: np.ndarray) -> np.ndarray:
    """The array itself, or a copy: of one that is mapped from a file, since reading it later would wait for the disk,
    and of one that may not be written, for which the kernels would be compiled once more.
    """
    return array if type(array) is np.ndarray and array.flags.writeable else np.array(array)


def cheaper_form(na: int, nb: int, d: int, ra: int, rb: int) -> str:
    """The form of fewer operations for all pairs of na factors [d, ra] and nb factors [d, rb]."""
    return "factorised" if na * nb * (2 * ra * rb - d) < d * (na * ra + nb * rb) else "packed"


def factor_shape(network: Network, chain: int) -> tuple[int, int]:
    """(d, r) of a chain's factors."""
    shapes = [_matrix(p, np.empty((0, *p.shape), np.float32), chain).shape for p in network.chain(chain)]
    return math.prod([shapes[0][1], *(n for shape in shapes for n in shape[2:-1])]), shapes[-1][-1]


def chain_shape(features: str, zoo: WeightSet, chain: int) -> tuple[int, ...]:
    """Shape of one network's feature, the same in sets that can be compared: (d, d) of a Gram, a raw weight's own."""
    if features == "raw":
        return zoo.network.chain(chain)[-1].shape
    return (factor_shape(zoo.network, chain)[0],) * 2


def _flat(w: np.ndarray) -> np.ndarray:
    """Weights as rows; those of linear layers with every input's fan-out at unit length, as the paper's code does."""
    from .kernels.numba.factor import unit_rows

    w = np.array(w, np.float32)
    if w.ndim == 3:
        unit_rows(w)
    return w.reshape(len(w), -1)


def raw_kernel(
    a: WeightSet,
    b: WeightSet | None = None,
    layer: int = 1,
    *,
    memory: int | None = None,
    engine: str = "local",
    address: str | None = None,
) -> np.ndarray:
    """Cosines of the last weights of chain `layer` alone, the paper's unnormalised baseline: float64 [Na, Nb].

    0 with a layer that is all zero. memory, engine and address as in chain_kernel.
    """
    from .kernels.numba.gram import linear_kernel

    def norm(x: np.ndarray) -> np.ndarray:
        return np.array([np.linalg.norm(row.astype(np.float64)) for row in x])

    def read(zoo: WeightSet, run: slice) -> np.ndarray:
        return _in_memory(zoo.parameters[zoo.network.chain(layer)[-1].name][run])

    _check_sets("raw_kernel", a, a if b is None else b)
    size = 8 * max(z.network.chain(layer)[-1].size for z in (a, a if b is None else b))
    kernel = PairKernel(lambda zoo: zoo.network.chain(layer)[-1:], read, _flat, linear_kernel, size, norm)
    return all_pairs(a, b, kernel, memory, "cpu", engine, address)


CHAINS: dict[str, dict[str, Any]] = {  # features that are a chain, and how
    "chain": {},
    "chain_unit": {"column_normalize": True},
    "chain_folded": {"fold_norm": True},
}
TITLES = {"chain": "chain", "chain_unit": "chain, unit columns", "chain_folded": "chain, BN folded", "raw": "raw layer"}
FEATURES = tuple(TITLES)


def features_of(network: Network) -> tuple[str, ...]:
    """The features that every chain of a network has: "chain_folded" needs BatchNorm."""
    return tuple(name for name in FEATURES if name != "chain_folded" or has_norm(network, 1))


def feature_kernel(
    features: str,
    a: WeightSet,
    b: WeightSet | None = None,
    chain: int = 1,
    *,
    cosine: bool = True,
    backend: str | None = None,
    device: str = "cpu",
    memory: int | None = None,
    engine: str = "local",
    address: str | None = None,
) -> np.ndarray:
    """The N x N kernel of a named feature.

    "chain", "chain_unit" (unit columns), "chain_folded" (BatchNorm folded in), or "raw" (the layer alone, on the CPU).
    The other arguments as chain_kernel.
    """
    if features not in FEATURES:
        raise ValueError(f"features must be one of {', '.join(FEATURES)}, got {features!r}")
    if features == "raw":
        if not cosine:
            raise ValueError("features: raw layers are compared by cosine only")
        return raw_kernel(a, b, chain, memory=memory, engine=engine, address=address)
    return chain_kernel(
        a,
        b,
        chain,
        **CHAINS[features],
        cosine=cosine,
        backend=backend,
        device=device,
        memory=memory,
        engine=engine,
        address=address,
    )
