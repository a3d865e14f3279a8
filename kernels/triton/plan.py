"""Shapes and memory of a convolutional network on the GPU, from its declaration."""

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from .batchnorm import PARTS, STATISTICS
from .blocks import block
from .configs import wide
from .images import columns
from .population import ROW

AXIS = 65_535  # programs along the second axis of a grid, by CUDA


@dataclass
class Unit:
    """What a unit is, with its input [H, W, C] and its convolutions' results [ZH, ZW, N]; channels padded.

    The first unit's C is not padded: its input is gathered, and K, the rows of its weight, are. f: F of its gate.
    """

    H: int
    W: int
    C: int
    K: int
    N: int
    n_in: int
    n_out: int
    slope: float
    stride: int
    last: bool
    pool: bool
    side: bool
    f: torch.Tensor | None

    @property
    def early(self) -> bool:
        """Whether the convolution pools, as what wins does not depend on the activation; it does on a gate."""
        return self.pool and self.f is None

    @property
    def result(self) -> tuple[int, int, int]:
        return (self.H - 1) // self.stride + 1, (self.W - 1) // self.stride + 1, self.N

    @property
    def output(self) -> tuple[int, int, int]:
        h, w, _ = self.result
        return (h // 2, w // 2, self.N) if self.pool else self.result

    @property
    def rows(self) -> int:
        """Of an image in the tiles of its convolution: whole windows where it pools."""
        h, w, _ = self.result
        return 4 * -(-h // 2) * -(-w // 2) if self.early else h * w

    @property
    def bend(self) -> float:
        """The slope of the activation behind BatchNorm, 1 for none."""
        return 1.0 if self.last else self.slope

    @property
    def branches(self) -> list[tuple[int, int]]:
        """(size, rows of the weight) of each convolution."""
        return [(3, self.K), (1, self.C)][: 1 + self.side]


def units(sizes: list[int], slopes: Any, strides: Any, norm_last: Any, pools: Any, shortcuts: Any, height: int,
          width: int, gates: list[torch.Tensor | None]) -> list[Unit]:  # fmt: skip
    """The units of a network, arguments as `wsfast.reference.cnn.train_cnn`; gates: every unit's F, padded, or None."""
    found: list[Unit] = []
    for k, flags in enumerate(zip(slopes, strides, norm_last, pools, shortcuts, gates, strict=True)):
        slope, stride, last, pool, side, f = flags
        C = found[-1].N if k else sizes[0]
        K = 9 * C if k else columns(9 * C)
        found.append(Unit(height, width, C, K, wide(sizes[k + 1]), sizes[k], sizes[k + 1], float(slope), int(stride),
                          bool(last), bool(pool), bool(side), f))  # fmt: skip
        height, width, _ = found[-1].output
    return found


def parts(plan: list[Unit], batch_size: int) -> int:
    """Numbers that the tiles of one network leave at most."""
    tiles = [(-(-batch_size * u.rows // block("convolve", u.N, u.N).tiles["BM"]), u.N) for u in plan]
    tiles += [(-(-batch_size * u.output[0] * u.output[1] // block("spread", u.N, u.N).tiles["BM"]), u.N) for u in plan]
    tiles += [(-(-batch_size * u.rows // block("gate", u.N, u.N).tiles["BM"]), u.N) for u in plan if u.f is not None]
    return PARTS.value * max(t * N for t, N in tiles)


def parameters(plan: list[Unit], classes: int) -> int:
    """Numbers of one network in the declaration's order."""
    own = sum((size**2 * u.n_in + 5) * u.n_out for u in plan for size, _ in u.branches)
    return own + (plan[-1].n_out + 1) * classes


def most_gated(plan: list[Unit]) -> int:
    """Numbers of an image in the largest unit with a gate."""
    return max([int(np.prod(u.result)) for u in plan if u.f is not None], default=0)


def bytes_per_network(plan: list[Unit], classes: int, batch_size: int, rows: int, precision: str) -> int:
    """Device memory that one network of a chunk takes, everything included."""
    gated = [u for u in plan if u.f is not None]
    kept = sum(int(np.prod(u.result)) * len(u.branches) + u.early * int(np.prod(u.output)) for u in plan)
    kept += 2 * sum(int(np.prod(u.result)) for u in gated) + 2 * most_gated(plan)
    kept += (plan[-1].f is not None) * int(np.prod(plan[-1].output))
    kept += max(int(np.prod(u.output)) for u in plan) + sum(int(np.prod(u.output)) for u in plan[:-1])
    own = sum((2 * K + 10 + STATISTICS.value) * u.N for u in plan for _, K in u.branches)
    own += sum(STATISTICS.value * u.N for u in gated)
    head = 2 * (plan[-1].N + 1) * wide(classes) + wide(batch_size) * (2 * plan[-1].N + wide(classes))
    packed = 2 * parameters(plan, classes)  # of this chunk, and of the last one on their way
    return (2 if precision == "bf16" else 4) * batch_size * kept + 4 * (
        own + head + parts(plan, batch_size) + packed
    ) + ROW * rows  # fmt: skip


def planned(sizes: Any, slopes: Any, strides: Any, norm_last: Any, pools: Any, shortcuts: Any, shape: Any,
            batch_size: int, gates: list[torch.Tensor | None], op: str = "train_cnn") -> list[Unit]:  # fmt: skip
    """The units; ValueError for what the kernels do not compute."""
    plan = units([int(s) for s in sizes], slopes, strides, norm_last, pools, shortcuts, int(shape[1]), int(shape[2]),
                 gates)  # fmt: skip
    if any(u.early and u.side for u in plan):
        raise ValueError(f"{op}: the triton kernels take no pool behind a shortcut (backend='numba' does)")
    if any(u.last and u.f is not None for u in plan):
        raise ValueError(f"{op}: compiled kernels take no gate before BatchNorm (backend='reference' does)")
    most = max(batch_size * u.rows * u.N for u in plan)
    if most >= 2**31:
        raise ValueError(
            f"{op}: a unit's batch of images has {most:,} numbers, the triton kernels take less than 2^31 "
            f"(a smaller batch_size)"
        )
    positions = max(batch_size * (u.rows // 4 if u.early else u.rows) for u in plan)
    limit = AXIS * block("normal", plan[0].N, plan[0].N).tiles["BM"]
    if positions > limit:
        raise ValueError(
            f"{op}: a batch of images has {positions:,} positions (windows, where the convolution pools), "
            f"the triton kernels take at most {limit:,} (a smaller batch_size, or backend='numba')"
        )
    return plan
