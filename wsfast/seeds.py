"""What a seed may be."""

from operator import index


def whole_seed(op: str, seed: int) -> int:
    """A seed as Python's int; ValueError out of range, TypeError for what is no integer. op: who asks, for messages."""
    seed = index(seed)
    if not 0 <= seed < 2**64:
        raise ValueError(f"{op}: seed must be 0..2^64 - 1, got {seed}")
    return seed
