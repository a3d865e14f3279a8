"""What every contender is given, drawn on the device before any clock starts."""

import inspect
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import torch
from wsfast.reference import mlp

from bench.gpu import draws, model

MOMENTUM = 0.9


@dataclass(frozen=True)
class Size:
    """N networks d-width-width-width-classes on `samples` images in full batches, so that all do the same work."""

    d: int
    width: int
    batch: int
    networks: int
    samples: int = 1024
    epochs: int = 4
    classes: int = 2
    lr: float = 0.01

    def __post_init__(self) -> None:
        assert self.samples % self.batch == 0

    @property
    def sizes(self) -> list[int]:
        return [self.d, *[self.width] * 3, self.classes]

    @property
    def steps(self) -> int:
        """Of one epoch."""
        return self.samples // self.batch

    @property
    def ours(self) -> str:
        """The model's variant of our kernels."""
        return model.ours(self.sizes, self.batch)

    def floor(self, variant: str, precision: str, ceilings: dict[str, Any], eager: bool, alone: bool) -> model.Floor:
        return model.floor(self.sizes, self.batch, variant, precision, ceilings, self.networks, eager, alone)

    def __str__(self) -> str:
        return f"{'-'.join(map(str, self.sizes))}, batch {self.batch}, {self.networks:,} networks"


class Problem:
    """One task, repeats 0 .. N - 1, random bytes as images.

    images float32 [samples, d], scaled; labels int64 [samples]; weights and biases, one [N, ...] a layer; orders int64
    [epochs, N, steps, batch], the rows of every step.
    """

    op, exact = "train_mlp", staticmethod(mlp.train_mlp)

    def __init__(self, size: Any, device: str, like: Any = None) -> None:
        self.size, self.device = size, device
        rng = np.random.default_rng(size.d + size.width + size.batch)
        self.pixels = rng.integers(0, 256, (size.samples, size.d)).astype(np.uint8)
        self.classes = rng.integers(0, size.classes, size.samples)
        self.scale, self.shift = np.full(size.d, 1 / 64, np.float32), np.full(size.d, -2, np.float32)
        self.images = torch.from_numpy(self.pixels * self.scale + self.shift).to(device)
        self.labels = torch.from_numpy(self.classes).to(device)
        self.everyone = torch.arange(size.networks, device=device)
        self._start(like)
        drawn = draws.orders(size.samples, size.epochs, self.everyone)
        self.orders = drawn.reshape(size.epochs, size.networks, size.steps, size.batch)

    def _start(self, like: "Problem | None") -> None:
        """The initial parameters; of `like` where it has them."""
        self.weights: list[torch.Tensor]
        self.biases: list[torch.Tensor]
        drawn = (like.weights, like.biases) if like else draws.start(self.size.sizes, self.everyone)
        self.weights, self.biases = drawn

    def parameters(self, networks: torch.Tensor) -> np.ndarray:
        """Initial parameters [n, P] in the order of the reference."""
        pairs = zip(self.weights, self.biases, strict=True)
        return torch.cat([p[networks].flatten(1) for pair in pairs for p in pair], 1).cpu().numpy()

    @property
    def _declared(self) -> dict[str, Any]:
        layers = len(self.size.sizes) - 1
        return {
            "sizes": np.array(self.size.sizes),
            "slopes": np.array([0] * (layers - 1) + [1], np.float32),
            "norms": np.zeros(layers, np.int64),
            "adds": np.full(layers, -1),
            "shape": np.array([1, 1, self.size.d]),
        }

    @cached_property
    def network(self) -> dict[str, Any]:
        """The arguments that the reference's op and ours share."""
        return {
            "x": self.pixels,
            **self._declared,
            "scale": self.scale,
            "shift": self.shift,
            "momentum": MOMENTUM,
            "weight_decay": 0.0,
            "batch_size": self.size.batch,
            "pad": -1,
            "seed": draws.SEED,
        }

    def reference(self, repeat: int) -> np.ndarray:
        """Network `repeat` after all epochs by the float64 reference [P], given only the arguments that it knows."""
        none = np.empty(0, np.int64)
        own = {"train_rows": np.arange(self.size.samples), "train_labels": self.classes}
        own |= {"test_rows": none, "test_labels": none, "lr": np.full(self.size.epochs, self.size.lr, np.float32)}
        given = {**self.network, **own, "task": draws.TASK, "repeat": repeat}
        known = inspect.signature(self.exact).parameters
        return self.exact(**{name: value for name, value in given.items() if name in known})[0]
