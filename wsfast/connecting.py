"""Are networks of one task joined by a straight line of low loss? Barriers between pairs, and the way from init."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from itertools import product
from operator import index
from pathlib import Path
from typing import Any

import numpy as np

from . import backends, provenance
from .asymmetry import gates
from .declaration import Network
from .events import Progress
from .inference import bootstrap_by_task
from .initial import untrained
from .kernel_arguments import cnn_layers, gru_width, mlp_layers, refuse_empty_names, takes
from .kernels.numba.threads import unordered
from .lazy import Lazy
from .reference.interpolate import barrier, monotonicity
from .result import Result
from .seeds import whole_seed
from .taskset import TaskSet
from .trained_on import trained_on
from .weights import WeightSet, usable

SCHEMA = 1
SPLITS, MEASURES = ("train", "test"), ("loss", "error")
TITLES = {"naive": "as they came", "aligned": "aligned", "init": "from init"}
QUANTILES = (0.05, 0.5, 0.95)
RUN = 1 << 30  # bytes of the first networks of the pairs in hand; the second ones take as many, aligned ones again
Align = Callable[[WeightSet, WeightSet], WeightSet]
Curves = Iterator[tuple[slice, np.ndarray]]  # which lines, loss and error along them [n, splits, measures, L]


@dataclass
class ConnectivityResult(Result):
    """numbers: as in connectivity.json. pairs: int64 [P, 2], positions in the set; points: t, float64 [L]; curves:
    (line, "train" or "test", "loss" or "error") -> float64 [P, L], nan where a pair's task has no such samples; lines
    are "naive", "aligned" and "init", from a pair's second network at initialisation to that network."""

    FILES = ("connectivity.json", "barriers.svg")
    pairs: np.ndarray
    points: np.ndarray
    curves: dict[tuple[str, str, str], np.ndarray] = field(default_factory=dict)

    def table(self) -> str:
        return table(self.numbers)

    def drawn(self) -> str:
        from .figures import barriers

        return barriers(self)


