"""Networks before their first step."""

from functools import partial

import numpy as np

from .asymmetry import fixed_entries
from .declaration import Parameter
from .lazy import Lazy
from .weights import WeightSet


def untrained(zoo: WeightSet) -> WeightSet:
    """The same networks before their first step: the random-initialisation control, drawn when its numbers are used.

    Sets that were not generated here get fresh initial weights of their declaration, one per (label, repeat).
    """
    seed, rows = zoo.info.get("seed", 0), np.arange(len(zoo))
    at, to = fixed_entries(zoo.network)
    parameters, start = {}, 0
    for item, p in enumerate(zoo.network.parameters):
        own = (at >= start) & (at < start + p.size)
        read = partial(_initial, p, item, seed, zoo.labels, zoo.repeats, at[own] - start, to[own])
        parameters[p.name] = Lazy(read, p.shape, rows)
        start += p.size
    return WeightSet(
        zoo.network,
        parameters,  # type: ignore[arg-type]  # Lazy stands for an array
        zoo.labels,
        zoo.repeats,
        zoo.task_names,
        info={"seed": seed},
    )


def _initial(
    p: Parameter,
    item: int,
    seed: int,
    labels: np.ndarray,
    repeats: np.ndarray,
    at: np.ndarray,
    to: np.ndarray,
    rows: np.ndarray,
) -> np.ndarray:
    """One parameter of these networks; its entries `at` are fixed to `to`."""
    from .kernels.numba.philox import INIT, uniform

    out = np.empty((len(rows), *p.shape), np.float32)
    for i, row in enumerate(rows):
        if p.fill is not None:
            out[i] = p.fill
        else:
            out[i] = uniform(p.size, p.bound, np.uint64(seed), labels[row], repeats[row], INIT, item).reshape(p.shape)
    out.reshape(len(rows), -1)[:, at] = to
    return out
