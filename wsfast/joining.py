"""Several weight sets of one declaration as one: a population whose recipes vary."""

from collections.abc import Sequence
from functools import partial

import numpy as np

from .lazy import Lazy
from .trained_on import same_data
from .weights import WeightSet

COLUMNS = ("train_loss", "train_accuracy", "test_loss", "test_accuracy")


def joined(what: str, zoos: Sequence[WeightSet]) -> tuple[WeightSet, np.ndarray]:
    """(all networks, set after set, their numbers read when NumPy asks for them; each one's set, int64 [N]).

    Records are those that all sets have. what: who asks, for messages. ValueError where the layers or the tasks' names
    or their data differ from those of the first set.
    """
    first = zoos[0]
    for k, zoo in enumerate(zoos):
        if zoo.network.layers != first.network.layers:
            raise ValueError(
                f"{what}: want sets of one declaration, set 0 has {first.network.name} {_sizes(first)}, set {k} "
                f"{zoo.network.name} {_sizes(zoo)}"
            )
        if zoo.task_names != first.task_names or zoo.info.get("data") != first.info.get("data"):
            raise ValueError(
                f"{what}: want sets of the same tasks, set 0 has {len(first.task_names)} of {first.info.get('data')}, "
                f"set {k} {len(zoo.task_names)} of {zoo.info.get('data')}"
            )
        if same_data([first, zoo]) is False:
            raise ValueError(
                f"{what}: sets 0 and {k} were generated on different samples, splits or labels under the same names "
                "(if one is cut from more tasks alone: dataclasses.replace(zoo, info=...) without tasks_sha256)"
            )
    sizes = [len(zoo) for zoo in zoos]
    source, rows = np.repeat(np.arange(len(zoos)), sizes), np.arange(sum(sizes))
    starts = np.cumsum([0, *sizes])
    parameters = {
        p.name: Lazy(partial(_read, [zoo.parameters[p.name] for zoo in zoos], starts), p.shape, rows)
        for p in first.network.parameters
    }
    shared = [name for name in COLUMNS if all(name in zoo.records for zoo in zoos)]
    whole = WeightSet(
        first.network,
        parameters,  # type: ignore[arg-type]  # Lazy stands for an array
        np.concatenate([zoo.labels for zoo in zoos]),
        np.concatenate([zoo.repeats for zoo in zoos]),
        first.task_names,
        {name: np.concatenate([zoo.records[name] for zoo in zoos]) for name in shared},
        {"data": first.info.get("data", "unknown")},
    )
    return whole, source


def _sizes(zoo: WeightSet) -> str:
    return f"of {zoo.network.size:,} trained numbers"


def _read(arrays: Sequence[np.ndarray], starts: np.ndarray, rows: np.ndarray) -> np.ndarray:
    """Networks `rows` of arrays that lie end to end."""
    out = np.empty((len(rows), *arrays[0].shape[1:]), np.float32)
    for array, start, end in zip(arrays, starts, starts[1:], strict=False):
        own = (rows >= start) & (rows < end)
        out[own] = array[rows[own] - start]
    return out
