"""The convolutional networks' problem: plainnet5 on square images."""

from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import torch
from torch import nn
from wsfast.reference import cnn

import wsfast
from bench.gpu import draws, model
from bench.gpu.problem import Problem
from wsfast.declaration import Network
from wsfast.kernel_arguments import cnn_layers
from wsfast.modules import to_module


@dataclass(frozen=True)
class CnnSize:
    """N plainnet5 of `width` channels on `samples` images 3 x side x side in full batches."""

    side: int
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
    def d(self) -> int:
        return 3 * self.side**2

    @property
    def sizes(self) -> list[int]:
        return [3, *[self.width * 2**k for k in range(4)], self.classes]

    @property
    def steps(self) -> int:
        """Of one epoch."""
        return self.samples // self.batch

    @property
    def ours(self) -> str:
        """The model's variant of our kernels."""
        return "units"

    def floor(self, variant: str, precision: str, ceilings: dict[str, Any], eager: bool, alone: bool) -> model.Floor:
        units = [(self.sizes[k], self.sizes[k + 1], self.side // 2**k) for k in range(4)]
        return model.cnn_floor(units, self.batch, variant, precision, ceilings, self.networks, eager, alone)

    def __str__(self) -> str:
        shape = f"{self.width} channels on 3x{self.side}x{self.side}"
        return f"plainnet5 of {shape}, batch {self.batch}, {self.networks:,} networks"


class CnnProblem(Problem):
    """start: every parameter of the declaration, [N, *its shape], by name; images [samples, 3, side, side]."""

    op, exact = "train_cnn", staticmethod(cnn.train_cnn)

    def _start(self, like: Any) -> None:
        self.images = self.images.view(-1, 3, self.size.side, self.size.side)
        self.start = like.start if like else {p.name: self._drawn(i) for i, p in enumerate(self.net.parameters)}

    @cached_property
    def net(self) -> Network:
        return wsfast.network("plainnet5", (3, self.size.side, self.size.side), self.size.classes, self.size.width)

    def _drawn(self, item: int) -> torch.Tensor:
        p = self.net.parameters[item]
        if p.fill is None:
            return draws.parameter(p.shape, p.bound, item, self.everyone)
        return torch.full((self.size.networks, *p.shape), float(p.fill), device=self.device)

    def parameters(self, networks: torch.Tensor) -> np.ndarray:
        return torch.cat([p[networks].flatten(1) for p in self.start.values()], 1).cpu().numpy()

    @property
    def _declared(self) -> dict[str, Any]:
        layers = cnn_layers(self.net)
        assert layers is not None
        names = ("sizes", "slopes", "strides", "norm_last", "pools", "shortcuts")
        return {**dict(zip(names, layers, strict=True)), "shape": np.array(self.net.input_shape)}

    def module(self, number: int) -> nn.Module:
        """Network `number` before its first step, in training mode, on the device."""
        arrays = {name: p[number].cpu().numpy() for name, p in self.start.items()}
        return to_module(self.net, arrays).to(self.device).train()

    def flat(self, state: dict[str, torch.Tensor]) -> torch.Tensor:
        """A network's parameters [P] in the order of the reference, from torch's state."""
        arrays = [p.from_torch(state[p.name].detach().cpu().contiguous().numpy()) for p in self.net.parameters]
        return torch.from_numpy(np.concatenate([a.ravel() for a in arrays]))
