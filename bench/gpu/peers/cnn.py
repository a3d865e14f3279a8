"""Convolutional networks: one after the other, mapped by torch.func, and as one network with convolutions in groups."""

from typing import Any

import torch
from torch import nn
from torch.func import functional_call, grad, stack_module_state, vmap
from torch.nn import functional as F

from bench.gpu.peers import loop
from bench.gpu.peers.peer import EAGER, Peer, captured
from bench.gpu.problem import MOMENTUM


def _sgd(parameters: Any, lr: float) -> torch.optim.SGD:
    return torch.optim.SGD(parameters, lr=lr, momentum=MOMENTUM, fused=True)


class _Network(loop.Network):
    def __init__(self, problem: Any, number: int) -> None:
        self.problem, self.number = problem, number
        self.images = problem.images.contiguous(memory_format=torch.channels_last)
        self.module = problem.module(number).to(memory_format=torch.channels_last)
        self.optimizer = _sgd(self.module.parameters(), problem.size.lr)
        self.start = {name: p.clone() for name, p in self.module.state_dict().items()}

    def reset(self) -> None:
        self.module.load_state_dict(self.start)
        for state in self.optimizer.state.values():
            state["momentum_buffer"].zero_()
        self.optimizer.zero_grad()

    def parameters(self) -> torch.Tensor:
        return self.problem.flat(self.module.state_dict())


class Loop(loop.Loop):
    network = _Network


class GraphLoop(loop.GraphLoop):
    network = _Network


class _Stacked(Peer):
    """All networks' parameters and buffers in one tensor each, [n, ...], under torch's names."""

    def __init__(self, problem: Any, networks: torch.Tensor, precision: str) -> None:
        super().__init__(problem, networks, precision)
        modules = [problem.module(i) for i in networks.tolist()]
        self.module: nn.Module = modules[0]
        self.p, self.buffers = stack_module_state(modules)
        self.optimizer = _sgd(self.p.values(), problem.size.lr)
        self.start = {name: p.detach().clone() for name, p in {**self.p, **self.buffers}.items()}

    @torch.no_grad()
    def reset(self) -> None:
        """As loop.Network's."""
        for name, p in {**self.p, **self.buffers}.items():
            p.copy_(self.start[name])
        for state in self.optimizer.state.values():
            state["momentum_buffer"].zero_()
        self.optimizer.zero_grad()

    def parameters(self) -> torch.Tensor:
        every = {**self.p, **self.buffers}
        states = [{name: v[i] for name, v in every.items()} for i in range(len(self.networks))]
        return torch.stack([self.problem.flat(state) for state in states])


class Vmap(_Stacked):
    def epoch(self, number: int) -> None:
        def loss(p: dict, buffers: dict, x: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
            return F.cross_entropy(functional_call(self.module, (p, buffers), x), labels)

        images, labels = self.problem.images, self.problem.labels
        for rows in self.orders[number].unbind(1):
            now = {name: p.detach() for name, p in self.p.items()}
            found = vmap(grad(loss))(now, self.buffers, images[rows], labels[rows])
            for name, p in self.p.items():
                p.grad = found[name]
            self.optimizer.step()


class Grouped(_Stacked):
    """HFTA's way: convolutions of `groups=n`, BatchNorm over all networks' channels, the head as a batched product."""

    def __init__(self, problem: Any, networks: torch.Tensor, precision: str) -> None:
        super().__init__(problem, networks, precision)
        self.call = captured(self.steps, self.orders[0], self.reset)
        if problem.device != "cuda":
            self.notes |= EAGER

    def steps(self, rows: torch.Tensor) -> None:
        """rows [n, steps, batch]."""
        n, p = len(rows), self.p
        for chosen in rows.unbind(1):
            x = self.problem.images[chosen].transpose(0, 1).flatten(1, 2)  # [batch, n channels, height, width]
            for k in range(1, 5):
                x = F.conv2d(x, p[f"conv{k}.weight"].flatten(0, 1), p[f"conv{k}.bias"].flatten(), padding=1, groups=n)
                running = (self.buffers[f"bn{k}.{name}"].view(-1) for name in ("running_mean", "running_var"))
                x = F.batch_norm(x, *running, p[f"bn{k}.weight"].flatten(), p[f"bn{k}.bias"].flatten(), training=True)
                x = F.max_pool2d(F.relu(x), 2)
            features = x.mean(dim=(2, 3)).unflatten(1, (n, -1)).transpose(0, 1)
            logits = torch.baddbmm(p["fc.bias"][:, None], features, p["fc.weight"].mT)
            self.optimizer.zero_grad()
            (F.cross_entropy(logits.flatten(0, 1), self.problem.labels[chosen].flatten()) * n).backward()
            self.optimizer.step()

    def epoch(self, number: int) -> None:
        self.call(self.orders[number])
