"""L-BFGS for large smooth convex functions, in the precision of its start.

Liu and Nocedal, "On the limited memory BFGS method for large scale optimization", 1989, with backtracking. SciPy's,
which also handles bounds, spends several times the two matrix products of a logistic loss on its own bookkeeping.
"""

from collections.abc import Callable

import numpy as np

MEMORY, MOST, DECREASE = 8, 10_000, 1e-4


def minimise(
    loss: Callable[[np.ndarray], tuple[float, np.ndarray]], x: np.ndarray, tolerance: float
) -> tuple[np.ndarray, float]:
    """(x, the largest |gradient|) after that falls to `tolerance`, or after MOST evaluations: the caller judges.

    loss(x) -> (value, gradient of x's shape and dtype).
    """
    value, gradient = loss(x)
    pairs: list[tuple[np.ndarray, np.ndarray, float]] = []
    evaluations = 1
    while (worst := float(np.abs(gradient).max())) > tolerance and evaluations < MOST:
        direction = _direction(gradient, pairs)
        slope, step = float(np.vdot(gradient, direction)), 1.0
        while True:
            new = x + step * direction
            new_value, new_gradient = loss(new)
            evaluations += 1
            # Still downhill: a convex loss has decreased, even where rounding hides it.
            lower = new_value <= value + DECREASE * step * slope or float(np.vdot(new_gradient, direction)) <= 0
            if lower or evaluations >= MOST:
                break
            step /= 2
        moved, turned = new - x, new_gradient - gradient
        curvature = float(np.vdot(moved, turned))
        if curvature > 0:
            pairs = [*pairs[1 - MEMORY :], (moved, turned, curvature)]
        x, value, gradient = new, new_value, new_gradient
    return x, worst


def _direction(gradient: np.ndarray, pairs: list[tuple[np.ndarray, np.ndarray, float]]) -> np.ndarray:
    """The two-loop recursion: -H gradient, H the inverse Hessian that the pairs (step, gradient's change) imply."""
    direction, weights = -gradient, []
    for moved, turned, curvature in reversed(pairs):
        weight = float(np.vdot(moved, direction)) / curvature
        direction -= weight * turned
        weights.append(weight)
    if pairs:
        _, turned, curvature = pairs[-1]
        direction *= curvature / float(np.vdot(turned, turned))
    for (moved, turned, curvature), weight in zip(pairs, reversed(weights), strict=True):
        direction += (weight - float(np.vdot(turned, direction)) / curvature) * moved
    return direction
