"""The random streams of `wsfast.reference.philox`, the same bits."""

import numpy as np

from .jit import jit

INIT, ORDER, AUGMENT, CLASSIFIER, SAMPLE = 0, 1, 2, 3, 4

_M0, _M1 = np.uint64(0xD2511F53), np.uint64(0xCD9E8D57)
_W0, _W1 = np.uint32(0x9E3779B9), np.uint32(0xBB67AE85)
_LOW, _32 = np.uint64(0xFFFFFFFF), np.uint64(32)


@jit
def _round(c0, c1, c2, c3, k0, k1):
    """One of ten rounds on many blocks at once, in place: four counter words uint32 [m] each, two key words."""
    for i in range(len(c0)):
        p0, p1 = _M0 * np.uint64(c0[i]), _M1 * np.uint64(c2[i])
        c0[i], c2[i] = np.uint32(p1 >> _32) ^ c1[i] ^ k0, np.uint32(p0 >> _32) ^ c3[i] ^ k1
        c1[i], c3[i] = np.uint32(p1 & _LOW), np.uint32(p0 & _LOW)


@jit
def philox4x32(c0, c1, c2, c3, k0, k1):
    """Blocks of four words from four counter words uint32 [m] each and two key words: uint32 [4 m]."""
    for _ in range(10):
        _round(c0, c1, c2, c3, k0, k1)
        k0, k1 = np.uint32(k0 + _W0), np.uint32(k1 + _W1)
    out = np.empty(4 * len(c0), np.uint32)
    for i in range(len(c0)):
        out[4 * i], out[4 * i + 1], out[4 * i + 2], out[4 * i + 3] = c0[i], c1[i], c2[i], c3[i]
    return out


@jit
def words(n, seed, task, repeat, purpose, item):
    """The first n 32-bit words of one stream: uint32 [n]."""
    key = np.uint32(np.uint64(seed) & _LOW), np.uint32(np.uint64(seed) >> _32)
    blocks = (n + 3) // 4
    c0, ones = np.arange(blocks).astype(np.uint32), np.ones(blocks, np.uint32)
    c1, c2, c3 = ones * np.uint32((purpose << 24) + item), ones * np.uint32(task), ones * np.uint32(repeat)
    return philox4x32(c0, c1, c2, c3, key[0], key[1])[:n]


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
    bits = 0
    while bits < 16 and (1 << bits) < n:
        bits += 1
    start = np.zeros((1 << bits) + 1, np.int64)  # a bucket a sample by the leading bits, then insertion
    for i in range(n):
        start[(np.int64(draw[i]) >> (32 - bits)) + 1] += 1
    for b in range(1 << bits):
        start[b + 1] += start[b]
    keys = np.empty(n, np.int64)  # the word, then the sample: equal words stay in order
    for i in range(n):
        bucket = np.int64(draw[i]) >> (32 - bits)
        keys[start[bucket]] = np.int64(draw[i]) << 31 | i
        start[bucket] += 1
    for i in range(1, n):
        key, j = keys[i], i
        while j > 0 and keys[j - 1] > key:
            keys[j] = keys[j - 1]
            j -= 1
        keys[j] = key
    return keys & 0x7FFFFFFF


@jit
def sample(sizes, n, epoch, seed, task, repeat):
    """n draws of a class and a member of it, sizes int64 [classes]: int64 [n, 2]."""
    draw = words(2 * n, seed, task, repeat, SAMPLE, epoch)
    out = np.empty((n, 2), np.int64)
    for i in range(n):
        chosen = np.int64((np.uint64(draw[2 * i]) * np.uint64(len(sizes))) >> _32)
        out[i, 0] = chosen
        out[i, 1] = np.int64((np.uint64(draw[2 * i + 1]) * np.uint64(sizes[chosen])) >> _32)
    return out


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
