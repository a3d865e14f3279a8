"""Train a population: every network a pure function of (network, task, recipe, seed, repeat)."""

import time
from collections.abc import Callable, Generator
from contextlib import closing
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np

from . import cluster, provenance
from .declaration import Network
from .events import Progress
from .kernels.numba.threads import available
from .recipe import Recipe
from .storage import networks_per_shard
from .taskset import TaskSet
from .training import Batch, Jobs, Work, settled
from .weights import WeightSet, diverged
from .writer import Writer

RECORDS = ("train_loss", "train_accuracy", "test_loss", "test_accuracy")


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
    network, plan = work.network, work.plan(repeats)
    labels = np.repeat(np.arange(len(tasks)), plan["repeats"])
    numbers = np.tile(np.arange(plan["repeats"]), len(tasks))
    workers = cluster.processors(address, device) if remote else threads or available()
    info = {"source": tasks.source, "data_options": dict(tasks.options), **plan}
    info |= {"engine": engine, "threads": workers}
    made_by = call(provenance.record, device)
    sink: Writer | Memory
    if out is None:
        sink = Memory(network, tasks.names, labels, numbers, info, made_by, work.recipe.epochs)
    else:
        sink = Writer(out, network, tasks.names, labels, numbers, plan, info, made_by)
    with sink:
        todo = np.flatnonzero(~sink.done)
        jobs = [(int(labels[i]), int(numbers[i])) for i in todo]
        title, so_far = f"train {network.name} on {tasks.name}", _SoFar()
        try:
            if jobs and not remote:
                work.prepare(*jobs[0], progress)
            sink.started = time.perf_counter()
            with Progress(title, len(labels), "net", progress, len(labels) - len(jobs)) as said:
                if remote:
                    batches = _on_cluster(work, jobs, todo // sink.each, address, said.advance)
                else:
                    batches = work.run(jobs, threads, said.advance)
                with closing(batches):  # an interrupted loop ends the work in progress at once
                    for some, flat, curves, records in batches:
                        columns = recorded(network, flat, curves, records)
                        sink.add(todo[some], flat, columns)
                        said.finished(len(flat), **so_far.add(columns))
        except KeyboardInterrupt:
            raise Interrupted(sink.weight_set(partial=True)) from None
        return sink.weight_set()


def recorded(network: Network, flat: np.ndarray, curves: np.ndarray, records: np.ndarray) -> dict[str, np.ndarray]:
    """A batch's records by their names, one row a network: what training gave, its loss curve, whether it diverged."""
    columns = {**dict(zip(RECORDS, records.T, strict=True)), "loss_curve": curves}
    return columns | {"diverged": diverged(network, flat).astype(np.int64)}


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
