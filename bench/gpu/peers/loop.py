"""One network after the other: torch modules, autograd, torch.optim.SGD; eagerly, or an epoch as one CUDA graph."""

from collections.abc import Callable
from typing import Any

import torch
from torch import nn

from bench.gpu.peers.peer import EAGER, Peer, captured
from bench.gpu.problem import MOMENTUM, Problem


class Network:
    def __init__(self, problem: Problem, number: int) -> None:
        self.problem, self.number, self.images = problem, number, problem.images
        layers: list[nn.Module] = []
        for w in problem.weights:
            layers += [nn.utils.skip_init(nn.Linear, w.shape[1], w.shape[2], device=problem.device), nn.ReLU()]
        self.module = nn.Sequential(*layers[:-1])
        self.linears = [layer for layer in layers if isinstance(layer, nn.Linear)]
        self.optimizer = torch.optim.SGD(self.module.parameters(), lr=problem.size.lr, momentum=MOMENTUM, fused=True)
        self.reset()

    @torch.no_grad()
    def reset(self) -> None:
        """In place, so that a graph captured next sees it. A velocity of zeros is what a first step starts from."""
        for linear, w, b in zip(self.linears, self.problem.weights, self.problem.biases, strict=True):
            linear.weight.copy_(w[self.number].T)
            linear.bias.copy_(b[self.number])
        for state in self.optimizer.state.values():
            state["momentum_buffer"].zero_()
        self.optimizer.zero_grad()

    def steps(self, rows: torch.Tensor) -> None:
        """rows [steps, batch]."""
        for chosen in rows.unbind(0):
            self.optimizer.zero_grad()
            logits = self.module(self.images[chosen])
            nn.functional.cross_entropy(logits, self.problem.labels[chosen]).backward()
            self.optimizer.step()

    def parameters(self) -> torch.Tensor:
        return torch.cat([p.detach().movedim(0, -1).reshape(-1) for p in self.module.parameters()])


class Loop(Peer):
    network: Callable[..., Any] = Network

    def __init__(self, problem: Problem, networks: torch.Tensor, precision: str) -> None:
        super().__init__(problem, networks, precision)
        self.ready = [self.network(problem, i) for i in networks.tolist()]
        self.calls: list[Callable[[torch.Tensor], None]] = [network.steps for network in self.ready]

    def epoch(self, number: int) -> None:
        for call, rows in zip(self.calls, self.orders[number], strict=True):
            call(rows)

    def parameters(self) -> torch.Tensor:
        return torch.stack([network.parameters() for network in self.ready])


class GraphLoop(Loop):
    def __init__(self, problem: Problem, networks: torch.Tensor, precision: str) -> None:
        super().__init__(problem, networks, precision)
        self.calls = [captured(n.steps, self.orders[0, k], n.reset) for k, n in enumerate(self.ready)]
        if problem.device != "cuda":
            self.notes |= EAGER
