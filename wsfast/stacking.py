"""Anyone's own fully connected networks as a weight set: from matrices and state dicts."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from .declaration import Network
from .families import mlp


def float32_array(value: Any, what: str) -> np.ndarray:
    """A tensor or array as a new float32 array; what: for messages.

    Tensors may need gradients, be sparse, quantised or bfloat16, on any device. ValueError for complex numbers, for
    what are no numbers, and for float8, whose scales lie elsewhere.
    """
    if hasattr(value, "detach"):  # torch's
        if value.is_meta:
            raise ValueError(f"{what} is a meta tensor, it has a shape but no numbers")
        if value.is_complex() or "float8" in str(value.dtype):
            raise ValueError(f"{what} must hold real numbers of 16 bits or more, got {value.dtype}")
        value = value.detach().cpu()
        value = (value.dequantize() if value.is_quantized else value.to_dense()).float()
    array = np.asarray(value)
    if not np.can_cast(array.dtype, np.float32, "same_kind"):
        raise ValueError(f"{what} must hold real numbers, got {array.dtype}")
    return np.array(array, np.float32, order="C")


def from_matrices(weights: Sequence[Any], biases: Sequence[Any] | None = None) -> tuple[Network, dict[str, np.ndarray]]:
    """A declaration and copies of W_1 .. W_L, each [N, n_in, n_out], and of b_1 .. b_L [N, n_out] or none."""
    arrays = [float32_array(w, f"from_arrays: matrix {k}") for k, w in enumerate(weights, 1)]
    if biases is None:
        return _declared(arrays, None)
    return _declared(arrays, [float32_array(b, f"from_arrays: bias {k}") for k, b in enumerate(biases, 1)])


def _declared(arrays: list[np.ndarray], biases: list[np.ndarray] | None) -> tuple[Network, dict[str, np.ndarray]]:
    if len(arrays) < 2:
        raise ValueError(f"from_arrays: want 2 matrices or more (the last is the classifier), got {len(arrays)}")
    for k, w in enumerate(arrays, 1):
        if w.ndim != 3 or 0 in w.shape:
            raise ValueError(f"from_arrays: matrix {k} must be [N, n_in, n_out], got {w.shape}")
        if len(w) != len(arrays[0]):
            raise ValueError(f"from_arrays: matrix {k} is of {len(w)} networks, matrix 1 of {len(arrays[0])}")
        if k > 1 and w.shape[1] != arrays[k - 2].shape[2]:
            raise ValueError(
                f"from_arrays: matrix {k} takes {w.shape[1]} inputs, matrix {k - 1} gives {arrays[k - 2].shape[2]} "
                "(want [N, n_in, n_out], the transpose of torch's weight)"
            )
    sizes = [arrays[0].shape[1], *(w.shape[2] for w in arrays)]
    net = mlp((sizes[0],), sizes[-1], tuple(sizes[1:-1]), name="imported")
    parameters = {f"fc{k}.weight": w for k, w in enumerate(arrays, 1)}
    if biases is None:
        layers = (replace(v, parameters=v.parameters[:1]) if v.op == "linear" else v for v in net.layers)
        return replace(net, layers=tuple(layers)), parameters
    if len(biases) != len(arrays):
        raise ValueError(f"from_arrays: want a bias for each of {len(arrays)} matrices, got {len(biases)}")
    for k, (b, w) in enumerate(zip(biases, arrays, strict=True), 1):
        if b.shape != (len(w), w.shape[2]):
            raise ValueError(f"from_arrays: bias {k} must be {(len(w), w.shape[2])}, got {b.shape}")
        parameters[f"fc{k}.bias"] = b
    return net, {p.name: parameters[p.name] for p in net.parameters}


def from_states(states: Sequence[Mapping[str, Any]], names: Sequence[str]) -> tuple[Network, dict[str, np.ndarray]]:
    """A declaration and parameters from state dicts of linear layers in their order; names: for messages.

    Hidden widths may differ: narrower networks get units whose weights are all zero, which changes neither their
    outputs nor their chain Grams.
    """
    if not states:
        raise ValueError("from_states: want one network or more, got none")
    layers = [_linear_layers(state, name) for state, name in zip(states, names, strict=True)]
    for own, name in zip(layers, names, strict=True):
        if _outline(own) != _outline(layers[0]):
            raise ValueError(f"from_states: {name} has {_outline(own)}; {names[0]} has {_outline(layers[0])}")
    depth = len(layers[0])
    widths = [max(own[k][0].shape[1] for own in layers) for k in range(depth)]
    weights, biases = [], []
    for k in range(depth):
        n_in = layers[0][0][0].shape[0] if k == 0 else widths[k - 1]
        w, b = np.zeros((len(layers), n_in, widths[k]), np.float32), np.zeros((len(layers), widths[k]), np.float32)
        for i, own in enumerate(layers):
            weight, bias = own[k]
            w[i, : weight.shape[0], : weight.shape[1]] = weight
            b[i, : weight.shape[1]] = 0 if bias is None else bias
        weights.append(w)
        biases.append(b)
    return _declared(weights, None if all(b is None for _, b in layers[0]) else biases)


def _outline(layers: list[tuple[np.ndarray, np.ndarray | None]]) -> str:
    biases = sum(bias is not None for _, bias in layers)
    return f"{len(layers)} layers, {len(layers[0][0])} inputs, {layers[-1][0].shape[1]} outputs, {biases} biases"


def _linear_layers(state: Mapping[str, Any], name: str) -> list[tuple[np.ndarray, np.ndarray | None]]:
    """[(weight [n_in, n_out], bias [n_out] or None)] of a state dict that holds linear layers alone."""
    found: list[tuple[np.ndarray, np.ndarray | None]] = []
    arrays = {key: float32_array(value, f"from_states: {name}: {key}") for key, value in state.items()}
    for key, array in arrays.items():
        stem, _, kind = key.rpartition(".")
        weight = arrays.get(f"{stem}.weight")
        if kind == "weight" and array.ndim == 2:
            bias = arrays.get(f"{stem}.bias")
            if bias is not None and bias.shape != array.shape[:1]:
                raise ValueError(f"from_states: {name}: {stem}.bias must be {array.shape[:1]}, got {bias.shape}")
            if found and array.shape[1] != found[-1][0].shape[1]:
                raise ValueError(
                    f"from_states: {name}: {key} takes {array.shape[1]} inputs, the layer before it gives "
                    f"{found[-1][0].shape[1]}"
                )
            found.append((array.T, bias))
        elif kind != "bias" or weight is None or weight.ndim != 2:
            raise ValueError(
                f"from_states: {name}: cannot read {key} {array.shape}; a state dict must hold linear layers alone "
                "(hand over the nn.Module instead: from_torch reads more)"
            )
    if not found:
        raise ValueError(f"from_states: {name} has no linear layer")
    return found
