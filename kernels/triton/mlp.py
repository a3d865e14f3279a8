"""Train many fully connected networks at once on one GPU; arguments and results as `wsfast.reference.mlp.train_mlp`.

Networks are trained in chunks that fit the device's memory. A step is a handful of launches over (network, tile), an
epoch one CUDA graph; small networks are trained whole by one program each. A chunk's weights are copied to the host
while the next one is trained.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import pairwise
from threading import Thread
from typing import Any

import numpy as np
import torch

from . import philox
from .configs import LIMIT, config, small, wide
from .layers import _first_kernel, _forward_kernel, _gradient_kernel, _last_kernel, _update_kernel
from .small import _train_small_kernel

Fixed = tuple[np.ndarray, np.ndarray]  # entries of a network's parameters, ascending, and what they stay
Task = tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]  # train rows, train labels, test rows, test labels
HEADROOM = 0.85  # of the free memory
TOGETHER = (
    2**35
)  # bytes of device memory a chunk of over 256 networks takes at most: the last chunk's copy hides nothing
STAGE = 2**28  # bytes of a pinned buffer
HOST_MEMORY = 2**31  # bytes for a chunk in the interpreter
FREE: Fixed = (np.empty(0, np.int64), np.empty(0, np.float32))
PRECISIONS = ("tf32x3", "tf32", "bf16", "ieee")


def hip() -> bool:
    """Whether the device is AMD's."""
    return torch.version.hip is not None


def default_precision() -> str:
    """The fp32-grade one: three tf32 products, or AMD's own float32 matrix instructions."""
    return "ieee" if hip() else "tf32x3"


