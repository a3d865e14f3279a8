"""Train a population: every network a pure function of (network, task, recipe, seed, repeat)."""

import time
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
from tqdm import tqdm

from . import backends, provenance
from .kernels.numba.threads import available, unordered
from .network import Network, cnn_layers, mlp_layers
from .network import network as named_network
from .recipe import Recipe
from .taskset import TaskSet
from .weights import WeightSet

BAR = "{l_bar}{bar}| {n:.0f}/{total_fmt} [{elapsed}<{remaining}, {rate_fmt}]"
RECORDS = ("train_loss", "train_accuracy", "test_loss", "test_accuracy")
PRECISIONS = {"numba": ("fp32",), "reference": ("fp64",), "triton": ("tf32x3", "tf32", "bf16", "ieee")}


class Interrupted(KeyboardInterrupt):
    """Ctrl-C during generate. finished: the WeightSet of the networks that were done."""

    def __init__(self, finished: WeightSet) -> None:
        super().__init__(f"interrupted with {len(finished)} networks finished")
        self.finished = finished


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
    precision: str | None = None,
    threads: int | None = None,
    progress: bool | None = None,
) -> WeightSet:
    """Train `repeats` networks on every task.

    network: a name (wsfast.network) or a declaration for the tasks' shape and classes. seed: 0 .. 2^64 - 1. recipe,
    width: what suits the data where None; a recipe of 0 epochs gives untrained networks. device: "cpu" or "cuda".
    backend: "numba" (float32, the CPU's default), "triton" (CUDA's) or "reference" (NumPy float64, slow). precision: of
    triton's products, "tf32x3" (as good as float32, the default), "tf32" or "bf16"; float32 state with each. threads:
    networks trained at the same time on a CPU, all cores where None. progress: a bar on stderr; None shows it on a
    terminal only.

    A network's bits depend on (network, task, recipe, seed, repeat), the backend and its precision alone, not on its
    neighbours, their number, order or threads. One that diverges is kept and marked (WeightSet.diverged). Ctrl-C raises
    Interrupted, which holds the finished networks. Returns a WeightSet ordered by task, then repeat. ValueError for
    what cannot be trained; RuntimeError names the networks in work when a GPU fails.
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
    if precision is not None and precision not in PRECISIONS[backend]:
        raise ValueError(
            f"generate: precision of {backend} must be {' or '.join(PRECISIONS[backend])}, got {precision!r}"
        )
    precision = precision or PRECISIONS[backend][0]

    count = len(tasks) * repeats
    parameters = {p.name: np.empty((count, *p.shape), np.float32) for p in network.parameters}
    curves, records = np.empty((count, recipe.epochs)), np.empty((count, len(RECORDS)))
    labels, numbers = np.repeat(np.arange(len(tasks)), repeats), np.tile(np.arange(repeats), len(tasks))
    done, start = np.zeros(count, bool), time.perf_counter()

    def weight_set() -> WeightSet:
        seconds = time.perf_counter() - start
        info = {
            "data": tasks.name,
            "source": tasks.source,
            "seed": seed,
            "repeats": repeats,
            "recipe": recipe.to_dict(),
            "backend": backend,
            "precision": precision,
            "threads": threads or available(),
            "generate_s": seconds,
            "networks_per_s": done.sum() / seconds,
            **provenance.record(device),
        }
        found = {**dict(zip(RECORDS, records.T, strict=True)), "loss_curve": curves}
        made = WeightSet(network, parameters, labels, numbers, tuple(tasks.names), found, info)
        return made if done.all() else made[done]

    title = f"train {network.name} on {tasks.name}"
    with tqdm(total=count, desc=title, unit="net", disable=_hidden(progress), bar_format=BAR) as bar:
        if backend == "triton":
            batches = _on_gpu(network, tasks, recipe, repeats, seed, precision, device, bar.update)
        else:
            batches = _on_cpu(network, tasks, recipe, repeats, seed, backend, threads, bar.update)
        try:
            for some, flat, curve, record in batches:
                at = 0
                for p in network.parameters:
                    parameters[p.name][some] = flat[:, at : at + p.size].reshape(-1, *p.shape)
                    at += p.size
                curves[some], records[some], done[some] = curve, record, True
        except KeyboardInterrupt:
            raise Interrupted(weight_set()) from None
    return weight_set()


Batch = tuple[slice, np.ndarray, np.ndarray, np.ndarray]  # which networks, parameters [n, P], curves, records


def _on_cpu(
    network: Network,
    tasks: TaskSet,
    recipe: Recipe,
    repeats: int,
    seed: int,
    backend: str,
    threads: int | None,
    tick: Callable[[float], Any],
) -> Iterator[Batch]:
    train = trainer(network, tasks, recipe, seed, backend)
    jobs = [(t, r) for t in range(len(tasks)) for r in range(repeats)]
    for (t, r), (flat, curve, record) in unordered(lambda job: train(*job), jobs, threads):
        i = t * repeats + r
        yield slice(i, i + 1), flat[None], curve[None], record[None]
        tick(1)


def _on_gpu(
    network: Network,
    tasks: TaskSet,
    recipe: Recipe,
    repeats: int,
    seed: int,
    precision: str,
    device: str,
    tick: Callable[[float], Any],
) -> Iterator[Batch]:
    op, layers, shape, pad = _trained_by(network, tasks, recipe)
    chunks = backends.load(op, "triton", device).train_chunks(
        tasks.x,
        [(t.train_rows, t.train_labels, t.test_rows, t.test_labels) for t in (tasks[i] for i in range(len(tasks)))],
        [(t, r) for t in range(len(tasks)) for r in range(repeats)],
        *layers,
        tasks.scale,
        tasks.shift,
        shape,
        recipe.learning_rates(),
        recipe.momentum,
        recipe.weight_decay,
        recipe.batch_size,
        pad,
        seed,
        precision,
        device,
        tick=tick,
    )
    for done in chunks:
        yield slice(done.first, done.first + len(done.records)), done.parameters, done.curves, done.records


def _hidden(progress: bool | None) -> bool | None:
    return None if progress is None else not progress


def trainer(network: Network, tasks: TaskSet, recipe: Recipe, seed: int, backend: str) -> Callable[[int, int], Any]:
    """train(task, repeat) -> (parameters [P], loss curve [epochs], record [4])."""
    name, layers, shape, pad = _trained_by(network, tasks, recipe)
    op = getattr(backends.load(name, backend), name)
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
            *layers,
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


def _trained_by(network: Network, tasks: TaskSet, recipe: Recipe) -> tuple[str, Any, np.ndarray, int]:
    """(the op, what it takes of the network, the images' shape, the crops' padding or -1).

    ValueError for a network that no op trains.
    """
    kinds = {"train_mlp": mlp_layers(network), "train_cnn": cnn_layers(network)}
    op = next((op for op, layers in kinds.items() if layers is not None), None)
    if op is None:
        raise ValueError(f"generate: {network.name} is declared but cannot be trained yet (want mlp4, plainnet5, ...)")
    if recipe.pad is not None and len(tasks.shape) != 3:
        raise ValueError(f"generate: random crops need images [channels, height, width], got {tasks.shape} (pad=None)")
    shape = np.array(tasks.shape if len(tasks.shape) == 3 else (1, 1, tasks.shape[0]), np.int64)
    return op, kinds[op], shape, -1 if recipe.pad is None else recipe.pad


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
