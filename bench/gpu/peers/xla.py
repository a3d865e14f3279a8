"""JAX: one network's epoch as a scan over its steps, mapped over all networks and compiled once, its time apart."""

import os
import time
from typing import Any

import numpy as np
import torch

from bench.gpu.peers.peer import Peer
from bench.gpu.problem import MOMENTUM, Problem

PRODUCTS = {"fp32": "float32", "tf32": "tensorfloat32"}


def missing(device: str) -> str | None:
    """Why JAX cannot run on this device; None where it can."""
    os.environ.setdefault("XLA_PYTHON_CLIENT_PREALLOCATE", "false")  # the card is shared with torch
    os.environ.setdefault("XLA_PYTHON_CLIENT_MEM_FRACTION", "0.3")
    try:
        import jax

        jax.devices("gpu" if device == "cuda" else "cpu")
    except (ImportError, RuntimeError) as error:
        return f"{type(error).__name__}: {error}"
    return None


class Jax(Peer):
    def __init__(self, problem: Problem, networks: torch.Tensor, precision: str) -> None:
        super().__init__(problem, networks, precision)
        import jax
        import jax.numpy as jnp

        place = jax.devices("gpu" if problem.device == "cuda" else "cpu")[0]

        def put(tensor: torch.Tensor) -> Any:
            return jax.device_put(tensor.cpu().numpy(), place)

        def loss(parameters: list[Any], x: Any, labels: Any) -> Any:
            for k, (w, b) in enumerate(parameters):
                x = x @ w + b
                x = jax.nn.relu(x) if k < len(parameters) - 1 else x
            return -jax.nn.log_softmax(x)[jnp.arange(len(labels)), labels].mean()

        def train_step(state: Any, rows: Any, images: Any, labels: Any) -> Any:
            parameters, velocities = state
            gradients = jax.grad(loss)(parameters, images[rows], labels[rows])
            velocities = jax.tree.map(lambda v, g: MOMENTUM * v + g, velocities, gradients)
            return jax.tree.map(lambda p, v: p - problem.size.lr * v, parameters, velocities), velocities

        def epoch(state: Any, orders: Any, images: Any, labels: Any) -> Any:
            return jax.lax.scan(lambda s, rows: (train_step(s, rows, images, labels), None), state, orders)[0]

        pairs = zip(problem.weights, problem.biases, strict=True)
        start = [(put(w[networks]), put(b[networks])) for w, b in pairs]
        self.state = start, jax.tree.map(jnp.zeros_like, start)
        self.rows = [put(o.to(torch.int32)) for o in self.orders]
        self.fixed = put(problem.images), put(problem.labels.to(torch.int32))
        self.ready = jax.block_until_ready
        call = jax.jit(jax.vmap(epoch, in_axes=(0, 0, None, None)), donate_argnums=0)
        began = time.perf_counter()
        with jax.default_matmul_precision(PRODUCTS[precision]):
            self.call = call.lower(self.state, self.rows[0], *self.fixed).compile()
        self.notes["compile_seconds"] = time.perf_counter() - began

    def epoch(self, number: int) -> None:
        self.state = self.call(self.state, self.rows[number], *self.fixed)

    def run(self, epochs: int) -> None:
        super().run(epochs)
        self.ready(self.state)

    def parameters(self) -> torch.Tensor:
        pairs = [np.asarray(p) for pair in self.state[0] for p in pair]
        return torch.from_numpy(np.concatenate([p.reshape(len(p), -1) for p in pairs], 1))
