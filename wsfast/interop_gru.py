"""Recurrent torch networks as a declaration."""

from types import SimpleNamespace
from typing import Any

from torch import nn

from .architectures import gru2
from .declaration import Network
from .interop_cnn import SKIPPED
from .modules import LastStep

STEPS = 20  # of the declared input: a recurrent model takes sequences of any length


def read_gru(model: nn.Module, where: str) -> tuple[Network, list[Any]]:
    """The declaration (`wsfast.architectures.gru2`) of a model, and what holds the parameters of its layers.

    Modules are read in their order: one nn.GRU of two layers or two of one layer, of one width, then Linear; the model
    takes [B, steps, alphabet] and classifies from the last step. ValueError names the layer that does not fit.
    """
    layers: list[Any] = []
    head: nn.Linear | None = None
    for name, module in model.named_modules(remove_duplicate=False):
        if list(module.children()) or isinstance(module, (*SKIPPED, LastStep)):
            continue
        wrong = _misfit(module, layers, head)
        if wrong:
            raise ValueError(
                f"from_torch: {where}: cannot read layer {name!r} ({type(module).__name__}): {wrong}; want two GRU "
                "layers of one width, in one nn.GRU or two, and a Linear"
            )
        if isinstance(module, nn.GRU):
            layers += [_layer(module, k) for k in range(module.num_layers)]
        else:
            head = module
    if head is None or len(layers) != 2:
        raise ValueError(f"from_torch: {where} has {len(layers)} GRU layers, want two and a Linear after them")
    first = layers[0].module
    return gru2((STEPS, first.input_size), head.out_features, first.hidden_size), [*layers, head]


def _layer(module: nn.GRU, k: int) -> SimpleNamespace:
    """Layer k of a module with the names that a layer of its own would have."""
    names = ("weight_ih", "weight_hh", "bias_ih", "bias_hh")
    return SimpleNamespace(module=module, **{f"{name}_l0": getattr(module, f"{name}_l{k}") for name in names})


def _misfit(module: nn.Module, layers: list[Any], head: nn.Linear | None) -> str:
    """What keeps a layer from the place it stands at, "" where it fits."""
    if head is not None:
        return "it follows the Linear"
    if isinstance(module, nn.Linear):
        if not layers:
            return "it stands before the GRU"
        wanted = {"in_features": layers[-1].module.hidden_size}
    elif isinstance(module, nn.GRU):
        wanted = {"bidirectional": False, "bias": True, "proj_size": 0}
        if len(layers) + module.num_layers > 2:
            return f"num_layers {module.num_layers} after {len(layers)}"
        if layers:
            width = layers[-1].module.hidden_size
            wanted |= {"input_size": width, "hidden_size": width}
    else:
        return "no such layer is known here"
    for name, want in wanted.items():
        if (got := getattr(module, name)) != want:
            return f"{name} {got}, want {want}"
    return ""
