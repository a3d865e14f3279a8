"""Convolutional torch networks as a declaration."""

from dataclasses import replace
from typing import Any

from torch import nn

from .declaration import Network
from .families import Unit, convolutional, smallest_image
from .kernel_arguments import UNITS
from .modules import Add, MeanPool
from .reference.batchnorm import EPS

SKIPPED = (nn.Sequential, nn.Identity, nn.Dropout, nn.Dropout2d)  # containers, and what eval mode passes through
SIZE = 32  # of the declared images: a model with a global mean pool does not say
OPS = {
    nn.Conv2d: "conv",
    nn.BatchNorm2d: "batchnorm",
    nn.ReLU: "act",
    nn.LeakyReLU: "act",
    Add: "add",
    nn.MaxPool2d: "maxpool",
    nn.AdaptiveAvgPool2d: "mean_pool",
    MeanPool: "mean_pool",
    nn.Flatten: "flatten",
    nn.Linear: "linear",
}
WHOLE = {*UNITS, *((*unit, "maxpool") for unit in UNITS)}
ENDS = {("mean_pool", "linear"), ("mean_pool", "flatten", "linear")}


def read_cnn(model: nn.Module, where: str) -> tuple[Network, list[nn.Module]]:
    """The declaration (`wsfast.families.convolutional`) of a model, and the modules that hold its parameters.

    Modules are read in their order: units of Conv2d 3x3, BatchNorm2d and activation in either order, maybe MaxPool2d,
    then AdaptiveAvgPool2d(1), Flatten, Linear. The declared images are 32x32, or larger where the pools need it.
    ValueError names the layer that does not fit.
    """
    units: list[Unit] = []
    channels: list[int] = []  # of the images and of every unit
    sources: list[nn.Module] = []
    classes = 0
    ops: tuple[str, ...] = ()  # of the unit that is being read
    leaves = [(name, m) for name, m in model.named_modules(remove_duplicate=False) if not list(m.children())]
    for name, module in leaves:
        if isinstance(module, SKIPPED):
            continue
        op = OPS.get(type(module), "")
        begins = not ops or (ops in WHOLE and op in ("conv", "mean_pool"))
        after, ops = ops, (op,) if begins else (*ops, op)
        if any(ops == whole[: len(ops)] for whole in WHOLE | ENDS):
            wrong = _misfit(module, begins, channels, units)
        else:
            wrong = f"it follows {', '.join(after) or 'nothing'}" if op else "no such layer is known here"
        if wrong:
            raise ValueError(
                f"from_torch: {where}: cannot read layer {name!r} ({type(module).__name__}): {wrong}; want units of "
                "Conv2d, BatchNorm2d, ReLU or LeakyReLU, maybe MaxPool2d, then AdaptiveAvgPool2d(1), Flatten, Linear"
            )
        if isinstance(module, nn.Conv2d) and begins:
            channels += [module.out_channels] if channels else [module.in_channels, module.out_channels]
            units.append(Unit(module.out_channels, stride=module.stride[0]))
        elif op == "act":
            units[-1] = replace(units[-1], slope=getattr(module, "negative_slope", 0.0))
        elif op == "batchnorm" and after == ("conv", "act"):
            units[-1] = replace(units[-1], norm_last=True)
        elif op == "add":
            units[-1] = replace(units[-1], shortcut=True)
        elif op == "maxpool":
            units[-1] = replace(units[-1], pool=True)
        elif isinstance(module, nn.Linear):
            classes = module.out_features
        if isinstance(module, (nn.Conv2d, nn.BatchNorm2d, nn.Linear)):
            sources.append(module)
    if ops not in ENDS:
        raise ValueError(
            f"from_torch: {where} ends after {ops[-1]}; want AdaptiveAvgPool2d(1), Flatten, Linear at its end"
        )
    size = max(SIZE, smallest_image(units))
    return convolutional((channels[0], size, size), classes, units), sources


def _misfit(module: nn.Module, begins: bool, channels: list[int], units: list[Unit]) -> str:
    """What keeps a layer from the place it stands at, "" where it fits. begins: it is the first of a unit."""
    wanted: dict[str, Any] = {}
    if isinstance(module, nn.Conv2d):
        size, stride = (3, module.stride[0]) if begins else (1, units[-1].stride)
        wanted = {"kernel_size": size, "stride": stride, "padding": size // 2, "dilation": 1, "groups": 1}
        wanted |= {"padding_mode": "zeros", "in_channels": channels[-1 if begins else -2] if channels else None}
        wanted |= {} if begins else {"out_channels": channels[-1]}
    elif isinstance(module, nn.BatchNorm2d):
        wanted = {"num_features": channels[-1], "track_running_stats": True, "eps": EPS}
    elif isinstance(module, nn.MaxPool2d):
        wanted = {"kernel_size": 2, "stride": 2, "padding": 0, "dilation": 1, "ceil_mode": False}
    elif isinstance(module, nn.AdaptiveAvgPool2d):
        wanted = {"output_size": 1}
    elif isinstance(module, nn.Linear):
        wanted = {"in_features": channels[-1]}
    for name, want in wanted.items():
        if want is not None and (got := getattr(module, name)) not in (want, (want, want), "same"):
            return f"{name} {got}, want {want}"
    return ""
