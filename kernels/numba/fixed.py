"""Weights that training leaves alone: their velocity is NaN, which every step keeps, and a NaN moves nothing."""

import numpy as np

from .jit import leaf


@leaf
def hold(weights, velocities, held_at, held_to):
    """Fix weights[held_at] at held_to."""
    for h in range(len(held_at)):
        weights[held_at[h]], velocities[held_at[h]] = held_to[h], np.nan


@leaf
def release(weights, velocities, held_at, held_to):
    """After the last step: a weight that is not held and whose velocity became NaN has diverged and is NaN itself."""
    for i in range(len(weights)):
        weights[i] = weights[i] if velocities[i] == velocities[i] else np.float32(np.nan)
    for h in range(len(held_at)):
        weights[held_at[h]] = held_to[h]
