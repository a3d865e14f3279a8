"""The headlines: thousands of networks end to end, from images in memory to weights in memory."""

import math
import time
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

import wsfast
from bench.gpu import model, ours
from bench.gpu.device import wall
from bench.gpu.problem import MOMENTUM
from wsfast.kernel_arguments import cnn_layers, mlp_layers

MLP = "train_mlp", mlp_layers, ("sizes", "slopes", "norms", "adds")
CNN = "train_cnn", cnn_layers, ("sizes", "slopes", "strides", "norm_last", "pools", "shortcuts")
CALLS: dict[str, Any] = {"mlp4": MLP, "plainnet5": CNN}


@dataclass(frozen=True)
class Scale:
    """shape: of an image; pad: of the random crop, -1 for neither crop nor flip; goal: seconds."""

    network: str
    shape: tuple[int, ...]
    width: int
    precision: str
    repeats: int
    pad: int = -1
    tasks: int = 10
    samples: int = 1000
    tests: int = 200
    epochs: int = 50
    batch: int = 128
    goal: float | None = None

    @property
    def d(self) -> int:
        return math.prod(self.shape)

    def floor(self, ceilings: dict[str, Any], networks: int) -> model.Floor:
        """Of one step of one network."""
        if self.network == "mlp4":
            sizes = [self.d, *[self.width] * 3, 2]
            return model.floor(sizes, self.batch, "merged", self.precision, ceilings, networks)
        channels = [self.shape[0], *(self.width * 2**k for k in range(4))]
        units = [(channels[k], channels[k + 1], self.shape[1] // 2**k) for k in range(4)]
        return model.cnn_floor(units, self.batch, "units", self.precision, ceilings, networks)


SCALES = {  # plainnet5: a fifth of 5,000 networks in 120 s
    "headline": Scale("mlp4", (1, 1, 3072), 500, "tf32x3", 500, goal=25.0),
    "headline-cnn": Scale("plainnet5", (3, 32, 32), 32, "tf32", 100, pad=4, goal=24.0),
}
TINY: dict[str, Any] = {"tasks": 2, "samples": 11, "tests": 4, "epochs": 2, "batch": 4}
SMOKE = {
    "headline": Scale("mlp4", (1, 1, 9), 5, "tf32x3", 2, **TINY),
    "headline-cnn": Scale("plainnet5", (3, 16, 16), 2, "tf32", 2, pad=4, **TINY),
}


def images(scale: Scale) -> tuple[np.ndarray, list[Any]]:
    """x uint8 [n, d] and tasks: two classes a task, a faint pattern of their own under noise: where images are cropped
    and flipped a colour, else of single pixels."""
    rng = np.random.default_rng(scale.d)
    own = scale.samples + scale.tests
    x = np.empty((scale.tasks * own, scale.d), np.uint8)
    tasks = []
    for t in range(scale.tasks):
        labels = rng.permutation(np.arange(own) % 2)
        grain = scale.shape if scale.pad < 0 else (scale.shape[0], 1, 1)
        patterns = np.broadcast_to(3 * rng.standard_normal((2, *grain), np.float32), (2, *scale.shape)).reshape(2, -1)
        noise = 50 * rng.standard_normal((own, scale.d), np.float32)
        rows = np.arange(t * own, (t + 1) * own)
        x[rows] = (128 + patterns[labels] + noise).clip(0, 255)
        cut = scale.samples
        tasks.append((rows[:cut], labels[:cut], rows[cut:], labels[cut:]))
    return x, tasks


def shared(scale: Scale, x: np.ndarray) -> dict[str, Any]:
    """What the op takes beside tasks, jobs and learning rates."""
    _, layers, names = CALLS[scale.network]
    declared = layers(wsfast.network(scale.network, scale.shape, 2, scale.width))
    return {
        "x": x,
        **dict(zip(names, declared, strict=True)),
        "scale": np.full(scale.d, 1 / 64, np.float32),
        "shift": np.full(scale.d, -2, np.float32),
        "shape": np.array(scale.shape),
        "momentum": MOMENTUM,
        "weight_decay": 0.0,
        "batch_size": scale.batch,
        "pad": scale.pad,
        "seed": 0,
    }


def run(device: str, scale: Scale, ceilings: dict[str, Any]) -> dict[str, Any]:
    """Three networks alone, all at once, and whether the three got the same bits both times."""
    networks, steps = scale.tasks * scale.repeats, scale.epochs * -(-scale.samples // scale.batch)
    image, precision = "x".join(str(n) for n in scale.shape if n > 1), scale.precision
    says = f"{networks:,} {scale.network} of width {scale.width}, {scale.epochs} epochs of {scale.samples:,} images "
    says += image
    print(f"headline: {says}, batch {scale.batch}", flush=True)
    found: dict[str, Any] = {"size": says, "batch": scale.batch, "precision": precision, "networks": networks}
    reason = ours.missing(device, precision)
    if reason:
        return found | {"status": f"not measured: {reason}"}
    x, tasks = images(scale)
    op, given = CALLS[scale.network][0], shared(scale, x)
    lr = np.full(scale.epochs, 0.01, np.float32)
    jobs = [(t, r) for t in range(scale.tasks) for r in range(scale.repeats)]
    some = [0, networks // 2, networks - 1]
    began = time.perf_counter()
    alone = ours.call(op, given, tasks, [jobs[i] for i in some], lr, precision, device)[0]
    found["three_alone_seconds"] = time.perf_counter() - began
    got: list[Any] = []
    if device == "cuda":
        torch.cuda.reset_peak_memory_stats()
    seconds = wall(lambda: got.extend(ours.call(op, given, tasks, jobs, lr, precision, device)), device)
    parameters, _, records = got
    same = all(np.array_equal(parameters[i], a) for i, a in zip(some, alone, strict=True))
    floor = scale.floor(ceilings, networks)
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
