"""The time that no run can beat: bytes over the copy rate, operations over the matrix rate, kernel launches.

Bytes are those of the weights (float32 weights, velocity, gradient), counted per network and step as factors of P1, the
first layer's weights, and of the rest; activations and images are left out. The counts:

    forward reads W (4), the data gradient reads W again but for the first layer (4), then
    whole      one program trains one network: W and V stay in the caches, memory sees the batch's bytes only
    merged     update reads and writes W, V (16), the next forward of the first layer included
    one kernel the same, forward apart
    bmm        V <- mu V + X^T dY inside the product (8), W <- W - lr V (12)
    fused      the gradient is written (4), one kernel reads it with W and V and writes both (20)
    foreach    the gradient is written (4), three passes: V * mu (8), V + g (12), W - lr V (12)
"""

from dataclasses import dataclass
from itertools import pairwise
from typing import Any

from wsfast.kernels.triton import configs

BYTES = {"merged": (16, 24), "one kernel": (20, 24), "bmm": (24, 28), "fused": (28, 32), "foreach": (40, 44)}
# Of a convolution's result, by `cnn_floor`, and bytes of a weight.
PASSES = {"units": (7, 24), "layers": (18.75, 32)}
# Launches of one step, estimates.
LAUNCHES = {"whole": 0, "merged": 10, "one kernel": 12, "bmm": 50, "fused": 45, "loop": 30, "foreach": 55}
LAUNCHES |= {"units": 31, "layers": 130}
EAGER_LAUNCH, GRAPH_LAUNCH = 4e-6, 1.2e-6  # seconds, estimates
L2_BYTES, L2_RATE = 60e6, 5500  # of an H200; GB/s, assumed
ASSUMED = {"copy": 4300.0, "fp32": 67.0, "tf32": 400.0, "bf16": 790.0}  # an H200: GB/s, TFLOP/s


@dataclass(frozen=True)
class Floor:
    """Of one network and step, or of one call: bytes, operations, and the seconds of each bound."""

    bytes: float
    flop: float
    memory: float
    compute: float
    launch: float

    @property
    def seconds(self) -> float:
        return max(self.memory, self.compute, self.launch)

    @property
    def bound(self) -> str:
        return max(("memory", "compute", "launch"), key=lambda name: getattr(self, name))


def weights(sizes: list[int]) -> tuple[int, int]:
    """(P1, P): the first layer's weights and all, biases left out."""
    every = [a * b for a, b in pairwise(sizes)]
    return every[0], sum(every)


def ours(sizes: list[int], batch: int) -> str:
    """How our kernels train such networks: "whole" or "merged"."""
    return "whole" if configs.small(sizes, batch) else "merged"


def step_bytes(sizes: list[int], variant: str, batch: int = 0) -> int:
    """Weights and gradients; of the images, a byte a pixel, where nothing else is moved."""
    first, all_layers = weights(sizes)
    if variant == "whole":
        return batch * sizes[0]
    in_first, in_rest = BYTES[variant]
    return in_first * first + in_rest * (all_layers - first)


def step_flop(sizes: list[int], batch: int) -> int:
    """Three products a weight and sample, two in the first layer (no data gradient)."""
    first, all_layers = weights(sizes)
    return 2 * batch * (3 * all_layers - first)


def rate(ceilings: dict[str, Any], precision: str) -> float:
    """TFLOP/s of the matrix product; tf32x3 is three tf32 products, ieee plain float32."""
    return ceilings["tf32"] / 3 if precision == "tf32x3" else ceilings["fp32" if precision == "ieee" else precision]


def floor(
    sizes: list[int],
    batch: int,
    variant: str,
    precision: str,
    ceilings: dict[str, Any],
    networks: int,
    eager: bool = False,
    alone: bool = False,
) -> Floor:
    """networks: that one launch serves; alone: one network at a time, so that its weights may stay in the L2."""
    together = 1 if alone else networks
    moved, flop = step_bytes(sizes, variant, batch), step_flop(sizes, batch)
    resident = 8 * weights(sizes)[1] * together < L2_BYTES
    bandwidth = max(L2_RATE, ceilings["copy"]) if resident else ceilings["copy"]
    launches = LAUNCHES["loop" if alone else variant] * (EAGER_LAUNCH if eager else GRAPH_LAUNCH)
    return Floor(moved, flop, moved / bandwidth / 1e9, flop / rate(ceilings, precision) / 1e12, launches / together)


