"""torch.func: one point's loss, mapped over the points of a line and over pairs, some of them at a time."""

import torch
from torch.func import vmap
from torch.nn import functional as F

from bench.lines import Lines

PAIRS = 8  # at a time on a CPU: 25 times their activations must fit the cache


def curves(problem: Lines, pairs: torch.Tensor, together: int = PAIRS) -> torch.Tensor:
    """Mean losses [n, L]."""
    points = torch.from_numpy(problem.points).to(problem.device)

    def loss(start: torch.Tensor, end: torch.Tensor, t: torch.Tensor) -> torch.Tensor:
        h, parameters = problem.inputs, problem.unpacked(torch.lerp(start, end, t))
        for w, b in zip(parameters[:-2:2], parameters[1:-2:2], strict=True):
            h = torch.addmm(b, h, w).relu()
        return F.cross_entropy(torch.addmm(parameters[-1], h, parameters[-2]), problem.labels)

    lines = vmap(vmap(loss, (None, None, 0)), (0, 0, None))
    ends = ((e[i].to(problem.device) for e in (problem.start, problem.end)) for i in pairs.split(together))
    return torch.cat([lines(*some, points) for some in ends])
