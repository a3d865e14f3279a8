"""torch.func: one point's loss, mapped over the points of a line and over pairs, PAIRS of them at a time."""

import torch
from torch.func import vmap
from torch.nn import functional as F

from bench.bench_interpolate import Lines

PAIRS = 8  # of 8, 32 and 128 the fastest at widths 32 and 100: 25 times their activations must fit the cache


def curves(problem: Lines, pairs: torch.Tensor) -> torch.Tensor:
    """Mean losses [n, L]."""
    points = torch.from_numpy(problem.points)

    def loss(start: torch.Tensor, end: torch.Tensor, t: torch.Tensor) -> torch.Tensor:
        h, parameters = problem.inputs, problem.unpacked(torch.lerp(start, end, t))
        for w, b in zip(parameters[:-2:2], parameters[1:-2:2], strict=True):
            h = torch.addmm(b, h, w).relu()
        return F.cross_entropy(torch.addmm(parameters[-1], h, parameters[-2]), problem.labels)

    lines = vmap(vmap(loss, (None, None, 0)), (0, 0, None))
    return torch.cat([lines(problem.start[i], problem.end[i], points) for i in pairs.split(PAIRS)])
