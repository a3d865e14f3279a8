"""Loss and error along the straight line between two networks of one shape. All arrays float64.

At t the parameters are (1 - t) start + t end, BatchNorm's running statistics among them; the network is evaluated by
these. Shapes: start, end [P] as train_mlp, train_cnn and train_gru (`wsfast.reference`) return them; points [L] of t.
Goodfellow, Vinyals, Saxe, "Qualitatively characterizing neural network optimization problems" (ICLR 2015); Frankle et
al., "Linear Mode Connectivity and the Lottery Ticket Hypothesis" (ICML 2020).
"""

import numpy as np

from . import cnn, gru, mlp


def interpolate_mlp(x, rows, labels, sizes, slopes, norms, adds, scale, shift, gate_at, gates, start, end, points):
    """(mean loss [L], share of wrong answers [L]) over rows of x; the network's arguments as train_mlp's."""
    bends = mlp.bends(sizes, slopes, gate_at, gates)

    def evaluate(flat):
        weights, biases, norm = mlp.split(flat, sizes, norms)
        return mlp.evaluate(x, rows, labels, weights, biases, bends, norm, adds, scale, shift)

    return _along(start, end, points, evaluate)


def interpolate_cnn(x, rows, labels, sizes, slopes, strides, norm_last, pools, shortcuts, scale, shift, shape, gate_at,
                    gates, start, end, points):  # fmt: skip
    """As interpolate_mlp, of the convolutional networks that train_cnn trains."""
    bends = mlp.bends(sizes[:-1], slopes, gate_at, gates)

    def evaluate(flat):
        units, head = cnn.split(flat, sizes, shortcuts)
        return cnn.evaluate(x, rows, labels, shape, scale, shift, (units, head, bends, strides, norm_last, pools))

    return _along(start, end, points, evaluate)


def interpolate_gru(x, rows, labels, alphabet, hidden, classes, start, end, points):
    """As interpolate_mlp, of the recurrent networks that train_gru trains, over names."""
    shapes = gru.shapes(alphabet, hidden, classes)
    places = np.cumsum([np.prod(shape) for shape in shapes])[:-1]
    names = [x[row][x[row] < alphabet] for row in rows]

    def evaluate(flat):
        parts = zip(np.split(flat, places), shapes, strict=True)
        return gru.evaluate(names, labels, [part.reshape(shape) for part, shape in parts])

    return _along(start, end, points, evaluate)


def _along(start, end, points, evaluate):
    found = np.array([evaluate((1 - t) * start + t * end) for t in np.asarray(points, float)])
    return found[:, 0], 1 - found[:, 1]


def barrier(curve, points):
    """Lift of curves [..., L] over the chord between their ends: (largest [...], at the middle [...]).

    L(t) - ((1 - t) L(0) + t L(1)), points from 0 to 1 with 1/2 among them; the largest is at least 0, that of the ends.
    """
    points = np.asarray(points, float)
    lift = curve - ((1 - points) * curve[..., :1] + points * curve[..., -1:])
    return lift.max(axis=-1), lift[..., np.argmin(np.abs(points - 0.5))]


def monotonicity(curve, points):
    """How curves [..., L] go from start to end: (largest rise, monotone, share locally convex, share below the chord).

    Largest rise: of L(t') - L(t) over t < t', 0 where it never rises, which is what monotone says. Locally convex: the
    inner points that lie on or below the mean of their neighbours; globally: on or below the chord to the last point.
    The points are evenly spaced. Lucas et al., "Analyzing Monotonic Linear Interpolation" (ICML 2021).
    """
    rise = (curve - np.minimum.accumulate(curve, axis=-1)).max(axis=-1)
    inner, sides = curve[..., 1:-1], (curve[..., :-2] + curve[..., 2:]) / 2
    points = np.asarray(points, float)[1:-1]
    chord = (1 - points) * curve[..., :1] + points * curve[..., -1:]
    return rise, rise <= 0, (inner <= sides).mean(axis=-1), (inner <= chord).mean(axis=-1)
