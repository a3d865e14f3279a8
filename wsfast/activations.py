"""What hidden units answer: the activations of a set's networks over given inputs, by torch."""

from collections.abc import Sequence
from itertools import pairwise

import numpy as np
import torch
from torch.func import functional_call

from .declaration import Network
from .kernel_arguments import takes
from .modules import to_module
from .weights import WeightSet

COLUMNS = 4096  # (sample, position) pairs kept of a layer: images have thousands of positions a sample


def hidden_outputs(network: Network) -> dict[str, str | None]:
    """The outputs that weights further on take, by their layer's name, each with its units' permutation group.

    So a unit's activation is what the next layer sees, after BatchNorm, the residual sum and the pool.
    """
    found: dict[str, str | None] = {}
    weights = 0
    for before, layer in pairwise((network.layers[0], *network.layers)):
        if layer.parameters and len(layer.parameters[0].axes) > 1:
            if weights:
                found.setdefault(layer.inputs[0] if layer.inputs else before.name, layer.parameters[0].axes[0])
            weights += 1
    return found


def activations(
    zoo: WeightSet, inputs: np.ndarray | Sequence[np.ndarray], columns: int = COLUMNS
) -> dict[str, np.ndarray]:
    """Every network's activations of every layer of `hidden_outputs`: name -> float32 [N, units, M].

    inputs: [samples, *input_shape], or another shape that the network takes (`wsfast.kernel_arguments.takes`), or a
    list of such arrays (names of one length each). M runs over samples, and over the positions of images and the steps
    of names; evenly spaced ones are taken where there are more than `columns`. ValueError for inputs of another shape
    or not finite.
    """
    batches = [inputs] if isinstance(inputs, np.ndarray) else list(inputs)
    shape = zoo.network.input_shape
    if not batches:
        raise ValueError("inputs must be one array or more, got none")
    for batch in batches:
        if not isinstance(batch, np.ndarray):
            raise TypeError(
                f"inputs must be an array or a list of arrays, got {type(batch).__name__} among them (of tasks: "
                "wsfast.converging.sample_inputs)"
            )
        if batch.ndim < 2 or not len(batch) or not takes(zoo.network, batch.shape[1:]):
            raise ValueError(f"inputs must be [samples, {', '.join(map(str, shape))}], got {list(batch.shape)}")
        if not np.isfinite(batch).all():
            raise ValueError("inputs must be finite, got NaN or infinity among them")
    names = list(hidden_outputs(zoo.network))
    module = to_module(zoo.network, {p.name: np.zeros(p.shape) for p in zoo.network.parameters})
    kept: dict[str, torch.Tensor] = {}
    for name in names:
        module.get_submodule(name).register_forward_hook(
            lambda _module, _inputs, output, name=name: kept.__setitem__(name, output)
        )
    found: dict[str, np.ndarray] = {}
    for i in range(len(zoo)):
        state = {p.name: torch.from_numpy(p.to_torch(np.asarray(zoo.parameters[p.name][i]))) for p in
                 zoo.network.parameters}  # fmt: skip
        parts: dict[str, list[np.ndarray]] = {name: [] for name in names}
        for batch in batches:
            x = torch.from_numpy(np.asarray(batch, np.float32))
            with torch.no_grad():
                functional_call(module, state, x.flatten(1) if len(shape) == 1 else x)
            for name in names:
                units = kept[name].movedim(1 if kept[name].ndim == 4 else -1, 0)
                parts[name].append(units.reshape(len(units), -1).numpy())
        for name, listed in parts.items():
            whole = listed[0] if len(listed) == 1 else np.concatenate(listed, axis=1)
            if name not in found:
                found[name] = np.empty((len(zoo), len(whole), min(columns, whole.shape[1])), np.float32)
            found[name][i] = whole[:, _spread(whole.shape[1], columns)]
    return found


def _spread(n: int, most: int) -> np.ndarray | slice:
    return slice(None) if n <= most else np.linspace(0, n - 1, most).astype(np.int64)
