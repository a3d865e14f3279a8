"""What differs between a GPU and a CPU: clocks, float32 products, the card's name."""

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch


def synchronise(device: str) -> None:
    if device == "cuda":
        torch.cuda.synchronize()


@contextmanager
def products(precision: str) -> Iterator[None]:
    """float32 products in IEEE float32 ("fp32") or in TF32 ("tf32"), which a CPU has not: it stays with float32."""
    places = torch.backends.cuda.matmul, torch.backends.cudnn
    before = [place.allow_tf32 for place in places]
    for place in places:
        place.allow_tf32 = precision == "tf32"
    try:
        yield
    finally:
        for place, was in zip(places, before, strict=True):
            place.allow_tf32 = was


def wall(call: Callable[[], Any], device: str) -> float:
    """Seconds of one call on the wall clock, the device idle before and after."""
    synchronise(device)
    start = time.perf_counter()
    call()
    synchronise(device)
    return time.perf_counter() - start


def median_seconds(call: Callable[[], Any], device: str, repeats: int = 15) -> float:
    """The median time of one call by CUDA events, after three calls to warm up."""
    for _ in range(3):
        call()
    if device != "cuda":
        return float(np.median([wall(call, device) for _ in range(repeats)]))
    times = []
    for _ in range(repeats):
        start, end = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
        start.record()
        call()
        end.record()
        end.synchronize()
        times.append(start.elapsed_time(end) / 1e3)
    return float(np.median(times))


def describe(device: str) -> dict[str, Any]:
    if device != "cuda":
        return {"name": "CPU (smoke run)"}
    card = torch.cuda.get_device_properties(0)
    return {
        "name": card.name,
        "capability": f"{card.major}.{card.minor}",
        "multiprocessors": card.multi_processor_count,
        "memory": card.total_memory,
        "l2": getattr(card, "L2_cache_size", None),
        "cuda": torch.version.cuda,
    }
