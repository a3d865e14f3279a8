"""JAX: all steps of all networks as one compiled call."""

import torch

from bench.peers import xla
from bench.problem import Problem


def train(problem: Problem, networks: torch.Tensor) -> torch.Tensor:
    start = xla.mlp_start(problem, networks)
    data = xla.put(problem.images), xla.put(problem.labels)
    call = xla.trainer(xla.mlp_loss, problem.lr, problem.momentum)
    return xla.flat(call(xla.begin(start), xla.put(problem.orders[networks]), data), list(start))
