"""Declarations of whole families: fully connected networks, and convolutional ones made of units."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from .declaration import Layer, Network, activation, batchnorm, conv, linear

DEEPEST = 4  # chain of convolutions: d grows ninefold with each, to 19,683 from three channels, then 177,147


def mlp(
    input_shape: tuple[int, ...],
    classes: int,
    widths: tuple[int, ...],
    slope: float = 0.0,
    last_slope: float = 1.0,
    name: str = "mlp",
) -> Network:
    """A fully connected network; slope 0 is ReLU, 0.01 LeakyReLU, 1 no activation; last_slope is the output layer's."""
    layers = len(widths) + 1
    slopes = (*(slope,) * (layers - 1), last_slope)
    options = {"widths": tuple(widths), "slope": slope, "last_slope": last_slope}
    return fully_connected(input_shape, classes, widths, slopes, (0,) * layers, (-1,) * layers, name, options)


def fully_connected(
    input_shape: tuple[int, ...],
    classes: int,
    widths: tuple[int, ...],
    slopes: Sequence[float],
    norms: Sequence[int],
    adds: Sequence[int],
    name: str = "fully-connected",
    options: Mapping[str, Any] | None = None,
) -> Network:
    """A fully connected network with BatchNorm and residual sums, as `wsfast.reference.mlp` defines it.

    slopes, norms, adds [L]: layer k (from 0) has the activation of slopes[k], BatchNorm after it where norms[k], and
    adds the output of layer adds[k] < k where that is not -1. Layers whose outputs are added share a permutation group.
    """
    sizes = (math.prod(input_shape), *widths, classes)
    first: list[int] = []  # of the layers that share layer k's group, the first
    for k, j in enumerate(adds):
        if not -1 <= j < k or (j >= 0 and sizes[j + 1] != sizes[k + 1]):
            raise ValueError(f"{name}: layer {k} adds the output of layer {j}, want an earlier layer of the same size")
        first.append(first[j] if j >= 0 else k)
    groups = [None, *(None if f == first[-1] else f"hidden{f + 1}" for f in first)]
    layers = [Layer("flatten", "flatten")] if len(input_shape) > 1 else []
    output: list[str] = []
    for k in range(1, len(sizes)):
        layers.append(linear(f"fc{k}", sizes[k - 1], sizes[k], groups[k - 1], groups[k]))
        layers += activation(f"act{k}", slopes[k - 1])
        if norms[k - 1]:
            layers.append(batchnorm(f"bn{k}", sizes[k], groups[k], images=False))
        if adds[k - 1] >= 0:
            layers.append(Layer(f"add{k}", "add", inputs=(layers[-1].name, output[adds[k - 1]])))
        output.append(layers[-1].name)
    weights = tuple(f"fc{k}.weight" for k in range(1, len(sizes)))
    chains = tuple(weights[:k] for k in range(1, max(2, len(weights))))
    if options is None:
        options = {"widths": tuple(widths), "slopes": tuple(slopes), "norms": tuple(norms), "adds": tuple(adds)}
    return Network(name, tuple(input_shape), classes, tuple(layers), chains, options)


def plainnet(
    input_shape: tuple[int, ...],
    classes: int,
    channels: Sequence[int],
    slope: float = 0.0,
    norm_last: bool = False,
    name: str = "plainnet",
    options: Mapping[str, Any] | None = None,
) -> Network:
    """Units of (3x3 convolution, BatchNorm, activation, 2x2 max pool) to `channels`; global mean pool; linear layer.

    norm_last: BatchNorm after the activation. Chain l = 1 .. 4 multiplies the first l convolutions.
    """
    units = [Unit(n, slope, pool=True, norm_last=norm_last) for n in channels]
    if options is None:
        options = {"channels": tuple(channels), "slope": slope, "norm_last": norm_last}
    return convolutional(input_shape, classes, units, name, options)


@dataclass(frozen=True)
class Unit:
    """A 3x3 convolution to `channels`, BatchNorm, an activation of this slope, maybe a 2x2 max pool.

    norm_last: BatchNorm after the activation. shortcut: a 1x1 convolution of the unit's input, with BatchNorm of its
    own, is added before the activation.
    """

    channels: int
    slope: float = 0.0
    stride: int = 1
    pool: bool = False
    norm_last: bool = False
    shortcut: bool = False


def convolutional(
    input_shape: tuple[int, ...],
    classes: int,
    units: Sequence[Unit],
    name: str = "convolutional",
    options: Mapping[str, Any] | None = None,
) -> Network:
    """Units one after the other, global mean pool, a linear layer: what `wsfast.reference.cnn` trains.

    A unit's convolution, BatchNorm and shortcut share a permutation group; shortcuts are no part of a chain, and the
    first four units alone have chains. ValueError for images that the pools leave nothing of, and for a shortcut
    without a unit before it or with norm_last.
    """
    least = smallest_image(units)
    if len(input_shape) != 3 or min(input_shape[1:]) < least:
        raise ValueError(
            f"{name}: images must be [channels, height, width] of {least}x{least} or more, got {input_shape}"
        )
    layers: list[Layer] = []
    n_in, group_in = input_shape[0], None
    for k, unit in enumerate(units, start=1):
        if unit.shortcut and (k == 1 or unit.norm_last):
            raise ValueError(
                f"{name}: unit {k} has a shortcut, want a unit before it and BatchNorm before its activation"
            )
        n, group, stride = unit.channels, f"hidden{k}", unit.stride
        before = (layers[-1].name,) if layers else ()
        norm, bend = [batchnorm(f"bn{k}", n, group)], activation(f"act{k}", unit.slope)
        layers.append(conv(f"conv{k}", n_in, n, group_in, group, stride=stride))
        if unit.shortcut:
            side = conv(f"shortcut{k}", n_in, n, group_in, group, size=1, stride=stride, inputs=before)
            norm += [side, batchnorm(f"shortcut_bn{k}", n, group)]
            norm.append(Layer(f"add{k}", "add", inputs=(norm[0].name, norm[2].name)))
        layers += bend + norm if unit.norm_last else norm + bend
        layers += [Layer(f"pool{k}", "maxpool")] if unit.pool else []
        n_in, group_in = n, group
    layers += [Layer("gap", "mean_pool"), linear("fc", n_in, classes, group_in, None)]
    weights = tuple(f"conv{k}.weight" for k in range(1, len(units) + 1))
    chains = tuple(weights[:k] for k in range(1, min(len(weights), DEEPEST) + 1))
    if options is None:
        options = {"units": tuple(asdict(unit) for unit in units)}
    return Network(name, tuple(input_shape), classes, tuple(layers), chains, options)


def smallest_image(units: Sequence[Unit]) -> int:
    """Height and width of the smallest image of which the units leave one position."""
    size = 1
    for unit in reversed(units):
        size = ((2 * size if unit.pool else size) - 1) * unit.stride + 1
    return size
