"""What every contender of train_cnn is given, drawn before any clock starts."""

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import nn
from wsfast.reference import cnn, philox

import wsfast
from bench.problem import SEED, TASK
from wsfast.kernel_arguments import cnn_layers
from wsfast.modules import to_module


@dataclass
class CnnProblem:
    """N plainnet5 of `width` on random bytes, one task, repeats 0 .. N - 1; every batch is full.

    Drawn: images float32 [samples, 3, size, size], scaled; labels [samples]; initial parameters; orders
    [N, steps, batch], the rows of every step.
    """

    size: int
    width: int
    classes: int
    batch: int
    networks: int
    samples: int
    epochs: int
    lr: float = 0.01
    momentum: float = 0.9

    def __post_init__(self) -> None:
        assert self.samples % self.batch == 0
        self.steps = self.epochs * self.samples // self.batch
        self.net = wsfast.network("plainnet5", (3, self.size, self.size), self.classes, self.width)
        layers = cnn_layers(self.net)
        assert layers is not None
        names = ("sizes", "slopes", "strides", "norm_last", "pools", "shortcuts")
        declared = dict(zip(names, layers, strict=True))
        d = 3 * self.size**2
        rng = np.random.default_rng(self.size + self.width + self.batch)
        pixels = rng.integers(0, 256, (self.samples, d)).astype(np.uint8)
        scale, shift = np.full(d, 1 / 64, np.float32), np.full(d, -2, np.float32)
        self.images = torch.from_numpy(pixels * scale + shift).reshape(-1, *self.net.input_shape)
        self.labels = torch.from_numpy(rng.integers(0, self.classes, self.samples))
        everyone, epochs = range(self.networks), range(self.epochs)
        orders = [[philox.batch_order(self.samples, e, SEED, TASK, r) for e in epochs] for r in everyone]
        self.orders = torch.tensor(np.array(orders)).reshape(self.networks, self.steps, self.batch)
        none = np.empty(0, np.int64)
        run = {"lr": np.full(self.epochs, self.lr, np.float32), "momentum": self.momentum, "weight_decay": 0.0}
        draw = {"batch_size": self.batch, "pad": -1, "seed": np.uint64(SEED), "task": TASK}
        train = {"x": pixels, "train_rows": np.arange(self.samples), "train_labels": self.labels.numpy()}
        scaling = {"scale": scale, "shift": shift, "shape": np.array(self.net.input_shape)}
        nothing = np.empty(0, np.float32)
        scaling |= {"fixed_at": none, "fixed_to": nothing, "gate_at": np.full(4, -1), "gates": nothing}
        self.common = {**train, "test_rows": none, "test_labels": none, **declared, **scaling, **run, **draw}
        still = {**self.common, "lr": np.empty(0, np.float32), "train_rows": none, "train_labels": none}
        self.starts = [cnn.train_cnn(**still, repeat=r)[0] for r in everyone]

    def __str__(self) -> str:
        return f"plainnet5 of {self.width} channels on 3x{self.size}x{self.size}, batch {self.batch}"

    @property
    def step_flop(self) -> int:
        """Operations of one step: three products a weight, position and sample, two in the first layer."""
        total, side, c = 0, self.size, 3
        for k in range(4):
            n = self.width * 2**k
            total += (2 if k == 0 else 3) * 9 * c * n * side * side
            side, c = side // 2, n
        return 2 * self.batch * total

    def initial(self, i: int) -> np.ndarray:
        """Network i's parameters before its first step [P]."""
        return self.starts[i]

    def arguments(self, repeat: int) -> dict[str, Any]:
        """The call of train_cnn, ours or the reference's, for one network."""
        return {**self.common, "repeat": repeat}

    def module(self, i: int) -> nn.Module:
        """Network i at its initial parameters, in training mode."""
        arrays, at = {}, 0
        for p in self.net.parameters:
            arrays[p.name] = self.starts[i][at : at + p.size].reshape(p.shape)
            at += p.size
        return to_module(self.net, arrays).train()

    def flat(self, state: dict[str, torch.Tensor]) -> torch.Tensor:
        """A network's parameters [P] in our order, from torch's state."""
        arrays = [p.from_torch(state[p.name].detach().contiguous().numpy()) for p in self.net.parameters]
        return torch.from_numpy(np.concatenate([a.ravel() for a in arrays]))
