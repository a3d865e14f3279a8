"""torch.func: the gradient of one network, mapped over all; SGD on the stacked parameters."""

import torch
from torch import nn
from torch.func import functional_call, grad, stack_module_state, vmap

from bench.peers.torch_loop import module
from bench.problem import Problem


def train(problem: Problem, networks: torch.Tensor) -> torch.Tensor:
    nets = [module(problem, i) for i in networks.tolist()]
    parameters, _ = stack_module_state(nets)

    def loss(parameters: dict[str, torch.Tensor], x: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
        return nn.functional.cross_entropy(functional_call(nets[0], parameters, x), labels)

    gradients = vmap(grad(loss))
    optimizer = torch.optim.SGD(parameters.values(), lr=problem.lr, momentum=problem.momentum, foreach=True)
    for rows in problem.orders[networks].unbind(1):
        found = gradients({k: p.detach() for k, p in parameters.items()}, problem.images[rows], problem.labels[rows])
        for name, p in parameters.items():
            p.grad = found[name]
        optimizer.step()
    return torch.cat([p.detach().movedim(1, -1).flatten(1) for p in parameters.values()], 1)
