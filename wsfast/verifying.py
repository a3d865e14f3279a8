"""Is a stored weight set what its manifest says it is?"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from .datasets import LOADERS
from .events import Progress
from .files import sha256
from .manifest import Manifest, read
from .recipe import Recipe
from .storage import load, open_shard
from .taskset import TaskSet
from .taskset import tasks as named_tasks
from .training import trainer


def verify(
    folder: str | Path,
    *,
    retrain: int = 0,
    seed: int = 0,
    tasks: TaskSet | None = None,
    root: str | Path | None = None,
    progress: bool | None = None,
) -> list[str]:
    """What is wrong with a stored set, a sentence each; an empty list where nothing is.

    Every shard's size, names, shapes and SHA-256 are compared with the manifest. retrain: so many networks, drawn with
    `seed`, are trained again from their seeds on the CPU and compared bit by bit; tasks: what the set was trained on,
    loaded by its name (from `root`) where None. ValueError where there is no readable manifest, or networks cannot be
    trained again here: a set that was not generated, or on another backend or data.
    """
    if retrain < 0:
        raise ValueError(f"verify: retrain must be at least 0, got {retrain}")
    folder = Path(folder).expanduser()
    manifest, problems = read(folder), []
    with Progress(f"verify {folder}", len(manifest.shards), "shard", progress) as said:
        for entry in manifest.shards:
            try:
                open_shard(folder, manifest.network, entry)
                if sha256(folder / entry.file) != entry.sha256:
                    problems.append(f"{folder / entry.file} is damaged: its SHA-256 is not the manifest's")
            except ValueError as error:
                problems.append(str(error))
            said.advance()
            said.finished(problems=len(problems))
    if retrain and manifest.held and not problems:
        problems += _retrained(folder, manifest, retrain, seed, tasks, root)
    if manifest.held < manifest.networks:
        there = f"{manifest.held} of its {manifest.networks} networks are there"
        problems.append(f"{there}: generating them was interrupted")
    return problems


def trained_on(
    op: str, folder: Path, plan: Mapping[str, Any], count: int, tasks: TaskSet | None, root: str | Path | None
) -> TaskSet:
    """The tasks of a stored set's plan, loaded by their name where None; ValueError where they are not the same."""
    if tasks is None and plan["data"] not in LOADERS:
        raise ValueError(f"{op}: {folder} was trained on arrays of your own, which only Python's tasks=... can give")
    tasks = named_tasks(plan["data"], n=count, root=root) if tasks is None else tasks
    if tasks.sha256() != plan["tasks_sha256"]:
        raise ValueError(f"{op}: {folder} was trained on other data than these tasks of {tasks.name}")
    return tasks


def _retrained(
    folder: Path,
    manifest: Manifest,
    count: int,
    seed: int,
    tasks: TaskSet | None,
    root: str | Path | None,
) -> list[str]:
    network, plan = manifest.network, manifest.plan
    if plan is None:
        raise ValueError(f"verify: {folder} was not generated, its networks cannot be trained again")
    if plan["backend"] == "triton":
        raise ValueError(f"verify: {folder} was trained on a GPU; networks are trained again on the CPU only")
    tasks = trained_on("verify", folder, plan, len(manifest.task_names), tasks, root)
    recipe = Recipe(**plan["recipe"])
    train = trainer(network, tasks, recipe, plan["seed"], plan["backend"])
    zoo = load(folder, partial=True)
    problems = []
    for i in np.random.default_rng(seed).permutation(len(zoo))[:count]:
        flat, _, _ = train(int(zoo.labels[i]), int(zoo.repeats[i]))
        stored = np.concatenate([zoo.parameters[p.name][int(i)].ravel() for p in network.parameters])
        if not np.array_equal(np.float32(flat), stored, equal_nan=True):
            task, repeat = zoo.labels[i], zoo.repeats[i]
            problems.append(f"network {i} (task {task}, repeat {repeat}), trained again, has other bits here")
    return problems
