"""Anyone's own fully connected networks as a weight set: from matrices, state dicts, files."""

import re
import zipfile
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from .declaration import Network
from .families import mlp

SUFFIXES = (".safetensors", ".npz", ".pt", ".pth", ".ckpt")


def read_state(path: str | Path, caller: str) -> dict[str, np.ndarray]:
    """A file's state dict, names in natural order (fc2 before fc10): .safetensors, .npz, or torch's .pt, .pth, .ckpt.

    Nothing is unpickled but what torch's weights_only admits. ValueError where the file cannot be read so.
    """
    path = Path(path)
    if not path.is_file():
        raise ValueError(f"{caller}: {path} is not a file")
    if path.suffix not in SUFFIXES:
        raise ValueError(f"{caller}: {path} must be one of {', '.join(SUFFIXES)}")
    state = {".safetensors": _safetensors, ".npz": _npz}.get(path.suffix, _torch)(path, caller)
    return {
        name: state[name]
        for name in sorted(state, key=lambda n: [(t.isdigit(), int(t) if t.isdigit() else t) for t in _pieces(n)])
    }


def _pieces(name: str) -> list[str]:
    return re.split(r"(\d+)", name)


def _safetensors(path: Path, caller: str) -> dict[str, np.ndarray]:
    from safetensors import SafetensorError
    from safetensors.numpy import load_file

    try:
        return load_file(path)
    except SafetensorError as error:
        raise ValueError(f"{caller}: {path} cannot be read as safetensors: {error}") from error


def _npz(path: Path, caller: str) -> dict[str, np.ndarray]:
    try:
        with np.load(path, allow_pickle=False) as file:
            return {name: file[name] for name in file.files}
    except (ValueError, OSError, zipfile.BadZipFile) as error:
        raise ValueError(f"{caller}: {path} cannot be read as npz: {error}") from error


def _torch(path: Path, caller: str) -> dict[str, np.ndarray]:
    import pickle

    import torch

    try:
        held = torch.load(path, map_location="cpu", weights_only=True)
    except (pickle.UnpicklingError, RuntimeError, EOFError) as error:
        raise ValueError(f"{caller}: {path} cannot be read with torch's weights_only: {error}") from error
    if isinstance(held, Mapping) and isinstance(held.get("state_dict"), Mapping):
        held = held["state_dict"]
    if not isinstance(held, Mapping) or not all(isinstance(v, torch.Tensor) for v in held.values()):
        raise ValueError(f"{caller}: {path} holds {type(held).__name__}, want a state dict of tensors")
    return {str(name): tensor.float().numpy() for name, tensor in held.items()}


def from_matrices(weights: Sequence[Any], biases: Sequence[Any] | None = None) -> tuple[Network, dict[str, np.ndarray]]:
    """A declaration and parameters from W_1 .. W_L, each [N, n_in, n_out], and b_1 .. b_L [N, n_out] or none."""
    arrays = [np.asarray(w, np.float32) for w in weights]
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
    for k, (b, w) in enumerate(zip(biases, arrays, strict=True), 1):
        if np.shape(b) != (len(w), w.shape[2]):
            raise ValueError(f"from_arrays: bias {k} must be {(len(w), w.shape[2])}, got {np.shape(b)}")
        parameters[f"fc{k}.bias"] = np.asarray(b, np.float32)
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
    return from_matrices(weights, None if all(b is None for _, b in layers[0]) else biases)


def _outline(layers: list[tuple[np.ndarray, np.ndarray | None]]) -> str:
    biases = sum(bias is not None for _, bias in layers)
    return f"{len(layers)} layers, {len(layers[0][0])} inputs, {layers[-1][0].shape[1]} outputs, {biases} biases"


def _linear_layers(state: Mapping[str, Any], name: str) -> list[tuple[np.ndarray, np.ndarray | None]]:
    """[(weight [n_in, n_out], bias [n_out] or None)] of a state dict that holds linear layers alone."""
    found: list[tuple[np.ndarray, np.ndarray | None]] = []
    arrays = {key: np.asarray(value, np.float32) for key, value in state.items()}
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


def find_files(folder: str | Path) -> tuple[list[Path], np.ndarray, tuple[str, ...]]:
    """(files, labels, names): networks of a folder, labelled by the subfolder that holds them where there are any."""
    folder = Path(folder).expanduser()
    if not folder.is_dir():
        raise ValueError(f"from_files: {folder} is not a folder")
    groups = sorted(p for p in folder.iterdir() if p.is_dir() and any(_networks(p)))
    if not groups:
        files = _networks(folder)
        if not files:
            raise ValueError(f"from_files: {folder} holds no {', '.join(SUFFIXES)} file")
        return files, np.zeros(len(files), np.int64), ()
    files = [file for group in groups for file in _networks(group)]
    labels = np.repeat(np.arange(len(groups)), [len(_networks(group)) for group in groups])
    return files, labels, tuple(group.name for group in groups)


def _networks(folder: Path) -> list[Path]:
    found = (p for p in folder.iterdir() if p.is_file() and p.suffix in SUFFIXES)
    return sorted(found, key=lambda p: [(t.isdigit(), int(t) if t.isdigit() else t) for t in _pieces(p.name)])
