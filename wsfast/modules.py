"""A declaration as an nn.Module with torch's own parameter names."""

from collections.abc import Mapping, Sequence

import numpy as np
import torch
from torch import nn

from .asymmetry import gate_matrix
from .declaration import Layer, Network


class LastStep(nn.Module):
    """The last time step of a recurrent layer's output: [B, T, H] -> [B, H]."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x[:, -1]


class GRU(nn.GRU):
    """A GRU layer that returns its outputs alone."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:  # type: ignore[override]
        return super().forward(x)[0]


class MeanPool(nn.Module):
    """Global average pool: [B, C, H, W] -> [B, C]."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x.mean(dim=(2, 3))


class FiGLU(nn.Module):
    """sigmoid(x F) * x over the features of [B, n] or the channels of [B, n, h, w]; F [n, n] is no parameter."""

    weight: torch.Tensor

    def __init__(self, weight: np.ndarray) -> None:
        super().__init__()
        self.register_buffer("weight", torch.from_numpy(weight), persistent=False)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.sigmoid((x.movedim(1, -1) @ self.weight).movedim(-1, 1)) * x


class Add(nn.Module):
    """The sum of two earlier outputs."""

    def forward(self, a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
        return a + b


class Residual(nn.Sequential):
    """A Sequential some of whose modules take other outputs than the one before: inputs, module name -> their names."""

    inputs: Mapping[str, Sequence[str]]

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        wanted = {name for names in self.inputs.values() for name in names}
        kept: dict[str, torch.Tensor] = {}
        for name, module in self.named_children():
            x = module(*(kept[i] for i in self.inputs[name])) if name in self.inputs else module(x)
            if name in wanted:
                kept[name] = x
        return x


def _linear(layer: Layer) -> nn.Module:
    n_in, n_out = layer.parameters[0].shape
    return nn.Linear(n_in, n_out, bias=len(layer.parameters) > 1)


def _conv(layer: Layer) -> nn.Module:
    n_in, size, _, n_out = layer.parameters[0].shape
    return nn.Conv2d(n_in, n_out, size, layer.options.get("stride", 1), size // 2)


def _batchnorm(layer: Layer) -> nn.Module:
    n = layer.parameters[0].shape[0]
    return nn.BatchNorm2d(n) if layer.options.get("images", True) else nn.BatchNorm1d(n)


def _gru(layer: Layer) -> nn.Module:
    n_in, _, hidden = layer.parameters[0].shape
    return GRU(n_in, hidden, batch_first=True)


MODULES = {
    "flatten": lambda layer: nn.Flatten(),
    "linear": _linear,
    "relu": lambda layer: nn.ReLU(),
    "leaky_relu": lambda layer: nn.LeakyReLU(layer.options["slope"]),
    "figlu": lambda layer: FiGLU(gate_matrix(**layer.options)),
    "conv": _conv,
    "batchnorm": _batchnorm,
    "add": lambda layer: Add(),
    "maxpool": lambda layer: nn.MaxPool2d(2),
    "mean_pool": lambda layer: MeanPool(),
    "gru": _gru,
    "last_step": lambda layer: LastStep(),
}


def to_module(network: Network, arrays: Mapping[str, np.ndarray]) -> nn.Module:
    """An nn.Sequential in eval mode with one network's parameters (our layout, float32); input [B, *input_shape]."""
    inputs = {layer.name: layer.inputs for layer in network.layers if layer.inputs}
    module = Residual() if inputs else nn.Sequential()
    if isinstance(module, Residual):
        module.inputs = inputs
    for layer in network.layers:
        module.add_module(layer.name, MODULES[layer.op](layer))
    state = {p.name: torch.from_numpy(p.to_torch(np.asarray(arrays[p.name], np.float32))) for p in network.parameters}
    unused = module.load_state_dict(state, strict=False)
    missing = [name for name in unused.missing_keys if not name.endswith("num_batches_tracked")]
    if missing or unused.unexpected_keys:
        raise ValueError(f"{network.name}: parameters do not fit: missing {missing}, unknown {unused.unexpected_keys}")
    return module.eval()
