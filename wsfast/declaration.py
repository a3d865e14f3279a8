"""Network declarations: everything other modules know about an architecture, as data.

Shapes are input first (a linear weight is [n_in, n_out], a 3x3 convolution [c_in, 3, 3, c_out]). An axis that carries
the name of a group permutes together with every other axis of that name: reordering the group's units in all of them
leaves the function unchanged. An axis named None is fixed (pixels, classes, offsets, gates).
"""

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np


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


def activation(name: str, slope: float) -> list[Layer]:
    if slope == 1:
        return []
    return [Layer(name, "relu") if slope == 0 else Layer(name, "leaky_relu", options={"slope": slope})]
