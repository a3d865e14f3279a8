"""Is a stored weight set what its manifest says it is?"""

from pathlib import Path

import numpy as np

from .events import Progress
from .files import sha256
from .manifest import PLAN, read
from .recipe import Recipe
from .storage import load, open_shard
from .taskset import TaskSet
from .trained_on import trained_on
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
    loaded by its name and options (from `root`) where None. ValueError where there is no readable manifest, or networks
    cannot be trained again here: a set that was not generated, or on another backend or data.
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
        problems += _retrained(folder, retrain, seed, tasks, root)
    if manifest.held < manifest.networks:
        there = f"{manifest.held} of its {manifest.networks} networks are there"
        problems.append(f"{there}: generating them was interrupted")
    return problems


def _retrained(folder: Path, count: int, seed: int, tasks: TaskSet | None, root: str | Path | None) -> list[str]:
    zoo = load(folder, partial=True)
    network, plan = zoo.network, zoo.info
    if not plan.keys() >= PLAN:
        raise ValueError(f"verify: {folder} was not generated, its networks cannot be trained again")
    if plan["backend"] == "triton":
        raise ValueError(f"verify: {folder} was trained on a GPU; networks are trained again on the CPU only")
    tasks = trained_on("verify", zoo, tasks, root)
    recipe = Recipe.from_dict(plan["recipe"])
    train = trainer(network, tasks, recipe, plan["seed"], plan["backend"])
    problems = []
    for i in np.random.default_rng(seed).permutation(len(zoo))[:count]:
        flat, _, _ = train(int(zoo.labels[i]), int(zoo.repeats[i]))
        stored = np.concatenate([zoo.parameters[p.name][int(i)].ravel() for p in network.parameters])
        if not np.array_equal(np.float32(flat), stored, equal_nan=True):
            task, repeat = zoo.labels[i], zoo.repeats[i]
            problems.append(f"network {i} (task {task}, repeat {repeat}), trained again, has other bits here")
    return problems
