"""Train many fully connected networks at once on one GPU; arguments and results as `wsfast.reference.mlp.train_mlp`.

Networks are trained in chunks that fit the device's memory. A step is a handful of launches over (network, tile), an
epoch one CUDA graph; small networks without BatchNorm, sums and gates are trained whole by one program each. A chunk's
weights are copied to the host while the next one is trained.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import numpy as np
import torch

from . import philox, population
from .chunks import Done, in_chunks
from .configs import config, small, wide
from .figlu import UNGATED, Gates, _gate_gradient_kernel, _gate_kernel, matrices
from .images import Images, columns
from .layers import _first_kernel, _forward_kernel, _gradient_kernel, _last_kernel, _update_kernel
from .population import FREE, ROW, Fixed, Jobs, Task, hip, most_rows, packed, schedules, settled
from .small import _train_small_kernel


def default_precision() -> str:
    """The fp32-grade one: three tf32 products, or AMD's own float32 matrix instructions."""
    return "ieee" if hip() else "tf32x3"


@dataclass
class Layer:
    """One layer of a chunk: weights [n, K, N], vectors [n, N], outputs [n, B, N], BatchNorm [n, 4, N]; v: momentum.

    A gated one has F [N, N]; a is its z, then the gradient at y, and s the sigmoid.
    """

    w: torch.Tensor
    wv: torch.Tensor
    b: torch.Tensor
    bv: torch.Tensor
    y: torch.Tensor
    a: torch.Tensor
    dz: torch.Tensor
    dy: torch.Tensor
    norm: torch.Tensor
    nv: torch.Tensor
    stat: torch.Tensor
    slope: float
    norms: bool
    adds: int
    f: torch.Tensor | None
    s: torch.Tensor
    n_in: int
    n_out: int

    @property
    def shape(self) -> tuple[int, int]:
        return self.w.shape[1], self.w.shape[2]

    @property
    def z(self) -> torch.Tensor:
        """Where the product with w goes, through the activation unless that is a gate."""
        return self.y if self.f is None else self.a

    @property
    def back(self) -> torch.Tensor:
        """Where the gradient from the layer above goes."""
        return self.dz if self.f is None else self.a


