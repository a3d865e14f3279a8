"""A weight set whose networks all start from the same initial weights: the ceiling of what raw weights can tell."""

from contextlib import closing
from dataclasses import replace
from typing import Any

import numpy as np

from . import provenance
from .declaration import Network
from .generation import Memory, recorded
from .kernels.numba.threads import available
from .recipe import Recipe
from .taskset import TaskSet
from .training import settled
from .weights import WeightSet


def shared_start(
    network: Network,
    tasks: TaskSet,
    *,
    repeats: int,
    seed: int = 0,
    recipe: Recipe,
    device: str = "cpu",
    threads: int | None = None,
) -> WeightSet:
    """As `generate`, except that network (task, repeat) starts from the weights of (0, 0).

    A network's only randomness beside them is the order of its samples: each has its training samples put into an order
    of its own, drawn from (seed, task, repeat), before the batches of (0, 0) are taken from them. The set's info has no
    seed, since `wsfast.initial.untrained` would draw other initial weights from it.
    """
    labels, numbers = np.repeat(np.arange(len(tasks)), repeats), np.tile(np.arange(repeats), len(tasks))

    def own(k: int) -> Any:
        """Network k's task."""
        task = tasks[int(labels[k])]
        order = np.random.default_rng([seed, labels[k], numbers[k]]).permutation(len(task.train_rows))
        return replace(task, train_rows=task.train_rows[order], train_labels=task.train_labels[order])

    ordered = replace(tasks, tasks=tuple(own(k) for k in range(len(labels))))
    work = settled(network, ordered, seed, recipe, None, None, device, None, lambda ask, *of: ask(*of))
    info: dict[str, Any] = {"data": tasks.name, "source": tasks.source, "data_options": dict(tasks.options)}
    info |= {"tasks_sha256": tasks.sha256(), "recipe": recipe.to_dict()}
    info |= {"backend": work.backend, "precision": work.precision, "start": "shared", "shared_seed": seed}
    info |= {"repeats": repeats, "threads": threads or available()}
    sink = Memory(network, tasks.names, labels, numbers, info, provenance.record(device), recipe.epochs)
    jobs = [(k, 0) for k in range(len(labels))]
    with closing(replace(work, start=(0, 0)).run(jobs, threads, lambda amount: None)) as batches:
        for some, flat, curves, records in batches:
            sink.add(np.arange(len(jobs))[some], flat, recorded(network, flat, curves, records))
    return sink.weight_set()
