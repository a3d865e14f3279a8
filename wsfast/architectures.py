"""The named networks."""

from collections.abc import Callable, Sequence
from dataclasses import replace
from operator import index
from typing import Any

from .asymmetry import gated, masked
from .declaration import Layer, Network, gru, linear
from .families import Unit, convolutional, fully_connected, mlp, plainnet


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
    return replace(
        net, options={"width": width, "kappa": float(kappa), "shares": tuple(map(float, shares)), "seed": int(seed)}
    )


def mlp4_sigma(input_shape: tuple[int, ...], classes: int, width: int = 500, seed: int = 0) -> Network:
    """mlp4 with FiGLU, sigmoid(z F) * z, in place of ReLU (Lim et al., NeurIPS 2024); seed: of F."""
    net = gated(mlp(input_shape, classes, (width,) * 3, name="mlp4-sigma"), seed)
    return replace(net, options={"width": width, "seed": int(seed)})


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
    return replace(
        net, options={"width": width, "kappa": float(kappa), "shares": tuple(map(float, shares)), "seed": int(seed)}
    )


def plainnet5_sigma(input_shape: tuple[int, ...], classes: int, width: int = 32, seed: int = 0) -> Network:
    """plainnet5 with FiGLU over the channels of every position in place of ReLU; seed: of F."""
    net = gated(plainnet(input_shape, classes, _doubled(width), name="plainnet5-sigma"), seed)
    return replace(net, options={"width": width, "seed": int(seed)})


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
    shape, classes = tuple(map(index, input_shape)), index(classes)  # NumPy's integers would not go into a manifest
    options = more if width is None else {"width": index(width), **more}
    for what, least in (("input_shape", min(shape)), ("classes", classes), ("width", options.get("width", 1))):
        if least < 1:
            raise ValueError(f"{what} must be at least 1, got {least}")
    return NETWORKS[name](shape, classes, **options)