class Population(population.Population):
    """One chunk of networks on the device."""

    def __init__(self, images: Images, tasks: list[Task], jobs: Jobs, sizes: list[int],
                 slopes: list[float], norms: list[int], adds: list[int], fixed: Fixed,
                 gates: list[torch.Tensor | None], *schedule: Any) -> None:  # fmt: skip
        super().__init__(images, tasks, jobs, *schedule)
        self.classes = sizes[-1]
        self.small = small(sizes, self.size) and not any(norms) and max(adds) < 0 and all(f is None for f in gates)
        self.layers, item, start = [], 0, 0
        for k, (n_in, n_out) in enumerate(pairwise(sizes)):
            layer = self._layer(k, n_in, n_out, item, slopes[k], norms[k], adds[k], gates[k])
            self._hold(fixed, start, layer.w, layer.wv, np.arange(n_in), n_out)
            self.layers.append(layer)
            item += 6 if norms[k] else 2
            start += (n_in + 1 + 4 * norms[k]) * n_out

    def _layer(self, k: int, n_in: int, n_out: int, item: int, slope: float, norm: int, add: int,
               f: torch.Tensor | None) -> Layer:  # fmt: skip
        K, N, none = self.layers[-1].shape[1] if k else columns(n_in), wide(n_out), self._zeros(0)
        w, b = self._zeros(K, N), self._zeros(1, N)
        bound = float(np.float32(1 / np.sqrt(n_in)))
        philox.initial_weight(w, n_in, n_out, bound, item, self.jobs, self.key)
        philox.initial_weight(b, 1, n_out, bound, item + 1, self.jobs, self.key)
        y = self._zeros(self.B, N)
        a = self._zeros(self.B, N) if norm or add >= 0 or f is not None else y
        s = none if f is None else self._zeros(self.B, N)
        norms = self._zeros(4, N) if norm else none
        if norm:
            norms[:, 0, :n_out], norms[:, 3, :n_out] = 1, 1
        dy = self._zeros(self.B, N) if add >= 0 else none
        return Layer(w, self._zeros(K, N), b.view(self.n, N), self._zeros(N), y, a, self._zeros(self.B, N), dy, norms,
                     torch.zeros_like(norms), self._zeros(2, N) if norm else none, slope, bool(norm), add, f, s,
                     n_in, n_out)  # fmt: skip

    def _first(self, now: int, then: int, counts: torch.Tensor, update: bool, forward: bool, evaluate: bool) -> None:
        layer, images = self.layers[0], self.images
        K, N = layer.shape
        options = self._options("first" if update else "show", K, N)
        _first_kernel[self.n, N // options["BN"]](
            images.x, self.bases, images.offsets, counts, images.scale, images.shift, layer.w, layer.wv, layer.b,
            layer.bv, layer.dz, layer.a, layer.z, layer.norm, layer.stat, self.lr_now, self.decay, self.momentum,
            layer.slope, now, then, self.size, self.bases.shape[1], UPDATE=update, FORWARD=forward, NORM=layer.norms,
            EVALUATE=evaluate, **options)  # fmt: skip

    def _rest(self, now: int, counts: torch.Tensor, evaluate: bool) -> None:
        """Forward from the first layer's result to the loss of the batch at row `now`."""
        self._gate(self.layers[0], now, counts)
        for k, layer in enumerate(self.layers[1:-1], 1):
            K, N = layer.shape
            options, add = self._options("check" if evaluate else "forward", K, N), self.layers[max(layer.adds, 0)].y
            _forward_kernel[self.n, N // options["BN"]](
                self.layers[k - 1].y, layer.w, layer.b, layer.a, layer.z, add, layer.norm, layer.stat, counts,
                layer.slope, now, self.size, NORM=layer.norms, ADD=layer.adds >= 0, EVALUATE=evaluate,
                **options)  # fmt: skip
            self._gate(layer, now, counts)
        last = self.layers[-1]
        options = self._options("last", *last.shape)
        _last_kernel[self.n,](
            self.layers[-2].y, last.w, last.b, self.labels, counts, last.dz, self.losses, self.hits, last.slope, now,
            self.size, now // self.size, self.labels.shape[1], self.losses.shape[1], self.classes, EVALUATE=evaluate,
            **options)  # fmt: skip

    def _gate(self, layer: Layer, now: int, counts: torch.Tensor) -> None:
        if layer.f is not None:
            options = self._gating("gate", layer.shape[1])
            _gate_kernel[self.n, 1, layer.shape[1] // options["BN"]](
                layer.a, layer.f, layer.y, layer.s, counts, now, self.size, AREA=1, **options)  # fmt: skip

    def _gate_back(self, layer: Layer, now: int, counts: torch.Tensor) -> None:
        if layer.f is not None:
            options = self._gating("gate_gradient", layer.shape[1])
            _gate_gradient_kernel[self.n, 1, layer.shape[1] // options["BN"]](
                layer.a, layer.y, layer.s, layer.f, layer.dz, counts, now, self.size, **options)  # fmt: skip

    def _back(self, now: int, counts: torch.Tensor) -> None:
        """Gradients and SGD steps from the last layer down to the second; leaves the first layer's dz."""
        consumer = {layer.adds: layer for layer in self.layers if layer.adds >= 0}
        for k in range(len(self.layers) - 1, 0, -1):
            layer, below = self.layers[k], self.layers[k - 1]
            K, N = layer.shape
            options, later = self._options("gradient", K, N), consumer.get(k - 1)
            _gradient_kernel[self.n, K // options["BK"]](
                layer.dz, layer.w, below.a, below.back, below.dy, later.dy if later else below.dz, below.norm, below.nv,
                below.stat, counts, self.lr_now, self.decay, self.momentum, below.slope, now, self.size,
                NORM=below.norms, ADD=later is not None, KEEP=below.adds >= 0, **options)  # fmt: skip
            self._gate_back(below, now, counts)
            options = self._options("update", K, N)
            _update_kernel[self.n, K // options["BK"], N // options["BN"]](
                below.y, layer.dz, layer.w, layer.wv, layer.b, layer.bv, counts, self.lr_now, self.decay,
                self.momentum, now, **options)  # fmt: skip

    def _learn(self, now: int, counts: torch.Tensor) -> None:
        then = now + self.size
        if now == 0:
            self._first(0, 0, counts, update=False, forward=True, evaluate=False)
        self._rest(now, counts, evaluate=False)
        self._back(now, counts)
        self._first(now, then, counts, update=True, forward=then < self.bases.shape[1], evaluate=False)

    def _show(self, now: int, counts: torch.Tensor) -> None:
        self._first(now, now, counts, update=False, forward=True, evaluate=True)
        self._rest(now, counts, evaluate=True)

    def _train_small(self) -> torch.Tensor:
        K, N = self.layers[0].shape
        L, E = len(self.layers), self.epochs
        tables = []
        for epoch in range(E):
            self._load(0, epoch)
            tables.append((self.bases.clone(), self.labels.clone()))
        bases, labels = (torch.stack(t, 1) for t in zip(*tables, strict=True))
        w, v, b = self._zeros(K + (L - 1) * N, N), self._zeros(K + (L - 1) * N, N), self._zeros(L, N)
        for k, layer in enumerate(self.layers):
            high, width = layer.shape
            top = K + (k - 1) * N if k else 0
            w[:, top : top + high, :width], b[:, k, :width] = layer.w, layer.b
            v[:, top : top + high, :width] = layer.wv
        losses, counts = torch.zeros(self.n, E, device=self.device), self.splits[0][2]
        slopes = torch.tensor([layer.slope for layer in self.layers], device=self.device)
        images, chosen = self.images, config("small", self.B, K, N, hip=hip())
        _train_small_kernel[self.n,](
            images.x, bases, images.offsets, labels, counts, images.scale, images.shift, w, v, b,
            torch.zeros_like(b), self._zeros(L, self.B, N), self._zeros(self.B, N), losses, slopes, self.lr,
            self.decay, self.momentum, bases.shape[2], E, self.classes, L, self.size, B=self.B, K=K, N=N,
            PRECISION=self.precision, **chosen.options())  # fmt: skip
        for k, layer in enumerate(self.layers):
            high, width = layer.shape
            top = K + (k - 1) * N if k else 0
            layer.w.copy_(w[:, top : top + high, :width])
            layer.wv.copy_(v[:, top : top + high, :width])
            layer.b.copy_(b[:, k, :width])
        return losses.double() / counts.clamp(min=1)[:, None]

    def train(self, tick: Callable[[float], Any] | None = None) -> torch.Tensor:
        if not (self.epochs and self.small):
            return super().train(tick)
        curves = self._train_small()
        self._tick(tick, self.n, wait=False)
        return curves

    def parameters(self) -> torch.Tensor:
        """Every network's parameters in the declaration's order: float32 [n, P]."""
        parts = []
        for layer in self.layers:
            parts += [layer.w[:, : layer.n_in, : layer.n_out], layer.b[:, : layer.n_out]]
            if layer.norms:
                parts.append(layer.norm[:, :, : layer.n_out])
        return packed(parts)


