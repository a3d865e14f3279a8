"""BatchNorm of images, with the activation and the 2x2 max pool around it, forward and backward.

Layout as in convolution.py: [h, batch, w n], `zp` numbers a row; n a multiple of LANES. Nothing that follows from z is
stored but the pooled output: the way back computes it again.
"""

import numpy as np

from .jit import leaf
from .tile import LANES
from .vector import add, fma, load, mul, spread, store, sub, where_greater

RUNNING_MEAN, RUNNING_VARIANCE, MEAN, ROOT, SCALE = 0, 1, 2, 3, 4  # rows of a branch's statistics [STATISTICS, n]
PART, FIRST, SECOND = 5, 7, 8  # sums of one row of all images (two rows), of all so far
CENTRE, NOTHING = 9, 10  # where the sums are measured from; zeros
STATISTICS = 11
EPS, MOVE = np.float32(1e-5), np.float32(0.1)


@leaf
def moments(a, ao, a_from, b, bo, b_from, w, n, s, so):
    """PART += sum of a - s[a_from:], and sum of (a - s[a_from:]) (b - s[b_from:]), over one row [w n] of an image.

    The sums of an image's row, of all images' rows and of all rows are added up apart: a long sum errs more.
    """
    zero, part = spread(np.float32(0)), so + PART * n
    for c in range(0, n, LANES):
        first, second = zero, zero
        for j in range(c, c + w * n, n):
            d = sub(load(a, ao + j), load(s, a_from + c))
            first, second = add(first, d), fma(d, sub(load(b, bo + j), load(s, b_from + c)), second)
        store(add(load(s, part + c), first), s, part + c)
        store(add(load(s, part + n + c), second), s, part + n + c)


@leaf
def reset(s, so, n):
    s[so + PART * n : so + (SECOND + 1) * n] = 0


@leaf
def fold(s, so, n):
    """PART added to FIRST and SECOND, and empty again."""
    for c in range(so + PART * n, so + (PART + 2) * n):
        s[c + (FIRST - PART) * n] += s[c]
        s[c] = 0


@leaf
def centre(s, so, n, count):
    """CENTRE = the mean of the `count` numbers a channel that PART sums up: near it, squares cancel nothing."""
    share = np.float32(1) / np.float32(count)
    for c in range(so, so + n):
        s[c + CENTRE * n] = s[c + PART * n] * share
    reset(s, so, n)


@leaf
def finish_statistics(s, so, bias, bo, n, count):
    """The batch's mean and root from sums measured from CENTRE; the running ones moved, bias[bo:] added to the mean."""
    share = np.float32(1) / np.float32(count)
    unbiased = np.float32(count) / np.float32(max(count - 1, 1))
    for c in range(so, so + n):
        off = s[c + FIRST * n] * share
        variance = max(s[c + SECOND * n] * share - off * off, np.float32(0))
        mean = s[c + CENTRE * n] + off
        s[c + MEAN * n], s[c + ROOT * n] = mean, np.float32(1) / np.sqrt(variance + EPS)
        s[c + RUNNING_MEAN * n] += MOVE * (mean + bias[bo + c - so] - s[c + RUNNING_MEAN * n])
        s[c + RUNNING_VARIANCE * n] += MOVE * (variance * unbiased - s[c + RUNNING_VARIANCE * n])


@leaf
def running_statistics(s, so, bias, bo, n):
    """The running mean, without bias[bo:], and root in place of the batch's."""
    for c in range(so, so + n):
        s[c + MEAN * n] = s[c + RUNNING_MEAN * n] - bias[bo + c - so]
        s[c + ROOT * n] = np.float32(1) / np.sqrt(s[c + RUNNING_VARIANCE * n] + EPS)


@leaf
def set_scale(s, so, gamma, go, n):
    for c in range(n):
        s[so + SCALE * n + c] = s[so + ROOT * n + c] * gamma[go + c]


@leaf
def _normal(z, at, s, so, n, c, beta, to):
    """BatchNorm of LANES numbers of channels c."""
    return fma(sub(load(z, at), load(s, so + MEAN * n + c)), load(s, so + SCALE * n + c), load(beta, to + c))


@leaf
def bend_row(z, zo, zp, batch, w, n, bias, bo, slope):
    """z = activation(z + bias) of one row [batch, w n]."""
    factor, zero = spread(slope), spread(np.float32(0))
    for i in range(batch):
        for j in range(0, w * n, n):
            for c in range(0, n, LANES):
                at = zo + i * zp + j + c
                v = add(load(z, at), load(bias, bo + c))
                store(where_greater(v, zero, v, mul(v, factor)), z, at)


@leaf
def _value(z, zo, so, to, side, side_zo, side_so, side_to, s, p, n, at, c):
    """What the activation meets: BatchNorm of z, and of the shortcut's convolution where there is one."""
    v = _normal(z, zo + at + c, s, so, n, c, p, to)
    return add(v, _normal(z, side_zo + at + c, s, side_so, n, c, p, side_to)) if side else v


