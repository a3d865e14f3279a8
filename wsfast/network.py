"""Network declarations: everything other modules know about an architecture, as data.

Shapes are input first (a linear weight is [n_in, n_out], a 3x3 convolution [c_in, 3, 3, c_out]). An axis that carries
the name of a group permutes together with every other axis of that name: reordering the group's units in all of them
leaves the function unchanged. An axis named None is fixed (pixels, classes, offsets, gates).
"""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from itertools import pairwise
from typing import Any

import numpy as np

from .asymmetry import gated, masked


@dataclass(frozen=True)
class Parameter:
    """One array of a network.

    name: as in torch's state_dict. shape: input first. axes: permutation group of each axis. bound: trained parameters
    start from U[-bound, bound); a parameter with a `fill` instead starts constant. rows: how many leading axes index
    the input of a weight in a chain. torch: the order of our axes in torch's array, which may then be flattened.
    fixed: inputs of every output unit that are not trained but kappa N(0, 1), the same in all networks: those drawn
    from `seed` by `wsfast.reference.asymmetric`.
    """

    name: str
    shape: tuple[int, ...]
    axes: tuple[str | None, ...]
    bound: float = 0.0
    fill: float | None = None
    trained: bool = True
    rows: int = 1
    torch: tuple[int, ...] = (0,)
    torch_shape: tuple[int, ...] = ()
    fixed: int = 0
    kappa: float = 0.0
    seed: int = 0

    @property
    def size(self) -> int:
        return math.prod(self.shape)

    def to_torch(self, array: np.ndarray) -> np.ndarray:
        return np.ascontiguousarray(array.transpose(self.torch)).reshape(self.torch_shape)

    def from_torch(self, array: np.ndarray) -> np.ndarray:
        split = array.reshape([self.shape[i] for i in self.torch])
        return np.ascontiguousarray(split.transpose(np.argsort(self.torch)))


@dataclass(frozen=True)
class Layer:
    """One operation: `op` is a key of `wsfast.modules.MODULES`; `inputs` are layer names, the layer before if empty."""

    name: str
    op: str
    parameters: tuple[Parameter, ...] = ()
    options: Mapping[str, Any] = field(default_factory=dict)
    inputs: tuple[str, ...] = ()


@dataclass(frozen=True)
class Network:
    """A network as data.

    input_shape: (d,), (channels, height, width) or (steps, alphabet). chains: for each chain l = 1, 2, ... the names of
    the weights multiplied. options: what the constructor was given, for the record.
    """

    name: str
    input_shape: tuple[int, ...]
    classes: int
    layers: tuple[Layer, ...]
    chains: tuple[tuple[str, ...], ...]
    options: Mapping[str, Any] = field(default_factory=dict)

    @property
    def parameters(self) -> tuple[Parameter, ...]:
        return tuple(p for layer in self.layers for p in layer.parameters)

    @property
    def size(self) -> int:
        """Trained numbers of one network."""
        return sum(p.size - p.fixed * p.shape[-1] for p in self.parameters if p.trained)

    @property
    def groups(self) -> dict[str, int]:
        """Every permutation group and its number of units."""
        return {g: n for p in self.parameters for g, n in zip(p.axes, p.shape, strict=True) if g is not None}

    def parameter(self, name: str) -> Parameter:
        return next(p for p in self.parameters if p.name == name)

    def norm_after(self, weight: str) -> Layer | None:
        """The BatchNorm between a weight's layer and the next layer with a weight, None where there is none."""
        layers = iter(self.layers)
        next(layer for layer in layers if any(p.name == weight for p in layer.parameters))
        after = next((layer for layer in layers if layer.parameters), None)
        return after if after and after.op == "batchnorm" else None

    def chain(self, number: int) -> tuple[Parameter, ...]:
        """The weights of chain `number` (1 is the first)."""
        if not isinstance(number, (int, np.integer)) or not 1 <= number <= len(self.chains):
            raise ValueError(f"chain must be 1..{len(self.chains)} for {self.name}, got {number!r}")
        return tuple(self.parameter(name) for name in self.chains[number - 1])

    def to_dict(self) -> dict[str, Any]:
        """The declaration as JSON-ready values."""
        return asdict(self)

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> "Network":
        """The declaration that to_dict wrote, also after JSON turned its tuples into lists."""

        def tuples(v: Mapping[str, Any]) -> dict[str, Any]:
            return {key: tuple(x) if isinstance(x, list) else x for key, x in v.items()}

        def parameter(p: Mapping[str, Any]) -> Parameter:
            return Parameter(**tuples(p))

        def layer(v: Mapping[str, Any]) -> Layer:
            return Layer(v["name"], v["op"], tuple(map(parameter, v["parameters"])), v["options"], tuple(v["inputs"]))

        return cls(
            values["name"],
            tuple(values["input_shape"]),
            values["classes"],
            tuple(map(layer, values["layers"])),
            tuple(map(tuple, values["chains"])),
            tuples(values["options"]),
        )


