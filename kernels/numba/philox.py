"""The random streams of `wsfast.reference.philox`, the same bits."""

import numpy as np

from .jit import jit

INIT, ORDER, AUGMENT, CLASSIFIER = 0, 1, 2, 3

_M0, _M1 = np.uint64(0xD2511F53), np.uint64(0xCD9E8D57)
_W0, _W1 = np.uint32(0x9E3779B9), np.uint32(0xBB67AE85)
_LOW, _32 = np.uint64(0xFFFFFFFF), np.uint64(32)


@jit
def philox4x32(c0, c1, c2, c3, k0, k1):
    """One block: four uint32 words from four counter words and two key words (all uint32)."""
    for _ in range(10):
        p0, p1 = _M0 * np.uint64(c0), _M1 * np.uint64(c2)
        c0, c1, c2, c3 = (
            np.uint32(p1 >> _32) ^ c1 ^ k0,
            np.uint32(p1 & _LOW),
            np.uint32(p0 >> _32) ^ c3 ^ k1,
            np.uint32(p0 & _LOW),
        )
        k0, k1 = np.uint32(k0 + _W0), np.uint32(k1 + _W1)
    return c0, c1, c2, c3


@jit
def words(n, seed, task, repeat, purpose, item):
    """The first n 32-bit words of one stream: uint32 [n]."""
    out = np.empty((n + 3) // 4 * 4, np.uint32)
    k0, k1 = np.uint32(np.uint64(seed) & _LOW), np.uint32(np.uint64(seed) >> _32)
    c1, c2, c3 = np.uint32((purpose << 24) + item), np.uint32(task), np.uint32(repeat)
    for block in range(len(out) // 4):
        a, b, c, d = philox4x32(np.uint32(block), c1, c2, c3, k0, k1)
        out[4 * block], out[4 * block + 1], out[4 * block + 2], out[4 * block + 3] = a, b, c, d
    return out[:n]


@jit
def uniform(n, bound, seed, task, repeat, purpose, item):
    """n draws of U[-bound, bound): float32 [n]."""
    draw = words(n, seed, task, repeat, purpose, item)
    out = np.empty(n, np.float32)
    bound = np.float32(bound)
    for i in range(n):
        unit = np.float32(np.int32(draw[i] >> np.uint32(8))) * np.float32(2.0**-23) - np.float32(1)
        out[i] = unit * bound
    return out


@jit
def batch_order(n, epoch, seed, task, repeat, purpose=ORDER):
    """The order in which an epoch visits n samples: int64 [n]."""
    draw = words(n, seed, task, repeat, purpose, epoch)
    order, moved = np.arange(n), np.empty(n, np.int64)
    for shift in range(0, 32, 8):  # radix sort, eight bits a pass
        start = np.zeros(257, np.int64)
        for i in range(n):
            start[((draw[i] >> np.uint32(shift)) & np.uint32(255)) + 1] += 1
        for digit in range(256):
            start[digit + 1] += start[digit]
        for i in order:
            digit = (draw[i] >> np.uint32(shift)) & np.uint32(255)
            moved[start[digit]] = i
            start[digit] += 1
        order, moved = moved, order
    return order


@jit
def augmentation(n, pad, epoch, seed, task, repeat):
    """(dy, dx, flip) of n samples: int64 [n, 3]."""
    draw = words(4 * n, seed, task, repeat, AUGMENT, epoch)
    out = np.empty((n, 3), np.int64)
    for i in range(n):
        out[i, 0] = np.int64((np.uint64(draw[4 * i]) * np.uint64(2 * pad + 1)) >> _32)
        out[i, 1] = np.int64((np.uint64(draw[4 * i + 1]) * np.uint64(2 * pad + 1)) >> _32)
        out[i, 2] = np.int64(draw[4 * i + 2] & np.uint32(1))
    return out