def connectivity(
    zoo: Any,
    tasks: TaskSet | None = None,
    *,
    pairs: int | np.ndarray = 20,
    points: int = 25,
    align: Align | None = None,
    seed: int = 0,
    root: str | Path | None = None,
    backend: str | None = None,
    device: str = "cpu",
    threads: int | None = None,
    progress: bool | None = None,
) -> ConnectivityResult:
    """Loss and error on straight lines between networks of one task (linear mode connectivity), many pairs at once.

    zoo: a WeightSet or its folder. tasks: what it was trained on, loaded by name (from `root`) where None. An imported
    set needs them: its label i is tasks[i], and its networks see samples as tasks give them (`TaskSet.inputs`).
    pairs: so many a task, drawn with `seed` among all of its pairs, all where there are fewer; or int [P, 2], positions
    in the set, both of one task. points: on a line, an odd number, from 0 to 1. align: (networks, their references) ->
    the networks, units reordered to match, such as `lambda zoo, to: wsfast.align(zoo, to).zoo`; the lines from the
    first networks to the aligned second ones are then measured too. device: "cpu" or "cuda", which multiplies in the
    default precision of `generate` there. threads: pairs at a time on a CPU, all cores where None. Pairs are read and
    aligned many at a time, not all at once. BatchNorm's running statistics are interpolated like all parameters.
    Diverged networks are left out of drawn pairs.

    The barrier of a line is its lift over the chord, L(t) - ((1 - t) L(0) + t L(1)): the largest, and at the middle
    (Frankle et al., ICML 2020). Of every second network of a generated set also the way from its initial weights, drawn
    again from its seed: largest rise, share monotone, share of points locally convex and below the chord (Lucas et al.,
    ICML 2021). Pairs whose task has no test samples are in no mean of these.

    ValueError for imported sets without tasks, other tasks, networks that no backend interpolates, or bad pairs.
    """
    if isinstance(zoo, (str, Path)):
        zoo = WeightSet.open(zoo)
    if points < 3 or points % 2 == 0:
        raise ValueError(f"connectivity: points must be odd and at least 3, so that one is the middle, got {points}")
    good, seed = usable("connectivity", zoo), whole_seed("connectivity", seed)
    tasks = _tasks(good, tasks, root)
    alive = np.arange(len(zoo)) if len(good) == len(zoo) else np.flatnonzero(~zoo.diverged)
    if np.ndim(pairs) == 0:
        drawn = alive[draw_pairs(zoo.labels[alive], index(pairs), seed)]
    else:
        drawn = _checked(zoo, np.asarray(pairs), alive)
    labels, t = zoo.labels[drawn[:, 0]], np.linspace(0, 1, points)
    run = along_lines(good.network, tasks, t, backend, device, threads)
    there = {"naive": True, "init": "seed" in zoo.info, "aligned": align is not None}
    lines = [line for line, measured in there.items() if measured]
    found = {line: np.empty((len(drawn), len(SPLITS), len(MEASURES), points)) for line in lines}
    step = max(1, RUN // (4 * sum(p.size for p in zoo.network.parameters)))
    with Progress("connectivity", len(lines) * len(drawn), "line", progress) as said:
        for here in (slice(i, i + step) for i in range(0, len(drawn), step)):
            a, b = (zoo[ends] for ends in drawn[here].T)
            for line in lines:
                for some, measured in run(*_ends(line, a, b, align)):
                    found[line][here][some] = measured
                    said.advance(len(measured))
                    said.finished(len(measured), line=line)
    kinds = product(lines, enumerate(SPLITS), enumerate(MEASURES))
    curves = {(line, split, measure): found[line][:, k, j] for line, (k, split), (j, measure) in kinds}
    rows = []
    for (line, split, measure), curve in curves.items():
        sampled = np.array([len(getattr(tasks[int(task)], f"{split}_rows")) > 0 for task in labels])
        if sampled.any():
            which = {"line": line, "split": split, "measure": measure, "n": int(sampled.sum())}
            rows.append({**which, **_summary(line, curve[sampled], labels[sampled], t)})
    about = {"data": tasks.name, **{k: good.info.get(k) for k in ("seed", "recipe", "precision")}}
    numbers = {"schema": SCHEMA, "network": good.network.name, "networks": len(zoo), "diverged": len(zoo) - len(good)}
    numbers |= {**about, "pairs": len(drawn), "tasks": len(np.unique(labels)), "points": points, "pair_seed": seed}
    numbers |= {"backend": backends.choose(backend, device), **provenance.record(device), "lines": rows}
    return ConnectivityResult(numbers, drawn, t, curves)


def _ends(line: str, a: WeightSet, b: WeightSet, align: Align | None) -> tuple[WeightSet, WeightSet]:
    """Where the lines between these pairs begin and end."""
    if line == "init":
        return untrained(b), b
    if line == "naive" or align is None:
        return a, b
    aligned = align(b, a)
    if len(aligned) != len(a) or aligned.network.layers != a.network.layers:
        raise ValueError(f"connectivity: align returned {aligned!r}, wanted the {len(a)} networks it was given")
    return a, aligned


def _tasks(zoo: WeightSet, tasks: TaskSet | None, root: str | Path | None) -> TaskSet:
    """What the set was trained on, checked."""
    tasks = trained_on("connectivity", zoo, root=root) if tasks is None else tasks
    if not isinstance(tasks, TaskSet):
        raise TypeError(f"connectivity: tasks must be a TaskSet (wsfast.tasks), got {type(tasks).__name__}")
    if "seed" in zoo.info and list(zoo.task_names) != tasks.names:
        raise ValueError(f"connectivity: the set was trained on other tasks than these {len(tasks)} of {tasks.name}")
    place = {name: i for i, name in enumerate(tasks.names)}
    for label, name in enumerate(zoo.task_names):
        if place.get(name, label) != label:
            raise ValueError(
                f"connectivity: the set's label {label} is {name}, which is tasks[{place[name]}] of {tasks.name} (want "
                "tasks in the order of the set's labels)"
            )
    net, first, last = zoo.network, zoo.labels.min(), zoo.labels.max()
    if not takes(net, tasks.shape) or net.classes != tasks.classes or first < 0 or last >= len(tasks):
        raise ValueError(
            f"connectivity: the set takes {net.input_shape}, has {net.classes} classes and labels {first}..{last}, "
            f"tasks of {tasks.name} are {tasks.shape}, {tasks.classes}, 0..{len(tasks) - 1}"
        )
    return tasks


def draw_pairs(labels: np.ndarray, count: int, seed: int) -> np.ndarray:
    """`count` pairs i < j of every label, without repeats, all of a label's where it has fewer: int64 [P, 2]."""
    if count < 1:
        raise ValueError(f"connectivity: pairs must be at least 1, got {count}")
    rng, found = np.random.default_rng(seed), []
    for task in np.unique(labels):
        own = np.flatnonzero(labels == task)
        first, second = np.triu_indices(len(own), 1)
        chosen = rng.permutation(len(first))[:count]
        found.append(np.column_stack([own[first[chosen]], own[second[chosen]]]))
    drawn = np.concatenate(found)
    if not len(drawn):
        raise ValueError("connectivity: no task has two usable networks (generate more repeats)")
    return drawn


def _checked(zoo: WeightSet, pairs: np.ndarray, alive: np.ndarray) -> np.ndarray:
    if pairs.ndim != 2 or pairs.shape[1] != 2 or not np.issubdtype(pairs.dtype, np.integer) or not len(pairs):
        raise ValueError(f"connectivity: pairs must be integers [P, 2], got {pairs.dtype} {pairs.shape}")
    if pairs.min() < 0 or pairs.max() >= len(zoo):
        raise ValueError(f"connectivity: pairs must be of 0..{len(zoo) - 1}, got {pairs.min()}..{pairs.max()}")
    if (zoo.labels[pairs[:, 0]] != zoo.labels[pairs[:, 1]]).any():
        raise ValueError("connectivity: both networks of a pair must be of one task")
    if not np.isin(pairs, alive).all():
        raise ValueError("connectivity: a network of the pairs diverged (WeightSet.diverged)")
    return pairs.astype(np.int64)


def along_lines(
    network: Network,
    tasks: TaskSet,
    points: np.ndarray,
    backend: str | None = None,
    device: str = "cpu",
    threads: int | None = None,
) -> Callable[[WeightSet, WeightSet], Curves]:
    """run(starts, ends), two sets of one network, the i-th of both of one task -> the curves of their lines."""
    name, network_of = _interpolated(network, tasks)
    op, t = getattr(backends.load(name, backend, device), name), points.astype(np.float32)

    def one(start: WeightSet, end: WeightSet) -> np.ndarray:
        task, ends = tasks[int(start.labels[0])], (start.to_matrix()[0][0], end.to_matrix()[0][0])
        splits = (task.train_rows, task.train_labels), (task.test_rows, task.test_labels)
        nothing = np.full((len(MEASURES), len(t)), np.nan)
        return np.array([op(tasks.x, *s, *network_of, *ends, t) if len(s[0]) else nothing for s in splits])

    def on_cpu(start: WeightSet, end: WeightSet) -> Curves:
        for i, found in unordered(lambda i: one(start[i], end[i]), range(len(start)), threads):
            yield slice(i, i + 1), found[None]

    def on_gpu(start: WeightSet, end: WeightSet) -> Curves:
        splits = [(task.train_rows, task.train_labels, task.test_rows, task.test_labels) for task in tasks.tasks]
        yield from op(tasks.x, splits, start.labels, *network_of, _flat(start), _flat(end), t, device=device)

    return on_gpu if backends.choose(backend, device) == "triton" else on_cpu


def _interpolated(network: Network, tasks: TaskSet) -> tuple[str, tuple[Any, ...]]:
    """(the op, what it takes of the network and the samples)."""
    if (hidden := gru_width(network)) is not None:
        refuse_empty_names("connectivity", tasks)
        return "interpolate_gru", (tasks.shape[1], hidden, tasks.classes)
    if (layers := mlp_layers(network)) is not None:
        return "interpolate_mlp", (*layers, tasks.scale, tasks.shift, *gates(network))
    if (units := cnn_layers(network)) is not None:
        return "interpolate_cnn", (*units, tasks.scale, tasks.shift, np.array(tasks.shape), *gates(network))
    raise ValueError(f"connectivity: {network.name} cannot be interpolated (want mlp4, plainnet5, gru2, ...)")


def _flat(zoo: WeightSet) -> Lazy:
    """float32 [N, P], read when it is asked for."""
    size = sum(p.size for p in zoo.network.parameters)
    return Lazy(lambda rows: zoo[rows].to_matrix()[0], (size,), np.arange(len(zoo)))


def _summary(line: str, curve: np.ndarray, labels: np.ndarray, points: np.ndarray) -> dict[str, Any]:
    """Means over pairs, their 95 % intervals and the pairs' quantiles, and the mean curve."""
    found: dict[str, Any] = {"curve": curve.mean(axis=0).tolist()}
    if line == "init":
        rise, monotone, convex, below = monotonicity(curve, points)
        found |= {"max_rise": _spread(rise, labels), "monotone": float(monotone.mean())}
        return found | {"locally_convex": float(convex.mean()), "globally_convex": float(below.mean())}
    largest, middle = barrier(curve, points)
    return found | {"barrier_max": _spread(largest, labels), "barrier_midpoint": _spread(middle, labels)}


def _spread(values: np.ndarray, labels: np.ndarray) -> dict[str, Any]:
    """The mean's interval resamples tasks, None for a single one: pairs of a task share networks."""
    interval = list(bootstrap_by_task(values, labels)) if np.ptp(labels) else None
    return {"mean": float(values.mean()), "ci95": interval, "quantiles": np.quantile(values, QUANTILES).tolist()}


def table(n: dict[str, Any]) -> str:
    """connectivity.json as text."""
    lines = [f"{n['pairs']} pairs of {n['network']} on {n['data']}: {n['tasks']} tasks, {n['points']} points a line"]
    lines += ["", _row("barrier", "split", "of", ["largest", "at the middle"])]
    for row in n["lines"]:
        if row["line"] != "init":
            said = [_value(row["barrier_max"]), _value(row["barrier_midpoint"])]
            lines.append(_row(TITLES[row["line"]], row["split"], row["measure"], said))
    legend = "mean over pairs [5 %, 95 % of them]"
    if rises := [row for row in n["lines"] if row["line"] == "init"]:
        lines += ["", _row("line", "split", "of", ["largest rise", "monotone", "convex", "below chord"])]
        legend += "; monotone: % of lines; convex, below chord: % of points"
    for row in rises:
        shares = [f"{100 * row[key]:.1f}" for key in ("monotone", "locally_convex", "globally_convex")]
        lines.append(_row(TITLES["init"], row["split"], row["measure"], [_value(row["max_rise"]), *shares]))
    return "\n".join([*lines, "", legend])


def _row(line: str, split: str, measure: str, values: list[str]) -> str:
    first, *others = values
    return f"{line:<14} {split:<6} {measure:<6} {first:>24}" + "".join(f"{v:>24}" for v in others)


def _value(spread: dict[str, Any]) -> str:
    low, _, high = spread["quantiles"]
    return f"{spread['mean']:.3f} [{low:.3f}, {high:.3f}]"
