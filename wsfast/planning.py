"""What a run would take, told before it is run."""

import os
from dataclasses import replace
from pathlib import Path
from typing import Any

from . import cluster
from .describing import chains, feature_lines, in_bytes
from .generation import generate
from .manifest import FILE
from .storage import networks_per_shard
from .taskset import TaskSet
from .training import settled
from .weights import WeightSet
from .writer import begun

TRIAL_S = 0.5  # a trial shorter than this says little


def plan_training(network: Any, tasks: TaskSet, *, repeats: int, out: str | None = None, **options: Any) -> dict:
    """generate's arguments -> what it would do: counts, bytes, steps, and the seconds it would take here.

    networks, already (in `out`), parameters (a network's), steps (a network's), bytes (of the set), shards (None in
    memory), trial_networks, seconds. Nothing is written. seconds: a few networks are trained for one epoch and for two,
    and the difference counted for every further epoch; a device that a population would fill better than these few
    will be faster. ValueError as generate.
    """
    recipe = options.pop("recipe", None) or tasks.recipe
    asked: dict[str, Any] = {"width": None, "backend": None, "precision": None, "seed": 0, "device": "cpu", **options}
    place = cluster.place(asked.pop("engine", "local"), asked.pop("address", None), asked["device"])
    work = settled(network, tasks, recipe=recipe, call=place, **asked)
    plan = work.plan(repeats)
    total, already = len(tasks) * repeats, 0
    if out is not None:
        folder = Path(out).expanduser()
        if (folder / FILE).exists():
            already = begun(folder, work.network, plan).held
        elif not os.access(next(p for p in (folder, *folder.absolute().parents) if p.exists()), os.W_OK):
            raise OSError(f"cannot write into {folder} (choose another folder with --out)")

    def trial(networks: int, epochs: int) -> WeightSet:
        few = replace(tasks, tasks=tasks.tasks[:networks])
        each = -(-networks // len(few))
        short = replace(recipe, epochs=min(epochs, recipe.epochs))
        return generate(network, few, repeats=each, recipe=short, progress=False, **options)

    sample = trial(1, 1)
    networks = 1
    while sample.info["generate_s"] < TRIAL_S and networks < total:
        networks = min(4 * networks, total)
        sample = trial(networks, 1)
    first = sample.info["generate_s"]
    more = trial(networks, 2).info["generate_s"] - first
    size = sample.nbytes // len(sample)
    rows = max(len(t.train_rows) for t in tasks.tasks)
    return {
        "network": sample.network.name,
        "data": tasks.name,
        "tasks": len(tasks),
        "repeats": repeats,
        "networks": total,
        "already": already,
        "parameters": size // 4,
        "epochs": recipe.epochs,
        "steps": recipe.epochs * (recipe.steps or -(-rows // recipe.batch_size)),
        "bytes": total * size,
        "shards": None if out is None else -(-total // networks_per_shard(size, total)),
        "chains": chains(sample, total),
        "trial_networks": len(sample),
        "seconds": (total - already) / len(sample) * (first + max(0.0, more) * max(0, recipe.epochs - 1)),
    }


def told(plan: dict[str, Any]) -> str:
    """A plan as text."""
    where = "in memory" if plan["shards"] is None else f"shards: {plan['shards']}"
    lines = [
        f"{plan['networks']:,} x {plan['network']} on {plan['data']}: {plan['tasks']} tasks x {plan['repeats']} "
        f"repeats, {plan['already']:,} of them there already",
        f"{plan['parameters']:,} parameters and {plan['steps']:,} steps a network ({plan['epochs']} epochs)",
        f"weights {in_bytes(plan['bytes'])}, {where}",
        *feature_lines(plan["chains"], plan["networks"]),
        f"training about {_time(plan['seconds'])}, from trials of {plan['trial_networks']} now",
    ]
    return "\n".join(lines)


def _time(seconds: float) -> str:
    if seconds < 120:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 7200 else f"{seconds / 3600:.1f} h"
