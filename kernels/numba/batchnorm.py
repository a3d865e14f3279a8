"""BatchNorm of images, with the activation and the 2x2 max pool around it, forward and backward.

Layout as in convolution.py: [h, batch, w n], `zp` numbers a row; n a multiple of LANES. Nothing that follows from z is
stored but the pooled output: the way back computes it again.
"""

import numpy as np

from .jit import leaf
from .tile import LANES
from .vector import add, fma, load, mul, spread, store, sub, where_greater

RUNNING_MEAN, RUNNING_VARIANCE, MEAN, ROOT, SCALE = 0, 1, 2, 3, 4  # rows of a branch's statistics [STATISTICS, n]
FIRST, SECOND, CENTRE, NOTHING = 5, 6, 7, 8  # sums in work; where the first is measured from; zeros
STATISTICS = 9
EPS, MOVE = np.float32(1e-5), np.float32(0.1)


@leaf
def moments(a, ao, a_from, b, bo, b_from, pitch, batch, w, n, s, so):
    """FIRST += sum of a - a_from, SECOND += sum of (a - a_from) (b - b_from), over one row [batch, w n].

    a_from, b_from: rows of the statistics s[so : so + STATISTICS n]. The sums of an image's row, of a row of all images
    and of all rows are added up apart: a long sum errs more.
    """
    zero = spread(np.float32(0))
    for c in range(0, n, LANES):
        from_a, from_b = load(s, so + a_from * n + c), load(s, so + b_from * n + c)
        first, second = zero, zero
        for i in range(batch):
            x, y = zero, zero
            for j in range(i * pitch + c, i * pitch + c + w * n, n):
                d = sub(load(a, ao + j), from_a)
                x, y = add(x, d), fma(d, sub(load(b, bo + j), from_b), y)
            first, second = add(first, x), add(second, y)
        store(add(load(s, so + FIRST * n + c), first), s, so + FIRST * n + c)
        store(add(load(s, so + SECOND * n + c), second), s, so + SECOND * n + c)


@leaf
def reset(s, so, n):
    s[so + FIRST * n : so + (SECOND + 1) * n] = 0


@leaf
def centre(s, so, n, count):
    """CENTRE = the mean of the `count` numbers a channel that FIRST sums up: near it, squares cancel nothing."""
    share = np.float32(1) / np.float32(count)
    for c in range(n):
        s[so + CENTRE * n + c] = s[so + FIRST * n + c] * share
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
def inputs_gradient(z, zo, so, to, side, side_zo, side_so, side_to, s, p, zp, h, w, n, batch, slope, pool, g, yo, yp,
                    out):  # fmt: skip
    """out[h, batch, w n] = the gradient at BatchNorm's output from that at y, g[yo:]; other arguments as `outputs`.

    A window's gradient goes to its largest number, the first of equals.
    """
    factor, zero, step = spread(slope), spread(np.float32(0)), 2 if pool else 1
    for i in range(h):
        for b in range(batch):
            row = (i * batch + b) * zp
            if pool and (i % 2 or i + 1 == h):
                if i + 1 == h and i % 2 == 0:
                    out[row : row + w * n] = 0
                continue
            if pool and w % 2:
                for at in (row + (w - 1) * n, row + batch * zp + (w - 1) * n):
                    out[at : at + n] = 0
            for j in range(w // step):
                at, from_y = row + j * step * n, yo + (i // step * batch + b) * yp + j * n
                for c in range(0, n, LANES):
                    d = load(g, from_y + c)
                    v = _value(z, zo, so, to, side, side_zo, side_so, side_to, s, p, n, at, c)
                    if not pool:
                        store(where_greater(v, zero, d, mul(d, factor)), out, at + c)
                        continue
                    right, below = at + n, at + batch * zp
                    v1 = _value(z, zo, so, to, side, side_zo, side_so, side_to, s, p, n, right, c)
                    v2 = _value(z, zo, so, to, side, side_zo, side_so, side_to, s, p, n, below, c)
                    v3 = _value(z, zo, so, to, side, side_zo, side_so, side_to, s, p, n, below + n, c)
                    top1 = where_greater(v1, v, v1, v)
                    top2 = where_greater(v2, top1, v2, top1)
                    top3 = where_greater(v3, top2, v3, top2)
                    d = where_greater(top3, zero, d, mul(d, factor))
                    store(where_greater(v3, top2, d, zero), out, below + n + c)
                    d = where_greater(v3, top2, zero, d)
                    store(where_greater(v2, top1, d, zero), out, below + c)
                    d = where_greater(v2, top1, zero, d)
                    store(where_greater(v1, v, d, zero), out, right + c)
                    store(where_greater(v1, v, zero, d), out, at + c)


@leaf
def affine_gradient(s, so, n, gradient, gamma_at, beta_at):
    """gamma's and beta's gradient from the sums of the gradient at BatchNorm's output and of it times z - MEAN."""
    for c in range(n):
        gradient[beta_at + c] = s[so + FIRST * n + c]
        gradient[gamma_at + c] = s[so + SECOND * n + c] * s[so + ROOT * n + c]


@leaf
def normalise_backward(z, zo, so, s, gradient, gamma_at, beta_at, g, zp, h, w, n, batch, slope):
    """z becomes the gradient at z from g, that at BatchNorm's output; times the slope of the activation before it."""
    share, zero, factor = spread(np.float32(1) / np.float32(h * w * batch)), spread(np.float32(0)), spread(slope)
    for row in range(h * batch):
        for j in range(0, w * n, n):
            for c in range(0, n, LANES):
                at, st = row * zp + j + c, so + c
                x, scale = load(z, zo + at), load(s, st + SCALE * n)
                unit = mul(sub(x, load(s, st + MEAN * n)), load(s, st + ROOT * n))
                through = mul(share, fma(unit, load(gradient, gamma_at + c), load(gradient, beta_at + c)))
                d = mul(scale, sub(load(g, at), through))
                store(where_greater(x, zero, d, mul(d, factor)), z, zo + at)
