"""Train a population: every network a pure function of (network, task, recipe, seed, repeat)."""

import time
from collections.abc import Callable
from typing import Any

import numpy as np
from tqdm import tqdm

from . import backends, provenance
from .kernels.numba.threads import available, unordered
from .network import Network, mlp_layers
from .network import network as named_network
from .recipe import Recipe
from .taskset import TaskSet
from .weights import WeightSet

RECORDS = ("train_loss", "train_accuracy", "test_loss", "test_accuracy")
PRECISION = {"numba": "fp32", "reference": "fp64"}


def generate(
    network: str | Network,
    tasks: TaskSet,
    *,
    repeats: int,
    seed: int = 0,
    recipe: Recipe | None = None,
    width: int | None = None,
    backend: str | None = None,
    device: str = "cpu",
    threads: int | None = None,
    progress: bool | None = None,
) -> WeightSet:
    """Train `repeats` networks on every task.

    network: a name (wsfast.network) or a declaration for the tasks' shape and classes. seed: 0 .. 2^64 - 1. recipe,
    width: what suits the data where None; a recipe of 0 epochs gives untrained networks. backend: "numba" (float32, the
    CPU's default) or "reference" (NumPy float64, slow). threads: networks trained at the same time, all cores where
    None. progress: a bar on stderr; None shows it on a terminal only.

    A network's bits depend on (network, task, recipe, seed, repeat) and the backend alone, not on its neighbours, their
    number, order or threads. One that diverges is kept and marked (WeightSet.diverged). Ctrl-C stops after the
    networks in work. Returns a WeightSet ordered by task, then repeat. ValueError for what cannot be trained.
    """
    backend = backends.choose(backend, device)
    if isinstance(network, str):
        network = named_network(network, tasks.shape, tasks.classes, width or tasks.width)
    elif width is not None:
        raise ValueError("generate: width belongs to a named network, a declaration has its own")
    if network.input_shape != tasks.shape or network.classes != tasks.classes:
        raise ValueError(
            f"generate: {network.name} takes {network.input_shape} and gives {network.classes} classes, "
            f"the tasks have {tasks.shape} and {tasks.classes}"
        )
    if repeats < 1:
        raise ValueError(f"generate: repeats must be at least 1, got {repeats}")
    if not 0 <= seed < 2**64:
        raise ValueError(f"generate: seed must be 0..2^64 - 1, got {seed}")
    recipe = recipe or tasks.recipe
    train = trainer(network, tasks, recipe, seed, backend)

    count = len(tasks) * repeats
    parameters = {p.name: np.empty((count, *p.shape), np.float32) for p in network.parameters}
    curves, records = np.empty((count, recipe.epochs)), np.empty((count, len(RECORDS)))
    start = time.perf_counter()
    jobs = [(t, r) for t in range(len(tasks)) for r in range(repeats)]
    with tqdm(total=count, desc=f"train {network.name} on {tasks.name}", unit="net", disable=_hidden(progress)) as bar:
        for (t, r), (flat, curve, record) in unordered(lambda job: train(*job), jobs, threads):
            i, at = t * repeats + r, 0
            for p in network.parameters:
                parameters[p.name][i] = flat[at : at + p.size].reshape(p.shape)
                at += p.size
            curves[i], records[i] = curve, record
            bar.update()
    seconds = time.perf_counter() - start
    info = {
        "data": tasks.name,
        "source": tasks.source,
        "seed": seed,
        "repeats": repeats,
        "recipe": recipe.to_dict(),
        "backend": backend,
        "precision": PRECISION[backend],
        "threads": threads or available(),
        "generate_s": seconds,
        "networks_per_s": count / seconds,
        **provenance.record(),
    }
    return WeightSet(
        network,
        parameters,
        np.repeat(np.arange(len(tasks)), repeats),
        np.tile(np.arange(repeats), len(tasks)),
        tuple(tasks.names),
        {**dict(zip(RECORDS, records.T, strict=True)), "loss_curve": curves},
        info,
    )


def _hidden(progress: bool | None) -> bool | None:
    return None if progress is None else not progress


def trainer(network: Network, tasks: TaskSet, recipe: Recipe, seed: int, backend: str) -> Callable[[int, int], Any]:
    """train(task, repeat) -> (parameters [P], loss curve [epochs], record [4])."""
    layers = mlp_layers(network)
    if layers is None:
        raise ValueError(f"generate: backend {backend} trains fully connected networks (mlp4), not {network.name}")
    if recipe.pad is not None and len(tasks.shape) != 3:
        raise ValueError(f"generate: random crops need images [channels, height, width], got {tasks.shape} (pad=None)")
    op = backends.load("train_mlp", backend).train_mlp
    sizes, slopes = layers
    shape = np.array(tasks.shape if len(tasks.shape) == 3 else (1, 1, tasks.shape[0]), np.int64)
    pad = -1 if recipe.pad is None else recipe.pad
    lr = recipe.learning_rates()
    key = np.uint64(seed)  # one type for every seed, one compilation

    def train(t: int, r: int) -> Any:
        task = tasks[t]
        return op(
            tasks.x,
            task.train_rows,
            task.train_labels,
            task.test_rows,
            task.test_labels,
            sizes,
            slopes,
            tasks.scale,
            tasks.shift,
            shape,
            lr,
            recipe.momentum,
            recipe.weight_decay,
            recipe.batch_size,
            pad,
            key,
            t,
            r,
        )

    return train


def untrained(zoo: WeightSet) -> WeightSet:
    """The same networks before their first step: the random-initialisation control.

    Sets that were not generated here get fresh initial weights of their declaration, one per (label, repeat).
    """
    from .kernels.numba.philox import INIT, uniform

    seed = zoo.info.get("seed", 0)
    parameters = {}
    for item, p in enumerate(zoo.network.parameters):
        array = np.empty((len(zoo), *p.shape), np.float32)
        for i, (task, repeat) in enumerate(zip(zoo.labels, zoo.repeats, strict=True)):
            if p.fill is not None:
                array[i] = p.fill
            else:
                array[i] = uniform(p.size, p.bound, np.uint64(seed), task, repeat, INIT, item).reshape(p.shape)
        parameters[p.name] = array
    return WeightSet(zoo.network, parameters, zoo.labels, zoo.repeats, zoo.task_names, info={"seed": seed})
