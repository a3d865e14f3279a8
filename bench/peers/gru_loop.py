"""What most people run: one nn.GRU network after the other on single names, autograd, torch.optim.SGD."""

import torch
from torch import nn

from bench.names import ALPHABET, Names


def train(problem: Names, networks: torch.Tensor) -> torch.Tensor:
    done = []
    for i in networks.tolist():
        starts = [p[i] for p in problem.parameters]
        rnn = nn.GRU(ALPHABET, problem.hidden, num_layers=2, device=problem.device)
        fc = nn.Linear(*starts[8].shape, device=problem.device)
        held = [*rnn.parameters(), *fc.parameters()]
        for p, start in zip(held, starts, strict=True):
            by_torch = start if start.dim() == 2 and p.dim() == 1 else start.movedim(0, -1)
            p.data = by_torch.reshape(p.shape).clone()
        rnn.flatten_parameters()
        optimizer = torch.optim.SGD(held, lr=problem.lr, fused=True)
        one_hot = nn.functional.one_hot(problem.letters, ALPHABET + 1)[:, :, :ALPHABET].float()
        lengths = problem.lengths.tolist()
        for row in problem.drawn[i].tolist():
            optimizer.zero_grad()
            h = rnn(one_hot[row, : lengths[row]])[0]
            nn.functional.cross_entropy(fc(h[-1]), problem.labels[row]).backward()
            optimizer.step()
        back = [p.detach().reshape(*start.shape[1:], -1).movedim(-1, 0) if p.dim() > 1 else p.detach()
                for p, start in zip(held, starts, strict=True)]  # fmt: skip
        done.append(torch.cat([p.reshape(-1) for p in back]))
    return torch.stack(done)
