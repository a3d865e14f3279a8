"""What this card reaches when nothing else is asked of it: copies, and products of random matrices, by torch."""

from typing import Any

import torch

from bench.gpu.device import median_seconds, products

K = 128  # the training shape: a batch of 128 samples is summed over


def copy(device: str, n: int) -> float:
    """GB/s, read + written."""
    source = torch.rand(n, device=device)
    target = torch.empty_like(source)
    return 8 * n / median_seconds(lambda: target.copy_(source), device) / 1e9


def large(device: str, n: int, dtype: torch.dtype) -> float:
    """TFLOP/s of an n x n x n product."""
    a, b = (torch.randn(n, n, device=device).to(dtype) for _ in range(2))
    out = torch.empty_like(a)
    return 2 * n**3 / median_seconds(lambda: torch.mm(a, b, out=out), device) / 1e12


def batched(device: str, n: int, d: int, width: int, dtype: torch.dtype) -> dict[str, float]:
    """TFLOP/s and GB/s of V <- 0.9 V + X^T dY for n networks: the strong peer's weight gradient."""
    x = torch.randn(n, K, d, device=device).to(dtype)
    gradient = torch.randn(n, K, width, device=device).to(dtype)
    v = torch.randn(n, d, width, device=device).to(dtype)
    seconds = median_seconds(lambda: v.baddbmm_(x.mT, gradient, beta=0.9), device)
    moved = x.element_size() * (x.numel() + gradient.numel() + 2 * v.numel())
    return {"tflops": 2 * n * K * d * width / seconds / 1e12, "gbs": moved / seconds / 1e9}


def measure(device: str, small: bool = False) -> dict[str, Any]:
    """{"copy": GB/s, "fp32", "tf32", "bf16": TFLOP/s, "batched": {precision: {tflops, gbs}}}."""
    n, side, shape = (1 << 20, 256, (4, 96, 64)) if small else (1 << 30, 8192, (128, 3072, 512))
    found: dict[str, Any] = {"copy": copy(device, n), "batched": {}}
    for precision in ("fp32", "tf32", "bf16"):
        dtype = torch.bfloat16 if precision == "bf16" else torch.float32
        with products(precision):
            found[precision] = large(device, side, dtype)
            found["batched"][precision] = batched(device, *shape, dtype)
        if device == "cuda":
            torch.cuda.empty_cache()
    return found
