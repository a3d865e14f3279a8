"""Declarations of networks without the symmetries of hidden units, from those with them (Lim et al., NeurIPS 2024)."""

import math
from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING

import numpy as np

from .lazy import Lazy
from .reference import asymmetric, philox
from .seeds import whole_seed

if TYPE_CHECKING:
    from .declaration import Network, Parameter
    from .weights import WeightSet


def masked(net: "Network", shares: Sequence[float], kappas: Sequence[float], seed: int) -> "Network":
    """net with W-asymmetric weights: of the inputs of every unit of weight k, shares[k] (at least one) are fixed.

    Fixed entries are kappas[k] N(0, 1); only the others are trained. Biases are free. ValueError where a layer is too
    small for its units to differ, a share is not in [0, 1], or a kappa not finite.
    """
    if not all(0 <= share <= 1 for share in shares) or not np.isfinite(kappas).all():
        raise ValueError(f"{net.name}: want shares in [0, 1] and a finite kappa, got {shares} and {kappas}")
    weighted = [k for k, layer in enumerate(net.layers) if layer.op in ("linear", "conv")]
    layers = list(net.layers)
    for k, share, kappa in zip(weighted, shares, kappas, strict=True):
        weight, *rest = layers[k].parameters
        fan_in, n_out = _matrix(weight)
        fixed = max(1, round(share * fan_in))
        if math.comb(fan_in, fixed) < n_out:
            raise ValueError(
                f"{net.name}: {weight.name} is too small: its {n_out} units cannot each have other {fixed} of {fan_in} "
                "inputs fixed (a wider network)"
            )
        weight = replace(weight, fixed=fixed, kappa=float(kappa), seed=whole_seed(net.name, seed))
        layers[k] = replace(layers[k], parameters=(weight, *rest))
    return replace(net, layers=tuple(layers))


def gated(net: "Network", seed: int) -> "Network":
    """net with FiGLU, sigmoid(z F) * z, for every activation; reordering units is no symmetry: no axis has a group."""
    layers, units, seed, images = [], 0, whole_seed(net.name, seed), any(layer.op == "conv" for layer in net.layers)
    for k, layer in enumerate(net.layers):
        if layer.op in ("linear", "conv"):
            units = layer.parameters[0].shape[-1]
        if layer.op in ("relu", "leaky_relu"):
            scale = 1 / math.sqrt(units) if images else 1.0
            layer = replace(layer, op="figlu", options={"units": units, "scale": scale, "seed": seed, "item": k})
        alone = tuple(replace(p, axes=(None,) * len(p.axes)) for p in layer.parameters)
        layers.append(replace(layer, parameters=alone))
    return replace(net, layers=tuple(layers))


def _matrix(p: "Parameter") -> tuple[int, int]:
    """(inputs, units) of a weight."""
    return p.size // p.shape[-1], p.shape[-1]


def fixed_entries(net: "Network") -> tuple[np.ndarray, np.ndarray]:
    """(positions int64 [F], ascending, in all parameters end to end; their values float32 [F])."""
    at, to, start = [np.empty(0, np.int64)], [np.empty(0, np.float32)], 0
    for item, p in enumerate(net.parameters):
        if p.fixed:
            fan_in, n_out = _matrix(p)
            rows = asymmetric.fixed_inputs(fan_in, n_out, p.fixed, p.seed, item)
            places = (rows * n_out + np.arange(n_out)[:, None]).ravel()
            order = np.argsort(places)
            values = p.kappa * asymmetric.normal(len(places), p.seed, philox.FIXED, item)
            at.append(start + places[order])
            to.append(values[order].astype(np.float32))
        start += p.size
    return np.concatenate(at), np.concatenate(to)


def free_weights(zoo: "WeightSet") -> "WeightSet":
    """The same networks with zeros for fixed entries, which are equal in all of them and no features.

    Numbers of parameters that have fixed entries are read when NumPy asks for them.
    """
    at, start, parameters = fixed_entries(zoo.network)[0], 0, dict(zoo.parameters)
    for p in zoo.network.parameters:
        if p.fixed:
            own = at[(at >= start) & (at < start + p.size)] - start
            read = partial(_free, zoo.parameters[p.name], own)
            parameters[p.name] = Lazy(read, p.shape, np.arange(len(zoo)))  # type: ignore[assignment]  # as an array
        start += p.size
    return replace(zoo, parameters=parameters)


def _free(array: np.ndarray, fixed: np.ndarray, rows: np.ndarray) -> np.ndarray:
    out = np.array(array[rows], np.float32)
    out.reshape(len(rows), -1)[:, fixed] = 0
    return out


def gates(net: "Network") -> tuple[np.ndarray, np.ndarray]:
    """(where F of each layer's FiGLU starts, int64 [L], -1 where it has none; every F end to end, float32).

    Layers are the linear ones, or in a network with convolutions its units, which these begin; a shortcut's takes
    another input than the output before it.
    """
    found: list[np.ndarray] = []
    at: list[int] = []
    first = "conv" if any(layer.op == "conv" for layer in net.layers) else "linear"
    for layer in net.layers:
        if layer.op == first and not layer.inputs:
            at.append(-1)
        elif layer.op == "figlu":
            at[-1] = sum(f.size for f in found)
            found.append(gate_matrix(**layer.options).ravel())
    return np.array(at, np.int64), np.concatenate([np.empty(0, np.float32), *found])


def gate_matrix(units: int, scale: float, seed: int, item: int) -> np.ndarray:
    """F of a FiGLU layer from its options: float32 [units, units], input first."""
    return (scale * asymmetric.normal(units**2, seed, philox.GATE, item)).astype(np.float32).reshape(units, units)
