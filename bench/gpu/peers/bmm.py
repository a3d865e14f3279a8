"""The strong peer: forward and backward by hand with batched products, momentum accumulated inside the product, an
epoch as one CUDA graph."""

import torch
from torch.nn.functional import one_hot, pad

from bench.gpu.peers.peer import EAGER, Peer, captured
from bench.gpu.problem import MOMENTUM, Problem

TILE = 64


class Bmm(Peer):
    """tile: hidden widths are padded to a multiple of it; padded units have zero weights and gradients: exact."""

    def __init__(self, problem: Problem, networks: torch.Tensor, precision: str, tile: int = 1) -> None:
        super().__init__(problem, networks, precision)
        sizes = problem.size.sizes
        self.extra = [0, *[-n % tile for n in sizes[1:-1]], 0]
        n = len(networks)
        kinds = [problem.weights, [b[:, None] for b in problem.biases]]
        shapes = [[self._grown(p[:1], k).shape[1:] for k, p in enumerate(kind)] for kind in kinds]
        self.weights, self.biases = ([torch.empty(n, *s, device=problem.device) for s in kind] for kind in shapes)
        self.w_velocity, self.b_velocity = ([torch.empty_like(p) for p in kind] for kind in (self.weights, self.biases))
        self.targets = one_hot(problem.labels, problem.size.classes).float()
        self.reset()
        self.call = captured(self.steps, self.orders[0], self.reset)
        if problem.device != "cuda":
            self.notes |= EAGER

    def _grown(self, p: torch.Tensor, layer: int) -> torch.Tensor:
        """A weight [n, n_in, n_out] or bias [n, 1, n_out] with its padding."""
        above = self.extra[layer] if p.shape[1] > 1 else 0
        return pad(p, (0, self.extra[layer + 1], 0, above))

    def reset(self) -> None:
        """In place, so that a graph captured next sees it."""
        for k, (w, b) in enumerate(zip(self.problem.weights, self.problem.biases, strict=True)):
            self.weights[k].copy_(self._grown(w[self.networks], k))
            self.biases[k].copy_(self._grown(b[self.networks, None], k))
        for v in (*self.w_velocity, *self.b_velocity):
            v.zero_()

    @torch.no_grad()
    def steps(self, rows: torch.Tensor) -> None:
        """rows [n, steps, batch]."""
        last = len(self.weights) - 1
        for chosen in rows.unbind(1):
            outputs = [self.problem.images[chosen]]
            for k, (w, b) in enumerate(zip(self.weights, self.biases, strict=True)):
                z = torch.baddbmm(b, outputs[-1], w)
                outputs.append(z.relu_() if k < last else z)
            gradient = torch.softmax(outputs.pop(), -1).sub_(self.targets[chosen]).div_(chosen.shape[1])
            for k in range(last, -1, -1):
                below = torch.bmm(gradient, self.weights[k].mT).mul_(outputs[k] > 0) if k else gradient
                self.w_velocity[k].baddbmm_(outputs[k].mT, gradient, beta=MOMENTUM)
                self.b_velocity[k].mul_(MOMENTUM).add_(gradient.sum(1, keepdim=True))
                self.weights[k].add_(self.w_velocity[k], alpha=-self.problem.size.lr)
                self.biases[k].add_(self.b_velocity[k], alpha=-self.problem.size.lr)
                gradient = below

    def epoch(self, number: int) -> None:
        self.call(self.orders[number])

    def parameters(self) -> torch.Tensor:
        sizes = self.problem.size.sizes
        pairs = zip(self.weights, self.biases, sizes, sizes[1:], strict=False)
        return torch.cat([p[:, :n, :m].flatten(1) for w, b, n, m in pairs for p in (w, b)], 1)


class PaddedBmm(Bmm):
    def __init__(self, problem: Problem, networks: torch.Tensor, precision: str) -> None:
        super().__init__(problem, networks, precision, TILE)
