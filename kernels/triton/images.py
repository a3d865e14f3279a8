"""The images of all networks on the device, gathered by row inside the kernels: no batch is ever materialised."""

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from .configs import wide


@dataclass
class Images:
    """The data on the device, padded where random crops need it.

    x: flat, [n, c, h + 2 pad, w + 2 pad] and after it the same mirrored, so that a cropped and mirrored image is again
    one base address plus the same offsets for all. offsets int32 [K], scale and shift float32 [K], zero past d.
    """

    x: torch.Tensor
    samples: int
    stride: int
    line: int
    pad: int
    offsets: torch.Tensor
    scale: torch.Tensor
    shift: torch.Tensor

    @classmethod
    def load(cls, x: np.ndarray, scale: np.ndarray, shift: np.ndarray, shape: Any, pad: int, device: str) -> "Images":
        n, d = x.shape
        c, h, w = (int(s) for s in shape) if pad >= 0 else (1, 1, d)
        p = max(pad, 0)
        images = torch.from_numpy(np.ascontiguousarray(x)).to(device).view(n, c, h, w)
        if p:
            images = torch.nn.functional.pad(images, (p, p, p, p))
        if pad >= 0:
            images = torch.cat([images, images.flip(3)])
        high, line = h + 2 * p, w + 2 * p
        j = torch.arange(d, device=device)
        inside = (j // (h * w)) * high * line + (j // w % h) * line + j % w
        k = columns(d)
        offsets, factors = torch.zeros(k, dtype=torch.int32, device=device), torch.zeros(2, k, device=device)
        offsets[:d] = inside
        factors[0, :d], factors[1, :d] = torch.tensor(scale, device=device), torch.tensor(shift, device=device)
        return cls(images.reshape(-1), n, c * high * line, line, pad, offsets, *factors.unbind())

    def bases(self, rows: torch.Tensor, crops: torch.Tensor | None) -> torch.Tensor:
        """Where each sample starts in x: int64, the shape of rows; crops as philox.augmentation packs them."""
        if crops is None:
            middle = self.pad * (self.line + 1) if self.pad > 0 else 0
            return rows * self.stride + middle
        crops = crops.long()
        dy, dx, flip = crops & 255, crops >> 8 & 255, crops >> 16
        dx = torch.where(flip > 0, 2 * self.pad - dx, dx)
        return (rows + flip * self.samples) * self.stride + dy * self.line + dx


def columns(d: int) -> int:
    """The first layer's padded input: a multiple of 64, or a power of two of at least 16."""
    return -(-d // 64) * 64 if d > 32 else wide(d)
