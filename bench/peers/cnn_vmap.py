"""torch.func: the gradient of one network, mapped over all; SGD on the stacked parameters."""

import torch
from torch import nn
from torch.func import functional_call, grad, stack_module_state, vmap

from bench.cnn_problem import CnnProblem


def train(problem: CnnProblem, networks: torch.Tensor) -> torch.Tensor:
    nets = [problem.module(i) for i in networks.tolist()]
    parameters, buffers = stack_module_state(nets)

    def loss(parameters: dict, buffers: dict, x: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
        return nn.functional.cross_entropy(functional_call(nets[0], (parameters, buffers), x), labels)

    gradients = vmap(grad(loss))
    optimizer = torch.optim.SGD(parameters.values(), lr=problem.lr, momentum=problem.momentum, foreach=True)
    for rows in problem.orders[networks].unbind(1):
        now = {k: p.detach() for k, p in parameters.items()}
        found = gradients(now, buffers, problem.images[rows], problem.labels[rows])
        for name, p in parameters.items():
            p.grad = found[name]
        optimizer.step()
    states = [{k: v[i] for k, v in {**parameters, **buffers}.items()} for i in range(len(nets))]
    return torch.stack([problem.flat(state) for state in states])
