"""What a training op takes of a declaration: sizes and flags of its layers, None for what the op does not train."""

import math
from itertools import pairwise

import numpy as np

from .architectures import gru2
from .declaration import Network
from .families import Unit, smallest_image
from .taskset import TaskSet


def gru_width(net: Network) -> int | None:
    """Hidden units of a network whose layers are gru2's, as `wsfast.reference.gru` trains it; None for others."""
    if len(net.input_shape) != 2 or net.layers[0].op != "gru":
        return None
    width = net.layers[0].parameters[0].shape[-1]
    return width if net.layers == gru2(net.input_shape, net.classes, width).layers else None


def refuse_empty_names(op: str, tasks: TaskSet) -> None:
    """ValueError for a name without a letter: a recurrent network has no last step on it."""
    empty = tasks.x[:, 0] >= tasks.shape[1]
    if empty.any():
        raise ValueError(f"{op}: name {int(np.argmax(empty))} of {tasks.name} has no letter")


def mlp_layers(net: Network) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray] | None:
    """(sizes int64 [L + 1], slopes float32, norms int64, adds int64 [L]) as `wsfast.reference.mlp` takes them.

    The slope of a layer with FiGLU is 1. None for what is not a chain of linear layers with biases, each followed by at
    most an activation, BatchNorm and the sum with the output of an earlier one, in this order, or by FiGLU alone.
    """
    sizes = [math.prod(net.input_shape)]
    slopes: list[float] = []
    norms: list[int] = []
    adds: list[int] = []
    finished: dict[str, int] = {}  # name of an output that may be added -> its layer
    steps, before = ("linear", "relu", "leaky_relu", "figlu", "batchnorm", "add"), ""
    reached, alone = len(steps), [steps.index("leaky_relu"), steps.index("figlu")]  # follow a linear layer directly
    for layer in net.layers:
        if layer.op == "flatten" and not sizes[1:]:
            continue
        if layer.op not in steps or (layer.inputs and layer.op != "add"):
            return None
        step = steps.index(layer.op)
        if layer.op == "linear" and len(layer.parameters) != 2:
            return None
        if layer.op == "linear":
            if slopes:
                finished[before] = len(slopes) - 1
            sizes.append(layer.parameters[0].shape[1])
            slopes.append(1.0)
            norms.append(0)
            adds.append(-1)
        elif not slopes or step <= reached or (step in alone and reached > 0) or reached == alone[-1]:
            return None
        elif layer.op == "batchnorm":
            norms[-1] = 1
        elif layer.op == "add":
            earlier = [finished[name] for name in layer.inputs if name != before and name in finished]
            if len(layer.inputs) != 2 or before not in layer.inputs or len(earlier) != 1:
                return None
            adds[-1] = earlier[0]
        elif layer.op != "figlu":
            slopes[-1] = layer.options.get("slope", 0.0)
        reached, before = step, layer.name
    return (
        np.array(sizes, np.int64),
        np.array(slopes, np.float32),
        np.array(norms, np.int64),
        np.array(adds, np.int64),
    )


NORM_FIRST = ("conv", "batchnorm", "act")
NORM_LAST = ("conv", "act", "batchnorm")
RESIDUAL = ("conv", "batchnorm", "conv", "batchnorm", "add", "act")
UNITS = (NORM_FIRST, NORM_LAST, RESIDUAL)  # a unit's layers, before its pool
SLOPES = {"relu": 0.0, "leaky_relu": 0.0, "figlu": 1.0}  # its activations; a leaky one says its own


def cnn_layers(net: Network) -> tuple[np.ndarray, ...] | None:
    """(sizes int64 [L + 2], slopes float32, strides, norm_last, pools, shortcuts int64 [L]) as `wsfast.reference.cnn`.

    sizes: channels of the image and of every unit, then the classes. The slope of a unit with FiGLU is 1. None for what
    is not `convolutional`, but for FiGLU in place of an activation behind BatchNorm.
    """
    *layers, gap, last = net.layers
    starts = [i for i, layer in enumerate(layers) if layer.op == "conv" and layer.parameters[0].shape[1] == 3]
    if (gap.op, last.op) != ("mean_pool", "linear") or len(last.parameters) != 2 or starts[:1] != [0]:
        return None
    sizes, units = [net.input_shape[0]], []
    before: tuple[str, ...] = ()
    for start, end in pairwise([*starts, len(layers)]):
        unit = layers[start:end]
        pool = unit[-1].op == "maxpool"
        body = unit[:-1] if pool else unit
        ops = tuple("act" if layer.op in SLOPES else layer.op for layer in body)
        if ops not in UNITS:
            return None
        act = body[ops.index("act")]
        slope = act.options.get("slope", SLOPES[act.op])
        if slope < 0 or (act.op == "figlu" and ops == NORM_LAST):
            return None
        wanted: list[tuple[str, ...]] = [()] * len(ops)
        stride = unit[0].options.get("stride", 1)
        if ops == RESIDUAL:
            wanted[2], wanted[4] = before, (unit[1].name, unit[3].name)
            if unit[2].parameters[0].shape[1] != 1 or unit[2].options.get("stride", 1) != stride:
                return None
        if [layer.inputs for layer in body] != wanted:
            return None
        sizes.append(unit[0].parameters[0].shape[-1])
        units.append((slope, stride, ops == NORM_LAST, pool, ops == RESIDUAL))
        before = (unit[-1].name,)
    slopes, *flags = zip(*units, strict=True)
    return (
        np.array([*sizes, net.classes], np.int64),
        np.array(slopes, np.float32),
        *(np.array(flag, np.int64) for flag in flags),
    )


def takes(net: Network, shape: tuple[int, ...]) -> bool:
    """Whether a network takes samples of this shape: its own, of images the pixels in a row, names of any length, and
    where convolutions end in a mean pool images of any size of which they leave a position."""
    own = net.input_shape
    if len(own) == 1:
        return len(shape) != 2 and math.prod(shape) == own[0]
    if len(own) == 2:
        return len(shape) == 2 and shape[1] == own[1]
    layers = cnn_layers(net)
    if layers is None:
        return shape == own
    _, _, strides, _, pools, _ = layers
    least = smallest_image([Unit(0, stride=s, pool=bool(p)) for s, p in zip(strides, pools, strict=True)])
    return len(shape) == 3 and shape[0] == own[0] and min(shape[1:]) >= least