def linear(name: str, n_in: int, n_out: int, group_in: str | None, group_out: str | None) -> Layer:
    bound = 1 / math.sqrt(n_in)
    return Layer(
        name,
        "linear",
        (
            Parameter(
                f"{name}.weight", (n_in, n_out), (group_in, group_out), bound, torch=(1, 0), torch_shape=(n_out, n_in)
            ),
            Parameter(f"{name}.bias", (n_out,), (group_out,), bound, torch_shape=(n_out,)),
        ),
    )


def conv(
    name: str,
    n_in: int,
    n_out: int,
    group_in: str | None,
    group_out: str | None,
    size: int = 3,
    stride: int = 1,
    inputs: tuple[str, ...] = (),
) -> Layer:
    """A size x size convolution with bias, size odd, padded by size // 2 zeros."""
    bound = 1 / math.sqrt(size * size * n_in)
    weight = Parameter(
        f"{name}.weight",
        (n_in, size, size, n_out),
        (group_in, None, None, group_out),
        bound,
        rows=3,
        torch=(3, 0, 1, 2),
        torch_shape=(n_out, n_in, size, size),
    )
    bias = Parameter(f"{name}.bias", (n_out,), (group_out,), bound, torch_shape=(n_out,))
    return Layer(name, "conv", (weight, bias), {} if stride == 1 else {"stride": stride}, inputs)


def batchnorm(name: str, n: int, group: str | None, images: bool = True) -> Layer:
    """BatchNorm over the batch, and over the positions where its input is images [B, n, h, w] and not [B, n]."""

    def one(suffix: str, fill: float, trained: bool) -> Parameter:
        return Parameter(f"{name}.{suffix}", (n,), (group,), fill=fill, trained=trained, torch_shape=(n,))

    return Layer(
        name,
        "batchnorm",
        (
            one("weight", 1, True),
            one("bias", 0, True),
            one("running_mean", 0, False),
            one("running_var", 1, False),
        ),
        options={} if images else {"images": False},
    )


def gru(name: str, n_in: int, hidden: int, group_in: str | None, group: str) -> Layer:
    """torch's GRU layer; the gates (reset, update, new) are an axis of their own: [n_in, 3, hidden]."""
    bound = 1 / math.sqrt(hidden)

    def weight(suffix: str, n: int, group_n: str | None) -> Parameter:
        return Parameter(
            f"{name}.weight_{suffix}_l0",
            (n, 3, hidden),
            (group_n, None, group),
            bound,
            torch=(1, 2, 0),
            torch_shape=(3 * hidden, n),
        )

    def bias(suffix: str) -> Parameter:
        return Parameter(
            f"{name}.bias_{suffix}_l0", (3, hidden), (None, group), bound, torch=(0, 1), torch_shape=(3 * hidden,)
        )

    return Layer(name, "gru", (weight("ih", n_in, group_in), weight("hh", hidden, group), bias("ih"), bias("hh")))


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


def activation(name: str, slope: float) -> list[Layer]:
    if slope == 1:
        return []
    return [Layer(name, "relu") if slope == 0 else Layer(name, "leaky_relu", options={"slope": slope})]


def mlp4(input_shape: tuple[int, ...], classes: int, width: int = 500) -> Network:
    """d-500-500-500-C, ReLU after every layer but the last."""
    return mlp(input_shape, classes, (width,) * 3, name="mlp4")


def mlp4_published(input_shape: tuple[int, ...], classes: int, width: int = 500) -> Network:
    """mlp4 with a ReLU on the logits too, as in the code of arXiv 2208.04369; with two classes a third never trains."""
    return mlp(input_shape, classes, (width,) * 3, last_slope=0.0, name="mlp4-published")


