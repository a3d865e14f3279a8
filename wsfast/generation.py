"""Train a population: every network a pure function of (network, task, recipe, seed, repeat)."""

import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from . import backends, provenance
from .events import Progress
from .kernels.numba.threads import available, unordered
from .lazy import Lazy
from .network import Network, Parameter, cnn_layers, gru_width, mlp_layers
from .network import network as named_network
from .recipe import Recipe
from .taskset import TaskSet
from .weights import WeightSet, diverged
from .writer import Writer

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
    out: str | Path | None = None,
    progress: bool | None = None,
) -> WeightSet:
    """Train `repeats` networks on every task.

    network: a name (wsfast.network) or a declaration for the tasks' shape and classes. seed: 0 .. 2^64 - 1. recipe,
    width: what suits the data where None; a recipe of 0 epochs gives untrained networks. device: "cpu" or "cuda".
    backend: "numba" (float32, the CPU's default), "triton" (CUDA's) or "reference" (NumPy float64, slow). precision: of
    triton's products, "tf32x3" (as good as float32, the default), "tf32" or "bf16"; float32 state with each; of gru2's
    "ieee", float32 itself. threads:
    networks trained at the same time on a CPU, all cores where None. out: a folder that the set is written to while it
    is trained, shard by shard, and read from afterwards; the same call goes on with what an interrupted one, also a
    killed one, left there, and ends with the same bits. progress: a bar on stderr; None shows it on a
    terminal only. Python's log "wsfast" gets the same once a second (wsfast.events).

    A network's bits depend on (network, task, recipe, seed, repeat), the backend and its precision alone, not on its
    neighbours, their number, order or threads. One that diverges is kept and marked (WeightSet.diverged). Ctrl-C raises
    Interrupted, which holds the finished networks (with `out`: of finished shards). Returns a WeightSet ordered by
    task, then repeat. ValueError for what cannot be trained or an `out` that holds another set; OSError where it cannot
    be written; RuntimeError names the networks in work when a GPU fails.
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
    recurrent = backend == "triton" and gru_width(network) is not None
    precisions = ("ieee",) if recurrent else PRECISIONS[backend]
    if precision is not None and precision not in precisions:
        raise ValueError(f"generate: precision of {backend} must be {' or '.join(precisions)}, got {precision!r}")
    precision = precision or precisions[0]

    labels, numbers = np.repeat(np.arange(len(tasks)), repeats), np.tile(np.arange(repeats), len(tasks))
    made_from = {
        "recipe": recipe.to_dict(),
        "seed": seed,
        "repeats": repeats,
        "backend": backend,
        "precision": precision,
    }
    info = {"data": tasks.name, "source": tasks.source, **made_from, "threads": threads or available()}
    made_by = provenance.record(device)
    sink: Writer | Memory
    if out is None:
        sink = Memory(network, tasks.names, labels, numbers, info, made_by, recipe.epochs)
    else:
        plan = {**made_from, "data": tasks.name, "tasks_sha256": tasks.sha256()}
        sink = Writer(out, network, tasks.names, labels, numbers, plan, info, made_by)
    with sink:
        todo = np.flatnonzero(~sink.done)
        jobs = [(int(labels[i]), int(numbers[i])) for i in todo]
        title = f"train {network.name} on {tasks.name}"
        with Progress(title, len(labels), "net", progress, len(labels) - len(jobs)) as said:
            if backend == "triton":
                batches = _on_gpu(network, tasks, recipe, jobs, seed, precision, device, said.advance)
            else:
                batches = _on_cpu(network, tasks, recipe, jobs, seed, backend, threads, said.advance)
            so_far = _SoFar()
            try:
                for some, flat, curves, records in batches:
                    columns = {**dict(zip(RECORDS, records.T, strict=True)), "loss_curve": curves}
                    columns["diverged"] = diverged(network, flat).astype(np.int64)
                    sink.add(todo[some], flat, columns)
                    said.finished(len(flat), **so_far.add(columns))
            except KeyboardInterrupt:
                raise Interrupted(sink.weight_set(partial=True)) from None
        return sink.weight_set()


class _SoFar:
    """What is known of the networks of this run that are done."""

    def __init__(self) -> None:
        self._networks, self._diverged, self._accuracy = 0, 0, np.zeros(2)

    def add(self, columns: dict[str, np.ndarray]) -> dict[str, Any]:
        self._networks += len(columns["diverged"])
        self._diverged += int(columns["diverged"].sum())
        self._accuracy += [columns["train_accuracy"].sum(), columns["test_accuracy"].sum()]
        train, test = (self._accuracy / self._networks).tolist()
        return {"train_accuracy": train, "test_accuracy": test, "diverged": self._diverged}


Batch = tuple[slice, np.ndarray, np.ndarray, np.ndarray]  # which jobs, parameters [n, P], curves, records
Jobs = list[tuple[int, int]]  # (task, repeat)


class Memory:
    """Takes finished networks in any order and keeps them in memory; as `wsfast.writer.Writer`."""

    def __init__(
        self,
        network: Network,
        task_names: list[str],
        labels: np.ndarray,
        repeats: np.ndarray,
        info: dict[str, Any],
        made_by: dict[str, Any],
        epochs: int,
    ) -> None:
        count = len(labels)
        self.done = np.zeros(count, bool)
        parameters = {p.name: np.empty((count, *p.shape), np.float32) for p in network.parameters}
        records = {**{name: np.empty(count) for name in RECORDS}, "loss_curve": np.empty((count, epochs))}
        records["diverged"] = np.zeros(count, np.int64)
        self._zoo = WeightSet(network, parameters, labels, repeats, tuple(task_names), records, {**info, **made_by})
        self._start = time.perf_counter()

    def __enter__(self) -> "Memory":
        return self

    def __exit__(self, *_: Any) -> None:
        pass

    def add(self, networks: np.ndarray, flat: np.ndarray, records: dict[str, np.ndarray]) -> None:
        at = 0
        for p in self._zoo.network.parameters:
            self._zoo.parameters[p.name][networks] = flat[:, at : at + p.size].reshape(-1, *p.shape)
            at += p.size
        for name, column in records.items():
            self._zoo.records[name][networks] = column
        self.done[networks] = True

    def weight_set(self, partial: bool = False) -> WeightSet:
        seconds = time.perf_counter() - self._start
        self._zoo.info.update(generate_s=seconds, networks_per_s=self.done.sum() / seconds)
        return self._zoo[self.done] if partial else self._zoo


def _on_cpu(
    network: Network,
    tasks: TaskSet,
    recipe: Recipe,
    jobs: Jobs,
    seed: int,
    backend: str,
    threads: int | None,
    tick: Callable[[float], Any],
) -> Iterator[Batch]:
    train = trainer(network, tasks, recipe, seed, backend)
    for k, (flat, curve, record) in unordered(lambda k: train(*jobs[k]), range(len(jobs)), threads):
        yield slice(k, k + 1), flat[None], curve[None], record[None]
        tick(1)


def _on_gpu(
    network: Network,
    tasks: TaskSet,
    recipe: Recipe,
    jobs: Jobs,
    seed: int,
    precision: str,
    device: str,
    tick: Callable[[float], Any],
) -> Iterator[Batch]:
    splits = [(t.train_rows, t.train_labels, t.test_rows, t.test_labels) for t in (tasks[i] for i in range(len(tasks)))]
    if gru_width(network) is not None:
        module, sizes = backends.load("train_gru", "triton", device), _recurrent(network, tasks, recipe)
        for done in module.train_chunks(tasks.x, splits, jobs, *sizes, seed, device, tick=tick):
            yield slice(done.first, done.first + len(done.records)), done.parameters, done.curves, done.records
        return
    op, layers, shape, pad = _trained_by(network, tasks, recipe)
    chunks = backends.load(op, "triton", device).train_chunks(
        tasks.x,
        splits,
        jobs,
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


def trainer(network: Network, tasks: TaskSet, recipe: Recipe, seed: int, backend: str) -> Callable[[int, int], Any]:
    """train(task, repeat) -> (parameters [P], loss curve [epochs], record [4])."""
    key = np.uint64(seed)  # one type for every seed, one compilation
    if gru_width(network) is not None:
        train_gru, sizes = backends.load("train_gru", backend).train_gru, _recurrent(network, tasks, recipe)

        def train_recurrent(t: int, r: int) -> Any:
            task = tasks[t]
            rows = task.train_rows, task.train_labels, task.test_rows, task.test_labels
            return train_gru(tasks.x, *rows, *sizes, key, t, r)

        return train_recurrent
    name, layers, shape, pad = _trained_by(network, tasks, recipe)
    op = getattr(backends.load(name, backend), name)
    lr = recipe.learning_rates()

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


def _recurrent(network: Network, tasks: TaskSet, recipe: Recipe) -> tuple[int, int | None, int, np.ndarray, int]:
    """What train_gru takes of a gru2: alphabet, hidden, classes, lr, steps. ValueError for what it does not train."""
    if recipe.steps is None or (recipe.batch_size, recipe.momentum, recipe.weight_decay, recipe.pad) != (1, 0, 0, None):
        raise ValueError(
            "generate: gru2 is trained by plain SGD on single names, want a recipe with steps, batch_size=1, "
            f"momentum=0, weight_decay=0 and pad=None, got {recipe}"
        )
    if (tasks.x[:, 0] >= tasks.shape[1]).any():
        raise ValueError(f"generate: name {int(np.argmax(tasks.x[:, 0]))} of {tasks.name} has no letter")
    for t in tasks.tasks:
        if len(np.unique(t.train_labels)) < tasks.classes:
            raise ValueError(f"generate: a class of task {t.name} has no training name")
    return tasks.shape[1], gru_width(network), tasks.classes, recipe.learning_rates(), recipe.steps


def _trained_by(network: Network, tasks: TaskSet, recipe: Recipe) -> tuple[str, Any, np.ndarray, int]:
    """(the op, what it takes of the network, the images' shape, the crops' padding or -1).

    ValueError for a network that no op trains.
    """
    kinds = {"train_mlp": mlp_layers(network), "train_cnn": cnn_layers(network)}
    op = next((op for op, layers in kinds.items() if layers is not None), None)
    if op is None:
        raise ValueError(f"generate: {network.name} is declared but cannot be trained yet (want mlp4, plainnet5, ...)")
    if len(tasks.shape) == 2 or recipe.steps is not None:
        raise ValueError(
            f"generate: {tasks.name} and recipes with steps are for gru2, {network.name} has no use for them"
        )
    if recipe.pad is not None and len(tasks.shape) != 3:
        raise ValueError(f"generate: random crops need images [channels, height, width], got {tasks.shape} (pad=None)")
    shape = np.array(tasks.shape if len(tasks.shape) == 3 else (1, 1, tasks.shape[0]), np.int64)
    return op, kinds[op], shape, -1 if recipe.pad is None else recipe.pad


def untrained(zoo: WeightSet) -> WeightSet:
    """The same networks before their first step: the random-initialisation control, drawn when its numbers are used.

    Sets that were not generated here get fresh initial weights of their declaration, one per (label, repeat).
    """
    seed, rows = zoo.info.get("seed", 0), np.arange(len(zoo))
    parameters = {
        p.name: Lazy(partial(_initial, p, item, seed, zoo.labels, zoo.repeats), p.shape, rows)
        for item, p in enumerate(zoo.network.parameters)
    }
    return WeightSet(
        zoo.network,
        parameters,  # type: ignore[arg-type]  # Lazy stands for an array
        zoo.labels,
        zoo.repeats,
        zoo.task_names,
        info={"seed": seed},
    )


def _initial(
    p: Parameter, item: int, seed: int, labels: np.ndarray, repeats: np.ndarray, rows: np.ndarray
) -> np.ndarray:
    from .kernels.numba.philox import INIT, uniform

    out = np.empty((len(rows), *p.shape), np.float32)
    for i, row in enumerate(rows):
        if p.fill is not None:
            out[i] = p.fill
        else:
            out[i] = uniform(p.size, p.bound, np.uint64(seed), labels[row], repeats[row], INIT, item).reshape(p.shape)
    return out
