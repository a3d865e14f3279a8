"""What most people run: one torch module after the other, autograd, torch.optim.SGD."""

import torch
from torch import nn

from bench.problem import Problem


def module(problem: Problem, i: int) -> nn.Sequential:
    """Network i at its initial weights."""
    layers: list[nn.Module] = []
    for w, b in zip(problem.weights, problem.biases, strict=True):
        linear = nn.Linear(w.shape[1], w.shape[2])
        linear.weight.data, linear.bias.data = w[i].T.contiguous(), b[i].clone()
        layers += [linear, nn.ReLU()]
    return nn.Sequential(*layers[:-1])


def train(problem: Problem, networks: torch.Tensor) -> torch.Tensor:
    done = []
    for i in networks.tolist():
        net = module(problem, i)
        optimizer = torch.optim.SGD(net.parameters(), lr=problem.lr, momentum=problem.momentum, fused=True)
        for rows in problem.orders[i]:
            optimizer.zero_grad()
            nn.functional.cross_entropy(net(problem.images[rows]), problem.labels[rows]).backward()
            optimizer.step()
        done.append(torch.cat([p.detach().movedim(0, -1).reshape(-1) for p in net.parameters()]))
    return torch.stack(done)
