"""Train networks here: what one is a function of, on which op and device it is trained."""

from collections.abc import Callable, Generator
from dataclasses import dataclass, replace
from operator import index
from typing import Any

import numpy as np

from . import backends
from .architectures import network as named_network
from .asymmetry import fixed_entries, gates
from .declaration import Network
from .events import Progress
from .kernel_arguments import cnn_layers, gru_width, mlp_layers, refuse_empty_names
from .kernels.numba.threads import unordered
from .recipe import Recipe
from .seeds import whole_seed
from .taskset import TaskSet

PRECISIONS = {"numba": ("fp32",), "reference": ("fp64",), "triton": ("tf32x3", "tf32", "bf16", "ieee")}
DEFAULTS: dict[tuple[str, str | None], str] = {
    ("triton", "train_cnn"): "tf32"
}  # (backend, op); for the others the first of PRECISIONS
LAYERS: dict[str, Callable[[Network], Any]] = {"train_mlp": mlp_layers, "train_cnn": cnn_layers}  # what an op takes
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

    def plan(self, repeats: int) -> dict[str, Any]:
        """What a set's networks are a function of."""
        repeats = index(repeats)
        if repeats < 1:
            raise ValueError(f"generate: repeats must be at least 1, got {repeats}")
        how = {"recipe": self.recipe.to_dict(), "seed": self.seed, "repeats": repeats}
        how |= {"backend": self.backend, "precision": self.precision}
        return {**how, "data": self.tasks.name, "tasks_sha256": self.tasks.sha256()}

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
    if recipe is not None and not isinstance(recipe, Recipe):
        raise TypeError(f"generate: recipe must be a wsfast.Recipe, got {type(recipe).__name__}")
    backend = call(backends.choose, backend, device)
    network, seed = declared("generate", network, tasks, width), whole_seed("generate", seed)
    recurrent = backend == "triton" and gru_width(network) is not None
    precisions = ("ieee",) if recurrent else PRECISIONS[backend]
    if precision is not None and precision not in precisions:
        raise ValueError(f"generate: precision of {backend} must be {' or '.join(precisions)}, got {precision!r}")
    precision = precision or DEFAULTS.get((backend, _op(network)), precisions[0])
    return Work(network, tasks, tasks.recipe if recipe is None else recipe, seed, backend, precision, device)


def declared(op: str, network: str | Network, tasks: TaskSet, width: int | None) -> Network:
    """A declaration for these tasks, from its name and width or as it is; ValueError where it does not fit them."""
    if not isinstance(tasks, TaskSet):
        raise TypeError(f"{op}: tasks must be a TaskSet (wsfast.tasks), got {type(tasks).__name__}")
    if isinstance(network, str):
        network = named_network(network, tasks.shape, tasks.classes, tasks.width if width is None else width)
    elif not isinstance(network, Network):
        raise TypeError(f"{op}: network must be a name or a wsfast.Network, got {type(network).__name__}")
    elif width is not None:
        raise ValueError(f"{op}: width belongs to a named network, a declaration has its own")
    if network.input_shape != tasks.shape or network.classes != tasks.classes:
        raise ValueError(
            f"{op}: {network.name} takes {network.input_shape} and gives {network.classes} classes, "
            f"the tasks have {tasks.shape} and {tasks.classes}"
        )
    return network


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
    refuse_empty_names("generate", tasks)
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