@leaf
def outputs(z, zo, so, to, side, side_zo, side_so, side_to, s, p, zp, h, w, n, batch, slope, pool, y, yo, yp):
    """y = the (pooled) activation of BatchNorm of z[zo:] [h, batch, w n], of the sum with the shortcut's where `side`.

    so, to: where the branch's statistics start in s and its beta in p; slope 1 is no activation.
    """
    factor, zero, step = spread(slope), spread(np.float32(0)), 2 if pool else 1
    for i in range(h // step):
        for b in range(batch):
            for j in range(w // step):
                at = (i * step * batch + b) * zp + j * step * n
                to_y = yo + (i * batch + b) * yp + j * n
                for c in range(0, n, LANES):
                    v = _value(z, zo, so, to, side, side_zo, side_so, side_to, s, p, n, at, c)
                    if pool:
                        for place in (at + n, at + batch * zp, at + batch * zp + n):
                            u = _value(z, zo, so, to, side, side_zo, side_so, side_to, s, p, n, place, c)
                            v = where_greater(u, v, u, v)
                    store(where_greater(v, zero, v, mul(v, factor)), y, to_y + c)


@leaf
def window_gradient(i, b, z, zo, so, to, side, side_zo, side_so, side_to, s, p, zp, h, w, n, batch, slope, pool, g, yp,
                    out):  # fmt: skip
    """out[1 or 2, w n] = the gradient at BatchNorm's output in rows i, i + 1 of image b, from g, that at y.

    A window's gradient goes to its largest number, the first of equals. The other arguments as `outputs`.
    """
    factor, zero = spread(slope), spread(np.float32(0))
    row, lower = (i * batch + b) * zp, w * n
    if not pool:
        for j in range(0, w * n, n):
            for c in range(0, n, LANES):
                v = _value(z, zo, so, to, side, side_zo, side_so, side_to, s, p, n, row + j, c)
                d = load(g, (i * batch + b) * yp + j + c)
                store(where_greater(v, zero, d, mul(d, factor)), out, j + c)
        return
    if i + 1 == h or w % 2:
        out[: 2 * w * n] = 0
    for j in range(w // 2 if i + 1 < h else 0):
        at, to_out = row + 2 * j * n, 2 * j * n
        for c in range(0, n, LANES):
            v0 = _value(z, zo, so, to, side, side_zo, side_so, side_to, s, p, n, at, c)
            v1 = _value(z, zo, so, to, side, side_zo, side_so, side_to, s, p, n, at + n, c)
            v2 = _value(z, zo, so, to, side, side_zo, side_so, side_to, s, p, n, at + batch * zp, c)
            v3 = _value(z, zo, so, to, side, side_zo, side_so, side_to, s, p, n, at + batch * zp + n, c)
            top1 = where_greater(v1, v0, v1, v0)
            top2 = where_greater(v2, top1, v2, top1)
            top3 = where_greater(v3, top2, v3, top2)
            d = load(g, (i // 2 * batch + b) * yp + j * n + c)
            d = where_greater(top3, zero, d, mul(d, factor))
            store(where_greater(v3, top2, d, zero), out, to_out + lower + n + c)
            d = where_greater(v3, top2, zero, d)
            store(where_greater(v2, top1, d, zero), out, to_out + lower + c)
            d = where_greater(v2, top1, zero, d)
            store(where_greater(v1, v0, d, zero), out, to_out + n + c)
            store(where_greater(v1, v0, zero, d), out, to_out + c)


@leaf
def affine_gradient(s, so, n, gradient, gamma_at, beta_at):
    """gamma's and beta's gradient from the sums of the gradient at BatchNorm's output and of it times z - MEAN."""
    for c in range(n):
        gradient[beta_at + c] = s[so + FIRST * n + c]
        gradient[gamma_at + c] = s[so + SECOND * n + c] * s[so + ROOT * n + c]


@leaf
def normalise_backward(z, zo, so, s, gradient, gamma_at, beta_at, g, go, w, n, count, slope):
    """A row z[zo : zo + w n] becomes the gradient at z from g, that at BatchNorm's output.

    count: numbers a channel; slope: of the activation before BatchNorm, whose output z is.
    """
    share, zero, factor = spread(np.float32(1) / np.float32(count)), spread(np.float32(0)), spread(slope)
    for j in range(0, w * n, n):
        for c in range(0, n, LANES):
            x, st = load(z, zo + j + c), so + c
            unit = mul(sub(x, load(s, st + MEAN * n)), load(s, st + ROOT * n))
            through = mul(share, fma(unit, load(gradient, gamma_at + c), load(gradient, beta_at + c)))
            d = mul(load(s, st + SCALE * n), sub(load(g, go + j + c), through))
            store(where_greater(x, zero, d, mul(d, factor)), z, zo + j + c)
