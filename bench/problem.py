"""What every contender of a training benchmark is given, drawn before any clock starts."""

import math
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import numpy as np
import torch
from wsfast.reference import mlp, philox

SEED, TASK = 0, 0


@dataclass(kw_only=True)
class Drawn:
    """N networks on random bytes, one task, repeats 0 .. N - 1; every batch is full.

    Drawn: images float32 [samples, *shape], scaled; labels [samples]; orders [N, steps, batch], the rows of every step.
    """

    width: int
    classes: int
    batch: int
    networks: int
    samples: int
    epochs: int
    lr: float = 0.01
    momentum: float = 0.9

    def draw(self, size: int, shape: tuple[int, ...], layers: dict[str, Any]) -> None:
        """size: of the input; shape: of an image as the op takes it; layers: what the op takes of the network."""
        assert self.samples % self.batch == 0
        self.steps, d = self.epochs * self.samples // self.batch, math.prod(shape)
        rng = np.random.default_rng(size + self.width + self.batch)
        pixels = rng.integers(0, 256, (self.samples, d)).astype(np.uint8)
        scale, shift = np.full(d, 1 / 64, np.float32), np.full(d, -2, np.float32)
        self.images = torch.from_numpy(pixels * scale + shift)
        self.labels = torch.from_numpy(rng.integers(0, self.classes, self.samples))
        repeats, epochs = range(self.networks), range(self.epochs)
        orders = [[philox.batch_order(self.samples, e, SEED, TASK, r) for e in epochs] for r in repeats]
        self.orders = torch.tensor(np.array(orders)).reshape(self.networks, self.steps, self.batch)
        none, nothing = np.empty(0, np.int64), np.empty(0, np.float32)
        run = {"lr": np.full(self.epochs, self.lr, np.float32), "momentum": self.momentum, "weight_decay": 0.0}
        draw = {"batch_size": self.batch, "pad": -1, "seed": np.uint64(SEED), "task": TASK}
        train = {"x": pixels, "train_rows": np.arange(self.samples), "train_labels": self.labels.numpy()}
        apart = {"fixed_at": none, "fixed_to": nothing, "gate_at": np.full(4, -1), "gates": nothing}
        scaling = {"scale": scale, "shift": shift, "shape": np.array(shape)}
        self.common = {**train, "test_rows": none, "test_labels": none, **layers, **scaling, **run, **draw, **apart}

    def arguments(self, repeat: int) -> dict[str, Any]:
        """The call of the op, ours or the reference's, for one network."""
        return {**self.common, "repeat": repeat}


@dataclass(kw_only=True)
class Problem(Drawn):
    """Networks d-width-width-width-classes; drawn too: weights and biases, one [N, ...] a layer."""

    d: int

    def __post_init__(self) -> None:
        self.sizes = np.array([self.d, *[self.width] * 3, self.classes])
        layers = {"sizes": self.sizes, "slopes": np.array([0, 0, 0, 1], np.float32)}
        self.draw(self.d, (1, 1, self.d), {**layers, "norms": np.zeros(4, np.int64), "adds": np.full(4, -1)})
        starts = [mlp.initial_parameters(self.sizes.tolist(), SEED, TASK, r) for r in range(self.networks)]
        self.weights, self.biases = (
            [torch.tensor(np.array(layer, np.float32)) for layer in zip(*kind, strict=True)]
            for kind in zip(*starts, strict=True)
        )

    def __str__(self) -> str:
        return f"{'-'.join(map(str, self.sizes))}, batch {self.batch}"

    @property
    def step_flop(self) -> int:
        """Operations of one step: three products a weight and sample, two in the first layer (no data gradient)."""
        weights = sum(a * b for a, b in pairwise(self.sizes.tolist()))
        return 2 * self.batch * (3 * weights - self.d * self.width)

    def initial(self, i: int) -> np.ndarray:
        """Network i's parameters before its first step [P]."""
        pairs = zip(self.weights, self.biases, strict=True)
        return np.concatenate([p[i].numpy().ravel() for pair in pairs for p in pair])
