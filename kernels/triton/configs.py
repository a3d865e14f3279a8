"""Tile shapes, one for each kernel and kind of GPU: the largest found that compiles without a spill everywhere it runs.

`make kernels` compiles every one of them. None is chosen by a timed search: a network's bits do not depend on a clock.
"""

from dataclasses import dataclass

LIMIT = 128  # samples of a batch: one program sees a whole batch
SMALL = ((32, LIMIT), (64, 32), (128, 32))  # widths and batches trained whole by one program


@dataclass(frozen=True)
class Config:
    """Constants of one launch: tile sizes by their names in the kernel, warps, software-pipelining depth."""

    tiles: dict[str, int]
    warps: int
    stages: int

    def options(self) -> dict[str, int]:
        return {**self.tiles, "num_warps": self.warps, "num_stages": self.stages}


def wide(n: int) -> int:
    """A layer's padded width: a power of two of at least 16, from 128 on a multiple of 128."""
    return -(-n // 128) * 128 if n > 64 else max(16, 1 << (n - 1).bit_length())


def small(sizes: list[int], batch: int) -> bool:
    """Whether plain networks of these layers are trained whole by one program each: one narrow padded width."""
    widths = {wide(n) for n in sizes[1:-1]}
    width = max(widths)
    return len(widths) == 1 and sizes[-1] <= width and any(width <= w and wide(batch) <= b for w, b in SMALL)


def config(kernel: str, B: int, K: int, N: int, hip: bool = False) -> Config:
    """The launch of a kernel for batch B, padded input K and output N; "show", "check": forward passes alone."""
    warps, deep = (4, 2) if hip else (8, 3)
    narrow = 4 if N < 64 else warps
    if kernel == "first":
        return Config({"BK": min(32, K), "BN": min(64, N), "BB": min(32, B)}, narrow, deep)
    if kernel == "show":
        return Config({"BK": 16, "BN": min(64, N), "BB": min(32, B)}, narrow, deep)
    if kernel in ("forward", "check", "between"):
        return Config({"BK": min(32, K), "BN": min(64, N)}, narrow, 1 if kernel == "check" else deep)
    if kernel == "last":
        return Config({"BK": min(32, K)}, 4 if N <= 32 else 8, 2 if K > 128 else 3)
    if kernel == "gradient":
        return Config({"BK": min(64, K), "BN": min(32, N)}, warps if K >= 64 else 4, 2)
    if kernel == "update":
        return Config({"BK": min(64, K), "BN": min(64, N), "BB": min(32, B)}, 4, 2)
    if kernel == "gru":
        return Config({}, 8 if N > 32 else N // 16, 1)
    if kernel == "small":
        return Config({"BK": 16, "BB": min(16 if N > 64 else 32, B)}, 8, 2)
    raise KeyError(kernel)