def cnn_floor(
    units: list[tuple[int, int, int]],
    batch: int,
    variant: str,
    precision: str,
    ceilings: dict[str, Any],
    networks: int,
    eager: bool = False,
    alone: bool = False,
) -> Floor:
    """Of one network and step. units: (channels in, out, side of its images) of pooled 3x3 convolutions.

    Bytes of activations, a convolution's result counting 1 and its pooled one 1/4 (2 bytes a number in bf16):

        units   ours: z written, turned into its gradient (2), read by the two gradients (the first unit's by one): 5;
                pooled, the winners 3, the output 3 and the gradient at it 2: a quarter of 8
        layers  one layer after the other: convolution 1, BatchNorm 3, ReLU 2, pool 1 1/4, and back 1 1/2, 3, 5, 2
    """
    kept, passes, weight = (2 if precision == "bf16" else 4), *PASSES[variant]
    moved = flop = 0.0
    for k, (c, n, side) in enumerate(units):
        z, products = batch * n * side**2, 3 - (k == 0)  # the images get no gradient
        moved += kept * z * (passes - (k == 0)) + weight * 9 * c * n
        flop += 2 * products * 9 * c * z
    launches = LAUNCHES[variant] * (EAGER_LAUNCH if eager else GRAPH_LAUNCH) / (1 if alone else networks)
    return Floor(moved, flop, moved / ceilings["copy"] / 1e9, flop / rate(ceilings, precision) / 1e12, launches)


def chain_floor(op: str, n: int, d: int, r: int, precision: str, ceilings: dict[str, Any], triangle: bool) -> Floor:
    """Of one call for n networks [d, r]. triangle: only half of what is symmetric is computed, as our kernels do.

    chain_gram reads X and writes G. chain_kernel forms G's lower triangle, each tile once, and sums d (d + 1) / 2
    products a pair of networks; bytes are those of X and K alone, though a tile reads its rows of X again.
    """
    half = d * (d + 1) // 2
    if op == "chain_gram":
        moved, flop = 4 * n * (d * r + d * d), 2 * n * r * (half if triangle else d * d)
    else:
        pairs = n * (n + 1) // 2 if triangle else n * n
        moved, flop = 4 * n * d * r + 8 * n * n, 2 * half * (n * r + pairs)
    return Floor(moved, flop, moved / ceilings["copy"] / 1e9, flop / rate(ceilings, precision) / 1e12, 0.0)


def correlation_floor(
    networks: int, pairs: int, units: int, samples: int, precision: str, ceilings: dict[str, Any]
) -> Floor:
    """Of one call: every network's activations are read, standardised, written and read again; entries are written."""
    moved, flop = 4 * (3 * networks * units * samples + pairs * units**2), 2 * pairs * units**2 * samples
    return Floor(moved, flop, moved / ceilings["copy"] / 1e9, flop / rate(ceilings, precision) / 1e12, 0.0)


def lines_floor(
    sizes: list[int], samples: int, points: int, pairs: int, precision: str, ceilings: dict[str, Any], blended: bool
) -> Floor:
    """Of one call. blended: every point's weights are written (12 bytes) and read (4), and multiply all samples.

    Else, as in ours, the ends are read (8) and the first layer is multiplied at the ends only.
    """
    first, every = weights(sizes)
    moved = pairs * every * (16 * points if blended else 8)
    flop = 2 * pairs * samples * (points * every if blended else 2 * first + points * (every - first))
    return Floor(moved, flop, moved / ceilings["copy"] / 1e9, flop / rate(ceilings, precision) / 1e12, 0.0)


def name_lines_floor(
    size: int, flop: int, points: int, pairs: int, precision: str, ceilings: dict[str, Any], blended: bool
) -> Floor:
    """As lines_floor, of recurrent networks of `size` parameters; flop: of one line."""
    moved, flop = pairs * size * (16 * points if blended else 8), pairs * flop
    return Floor(moved, flop, moved / ceilings["copy"] / 1e9, flop / rate(ceilings, precision) / 1e12, 0.0)


def gru_floor(hidden: int, letters: float, ceilings: dict[str, Any]) -> Floor:
    """Of one network's step on a name, by the kernel that keeps one square matrix in registers at a time.

    U of layer 2 is read once and written once, U of layer 1 and W of layer 2 are read twice and written once: eight
    times 3 H^2 numbers, and a row of W of layer 1 three times a letter. What is read again just before it is written
    is still in the L2. Three products a use of a square matrix.
    """
    moved = 4 * 3 * hidden * (8 * hidden + 3 * letters)
    flop = 18 * hidden**2 * (3 * letters - 2)
    return Floor(moved, flop, moved / ceilings["copy"] / 1e9, flop / ceilings["fp32"] / 1e12, 0.0)


def run_seconds(sizes: list[int], variant: str, networks: int, steps: int, ceilings: dict[str, Any]) -> float:
    """Seconds that a whole run needs to move its weights."""
    return step_bytes(sizes, variant) * networks * steps / ceilings["copy"] / 1e9
