"""JAX: all steps of all networks as one compiled call."""

import numpy as np
import torch

from bench.cnn_problem import CnnProblem
from bench.peers import xla


def train(problem: CnnProblem, networks: torch.Tensor) -> torch.Tensor:
    listed = problem.net.parameters
    every = torch.tensor(np.array(problem.starts))[networks].float().split([p.size for p in listed], 1)
    start = {p.name: part.unflatten(1, p.shape) for p, part in zip(listed, every, strict=True)}
    data = xla.put(problem.images.movedim(1, -1)), xla.put(problem.labels)
    call = xla.trainer(xla.cnn_loss, problem.lr, problem.momentum)
    return xla.flat(call(xla.begin(start), xla.put(problem.orders[networks]), data), list(start))
