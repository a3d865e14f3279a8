"""JAX: an epoch of every network as one compiled call, its compiling apart."""

import time
from collections.abc import Callable
from typing import Any, ClassVar

import torch

from bench.gpu.peers.peer import Peer
from bench.gpu.problem import MOMENTUM
from bench.peers import xla

PRODUCTS = {"fp32": "float32", "tf32": "tensorfloat32"}


class Jax(Peer):
    loss: ClassVar[Callable[..., Any]] = staticmethod(xla.mlp_loss)

    def __init__(self, problem: Any, networks: torch.Tensor, precision: str) -> None:
        super().__init__(problem, networks, precision)
        import jax

        start = self.start()
        self.names, self.state = list(start), xla.begin(start)
        self.rows = [xla.put(o) for o in self.orders]
        self.data = xla.put(self.images()), xla.put(problem.labels)
        began = time.perf_counter()
        with jax.default_matmul_precision(PRODUCTS[precision]):
            call = xla.trainer(self.loss, problem.size.lr, MOMENTUM)
            self.call = call.lower(self.state, self.rows[0], self.data).compile()
        self.notes["compile_seconds"] = time.perf_counter() - began

    def start(self) -> dict[str, torch.Tensor]:
        return xla.mlp_start(self.problem, self.networks)

    def images(self) -> torch.Tensor:
        return self.problem.images

    def epoch(self, number: int) -> None:
        self.state = self.call(self.state, self.rows[number], self.data)

    def run(self, epochs: int) -> None:
        import jax

        super().run(epochs)
        jax.block_until_ready(self.state)

    def parameters(self) -> torch.Tensor:
        return xla.flat(self.state, self.names)


class JaxCnn(Jax):
    loss = staticmethod(xla.cnn_loss)

    def start(self) -> dict[str, torch.Tensor]:
        return {name: p[self.networks] for name, p in self.problem.start.items()}

    def images(self) -> torch.Tensor:
        return self.problem.images.movedim(1, -1)