def resnet_mlp12(input_shape: tuple[int, ...], classes: int, width: int = 500) -> Network:
    """Six residual blocks of two (Linear, ReLU, BatchNorm), fc1 .. fc12, then a linear layer fc13 to the classes.

    The text of arXiv 2208.04369 alone describes it, and does not say how the first block adds an input of another
    size: here it adds nothing; blocks 2 to 6 add their input to their output. Chains 1 .. 12 leave the classifier out.
    """
    adds = [k - 2 if k in range(3, 12, 2) else -1 for k in range(13)]
    slopes, norms = [0.0] * 12 + [1.0], [1] * 12 + [0]
    return fully_connected(input_shape, classes, (width,) * 12, slopes, norms, adds, "resnet-mlp12", {"width": width})


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

    norm_last: BatchNorm after the activation. Chain l = 1, 2, ... multiplies the first l convolutions.
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

    A unit's convolution, BatchNorm and shortcut share a permutation group; shortcuts are no part of a chain. ValueError
    for images that the pools leave nothing of, and for a shortcut without a unit before it or with norm_last.
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
    chains = tuple(weights[:k] for k in range(1, len(weights) + 1))
    if options is None:
        options = {"units": tuple(asdict(unit) for unit in units)}
    return Network(name, tuple(input_shape), classes, tuple(layers), chains, options)


def smallest_image(units: Sequence[Unit]) -> int:
    """Height and width of the smallest image of which the units leave one position."""
    size = 1
    for unit in reversed(units):
        size = ((2 * size if unit.pool else size) - 1) * unit.stride + 1
    return size


def plainnet5(input_shape: tuple[int, ...], classes: int, width: int = 32) -> Network:
    """Four units of width, 2, 4 and 8 width channels, BatchNorm before ReLU as in the code of arXiv 2208.04369."""
    return plainnet(input_shape, classes, _doubled(width), name="plainnet5", options={"width": width})


def plainnet5_text(input_shape: tuple[int, ...], classes: int, width: int = 32) -> Network:
    """plainnet5 with ReLU before BatchNorm, as the text of arXiv 2208.04369 lists them."""
    return plainnet(
        input_shape, classes, _doubled(width), norm_last=True, name="plainnet5-text", options={"width": width}
    )


def plainnet6(input_shape: tuple[int, ...], classes: int, width: int = 32) -> Network:
    """plainnet5 and one more unit of 8 width channels at the end ("Depth"), its pool included."""
    return plainnet(input_shape, classes, (*_doubled(width), 8 * width), name="plainnet6", options={"width": width})


def plainnet5_leaky(input_shape: tuple[int, ...], classes: int, width: int = 32) -> Network:
    """plainnet5 with LeakyReLU(0.01)."""
    return plainnet(input_shape, classes, _doubled(width), slope=0.01, name="plainnet5-leaky", options={"width": width})


def resnet5(input_shape: tuple[int, ...], classes: int, width: int = 32) -> Network:
    """A unit of width channels, three residual ones of 2, 4 and 8 width with stride 2 and no pool ("Res5").

    ReLU follows the sum, and the first unit has BatchNorm and ReLU too; arXiv 2208.04369 does not say either.
    """
    first, *others = _doubled(width)
    units = [Unit(first), *(Unit(n, stride=2, shortcut=True) for n in others)]
    return convolutional(input_shape, classes, units, "resnet5", {"width": width})


def _doubled(width: int) -> tuple[int, ...]:
    return width, 2 * width, 4 * width, 8 * width


def gru2(input_shape: tuple[int, ...], classes: int, width: int = 128) -> Network:
    """Two GRU layers, a linear layer on the last step; input [steps, alphabet].

    Chain 1 is the published one, layer 1's W_ih with all gates in its columns, [alphabet, 3 width]. The others have the
    gates in their rows: chain 2 is W_ih, [3 alphabet, width], its Gram every pair of gates; chain 3 W_ih before and
    after one recurrent step, (W_ih, W_ih W_hh), [12 alphabet, width]; chain 4 W_ih through layer 2's W_ih, [9 alphabet,
    width].
    """
    if len(input_shape) != 2:
        raise ValueError(f"gru2: the input must be [steps, alphabet], got {input_shape}")
    layers = (
        gru("gru1", input_shape[1], width, None, "hidden1"),
        gru("gru2", width, width, "hidden1", "hidden2"),
        Layer("last", "last_step"),
        linear("fc", width, classes, "hidden2", None),
    )
    first = "gru1.weight_ih_l0"
    chains = ((first,), (first,), (first, "gru1.weight_hh_l0"), (first, "gru2.weight_ih_l0"))
    return Network("gru2", tuple(input_shape), classes, layers, chains, {"width": width})


