"""What every contender of train_cnn is given, drawn before any clock starts."""

from dataclasses import dataclass

import numpy as np
import torch
from torch import nn
from wsfast.reference import cnn

import wsfast
from bench.problem import Drawn
from wsfast.kernel_arguments import cnn_layers
from wsfast.modules import to_module


@dataclass(kw_only=True)
class CnnProblem(Drawn):
    """plainnet5 of `width` on images 3 x size x size; drawn too: starts, the initial parameters."""

    size: int

    def __post_init__(self) -> None:
        self.net = wsfast.network("plainnet5", (3, self.size, self.size), self.classes, self.width)
        layers = cnn_layers(self.net)
        assert layers is not None
        names = ("sizes", "slopes", "strides", "norm_last", "pools", "shortcuts")
        self.draw(self.size, self.net.input_shape, dict(zip(names, layers, strict=True)))
        self.images = self.images.reshape(-1, *self.net.input_shape)
        none = np.empty(0, np.int64)
        still = {**self.common, "lr": np.empty(0, np.float32), "train_rows": none, "train_labels": none}
        self.starts = [cnn.train_cnn(**still, repeat=r)[0] for r in range(self.networks)]

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
