"""A weight set whose networks all start from the same initial weights: the ceiling of what raw weights can tell."""

from dataclasses import replace
from typing import Any

import numpy as np

from . import backends, provenance
from .generation import RECORDS, Memory, trainer
from .kernels.numba.threads import available, unordered
from .network import Network
from .recipe import Recipe
from .taskset import TaskSet
from .weights import WeightSet, diverged


def shared_start(
    network: Network, tasks: TaskSet, *, repeats: int, seed: int = 0, recipe: Recipe, threads: int | None = None
) -> WeightSet:
    """As `generate` on a CPU, except that network (task, repeat) starts from the weights of (0, 0).

    A network's only randomness beside them is the order of its samples: each has its training samples put into an order
    of its own, drawn from (seed, task, repeat), before the batches of (0, 0) are taken from them. The set's info has no
    seed, since `wsfast.generation.untrained` would draw other initial weights from it.
    """
    labels, numbers = np.repeat(np.arange(len(tasks)), repeats), np.tile(np.arange(repeats), len(tasks))
    backend = backends.choose(None, "cpu")
    info: dict[str, Any] = {"data": tasks.name, "source": tasks.source, "recipe": recipe.to_dict(), "backend": backend}
    info |= {"start": "shared", "shared_seed": seed, "repeats": repeats, "threads": threads or available()}
    sink = Memory(network, tasks.names, labels, numbers, info, provenance.record("cpu"), recipe.epochs)

    def train(k: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        task = tasks[int(labels[k])]
        order = np.random.default_rng([seed, labels[k], numbers[k]]).permutation(len(task.train_rows))
        own = replace(task, train_rows=task.train_rows[order], train_labels=task.train_labels[order])
        return trainer(network, replace(tasks, tasks=(own,)), recipe, seed, backend)(0, 0)

    for k, (flat, curve, record) in unordered(train, range(len(labels)), threads):
        columns = {**dict(zip(RECORDS, record[:, None], strict=True)), "loss_curve": curve[None]}
        columns["diverged"] = diverged(network, flat[None]).astype(np.int64)
        sink.add(np.array([k]), flat[None], columns)
    return sink.weight_set()
