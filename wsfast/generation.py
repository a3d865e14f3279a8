"""Train a population: every network a pure function of (network, task, recipe, seed, repeat)."""

import time
from collections.abc import Callable, Generator
from contextlib import closing
from dataclasses import dataclass, replace
from functools import partial
from itertools import pairwise
from operator import index
from pathlib import Path
from typing import Any

import numpy as np

from . import backends, cluster, provenance
from .architectures import network as named_network
from .asymmetry import fixed_entries, gates
from .declaration import Network, Parameter
from .events import Progress
from .kernel_arguments import cnn_layers, gru_width, mlp_layers
from .kernels.numba.threads import available, unordered
from .lazy import Lazy
from .recipe import Recipe
from .storage import networks_per_shard
from .taskset import TaskSet
from .weights import WeightSet, diverged
from .writer import Writer

RECORDS = ("train_loss", "train_accuracy", "test_loss", "test_accuracy")
PRECISIONS = {"numba": ("fp32",), "reference": ("fp64",), "triton": ("tf32x3", "tf32", "bf16", "ieee")}
DEFAULTS: dict[tuple[str, str | None], str] = {
    ("triton", "train_cnn"): "tf32"
}  # (backend, op); for the others the first of PRECISIONS
LAYERS: dict[str, Callable[[Network], Any]] = {"train_mlp": mlp_layers, "train_cnn": cnn_layers}  # what an op takes


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
    engine: str = "local",
    address: str | None = None,
    progress: bool | None = None,
) -> WeightSet:
    """Train `repeats` networks on every task.

    network: a name (wsfast.network) or a declaration for the tasks' shape and classes. seed: 0 .. 2^64 - 1. recipe,
    width: what suits the data where None; a recipe of 0 epochs gives untrained networks. device: "cpu" or "cuda".
    backend: "numba" (float32, the CPU's default), "triton" (CUDA's) or "reference" (NumPy float64, slow). precision: of
    triton's products, "tf32x3" (as good as float32, the default), "tf32" (rounded, the default of convolutional
    networks) or "bf16" (which keeps their activations in bfloat16 too); float32 state with each; of gru2's "ieee",
    float32 itself. threads:
    networks trained at the same time on a CPU, all cores where None. out: a folder that the set is written to while it
    is trained, shard by shard, and read from afterwards; the same call goes on with what an interrupted one, also a
    killed one, left there, and ends with the same bits. engine: "local", or "ray" for a Ray cluster, where each task
    trains a shard on one processor or GPU and this process writes; address: of a running one, else one is started on
    this machine (wsfast.cluster). progress: a bar on stderr, by Ray a task at a time; None shows it on a terminal only.
    Python's log "wsfast" gets the same once a second (wsfast.events).

    A network's bits depend on (network, task, recipe, seed, repeat), the backend and its precision alone, not on its
    neighbours, their number, order or threads. One that diverges is kept and marked (WeightSet.diverged). Ctrl-C raises
    Interrupted, which holds the finished networks (with `out`: of finished shards). Returns a WeightSet ordered by
    task, then repeat. ValueError for what cannot be trained or an `out` that holds another set; OSError where it cannot
    be written; RuntimeError names the networks in work when a GPU fails, or a task's workers again and again.
    """
    remote = cluster.checked("generate", engine, address)
    if remote and threads is not None:
        raise ValueError(f"generate: threads belongs to engine 'local', a Ray task has one (got threads={threads})")
    if threads is not None and threads < 1:
        raise ValueError(f"generate: threads must be at least 1, got {threads}")
    call = cluster.place(engine, address, device)
    work = settled(network, tasks, seed, recipe, width, backend, device, precision, call)
    network, made_from = work.network, work.made_from(repeats)
    labels = np.repeat(np.arange(len(tasks)), made_from["repeats"])
    numbers = np.tile(np.arange(made_from["repeats"]), len(tasks))
    workers = cluster.processors(address, device) if remote else threads or available()
    info = {"data": tasks.name, "source": tasks.source, **made_from, "engine": engine, "threads": workers}
    made_by = call(provenance.record, device)
    sink: Writer | Memory
    if out is None:
        sink = Memory(network, tasks.names, labels, numbers, info, made_by, work.recipe.epochs)
    else:
        sink = Writer(out, network, tasks.names, labels, numbers, work.plan(repeats), info, made_by)
    with sink:
        todo = np.flatnonzero(~sink.done)
        jobs = [(int(labels[i]), int(numbers[i])) for i in todo]
        if jobs and not remote:
            work.prepare(*jobs[0], progress)
        sink.started = time.perf_counter()
        title = f"train {network.name} on {tasks.name}"
        with Progress(title, len(labels), "net", progress, len(labels) - len(jobs)) as said:
            if remote:
                batches = _on_cluster(work, jobs, todo // sink.each, address, said.advance)
            else:
                batches = work.run(jobs, threads, said.advance)
            so_far = _SoFar()
            try:
                with closing(batches):  # an interrupted loop ends the work in progress at once
                    for some, flat, curves, records in batches:
                        columns = {**dict(zip(RECORDS, records.T, strict=True)), "loss_curve": curves}
                        columns["diverged"] = diverged(network, flat).astype(np.int64)
                        sink.add(todo[some], flat, columns)
                        said.finished(len(flat), **so_far.add(columns))
            except KeyboardInterrupt:
                raise Interrupted(sink.weight_set(partial=True)) from None
        return sink.weight_set()


def settled(
    network: str | Network,
    tasks: TaskSet,
    seed: int,
    recipe: Recipe | None,
    width: int | None,
    backend: str | None,
    device: str,
    precision: str | None,
    call: Callable[..., Any],
) -> "Work":
    """generate's arguments with what stands for None; call(function, ...) asks where the networks will be trained."""
    if not isinstance(tasks, TaskSet):
        raise TypeError(f"generate: tasks must be a TaskSet (wsfast.tasks), got {type(tasks).__name__}")
    if recipe is not None and not isinstance(recipe, Recipe):
        raise TypeError(f"generate: recipe must be a wsfast.Recipe, got {type(recipe).__name__}")
    backend = call(backends.choose, backend, device)
    if isinstance(network, str):
        network = named_network(network, tasks.shape, tasks.classes, tasks.width if width is None else width)
    elif width is not None:
        raise ValueError("generate: width belongs to a named network, a declaration has its own")
    if network.input_shape != tasks.shape or network.classes != tasks.classes:
        raise ValueError(
            f"generate: {network.name} takes {network.input_shape} and gives {network.classes} classes, "
            f"the tasks have {tasks.shape} and {tasks.classes}"
        )
    seed = index(seed)
    if not 0 <= seed < 2**64:
        raise ValueError(f"generate: seed must be 0..2^64 - 1, got {seed}")
    recurrent = backend == "triton" and gru_width(network) is not None
    precisions = ("ieee",) if recurrent else PRECISIONS[backend]
    if precision is not None and precision not in precisions:
        raise ValueError(f"generate: precision of {backend} must be {' or '.join(precisions)}, got {precision!r}")
    precision = precision or DEFAULTS.get((backend, _op(network)), precisions[0])
    return Work(network, tasks, tasks.recipe if recipe is None else recipe, seed, backend, precision, device)


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


@dataclass(frozen=True)
class Work:
    """What networks are a function of, beside their task and repeat; a process elsewhere can have a copy."""

    network: Network
    tasks: TaskSet
    recipe: Recipe
    seed: int
    backend: str
    precision: str
    device: str
    start: tuple[int, int] | None = None  # (task, repeat) whose random numbers all networks draw, each its own if None

    def made_from(self, repeats: int) -> dict[str, Any]:
        """For a set's info."""
        repeats = index(repeats)
        if repeats < 1:
            raise ValueError(f"generate: repeats must be at least 1, got {repeats}")
        how = {"recipe": self.recipe.to_dict(), "seed": self.seed, "repeats": repeats}
        return {**how, "backend": self.backend, "precision": self.precision}

    def plan(self, repeats: int) -> dict[str, Any]:
        """What a stored set's networks are a function of."""
        return {**self.made_from(repeats), "data": self.tasks.name, "tasks_sha256": self.tasks.sha256()}

    def prepare(self, task: int, repeat: int, progress: bool | None) -> None:
        """Compile, or load what was compiled, so that it does not count as training: a network of no epochs."""
        if self.backend == "numba":
            with Progress(f"compile {self.network.name}", 1, "call", progress) as said:
                trainer(self.network, self.tasks, replace(self.recipe, epochs=0), self.seed, self.backend)(task, repeat)
                said.advance()

    def run(self, jobs: Jobs, threads: int | None, tick: Callable[[float], Any]) -> Generator[Batch]:
        """Train these networks here; tick(amount) as they progress."""
        if self.backend == "triton":
            return _on_gpu(self, jobs, tick)
        return _on_cpu(self, jobs, threads, tick)


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
        self.done, self.each = (
            np.zeros(count, bool),
            networks_per_shard(4 * sum(p.size for p in network.parameters), count),
        )
        parameters = {p.name: np.empty((count, *p.shape), np.float32) for p in network.parameters}
        records = {**{name: np.empty(count) for name in RECORDS}, "loss_curve": np.empty((count, epochs))}
        records["diverged"] = np.zeros(count, np.int64)
        self._zoo = WeightSet(network, parameters, labels, repeats, tuple(task_names), records, {**info, **made_by})
        self.started = time.perf_counter()

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
        seconds = time.perf_counter() - self.started
        self._zoo.info.update(generate_s=seconds, networks_per_s=int(self.done.sum()) / seconds)
        return self._zoo[self.done] if partial else self._zoo


def _on_cpu(work: Work, jobs: Jobs, threads: int | None, tick: Callable[[float], Any]) -> Generator[Batch]:
    train = trainer(work.network, work.tasks, work.recipe, work.seed, work.backend, work.start)
    for k, (flat, curve, record) in unordered(lambda k: train(*jobs[k]), range(len(jobs)), threads):
        yield slice(k, k + 1), flat[None], curve[None], record[None]
        tick(1)


def _on_gpu(work: Work, jobs: Jobs, tick: Callable[[float], Any]) -> Generator[Batch]:
    tasks, recipe, network = work.tasks, work.recipe, work.network
    splits = [(t.train_rows, t.train_labels, t.test_rows, t.test_labels) for t in tasks.tasks]
    if gru_width(network) is not None:
        if work.start is not None:
            raise ValueError(f"generate: triton's {network.name} has no shared start (device='cpu')")
        module, sizes = backends.load("train_gru", "triton", work.device), _recurrent(network, tasks, recipe)
        for done in module.train_chunks(tasks.x, splits, jobs, *sizes, work.seed, work.device, tick=tick):
            yield slice(done.first, done.first + len(done.records)), done.parameters, done.curves, done.records
        return
    op, layers, shape, pad = _trained_by(network, tasks, recipe)
    chunks = backends.load(op, "triton", work.device).train_chunks(
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
        work.seed,
        work.precision,
        work.device,
        tick=tick,
        fixed=fixed_entries(network),
        start=work.start,
        gates=gates(network),
    )
    for done in chunks:
        yield slice(done.first, done.first + len(done.records)), done.parameters, done.curves, done.records


def _on_cluster(
    work: Work, jobs: Jobs, shards: np.ndarray, address: str | None, tick: Callable[[float], Any]
) -> Generator[Batch]:
    """One task a shard, or a part of one where there would be too few; shards: each job's."""
    most = -(-len(jobs) // (cluster.SHARES * cluster.processors(address, work.device)))
    bounds = [0, *np.flatnonzero(np.diff(shards)) + 1, len(jobs)]
    runs = [slice(i, min(i + most, end)) for start, end in pairwise(bounds) for i in range(start, end, most or 1)]
    shared = cluster.share(address, work)
    calls = ((run, (shared, jobs[run])) for run in runs)

    def told(run: slice) -> str:
        (task, repeat), last = jobs[run.start], jobs[run.stop - 1]
        return f"generate: networks from (task {task}, repeat {repeat}) to (task {last[0]}, repeat {last[1]})"

    with closing(cluster.run(_whole, calls, address, work.device, told)) as done:
        for run, arrays in done:
            yield run, *arrays
            tick(len(arrays[0]))


def _whole(work: Work, jobs: Jobs) -> list[np.ndarray]:
    """The batches of these networks as one: parameters [n, P], curves, records."""
    out: list[np.ndarray] = []
    for some, *arrays in work.run(jobs, 1, lambda amount: None):
        out = out or [np.empty((len(jobs), *array.shape[1:]), array.dtype) for array in arrays]
        for whole, array in zip(out, arrays, strict=True):
            whole[some] = array
    return out


def trainer(
    network: Network, tasks: TaskSet, recipe: Recipe, seed: int, backend: str, start: tuple[int, int] | None = None
) -> Callable[[int, int], Any]:
    """train(task, repeat) -> (parameters [P], loss curve [epochs], record [4]); start: as in Work."""
    key = np.uint64(seed)  # one type for every seed, one compilation
    if gru_width(network) is not None:
        train_gru, sizes = backends.load("train_gru", backend).train_gru, _recurrent(network, tasks, recipe)

        def train_recurrent(t: int, r: int) -> Any:
            task = tasks[t]
            rows = task.train_rows, task.train_labels, task.test_rows, task.test_labels
            return train_gru(tasks.x, *rows, *sizes, key, *(start or (t, r)))

        return train_recurrent
    name, layers, shape, pad = _trained_by(network, tasks, recipe)
    op = getattr(backends.load(name, backend), name)
    lr = recipe.learning_rates()
    apart = *fixed_entries(network), *gates(network)

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
            *(start or (t, r)),
            *apart,
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


def _op(network: Network) -> str | None:
    """The op that trains such networks, None where none of LAYERS does."""
    return next((op for op, layers in LAYERS.items() if layers(network) is not None), None)


def _trained_by(network: Network, tasks: TaskSet, recipe: Recipe) -> tuple[str, Any, np.ndarray, int]:
    """(the op, what it takes of the network, the images' shape, the crops' padding or -1).

    ValueError for a network that no op trains.
    """
    op = _op(network)
    if op is None:
        raise ValueError(f"generate: {network.name} is declared but cannot be trained yet (want mlp4, plainnet5, ...)")
    if len(tasks.shape) == 2 or recipe.steps is not None:
        raise ValueError(
            f"generate: {tasks.name} and recipes with steps are for gru2, {network.name} has no use for them"
        )
    if recipe.pad is not None and len(tasks.shape) != 3:
        raise ValueError(f"generate: random crops need images [channels, height, width], got {tasks.shape} (pad=None)")
    shape = np.array(tasks.shape if len(tasks.shape) == 3 else (1, 1, tasks.shape[0]), np.int64)
    return op, LAYERS[op](network), shape, -1 if recipe.pad is None else recipe.pad


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
