"""What most people run: one torch module after the other in channels_last, autograd, torch.optim.SGD."""

import torch
from torch import nn

from bench.cnn_problem import CnnProblem


def train(problem: CnnProblem, networks: torch.Tensor) -> torch.Tensor:
    images = problem.images.contiguous(memory_format=torch.channels_last)
    done = []
    for i in networks.tolist():
        net = problem.module(i).to(memory_format=torch.channels_last)
        optimizer = torch.optim.SGD(net.parameters(), lr=problem.lr, momentum=problem.momentum, fused=True)
        for rows in problem.orders[i]:
            optimizer.zero_grad()
            nn.functional.cross_entropy(net(images[rows]), problem.labels[rows]).backward()
            optimizer.step()
        done.append(problem.flat(net.state_dict()))
    return torch.stack(done)
