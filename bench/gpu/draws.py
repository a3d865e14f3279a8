"""Philox's initial weights and batch orders of many networks at once, on the device: the reference's bits."""

from itertools import pairwise

import numpy as np
import torch
from wsfast.reference import philox

SEED, TASK = 0, 0  # also the key: its two halves are 0
_LOW = 0xFFFFFFFF


def words(n: int, repeats: torch.Tensor, purpose: int, item: int) -> torch.Tensor:
    """philox.words of every repeat: int64 [N, n]. A product wraps at 2^64, so its upper half needs a mask."""
    c0 = torch.arange((n + 3) // 4, device=repeats.device)[None]
    c1, c2, c3 = torch.full_like(c0, (purpose << 24) + item), torch.full_like(c0, TASK), repeats[:, None]
    k0 = k1 = 0
    for _ in range(10):
        p0, p1 = c0 * 0xD2511F53, c2 * 0xCD9E8D57
        c0, c2 = (p1 >> 32 & _LOW) ^ c1 ^ k0, (p0 >> 32 & _LOW) ^ c3 ^ k1
        c1, c3 = p1 & _LOW, p0 & _LOW
        k0, k1 = (k0 + 0x9E3779B9) & _LOW, (k1 + 0xBB67AE85) & _LOW
    return torch.stack(torch.broadcast_tensors(c0, c1, c2, c3), -1).flatten(1)[:, :n]


def parameter(shape: tuple[int, ...], bound: float, item: int, repeats: torch.Tensor) -> torch.Tensor:
    """philox.initial_weight of every repeat: float32 [N, *shape]."""
    n = int(np.prod(shape))
    unit = (words(n, repeats, philox.INIT, item) >> 8).float() * 2.0**-23 - 1
    return (unit * float(np.float32(bound))).reshape(len(repeats), *shape)


def start(sizes: list[int], repeats: torch.Tensor) -> tuple[list[torch.Tensor], list[torch.Tensor]]:
    """mlp.initial_parameters of every repeat: weights [N, n_in, n_out] and biases [N, n_out] of each layer."""
    weights, biases = [], []
    for k, (n_in, n_out) in enumerate(pairwise(sizes)):
        bound = 1 / np.sqrt(n_in)
        weights.append(parameter((n_in, n_out), bound, 2 * k, repeats))
        biases.append(parameter((n_out,), bound, 2 * k + 1, repeats))
    return weights, biases


def orders(samples: int, epochs: int, repeats: torch.Tensor) -> torch.Tensor:
    """philox.batch_order of every epoch and repeat: int64 [epochs, N, samples]."""
    drawn = [words(samples, repeats, philox.ORDER, e).argsort(dim=1, stable=True) for e in range(epochs)]
    return torch.stack(drawn)
