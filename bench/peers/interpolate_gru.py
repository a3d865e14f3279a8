"""What most people run: pair after pair, point after point, nn.GRU on all names at once as a packed sequence."""

import torch
from torch import nn
from torch.nn import functional as F
from torch.nn.utils.rnn import pack_padded_sequence
from wsfast.reference import gru

from bench.name_lines import NameLines
from bench.names import ALPHABET, CLASSES


def curves(problem: NameLines, pairs: torch.Tensor) -> torch.Tensor:
    """Mean losses [n, L]."""
    rnn = nn.GRU(ALPHABET, problem.hidden, num_layers=2, batch_first=True, device=problem.device)
    fc = nn.Linear(problem.hidden, CLASSES, device=problem.device)
    held, shapes = [*rnn.parameters(), *fc.parameters()], gru.shapes(ALPHABET, problem.hidden, CLASSES)
    one_hot = F.one_hot(problem.letters, ALPHABET + 1)[:, :, :ALPHABET].float()
    names = pack_padded_sequence(one_hot, problem.lengths.cpu(), batch_first=True, enforce_sorted=False)

    def as_torch(flat: torch.Tensor) -> list[torch.Tensor]:
        parts = [p.view(shape) for p, shape in zip(flat.split([p.numel() for p in held]), shapes, strict=True)]
        turned = (p.movedim(0, -1) if held[i].dim() > 1 else p for i, p in enumerate(parts))
        return [p.reshape(own.shape).contiguous() for p, own in zip(turned, held, strict=True)]

    found = torch.empty(len(pairs), len(problem.points), device=problem.device)
    with torch.no_grad():
        for row, i in zip(found, pairs.tolist(), strict=True):
            start, end = (as_torch(ends[i].to(problem.device)) for ends in (problem.start, problem.end))
            for k, t in enumerate(problem.points.tolist()):
                for p, a, b in zip(held, start, end, strict=True):
                    torch.lerp(a, b, t, out=p)
                row[k] = F.cross_entropy(fc(rnn(names)[1][-1]), problem.labels)
    return found
