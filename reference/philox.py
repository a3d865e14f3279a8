"""Philox 4x32-10 and the random streams drawn from it.

Salmon, Moraes, Dror, Shaw, "Parallel Random Numbers: As Easy as 1, 2, 3" (SC 2011). A draw is a pure function of
(seed, task, repeat, purpose, index), so a network does not depend on what was drawn before it or beside it.

    key     = (seed mod 2^32, seed div 2^32)
    counter = (block, purpose * 2^24 + item, task, repeat)      each block holds four 32-bit words
"""

import numpy as np

INIT, ORDER, AUGMENT, CLASSIFIER, SAMPLE = range(5)  # purposes; item is the parameter's position or the epoch
MASK, FIXED, GATE = range(5, 8)  # of what all networks of a declaration share

_M0, _M1 = np.uint64(0xD2511F53), np.uint64(0xCD9E8D57)
_W0, _W1 = np.uint32(0x9E3779B9), np.uint32(0xBB67AE85)
_LOW = np.uint64(0xFFFFFFFF)


def philox4x32(counter, key, rounds=10):
    """The Philox 4x32 bijection.

    counter: four arrays (or integers) of uint32 that broadcast together; key: two. Returns uint32 [..., 4].
    """
    c0, c1, c2, c3 = np.broadcast_arrays(*(np.asarray(c, np.uint32) for c in counter))
    k0, k1 = (np.asarray(k, np.uint32) for k in key)
    with np.errstate(over="ignore"):
        for _ in range(rounds):
            p0, p1 = _M0 * c0.astype(np.uint64), _M1 * c2.astype(np.uint64)
            high0, low0 = (p0 >> np.uint64(32)).astype(np.uint32), (p0 & _LOW).astype(np.uint32)
            high1, low1 = (p1 >> np.uint64(32)).astype(np.uint32), (p1 & _LOW).astype(np.uint32)
            c0, c1, c2, c3 = high1 ^ c1 ^ k0, low1, high0 ^ c3 ^ k1, low0
            k0, k1 = k0 + _W0, k1 + _W1
    return np.stack([c0, c1, c2, c3], axis=-1)


def words(n, seed, task, repeat, purpose, item):
    """The first n 32-bit words of one stream: uint32 [n]."""
    blocks = np.arange((n + 3) // 4, dtype=np.uint32)
    counter = (blocks, (purpose << 24) + item, task, repeat)
    return philox4x32(counter, (seed & 0xFFFFFFFF, seed >> 32)).reshape(-1)[:n]


def uniform(n, bound, seed, task, repeat, purpose, item):
    """n draws of U[-bound, bound): float64 [n] whose values are float32 numbers, the same bits on every backend.

    The upper 24 bits of a word make m = 2 (word >> 8) / 2^24 - 1, exact in float32; bound is rounded to float32 and
    the product is rounded to float32 once.
    """
    m = (words(n, seed, task, repeat, purpose, item) >> np.uint32(8)).astype(np.float32)
    unit = m * np.float32(2.0**-23) - np.float32(1)
    return (unit * np.float32(bound)).astype(np.float64)


def initial_weight(shape, bound, item, seed, task, repeat):
    """One parameter's initial values, U[-bound, bound) in row-major order: float64 `shape`; item is its position."""
    return uniform(int(np.prod(shape)), bound, seed, task, repeat, INIT, item).reshape(shape)


def batch_order(n, epoch, seed, task, repeat, purpose=ORDER):
    """The order in which epoch `epoch` visits n samples: the stable argsort of n 32-bit words, int64 [n]."""
    return np.argsort(words(n, seed, task, repeat, purpose, epoch), kind="stable")


def sample(sizes, n, epoch, seed, task, repeat):
    """n draws in epoch `epoch`, each a class, uniform, and a member of it, uniform: int64 [n, 2].

    sizes: every class's members. Draw i uses words 2i and 2i + 1 of the stream: class = word * classes >> 32, member =
    word * sizes[class] >> 32.
    """
    draw = words(2 * n, seed, task, repeat, SAMPLE, epoch).reshape(n, 2).astype(np.uint64)
    chosen = (draw[:, 0] * np.uint64(len(sizes))) >> np.uint64(32)
    member = (draw[:, 1] * np.asarray(sizes, np.uint64)[chosen]) >> np.uint64(32)
    return np.column_stack([chosen, member]).astype(np.int64)


def augmentation(n, pad, epoch, seed, task, repeat):
    """Where each of n samples is cropped in epoch `epoch` and whether it is mirrored: int64 [n, 3] (dy, dx, flip).

    Sample i uses block i of the stream: dy, dx = word * (2 pad + 1) >> 32, flip = the third word's lowest bit.
    """
    draw = words(4 * n, seed, task, repeat, AUGMENT, epoch).reshape(n, 4).astype(np.uint64)
    shift = (draw[:, :2] * np.uint64(2 * pad + 1)) >> np.uint64(32)
    return np.column_stack([shift, draw[:, 2] & np.uint64(1)]).astype(np.int64)


def crop_flip(image, dy, dx, flip, pad):
    """Zero-pad by `pad`, crop the original size at (dy, dx), mirror the columns if flip: [c, h, w] -> [c, h, w]."""
    _, h, w = image.shape
    padded = np.pad(image, ((0, 0), (pad, pad), (pad, pad)))
    crop = padded[:, dy : dy + h, dx : dx + w]
    return crop[:, :, ::-1] if flip else crop
