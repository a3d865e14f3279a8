"""Tile shapes of the convolutional networks' kernels, as configs.py has those of the fully connected ones."""

from .configs import Config


def block(kernel: str, C: int, N: int, hip: bool = False) -> Config:
    """The launch of a kernel from C padded channels (the first layer: rows of its weight) to N.

    BM: rows of a tile, positions of images; BN: channels of its result; BK: what one product sums over, or for
    "weight" and "pixels" (the first layer's), whose result is part of a weight, that part's rows.
    """
    warps, deep = (4, 2) if hip else (8, 3)
    if kernel == "convolve":
        return Config({"BM": 128, "BN": min(64, N), "BK": min(32, C)}, warps, deep)
    if kernel == "data":
        return Config({"BM": 128, "BN": min(64, C), "BK": min(32, N)}, warps, deep)
    if kernel == "weight":
        return Config({"BM": 64, "BN": min(64, N), "BK": min(64, C)}, 4, deep)
    if kernel == "pixels":
        return Config({"BM": 64, "BN": min(64, N), "BK": 16}, 4, 2)
    if kernel in ("gate", "gate_gradient"):
        return Config({"BM": 128, "BN": min(64, N), "BK": min(32, N)}, warps, deep if kernel == "gate" else 2)
    if kernel in ("normal", "normal_gradient", "pool"):
        return Config({"BM": 32, "BN": min(32, N)}, 4, 1)
    if kernel == "moments":
        return Config({"BT": 64, "BN": min(32, N)}, 4, 1)
    if kernel == "mean":
        return Config({"BM": 16, "BN": min(32, N)}, 4, 1)
    if kernel == "spread":
        return Config({"BM": 64, "BN": min(32, N)}, 4, 1)
    raise KeyError(kernel)
