"""Random networks in pairs, to be measured on the straight lines between them: what every contender is given."""

from collections.abc import Callable
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
import torch

POINTS = 25


@dataclass(frozen=True)
class Case:
    d: int
    width: int
    samples: int
    pairs: int
    goal: float | None = None

    def __str__(self) -> str:
        return f"{self.d}-{self.width}-{self.width}-{self.width}-2, {self.samples} samples, {self.pairs} pairs"


class Lines:
    """Random networks and bytes. start, end: [pairs, P], on the host; inputs float32 [samples, d]; points [L]; flop: of
    one line's products."""

    def __init__(self, case: Case, device: str = "cpu") -> None:
        rng = np.random.default_rng(case.d + case.width)
        self.flop = 2 * case.samples * case.width * (2 * case.d + POINTS * (2 * case.width + 2))
        self.sizes = np.array([case.d, *[case.width] * 3, 2])
        size = sum((a + 1) * b for a, b in pairwise(self.sizes.tolist()))
        ends = rng.standard_normal((2, case.pairs, size), np.float32) / np.float32(np.sqrt(case.width))
        self.start, self.end = map(torch.from_numpy, ends)
        self.points = np.linspace(0, 1, POINTS, dtype=np.float32)
        x = rng.integers(0, 256, (case.samples, case.d)).astype(np.uint8)
        scale, shift = np.full(case.d, 1 / 64, np.float32), np.full(case.d, -2, np.float32)
        self.device, self.inputs = device, torch.from_numpy(x * scale + shift).to(device)
        labels = rng.integers(0, 2, case.samples)
        self.labels = torch.from_numpy(labels).to(device)
        net = {"sizes": self.sizes, "slopes": np.array([0, 0, 0, 1], np.float32), "norms": np.zeros(4, np.int64)}
        net |= {"adds": np.full(4, -1), "gate_at": np.full(4, -1), "gates": np.empty(0, np.float32)}
        data = {"x": x, "rows": np.arange(case.samples), "labels": labels, "scale": scale, "shift": shift}
        self.common = {**data, **net, "points": self.points}

    def unpacked(self, flat: torch.Tensor) -> list[torch.Tensor]:
        """W_1, b_1, ... of parameters [P]."""
        shapes = [shape for a, b in pairwise(self.sizes.tolist()) for shape in ((a, b), (b,))]
        parts = flat.split([int(np.prod(shape)) for shape in shapes])
        return [part.reshape(shape) for part, shape in zip(parts, shapes, strict=True)]

    def call(self, op: Callable, i: int) -> np.ndarray:
        """The loss curve of pair i by our op or the reference's."""
        return op(**self.common, start=self.start[i].numpy(), end=self.end[i].numpy())[0]
