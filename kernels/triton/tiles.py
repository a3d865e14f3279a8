"""Tile shapes of the chain kernels, as configs.py has those of training: by d and r, never by how many networks run.

Each is the largest found that compiles without a spill everywhere it runs. T is the side of a tile of G: at 64 a
processor holds two programs, and one of them splits operands while the other multiplies.
"""

from .configs import Config


def side(n: int, most: int) -> int:
    """A tile's side along an axis of n: a power of two from 16 to `most`."""
    return min(most, max(16, 1 << (n - 1).bit_length()))


def tiles(kernel: str, rows: int, columns: int, depth: int, hip: bool = False) -> Config:
    """The launch of a kernel whose result is rows x columns, summed over `depth`."""
    deep = 2 if hip else 3
    if kernel == "norm":
        return Config({"BM": 16, "BN": side(columns, 128)}, 4, 1)
    if kernel == "unit":
        return Config({"BM": side(rows, 64), "BN": side(columns, 32)}, 4, 1)
    if kernel == "standardise":
        return Config({"BM": 16, "BN": side(columns, 64)}, 4, 1)
    if kernel == "correlation":
        return Config({"BM": side(rows, 64), "BN": side(columns, 64), "BK": side(depth, 32)}, 4, deep)
    if kernel == "product":
        return Config({"BM": side(rows, 64), "BN": side(columns, 64), "BK": side(depth, 32)}, 4, deep)
    if kernel in ("gram", "tile"):
        return Config({"T": side(rows, 64), "BK": side(depth, 32)}, 4, deep if kernel == "gram" else 2)
    if kernel == "dots":
        return Config({"BM": 128, "BN": 128, "BK": 16}, 8, deep)
    if kernel == "pair":
        return Config({"T": side(columns, 64), "BK": 16}, 8 if columns > 32 else 4, 2)
    if kernel == "head":
        return Config({"T": side(rows, 32), "BK": side(depth, 32)}, 4, 2)
    if kernel == "head_gradient":
        return Config({"BC": side(rows, 64), "BQ": 64, "BK": 32}, 8 if rows > 32 else 4, 2)
    raise KeyError(kernel)