@dataclass
class Images:
    """The data on the device, padded where random crops need it.

    x: flat, [n, c, h + 2 pad, w + 2 pad] and after it the same mirrored, so that a cropped and mirrored image is again
    one base address plus the same offsets for all. offsets int32 [K], scale and shift float32 [K], zero past d.
    """

    x: torch.Tensor
    samples: int
    stride: int
    line: int
    pad: int
    offsets: torch.Tensor
    scale: torch.Tensor
    shift: torch.Tensor

    @classmethod
    def load(cls, x: np.ndarray, scale: np.ndarray, shift: np.ndarray, shape: Any, pad: int, device: str) -> "Images":
        n, d = x.shape
        c, h, w = (int(s) for s in shape) if pad >= 0 else (1, 1, d)
        p = max(pad, 0)
        images = torch.from_numpy(np.ascontiguousarray(x)).to(device).view(n, c, h, w)
        if p:
            images = torch.nn.functional.pad(images, (p, p, p, p))
        if pad >= 0:
            images = torch.cat([images, images.flip(3)])
        high, line = h + 2 * p, w + 2 * p
        j = torch.arange(d, device=device)
        inside = (j // (h * w)) * high * line + (j // w % h) * line + j % w
        k = columns(d)
        offsets, factors = torch.zeros(k, dtype=torch.int32, device=device), torch.zeros(2, k, device=device)
        offsets[:d] = inside
        factors[0, :d], factors[1, :d] = torch.tensor(scale, device=device), torch.tensor(shift, device=device)
        return cls(images.reshape(-1), n, c * high * line, line, pad, offsets, *factors.unbind())

    def bases(self, rows: torch.Tensor, crops: torch.Tensor | None) -> torch.Tensor:
        """Where each sample starts in x: int64, the shape of rows; crops as philox.augmentation packs them."""
        if crops is None:
            middle = self.pad * (self.line + 1) if self.pad > 0 else 0
            return rows * self.stride + middle
        crops = crops.long()
        dy, dx, flip = crops & 255, crops >> 8 & 255, crops >> 16
        dx = torch.where(flip > 0, 2 * self.pad - dx, dx)
        return (rows + flip * self.samples) * self.stride + dy * self.line + dx


def columns(d: int) -> int:
    """The first layer's padded input: a multiple of 64, or a power of two of at least 16."""
    return -(-d // 64) * 64 if d > 32 else wide(d)


@dataclass
class Layer:
    """One layer of a chunk: weights [n, K, N], vectors [n, N], outputs [n, B, N], BatchNorm [n, 4, N]; v: momentum."""

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
    n_in: int
    n_out: int

    @property
    def shape(self) -> tuple[int, int]:
        return self.w.shape[1], self.w.shape[2]


class Population:
    """One chunk of networks on the device."""

    def __init__(self, images: Images, tasks: list[Task], jobs: list[tuple[int, int]], sizes: list[int],
                 slopes: list[float], norms: list[int], adds: list[int], lr: torch.Tensor, decay: torch.Tensor,
                 momentum: float, batch_size: int, seed: int, precision: str, fixed: Fixed) -> None:  # fmt: skip
        self.images, self.precision, self.momentum, self.size = images, precision, momentum, batch_size
        self.device, self.n, self.epochs = images.x.device, len(jobs), lr.shape[1]
        self.lr, self.decay = lr, decay
        self.lr_now = torch.zeros(self.n, device=self.device)
        self.jobs = torch.tensor(jobs, dtype=torch.int64, device=self.device)
        self.key = philox.key(seed, self.device)
        self.B = wide(batch_size)
        self.splits = [self._split([tasks[t][i : i + 2] for t, _ in jobs]) for i in (0, 2)]
        self.classes = sizes[-1]
        self.small = small(sizes, batch_size) and not any(norms) and max(adds) < 0
        self.layers, item = [], 0
        for k, (n_in, n_out) in enumerate(pairwise(sizes)):
            self.layers.append(self._layer(k, n_in, n_out, item, slopes[k], norms[k], adds[k]))
            item += 6 if norms[k] else 2
        self.held = self._held(*fixed)
        for layer, place, value in self.held:
            layer.w.view(self.n, -1)[:, place] = value
            layer.wv.view(self.n, -1)[:, place] = torch.nan
        self.R = self.splits[0][0].shape[1]
        self.S = -(-self.R // batch_size)
        self.bases = torch.zeros(self.n, self.R, dtype=torch.int64, device=self.device)
        self.labels = torch.zeros(self.n, self.R, dtype=torch.int32, device=self.device)
        self.losses = torch.zeros(self.n, self.S, device=self.device)
        self.hits = torch.zeros(self.n, self.S, dtype=torch.int32, device=self.device)

    def _split(self, pairs: list[Any]) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """(rows int64 [n, R], labels int32 [n, R], counts int32 [n]), zeros past a network's own rows."""
        counts = [len(rows) for rows, _ in pairs]
        rows, labels = np.zeros((2, len(pairs), max([1, *counts])), np.int64)
        for i, (r, y) in enumerate(pairs):
            rows[i, : len(r)], labels[i, : len(r)] = r, y
        to = self.device
        return (
            torch.from_numpy(rows).to(to),
            torch.from_numpy(labels).int().to(to),
            torch.tensor(counts, dtype=torch.int32, device=to),
        )

    def _zeros(self, *shape: int) -> torch.Tensor:
        return torch.zeros(self.n, *shape, device=self.device)

    def _layer(self, k: int, n_in: int, n_out: int, item: int, slope: float, norm: int, add: int) -> Layer:
        K, N, none = self.layers[-1].shape[1] if k else columns(n_in), wide(n_out), self._zeros(0)
        w, b = self._zeros(K, N), self._zeros(1, N)
        bound = float(np.float32(1 / np.sqrt(n_in)))
        philox.initial_weight(w, n_in, n_out, bound, item, self.jobs, self.key)
        philox.initial_weight(b, 1, n_out, bound, item + 1, self.jobs, self.key)
        y = self._zeros(self.B, N)
        a = self._zeros(self.B, N) if norm or add >= 0 else y
        norms = self._zeros(4, N) if norm else none
        if norm:
            norms[:, 0, :n_out], norms[:, 3, :n_out] = 1, 1
        dy = self._zeros(self.B, N) if add >= 0 else none
        return Layer(w, self._zeros(K, N), b.view(self.n, N), self._zeros(N), y, a, self._zeros(self.B, N), dy, norms,
                     torch.zeros_like(norms), self._zeros(2, N) if norm else none, slope, bool(norm), add, n_in,
                     n_out)  # fmt: skip

    def _held(self, at: np.ndarray, to: np.ndarray) -> list[tuple[Layer, torch.Tensor, torch.Tensor]]:
        """Every layer's fixed weights: their places in [K N], and what they are."""
        found, start = [], 0
        for layer in self.layers:
            own = (at >= start) & (at < start + layer.n_in * layer.n_out)
            row, column = np.divmod(at[own] - start, layer.n_out)
            place, value = torch.from_numpy(row * layer.shape[1] + column), torch.from_numpy(to[own])
            found.append((layer, place.to(self.device), value.to(self.device)))
            start += (layer.n_in + 1 + 4 * layer.norms) * layer.n_out
        return found

    def release(self) -> None:
        """After training: a weight whose velocity became NaN has diverged and is NaN, but for those that are fixed."""
        for layer, place, value in self.held:
            layer.w.masked_fill_(layer.wv.isnan(), torch.nan)
            layer.w.view(self.n, -1)[:, place] = value

    def _options(self, kernel: str, K: int, N: int) -> dict[str, Any]:
        chosen = config(kernel, self.B, K, N, hip=hip()).options()
        return {"B": self.B, "K": K, "N": N, "PRECISION": self.precision, **chosen}

    def _first(self, now: int, then: int, counts: torch.Tensor, update: bool, forward: bool, evaluate: bool) -> None:
        layer, images = self.layers[0], self.images
        K, N = layer.shape
        options = self._options("first" if update else "show", K, N)
        _first_kernel[self.n, N // options["BN"]](
            images.x, self.bases, images.offsets, counts, images.scale, images.shift, layer.w, layer.wv, layer.b,
            layer.bv, layer.dz, layer.a, layer.y, layer.norm, layer.stat, self.lr_now, self.decay, self.momentum,
            layer.slope, now, then, self.size, self.bases.shape[1], UPDATE=update, FORWARD=forward, NORM=layer.norms,
            EVALUATE=evaluate, **options)  # fmt: skip

    def _rest(self, now: int, counts: torch.Tensor, evaluate: bool) -> None:
        """Forward from the second layer to the loss of the batch at row `now`."""
        for k, layer in enumerate(self.layers[1:-1], 1):
            K, N = layer.shape
            options, add = self._options("check" if evaluate else "forward", K, N), self.layers[max(layer.adds, 0)].y
            _forward_kernel[self.n, N // options["BN"]](
                self.layers[k - 1].y, layer.w, layer.b, layer.a, layer.y, add, layer.norm, layer.stat, counts,
                layer.slope, now, self.size, NORM=layer.norms, ADD=layer.adds >= 0, EVALUATE=evaluate,
                **options)  # fmt: skip
        last = self.layers[-1]
        options = self._options("last", *last.shape)
        _last_kernel[self.n,](
            self.layers[-2].y, last.w, last.b, self.labels, counts, last.dz, self.losses, self.hits, last.slope, now,
            self.size, now // self.size, self.labels.shape[1], self.losses.shape[1], self.classes, EVALUATE=evaluate,
            **options)  # fmt: skip

    def _back(self, now: int, counts: torch.Tensor) -> None:
        """Gradients and SGD steps from the last layer down to the second; leaves the first layer's dz."""
        consumer = {layer.adds: layer for layer in self.layers if layer.adds >= 0}
        for k in range(len(self.layers) - 1, 0, -1):
            layer, below = self.layers[k], self.layers[k - 1]
            K, N = layer.shape
            options, later = self._options("gradient", K, N), consumer.get(k - 1)
            _gradient_kernel[self.n, K // options["BK"]](
                layer.dz, layer.w, below.a, below.dz, below.dy, later.dy if later else below.dz, below.norm, below.nv,
                below.stat, counts, self.lr_now, self.decay, self.momentum, below.slope, now, self.size,
                NORM=below.norms, ADD=later is not None, KEEP=below.adds >= 0, **options)  # fmt: skip
            options = self._options("update", K, N)
            _update_kernel[self.n, K // options["BK"], N // options["BN"]](
                below.y, layer.dz, layer.w, layer.wv, layer.b, layer.bv, counts, self.lr_now, self.decay,
                self.momentum, now, **options)  # fmt: skip

    def _load(self, split: int, epoch: int | None) -> None:
        """Fill bases and labels: in the epoch's order and crops, or as they come where None."""
        rows, labels, counts = self.splits[split]
        crops = None
        if epoch is not None:
            order = philox.batch_order(rows.shape[1], counts, epoch, self.jobs, self.key).clamp(min=0)
            rows, labels = rows.gather(1, order), labels.gather(1, order)
            if self.images.pad >= 0:
                crops = philox.augmentation(rows.shape[1], self.images.pad, epoch, self.jobs, self.key).gather(1, order)
        self.bases.copy_(self.images.bases(rows, crops))
        self.labels.copy_(labels)

    def _epoch(self) -> None:
        counts = self.splits[0][2]
        starts = range(0, self.R, self.size)
        for now in starts:
            if now == 0:
                self._first(0, 0, counts, update=False, forward=True, evaluate=False)
            self._rest(now, counts, evaluate=False)
            self._back(now, counts)
            self._first(now, now + self.size, counts, True, now + self.size < self.R, evaluate=False)

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
            self.decay, self.momentum, self.R, E, self.classes, L, self.size, B=self.B, K=K, N=N,
            PRECISION=self.precision, **chosen.options())  # fmt: skip
        for k, layer in enumerate(self.layers):
            high, width = layer.shape
            top = K + (k - 1) * N if k else 0
            layer.w.copy_(w[:, top : top + high, :width])
            layer.wv.copy_(v[:, top : top + high, :width])
            layer.b.copy_(b[:, k, :width])
        return losses.double() / counts.clamp(min=1)[:, None]

    def train(self, tick: Callable[[float], Any] | None = None) -> torch.Tensor:
        """All epochs; the mean loss of each: float64 [n, epochs]."""
        if self.epochs and self.small:
            curves = self._train_small()
            self._tick(tick, self.n, wait=False)
            return curves
        counts = self.splits[0][2].clamp(min=1).double()
        curves = torch.zeros(self.n, self.epochs, dtype=torch.float64, device=self.device)
        graph = None
        for epoch in range(self.epochs):
            self._load(0, epoch)
            self.lr_now.copy_(self.lr[:, epoch])
            self.losses.zero_()
            if epoch == 1 and self.device.type == "cuda":  # the first epoch compiled the kernels
                graph = torch.cuda.CUDAGraph()
                with torch.cuda.graph(graph):
                    self._epoch()
            if graph is not None:
                graph.replay()
            else:
                self._epoch()
            curves[:, epoch] = self.losses.double().sum(1) / counts
            self._tick(tick, self.n / self.epochs, wait=epoch < self.epochs - 1)
        return curves

    def _tick(self, tick: Callable[[float], Any] | None, networks: float, wait: bool) -> None:
        """Report progress; the last epoch is not waited for, so that the next chunk is set up meanwhile."""
        if tick is not None:
            if wait and self.device.type == "cuda":
                torch.cuda.synchronize()
            tick(networks)

    def evaluate(self) -> torch.Tensor:
        """Train loss and accuracy, test loss and accuracy: float64 [n, 4], nan where there are no samples."""
        found = []
        for split, (rows, _, counts) in enumerate(self.splits):
            self.bases, self.labels = torch.zeros_like(rows), torch.zeros_like(rows, dtype=torch.int32)
            batches = -(-rows.shape[1] // self.size)
            self.losses = torch.zeros(self.n, batches, device=self.device)
            self.hits = torch.zeros(self.n, batches, dtype=torch.int32, device=self.device)
            self._load(split, None)
            for now in range(0, rows.shape[1], self.size):
                self._first(now, now, counts, update=False, forward=True, evaluate=True)
                self._rest(now, counts, evaluate=True)
            found += [self.losses.double().sum(1) / counts, self.hits.double().sum(1) / counts]
        return torch.stack(found, 1)

    def parameters(self) -> torch.Tensor:
        """Every network's parameters in the declaration's order: float32 [n, P]."""
        parts = []
        for layer in self.layers:
            parts += [layer.w[:, : layer.n_in, : layer.n_out].reshape(self.n, -1), layer.b[:, : layer.n_out]]
            if layer.norms:
                parts.append(layer.norm[:, :, : layer.n_out].reshape(self.n, -1))
        return torch.cat(parts, 1)


def bytes_per_network(sizes: list[int], norms: list[int], batch_size: int, rows: int, epochs: int) -> int:
    """Device memory that one network of a chunk takes, everything included."""
    B, whole = wide(batch_size), small(sizes, batch_size)
    total, K = 0, columns(sizes[0])
    for n_out, norm in zip(sizes[1:], norms, strict=True):
        N = wide(n_out)
        total += 4 * (2 * K * N + 2 * N + 4 * B * N + (10 * N if norm else 0))
        K = N
    tables = 24 * rows * (epochs if whole else 1) * 2
    packed = 4 * sum(a * b + b for a, b in pairwise(sizes))
    return (2 if whole else 1) * total + tables + packed


@dataclass
class Done:
    """Networks first .. first + n of the jobs, on the host: parameters [n, P], curves [n, epochs], records [n, 4]."""

    first: int
    parameters: np.ndarray
    curves: np.ndarray
    records: np.ndarray


def _failed(first: int, n: int, error: RuntimeError) -> RuntimeError:
    return RuntimeError(f"train_mlp: networks {first}..{first + n - 1}: {error}")


class _Copy:
    """A finished chunk on its way to the host while the device goes on: by a thread, through two pinned buffers."""

    def __init__(self, first: int, tensors: list[torch.Tensor], into: np.ndarray | None) -> None:
        self.first, self.tensors = first, tensors
        self.error: BaseException | None = None
        n = len(tensors[0])
        parameters = np.empty(tensors[0].shape, np.float32) if into is None else into[first : first + n]
        self.host = [parameters, *(np.empty(t.shape) for t in tensors[1:])]
        self.ready = None
        if tensors[0].is_cuda:
            self.ready = torch.cuda.Event()
            self.ready.record()
        self.thread = Thread(target=self._run, daemon=True)
        self.thread.start()

    def _run(self) -> None:
        try:
            for host, tensor in zip(self.host, self.tensors, strict=True):
                self._fetch(host, tensor)
        except BaseException as error:  # raised by wait, in the caller's thread
            self.error = error

    def _fetch(self, host: np.ndarray, tensor: torch.Tensor) -> None:
        if self.ready is None:
            host[...] = tensor.numpy()
            return
        torch.cuda.set_device(tensor.device)
        rows = min(max(1, STAGE // max(1, tensor[0].nbytes)), len(tensor))
        stream = torch.cuda.Stream()
        stream.wait_event(self.ready)
        stages = [torch.empty(rows, *tensor.shape[1:], dtype=tensor.dtype, pin_memory=True) for _ in range(2)]
        coming: list[tuple[slice, torch.Tensor, torch.cuda.Event]] = []
        with torch.cuda.stream(stream):
            for i, start in enumerate(range(0, len(tensor), rows)):
                part = slice(start, min(start + rows, len(tensor)))
                stage = stages[i % 2][: part.stop - start]
                stage.copy_(tensor[part], non_blocking=True)
                event = torch.cuda.Event()
                event.record()
                coming.append((part, stage, event))
                if len(coming) == 2:
                    self._settle(host, *coming.pop(0))
            for one in coming:
                self._settle(host, *one)

    @staticmethod
    def _settle(host: np.ndarray, part: slice, stage: torch.Tensor, event: torch.cuda.Event) -> None:
        event.synchronize()
        np.copyto(host[part], stage.numpy())

    def wait(self) -> Done:
        self.thread.join()
        self.tensors = []
        if isinstance(self.error, RuntimeError):  # also of a kernel that was still running when the copy was asked for
            raise _failed(self.first, len(self.host[0]), self.error) from self.error
        if self.error is not None:
            raise self.error
        return Done(self.first, *self.host)


def train_chunks(x: np.ndarray, tasks: list[Task], jobs: list[tuple[int, int]], sizes: Any, slopes: Any, norms: Any,
                 adds: Any, scale: np.ndarray, shift: np.ndarray, shape: Any, lr: Any, momentum: float,
                 weight_decay: Any, batch_size: int, pad: int, seed: int, precision: str | None = None,
                 device: str = "cuda", chunk: int | None = None, tick: Callable[[float], Any] | None = None,
                 into: np.ndarray | None = None, fixed: Fixed = FREE) -> Iterator[Done]:  # fmt: skip
    """Train networks job by job, (task, repeat) each, a chunk at a time; yields chunks in order as they are done.

    x uint8 or float32 [n, d]; lr float32 [epochs] or one row a job [N, epochs]; weight_decay a number or one a job [N].
    precision: "tf32x3" (fp32-grade, the default), "tf32", "bf16", "ieee" (AMD's default). chunk: networks at a time,
    what fits the free memory where None; halved when memory runs out. tick(n): called as work worth n networks is done.
    into: float32 [N, P] to put the parameters in. fixed: fixed_at and fixed_to, of weights. The rest as
    `wsfast.reference.mlp.train_mlp`. RuntimeError names the networks in work when the device fails.
    """
    sizes, slopes = [int(s) for s in sizes], [float(s) for s in slopes]
    norms, adds = [int(n) for n in norms], [int(a) for a in adds]
    precision = precision or default_precision()
    if precision not in PRECISIONS:
        raise ValueError(f"train_mlp: precision must be one of {', '.join(PRECISIONS)}, got {precision!r}")
    batch_size = min(batch_size, max([1, *(len(t[0]) for t in tasks), *(len(t[2]) for t in tasks)]))
    if batch_size > LIMIT:
        raise ValueError(
            f"train_mlp: the triton kernels take batches of at most {LIMIT} samples, got {batch_size} "
            f"(a smaller batch_size, or backend='numba')"
        )
    if len(sizes) < 3:
        raise ValueError("train_mlp: the triton kernels need at least one hidden layer")
    added = [a for a in adds if a >= 0]
    if norms[-1] or adds[-1] >= 0 or len(set(added)) < len(added):
        raise ValueError(
            "train_mlp: the triton kernels take no BatchNorm or sum on the logits, and add each layer's output once at "
            f"most; got norms {norms}, adds {adds} (backend='numba' has no such limit)"
        )
    images = Images.load(x, scale, shift, shape, pad, device)
    rates = torch.tensor(np.broadcast_to(np.atleast_2d(np.asarray(lr, np.float32)), (len(jobs), np.shape(lr)[-1])))
    decays = torch.tensor(np.broadcast_to(np.asarray(weight_decay, np.float32), (len(jobs),)))
    rows = max([1, *(len(t[0]) for t in tasks), *(len(t[2]) for t in tasks)])
    each = bytes_per_network(sizes, norms, batch_size, rows, rates.shape[1])
    if chunk is None:
        free = int(torch.cuda.mem_get_info()[0] * HEADROOM) if images.x.is_cuda else HOST_MEMORY
        chunk = max(1, min(free // each, max(256, TOGETHER // each)))
        chunk = -(-len(jobs) // max(1, -(-len(jobs) // chunk)))  # chunks of one size
    first, waiting = 0, None
    while first < len(jobs):
        some = slice(first, min(first + chunk, len(jobs)))
        try:
            done = _train(first, tick, into, images, tasks, jobs[some], sizes, slopes, norms, adds,
                          rates[some].to(device), decays[some].to(device), momentum, batch_size, seed,
                          precision, fixed)  # fmt: skip
        except torch.OutOfMemoryError:
            if chunk == 1:
                raise
            chunk //= 2
            torch.cuda.empty_cache()
            continue
        except KeyboardInterrupt:
            if waiting is not None:
                yield waiting.wait()
            raise
        except RuntimeError as error:
            raise _failed(some.start, some.stop - some.start, error) from error
        if waiting is not None:
            yield waiting.wait()
        waiting, first = done, some.stop
    if waiting is not None:
        yield waiting.wait()


def _train(first: int, tick: Callable[[float], Any] | None, into: np.ndarray | None, *arguments: Any) -> _Copy:
    """Train one chunk; its memory is free again when this returns."""
    population = Population(*arguments)
    curves = population.train(tick)
    population.release()
    return _Copy(first, [population.parameters(), curves, population.evaluate()], into)


def train_mlp(x: np.ndarray, tasks: list[Task], jobs: list[tuple[int, int]], sizes: Any, slopes: Any, norms: Any,
              *arguments: Any, **options: Any) -> tuple[np.ndarray, np.ndarray, np.ndarray]:  # fmt: skip
    """train_chunks, all at once: (parameters float32 [N, P], curves float64 [N, epochs], records float64 [N, 4])."""
    count = sum((a + 1 + 4 * norm) * b for (a, b), norm in zip(pairwise(sizes), norms, strict=False))
    options["into"] = parameters = np.empty((len(jobs), count), np.float32)
    done = list(train_chunks(x, tasks, jobs, sizes, slopes, norms, *arguments, **options))
    return parameters, np.concatenate([d.curves for d in done]), np.concatenate([d.records for d in done])
