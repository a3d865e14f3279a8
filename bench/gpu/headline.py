"""The headline: 5,000 MLP-4, end to end: from images in memory to weights in memory."""

import time
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from bench.gpu import model, ours
from bench.gpu.device import wall
from bench.gpu.problem import MOMENTUM

PRECISION = "tf32x3"


@dataclass(frozen=True)
class Scale:
    tasks: int = 10
    repeats: int = 500
    d: int = 3072
    width: int = 500
    samples: int = 1000
    tests: int = 200
    epochs: int = 50
    batch: int = 128
    goal: float | None = 25.0


SMOKE = Scale(tasks=2, repeats=2, d=9, width=5, samples=11, tests=4, epochs=2, batch=4, goal=None)


def images(scale: Scale) -> tuple[np.ndarray, list[Any]]:
    """x uint8 [n, d] and tasks: two classes a task, a faint pattern of their own under noise."""
    rng = np.random.default_rng(scale.d)
    own = scale.samples + scale.tests
    x = np.empty((scale.tasks * own, scale.d), np.uint8)
    tasks = []
    for t in range(scale.tasks):
        labels = rng.permutation(np.arange(own) % 2)
        patterns = 3 * rng.standard_normal((2, scale.d), np.float32)
        noise = 50 * rng.standard_normal((own, scale.d), np.float32)
        rows = np.arange(t * own, (t + 1) * own)
        x[rows] = (128 + patterns[labels] + noise).clip(0, 255)
        cut = scale.samples
        tasks.append((rows[:cut], labels[:cut], rows[cut:], labels[cut:]))
    return x, tasks


def run(device: str, scale: Scale, ceilings: dict[str, Any]) -> dict[str, Any]:
    """Three networks alone (which also compiles), all at once, and whether the three got the same bits both times."""
    sizes = [scale.d, *[scale.width] * 3, 2]
    networks, steps = scale.tasks * scale.repeats, scale.epochs * -(-scale.samples // scale.batch)
    says = f"{networks:,} networks {'-'.join(map(str, sizes))}, {scale.epochs} epochs of {scale.samples:,} images"
    print(f"headline: {says}, batch {scale.batch}", flush=True)
    found: dict[str, Any] = {"size": says, "batch": scale.batch, "precision": PRECISION, "networks": networks}
    reason = ours.missing(device, PRECISION)
    if reason:
        return found | {"status": f"not measured: {reason}"}
    x, tasks = images(scale)
    shared = {
        "x": x,
        "sizes": np.array(sizes),
        "slopes": np.array([0, 0, 0, 1], np.float32),
        "norms": np.zeros(4, np.int64),
        "adds": np.full(4, -1),
        "scale": np.full(scale.d, 1 / 64, np.float32),
        "shift": np.full(scale.d, -2, np.float32),
        "shape": np.array([1, 1, scale.d]),
        "momentum": MOMENTUM,
        "weight_decay": 0.0,
        "batch_size": scale.batch,
        "pad": -1,
        "seed": 0,
    }
    lr = np.full(scale.epochs, 0.01, np.float32)
    jobs = [(t, r) for t in range(scale.tasks) for r in range(scale.repeats)]
    some = [0, networks // 2, networks - 1]
    began = time.perf_counter()
    alone = ours.call("train_mlp", shared, tasks, [jobs[i] for i in some], lr, PRECISION, device)[0]
    found["three_alone_seconds"] = time.perf_counter() - began
    got: list[Any] = []
    if device == "cuda":
        torch.cuda.reset_peak_memory_stats()
    seconds = wall(lambda: got.extend(ours.call("train_mlp", shared, tasks, jobs, lr, PRECISION, device)), device)
    parameters, _, records = got
    same = all(np.array_equal(parameters[i], a) for i, a in zip(some, alone, strict=True))
    floor = model.floor(sizes, scale.batch, "merged", PRECISION, ceilings, networks)
    found |= {"seconds": seconds, "steps": steps, "networks_per_s": networks / seconds, "goal": scale.goal}
    found |= {"met": scale.goal is None or seconds <= scale.goal, "alone_equal": same}
    found |= {"floor": floor.seconds * networks * steps, "bound": floor.bound}
    found |= {"memory_floor": floor.memory * networks * steps, "compute_floor": floor.compute * networks * steps}
    for name, k in (("train_accuracy", 1), ("test_accuracy", 3)):
        found |= {name: float(records[:, k].mean()), f"{name}_least": float(records[:, k].min())}
    if device == "cuda":
        found["peak_bytes"] = torch.cuda.max_memory_allocated()
    right = same and bool(np.isfinite(records).all())
    found["status"] = "ok" if right else "FAILED: a network alone and among all others got other bits, or is not finite"
    print(f"  {seconds:.1f} s, floor {found['floor']:.1f} s, {found['status']}", flush=True)
    return found
