"""All networks as one, written by hand: convolutions in groups, one network a group; SGD on the stacked parameters."""

import torch
from torch.func import stack_module_state
from torch.nn import functional as F

from bench.cnn_problem import CnnProblem


def train(problem: CnnProblem, networks: torch.Tensor) -> torch.Tensor:
    p, buffers = stack_module_state([problem.module(i) for i in networks.tolist()])
    n = len(networks)
    optimizer = torch.optim.SGD(p.values(), lr=problem.lr, momentum=problem.momentum, foreach=True)
    for rows in problem.orders[networks].unbind(1):
        x = problem.images[rows].transpose(0, 1).flatten(1, 2)  # [batch, networks * channels, height, width]
        for k in range(1, 5):
            x = F.conv2d(x, p[f"conv{k}.weight"].flatten(0, 1), p[f"conv{k}.bias"].flatten(), padding=1, groups=n)
            running = (buffers[f"bn{k}.{name}"].view(-1) for name in ("running_mean", "running_var"))
            x = F.batch_norm(x, *running, p[f"bn{k}.weight"].flatten(), p[f"bn{k}.bias"].flatten(), training=True)
            x = F.max_pool2d(F.relu(x), 2)
        features = x.mean(dim=(2, 3)).unflatten(1, (n, -1)).transpose(0, 1)
        logits = torch.baddbmm(p["fc.bias"][:, None], features, p["fc.weight"].mT)
        optimizer.zero_grad()
        (F.cross_entropy(logits.flatten(0, 1), problem.labels[rows].flatten()) * n).backward()
        optimizer.step()
    states = [{name: v[i] for name, v in {**p, **buffers}.items()} for i in range(n)]
    return torch.stack([problem.flat(state) for state in states])
