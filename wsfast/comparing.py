"""How similar the weights of two networks are, chain by chain."""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from . import backends
from .chains import chain_factor
from .families import DEEPEST
from .importing import is_link, read_state
from .stacking import float32_array
from .weights import DIVERGED, WeightSet

COLUMNS = {"cosine": "cosine", "centred": "centred", "unit_columns": "unit columns"}


def compare(a: Any, b: Any, *, backend: str | None = None) -> list[dict[str, Any]]:
    """Chain similarity of two networks, whatever the order of their hidden units.

    a, b: an nn.Module, a state dict, the path of a file that holds one, or a WeightSet of one network. The weights of a
    module, a state dict or a file are its linear layers and 3x3 convolutions in their order (.safetensors keeps none:
    that of the numbers in their names, or the only one that their sizes allow); the last one is taken for the
    classifier and left out, as in the paper; 1x1 convolutions (shortcuts) and vectors are passed over, and convolutions
    after the fourth. A recurrent nn.Module is read by `WeightSet.from_torch`.

    One dict a chain that both have: chain (1, 2, ...); cosine, <G_a, G_b> / (|G_a| |G_b|) of the chain Grams (arXiv
    2208.04369, eq. 18); centred, the same of Grams centred over the inputs (linear CKA between the two maps' rows,
    Kornblith et al. 2019); unit_columns, the cosine with columns of X_l brought to unit length, which also ignores
    positive rescaling between layers. Each lies in [0, 1] but for rounding, 0 where a chain is all zero. ValueError
    where there is nothing to compare, the inputs differ in size, or a network has diverged.
    """
    left, right = chains_of(a, "compare: a", backend), chains_of(b, "compare: b", backend)
    kernel = backends.load("chain_kernel", backend)

    def cosine(x: np.ndarray, y: np.ndarray) -> float:
        return float(kernel.chain_kernel(x, y, "factorised", True)[0, 0])

    found = []
    for chain in range(1, min(left.count, right.count) + 1):
        x, y = (each.factor(chain) for each in (left, right))
        if x.shape[1] != y.shape[1]:
            raise ValueError(
                f"compare: chain {chain} has d = {x.shape[1]} in a and {y.shape[1]} in b: of different inputs"
            )
        unit = [each.factor(chain, column_normalize=True) for each in (left, right)]
        centred = [z - z.mean(axis=1, keepdims=True, dtype=np.float64).astype(np.float32) for z in (x, y)]
        found.append(
            {"chain": chain, "cosine": cosine(x, y), "centred": cosine(*centred), "unit_columns": cosine(*unit)}
        )
    return found


def table(rows: list[dict[str, Any]]) -> str:
    """What compare found, for people."""
    head = f"{'chain':>5} " + " ".join(f"{title:>12}" for title in COLUMNS.values())
    return "\n".join([head, *(f"{r['chain']:>5} " + " ".join(f"{r[c]:>12.4f}" for c in COLUMNS) for r in rows)])


@dataclass(frozen=True)
class Chains:
    """One network's chains: how many, and factor(chain, column_normalize=False) -> X [1, d, r]."""

    count: int
    factor: Callable[..., np.ndarray]


def chains_of(network: Any, name: str, backend: str | None) -> Chains:
    """The chains of a network as `compare` takes it; name: for messages."""
    if any(hasattr(m, "weight_hh_l0") for m in getattr(network, "modules", tuple)()):
        network = WeightSet.from_torch([network])
    if isinstance(network, WeightSet):
        if len(network) != 1:
            raise ValueError(f"{name} must be one network, got a set of {len(network)} (zoo[i : i + 1])")
        if network.diverged.any():
            raise ValueError(f"{name} has diverged, its weights are compared with nothing (choose another network)")
        return Chains(len(network.network.chains), partial(chain_factor, network, backend=backend))
    weights = _weights(network, name)
    op = backends.load("chain_factor", backend)
    return Chains(len(weights), lambda chain, **options: op.host(op.chain_factor(weights[:chain], **options)))


def _weights(network: Any, name: str) -> list[np.ndarray]:
    """Weights that continue one another, each [1, n_in, ..., n_out] float32."""
    if isinstance(network, (str, Path)):
        state: Mapping[str, Any] = read_state(network, name)
        name = f"{name} ({network})"
    elif isinstance(network, Mapping):
        state = network
    elif hasattr(network, "state_dict"):
        state = network.state_dict()
    else:
        raise TypeError(f"{name} must be a module, state dict, file or WeightSet, got {type(network).__name__}")
    arrays = []
    for key, value in state.items():
        shape = tuple(np.shape(value))
        if is_link(shape):
            arrays.append(_input_first(value, f"{name}: {key}"))
        elif math.prod(shape[2:]) > 1:
            raise ValueError(f"{name}: {key} is {shape}, want linear layers and 3x3 convolutions")
    if len(arrays) < 2:
        raise ValueError(f"{name} has {len(arrays)} weights of linear layers or 3x3 convolutions, wanted 2 or more")
    chain = arrays[:1]
    for w in arrays[1:-1]:
        if w.shape[1] != chain[-1].shape[-1]:
            raise ValueError(
                f"{name}: weight {len(chain) + 1} takes {w.shape[1]} inputs, the one before it gives "
                f"{chain[-1].shape[-1]}: not a chain (of a recurrent network hand over the nn.Module)"
            )
        chain.append(w)
    return chain[:DEEPEST] if chain[0].ndim > 3 else chain


def _input_first(value: Any, what: str) -> np.ndarray:
    """torch's [n_out, n_in, ...] as [1, n_in, ..., n_out]; ValueError for what no network that works has."""
    w = float32_array(value, what)
    if not w.size or not np.abs(w).max() <= DIVERGED:  # a NaN fails every comparison
        raise ValueError(f"{what} must hold finite numbers of at most {DIVERGED:g} (has the network diverged?)")
    return np.ascontiguousarray(np.moveaxis(w, 0, -1))[None]