def mlp4_wasym(
    input_shape: tuple[int, ...],
    classes: int,
    width: int = 500,
    kappa: float = 0.5,
    shares: Sequence[float] = (1 / 12, 1 / 8, 1 / 8, 1 / 2),
    seed: int = 0,
) -> Network:
    """mlp4 with W-asymmetric weights (Lim et al., NeurIPS 2024): a share of every unit's inputs is fixed.

    kappa times 1, 1, 0.5, 0.25 in the four layers, and shares: theirs of 784-512-512-512-10, where 64, 64, 64 and 256
    inputs are fixed. They take kappa 1 with LayerNorm and AdamW; here 51 of 120 networks of width 100 diverged with it
    at lr 0.05. kappa 0 is a mask. seed: of masks and fixed values, the same for all networks.
    """
    net = mlp(input_shape, classes, (width,) * 3, name="mlp4-wasym")
    net = masked(net, shares, [kappa * k for k in (1, 1, 0.5, 0.25)], seed)
    return replace(net, options={"width": width, "kappa": kappa, "shares": tuple(shares), "seed": seed})


def mlp4_sigma(input_shape: tuple[int, ...], classes: int, width: int = 500, seed: int = 0) -> Network:
    """mlp4 with FiGLU, sigmoid(z F) * z, in place of ReLU (Lim et al., NeurIPS 2024); seed: of F."""
    net = gated(mlp(input_shape, classes, (width,) * 3, name="mlp4-sigma"), seed)
    return replace(net, options={"width": width, "seed": seed})


def plainnet5_wasym(
    input_shape: tuple[int, ...],
    classes: int,
    width: int = 32,
    kappa: float = 3.0,
    shares: Sequence[float] = (12 / 27, 3 / 16, 1 / 8, 1 / 12, 1 / 2),
    seed: int = 0,
) -> Network:
    """plainnet5 with W-asymmetric weights: 12, 54, 72, 96 of a unit's 27, 288, 576, 1,152 inputs, half of the classes'.

    kappa: of the convolutions, a twelfth of it in the last layer. The first three are those of the ResNet20 of Lim et
    al. (NeurIPS 2024) for so many inputs, the last layer is their MLP's; the fourth goes on with 3 sqrt(inputs).
    """
    net = plainnet(input_shape, classes, _doubled(width), name="plainnet5-wasym")
    net = masked(net, shares, [kappa] * 4 + [kappa / 12], seed)
    return replace(net, options={"width": width, "kappa": kappa, "shares": tuple(shares), "seed": seed})


def plainnet5_sigma(input_shape: tuple[int, ...], classes: int, width: int = 32, seed: int = 0) -> Network:
    """plainnet5 with FiGLU over the channels of every position in place of ReLU; seed: of F."""
    net = gated(plainnet(input_shape, classes, _doubled(width), name="plainnet5-sigma"), seed)
    return replace(net, options={"width": width, "seed": seed})


NETWORKS: dict[str, Callable[..., Network]] = {
    "mlp4": mlp4,
    "mlp4-published": mlp4_published,
    "resnet-mlp12": resnet_mlp12,
    "plainnet5": plainnet5,
    "plainnet5-text": plainnet5_text,
    "plainnet6": plainnet6,
    "plainnet5-leaky": plainnet5_leaky,
    "resnet5": resnet5,
    "gru2": gru2,
    "mlp4-wasym": mlp4_wasym,
    "mlp4-sigma": mlp4_sigma,
    "plainnet5-wasym": plainnet5_wasym,
    "plainnet5-sigma": plainnet5_sigma,
}


def network(name: str, input_shape: tuple[int, ...], classes: int, width: int | None = None, **more: Any) -> Network:
    """The declaration of a named network.

    name: one of "mlp4", "mlp4-published", "resnet-mlp12", "plainnet5", "plainnet5-text", "plainnet6",
    "plainnet5-leaky", "resnet5", "gru2", "mlp4-wasym", "mlp4-sigma", "plainnet5-wasym", "plainnet5-sigma". input_shape:
    of one sample. width: hidden units (MLP, GRU) or channels of the first convolution, the paper's where None. more: of
    the asymmetric ones, seed, kappa and shares (`mlp4_wasym`). ValueError for an unknown name and images too small for
    the pools; TypeError for options that a network does not have.
    """
    if name not in NETWORKS:
        raise ValueError(f"network must be one of {', '.join(NETWORKS)}, got {name!r} (or pass a wsfast.Network)")
    if width is not None and width < 1:
        raise ValueError(f"width must be at least 1, got {width}")
    options = more if width is None else {"width": width, **more}
    return NETWORKS[name](tuple(input_shape), classes, **options)


def gru_width(net: Network) -> int | None:
    """Hidden units of a network whose layers are gru2's, as `wsfast.reference.gru` trains it; None for others."""
    if len(net.input_shape) != 2 or net.layers[0].op != "gru":
        return None
    width = net.layers[0].parameters[0].shape[-1]
    return width if net.layers == gru2(net.input_shape, net.classes, width).layers else None


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