def bytes_per_network(sizes: list[int], norms: list[int], batch_size: int, rows: int, epochs: int) -> int:
    """Device memory that one network of a chunk takes, everything included."""
    B, whole = wide(batch_size), small(sizes, batch_size)
    total, K = 0, columns(sizes[0])
    for n_out, norm in zip(sizes[1:], norms, strict=True):
        N = wide(n_out)
        total += 4 * (2 * K * N + 2 * N + 4 * B * N + (10 * N if norm else 0))
        K = N
    tables = rows * (ROW + 24 * epochs * whole)
    packed = 2 * 4 * sum((a + 1 + 4 * norm) * b for (a, b), norm in zip(pairwise(sizes), norms, strict=True))
    return (2 if whole else 1) * total + tables + packed  # the last chunk's parameters may still be on their way


def train_chunks(x: np.ndarray, tasks: list[Task], jobs: list[tuple[int, int]], sizes: Any, slopes: Any, norms: Any,
                 adds: Any, scale: np.ndarray, shift: np.ndarray, shape: Any, lr: Any, momentum: float,
                 weight_decay: Any, batch_size: int, pad: int, seed: int, precision: str | None = None,
                 device: str = "cuda", chunk: int | None = None, tick: Callable[[float], Any] | None = None,
                 into: np.ndarray | None = None, fixed: Fixed = FREE,
                 gates: Gates = UNGATED, start: tuple[int, int] | None = None) -> Iterator[Done]:  # fmt: skip
    """Train networks job by job, (task, repeat) each, a chunk at a time; yields chunks in order as they are done.

    x uint8 or float32 [n, d]; lr float32 [epochs] or one row a job [N, epochs]; weight_decay a number or one a job [N].
    precision: "tf32x3" (fp32-grade, the default), "tf32", "bf16", "ieee" (AMD's default). chunk: networks at a time,
    what fits the free memory where None; halved when memory runs out. tick(n): called as work worth n networks is done.
    into: float32 [N, P] to put the parameters in. start: the (task, repeat) whose random numbers all networks draw,
    each its own where None. fixed: fixed_at and fixed_to, of weights. gates: gate_at and gates; a
    gated layer has slope 1. The rest as `wsfast.reference.mlp.train_mlp`. RuntimeError names the networks in work when
    the device fails.
    """
    sizes, slopes = [int(s) for s in sizes], [float(s) for s in slopes]
    norms, adds = [int(n) for n in norms], [int(a) for a in adds]
    precision = precision or default_precision()
    batch_size = settled("train_mlp", precision, batch_size, tasks)
    if len(sizes) < 3:
        raise ValueError("train_mlp: the triton kernels need at least one hidden layer")
    added = [a for a in adds if a >= 0]
    matrix = matrices(gates, sizes[1:], device)
    if norms[-1] or adds[-1] >= 0 or matrix[-1] is not None or len(set(added)) < len(added):
        raise ValueError(
            "train_mlp: the triton kernels take no BatchNorm, sum or gate on the logits, and add each layer's output "
            f"once at most; got norms {norms}, adds {adds} (backend='numba' has no such limit)"
        )
    images = Images.load(x, scale, shift, shape, pad, device)
    rates, decays = schedules(lr, weight_decay, len(jobs))
    each = bytes_per_network(sizes, norms, batch_size, most_rows(tasks), rates.shape[1])

    def train(some: slice) -> list[torch.Tensor]:
        chosen = Population(images, tasks, jobs[some], sizes, slopes, norms, adds, fixed, matrix,
                            rates[some].to(device), decays[some].to(device), momentum, batch_size, seed,
                            precision, start)  # fmt: skip
        curves = chosen.train(tick)
        chosen.release()
        return [chosen.parameters(), curves, chosen.evaluate()]

    yield from in_chunks("train_mlp", train, len(jobs), each, device, chunk, into)


def train_mlp(x: np.ndarray, tasks: list[Task], jobs: list[tuple[int, int]], sizes: Any, slopes: Any, norms: Any,
              *arguments: Any, **options: Any) -> tuple[np.ndarray, np.ndarray, np.ndarray]:  # fmt: skip
    """train_chunks, all at once: (parameters float32 [N, P], curves float64 [N, epochs], records float64 [N, 4])."""
    count = sum((a + 1 + 4 * norm) * b for (a, b), norm in zip(pairwise(sizes), norms, strict=False))
    options["into"] = parameters = np.empty((len(jobs), count), np.float32)
    done = list(train_chunks(x, tasks, jobs, sizes, slopes, norms, *arguments, **options))
    return parameters, np.concatenate([d.curves for d in done]), np.concatenate([d.records for d in done])
