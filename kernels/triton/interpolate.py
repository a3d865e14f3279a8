"""Loss and error on the straight lines between many pairs of networks on one GPU; as `wsfast.reference.interpolate`.

Every point of a line is evaluated as a network of its own beside all others, a chunk of lines that fits the device's
memory at a time. A fully connected network's weights are kept at the ends of its line only, and blended as they are
loaded: the points of a line are neighbours in the grid and share them in the L2. Its first layer is linear in its
weights: the points blend the products made at the two ends. A convolutional network's weights are few beside its
activations: there every point has its own, as of a recurrent one, whose weights a processor reads for every letter.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import numpy as np
import torch
import triton
import triton.language as tl

from . import cnn, gru, mlp, plan, population
from .chunks import fitting
from .configs import LIMIT, wide
from .figlu import _gate_kernel, matrices
from .images import Images, columns
from .layers import _dot, _finish, _first_kernel, _last_kernel
from .population import Jobs, Task, most_rows, settled

Curves = Iterator[tuple[slice, np.ndarray]]  # which lines, loss and error along them: float64 [n, 2 splits, 2, L]


@triton.jit
def _blend(start, end, t):
    return (1 - t) * start + t * end


@triton.jit(do_not_specialize=["now", "size", "LINES", "POINTS"])
def _between_kernel(x_ptr, w_ptr, b_ptr, y_ptr, add_ptr, norm_ptr, points_ptr, counts_ptr, slope, now, size, LINES,
                    POINTS, B: tl.constexpr, K: tl.constexpr, N: tl.constexpr, BK: tl.constexpr, BN: tl.constexpr,
                    FIRST: tl.constexpr, NORM: tl.constexpr, ADD: tl.constexpr, PRECISION: tl.constexpr):  # fmt: skip
    """A layer at every point of every line: y = finish(x W + b), x [n, B, K], n = LINES POINTS, w [2, LINES, K, N].

    FIRST: x is the layer's x W + b at the starts and at the ends, [2, LINES, B, N]. Grid (points of all lines x tiles
    of columns): programs that share x, and then those that share w, are neighbours.
    """
    TILES: tl.constexpr = N // BN
    net, tile = (tl.program_id(0) // TILES).to(tl.int64), tl.program_id(0) % TILES
    n = tl.minimum(tl.load(counts_ptr + net) - now, size)
    if n <= 0:
        return
    line, t = net // POINTS, tl.load(points_ptr + net % POINTS)
    columns, b, k = tile * BN + tl.arange(0, BN), tl.arange(0, B), tl.arange(0, BK)
    at = b[:, None] * N + columns[None, :]  # [B, BN]
    if FIRST:
        z = _blend(tl.load(x_ptr + line * B * N + at), tl.load(x_ptr + (LINES + line) * B * N + at), t)
    else:
        start_ptr, end_ptr = w_ptr + line * K * N, w_ptr + (LINES + line) * K * N
        z = tl.zeros((B, BN), tl.float32)
        for first in range(0, K, BK):
            place = (first + k)[:, None] * N + columns[None, :]
            x = tl.load(x_ptr + net * B * K + b[:, None] * K + (first + k)[None, :])  # [B, BK]
            w = _blend(tl.load(start_ptr + place), tl.load(end_ptr + place), t)  # [BK, BN]
            z = _dot(x, w, z, PRECISION)
        z += tl.load(b_ptr + net * N + columns)[None, :]
    _finish(z, net * B * N + at, net * 4 * N + columns, columns, b < n, n, slope, y_ptr, y_ptr, add_ptr, norm_ptr,
            norm_ptr, N, NORM, ADD, True)  # fmt: skip


def _between(ends: torch.Tensor, points: torch.Tensor) -> torch.Tensor:
    """ends [2 lines, ...], all starts and then all ends, at every point: [lines points, ...]."""
    start, end = ends.unflatten(0, (2, -1)).unsqueeze(2).unbind()
    return torch.lerp(start, end, points.view(-1, *[1] * (ends.ndim - 1))).flatten(0, 1)


def _unpacked(flat: torch.Tensor, sizes: list[int], norms: list[int]) -> Iterator[list[torch.Tensor]]:
    """Each layer's weights [m, K, N], biases [m, N] and BatchNorm [m, 4, N], padded, of parameters [m, P] as declared.

    A layer without BatchNorm has [m, 0, N].
    """
    at, K = 0, columns(sizes[0])
    for (n_in, n_out), norm in zip(pairwise(sizes), norms, strict=True):
        N, found = wide(n_out), []
        for rows, high in ((n_in, K), (1, 1), (4 * norm, 4 * norm)):
            own = flat[:, at : at + rows * n_out].view(len(flat), rows, n_out)
            found.append(flat.new_zeros(len(flat), high, N))
            found[-1][:, :rows, :n_out] = own
            at += rows * n_out
        yield found
        K = N


@dataclass
class Layer:
    """w [2 lines, K, N]; at every point of the lines biases b [n, N], BatchNorm [n, 4, N] and outputs y [n, B, N]."""

    w: torch.Tensor
    b: torch.Tensor
    norm: torch.Tensor
    y: torch.Tensor
    slope: float
    norms: bool
    adds: int
    f: torch.Tensor | None  # FiGLU's; then a [n, B, N] is what it meets, s its sigmoid
    a: torch.Tensor
    s: torch.Tensor

    @property
    def shape(self) -> tuple[int, int]:
        return self.w.shape[1], self.w.shape[2]


class Lines(population.Population):
    """A chunk of lines between fully connected networks; the networks that it evaluates are their points."""

    def __init__(self, images: Images, tasks: list[Task], jobs: Jobs, ends: torch.Tensor, points: torch.Tensor,
                 sizes: list[int], slopes: list[float], norms: list[int], adds: list[int],
                 gates: list[torch.Tensor | None], *schedule: Any) -> None:  # fmt: skip
        super().__init__(images, tasks, jobs, *schedule)
        self.points, self.lines, self.classes, self.layers = points, len(ends) // 2, sizes[-1], []
        for k, (w, b, norm) in enumerate(_unpacked(ends, sizes, norms)):
            if k == 0:
                self.biases = b
            y, f = self._zeros(self.B, w.shape[2]), gates[k]
            a, s = (y, y) if f is None else (torch.zeros_like(y), torch.zeros_like(y))
            self.layers.append(Layer(w, _between(b, points), _between(norm, points), y, slopes[k], bool(norms[k]),
                                     adds[k], f, a, s))  # fmt: skip
        self.products = ends.new_zeros(2 * self.lines, self.B, self.layers[0].shape[1])
        self.last = _between(self.layers[-1].w, points)

    def _load(self, split: int, epoch: int | None) -> None:
        super()._load(split, epoch)
        every = len(self.points)
        self.end_bases = self.bases[::every].repeat(2, 1)
        self.end_counts = self.splits[split][2][::every].repeat(2)

    def _show(self, now: int, counts: torch.Tensor) -> None:
        images, first, last, R = self.images, self.layers[0], self.layers[-1], self.bases.shape[1]
        z, none = self.products, self.losses
        K, N = first.shape
        options = self._options("show", K, N)
        _first_kernel[2 * self.lines, N // options["BN"]](
            images.x, self.end_bases, images.offsets, self.end_counts, images.scale, images.shift, first.w, none,
            self.biases, none, none, z, z, none, none, none, none, 0.0, 1.0, now, now, self.size, R, UPDATE=False,
            FORWARD=True, NORM=False, EVALUATE=True, **options)  # fmt: skip
        x = z
        for k, layer in enumerate(self.layers[:-1]):
            K, N = layer.shape
            options = self._options("between", K if k else N, N)
            _between_kernel[self.n * (N // options["BN"]),](
                x, layer.w, layer.b, layer.a, self.layers[max(layer.adds, 0)].y, layer.norm, self.points, counts,
                layer.slope, now, self.size, self.lines, len(self.points), FIRST=k == 0, NORM=layer.norms,
                ADD=layer.adds >= 0, **options)  # fmt: skip
            if layer.f is not None:
                options = self._gating("gate", N)
                _gate_kernel[self.n, 1, N // options["BN"]](
                    layer.a, layer.f, layer.y, layer.s, counts, now, self.size, AREA=1, **options)  # fmt: skip
            x = layer.y
        _last_kernel[self.n,](
            x, self.last, last.b, self.labels, counts, last.y, self.losses, self.hits, last.slope, now, self.size,
            now // self.size, R, self.losses.shape[1], self.classes, EVALUATE=True,
            **self._options("last", *last.shape))  # fmt: skip


def bytes_per_line(sizes: list[int], norms: list[int], gated: list[bool], points: int, batch_size: int,
                   rows: int) -> int:  # fmt: skip
    """Device memory that one line of a chunk between fully connected networks takes, everything included."""
    B, K, ends, own, N = wide(batch_size), columns(sizes[0]), 0, 0, 0
    for (n_in, n_out), norm, gate in zip(pairwise(sizes), norms, gated, strict=True):
        N, before = wide(n_out), N or K
        ends += 2 * ((n_in + 1 + 4 * norm) * n_out + (before + 1 + 4 * norm) * N)
        own += (B * (1 + 2 * gate) + 1 + 4 * norm) * N
    return 4 * (ends + 2 * B * wide(sizes[1]) + points * (own + before * N)) + (points + 1) * 48 * rows


def _along(lines: np.ndarray, start: Any, end: Any, points: torch.Tensor, each: int,
           evaluate: Callable[[Jobs, torch.Tensor], torch.Tensor]) -> Curves:  # fmt: skip
    """All lines, `each` bytes of device memory a line; evaluate(jobs, ends [2 lines, P]) gives records."""
    step = fitting(len(lines), each, points.device.type)
    for first in range(0, len(lines), step):
        some = slice(first, first + step)
        ends = np.concatenate([np.asarray(side[some], np.float32) for side in (start, end)])
        jobs = np.repeat(lines[some], len(points))[:, None] * np.array([1, 0])
        records = evaluate(jobs, torch.from_numpy(ends).to(points.device)).cpu().numpy()
        found = records.reshape(-1, len(points), 2, 2).transpose(0, 2, 3, 1).copy()
        found[:, :, 1] = 1 - found[:, :, 1]
        yield some, found


def _idle(jobs: Jobs, batch_size: int, precision: str, device: str) -> tuple[Any, ...]:
    """The schedule of networks that are not trained."""
    return (
        torch.zeros(len(jobs), 0, device=device),
        torch.zeros(len(jobs), device=device),
        0.0,
        batch_size,
        0,
        precision,
    )


def interpolate_mlp(x: np.ndarray, tasks: list[Task], lines: np.ndarray, sizes: Any, slopes: Any, norms: Any, adds: Any,
                    scale: np.ndarray, shift: np.ndarray, gate_at: Any, gates: Any, start: Any, end: Any,
                    points: np.ndarray, precision: str | None = None, device: str = "cuda") -> Curves:  # fmt: skip
    """Mean loss and share of wrong answers on training and test samples, a chunk of lines at a time as they are done.

    Yields (slice of the lines, float64 [n, 2 splits, 2, L]), nan where a task has no such samples. tasks: (train rows,
    train labels, test rows, test labels) each; lines int [N]: the task of each; start, end float32 [N, P], of which
    slices are read. precision: "tf32x3" (fp32-grade, the default), "tf32", "bf16", "ieee" (AMD's default). The rest as
    `wsfast.reference.interpolate.interpolate_mlp`. A line's bits do not depend on the others. ValueError for networks
    without a hidden layer and for BatchNorm, a sum or a gate on the logits.
    """
    sizes, slopes = [int(s) for s in sizes], [float(s) for s in slopes]
    norms, adds = [int(n) for n in norms], [int(a) for a in adds]
    if len(sizes) < 3 or norms[-1] or adds[-1] >= 0 or gate_at[-1] >= 0:
        raise ValueError(
            "interpolate_mlp: the triton kernels need a hidden layer and take no BatchNorm, sum or gate on the logits; "
            f"got sizes {sizes}, norms {norms}, adds {adds}, gates at {list(gate_at)} (backend='numba')"
        )
    precision = precision or mlp.default_precision()
    batch_size = settled("interpolate_mlp", precision, min(LIMIT, most_rows(tasks)), tasks)
    images, t = Images.load(x, scale, shift, (1, 1, x.shape[1]), -1, device), torch.from_numpy(points).to(device)
    matrix = matrices((np.asarray(gate_at), gates), sizes[1:], device)
    each = bytes_per_line(sizes, norms, [f is not None for f in matrix], len(t), batch_size, most_rows(tasks))

    def evaluate(jobs: Jobs, ends: torch.Tensor) -> torch.Tensor:
        idle = _idle(jobs, batch_size, precision, device)
        return Lines(images, tasks, jobs, ends, t, sizes, slopes, norms, adds, matrix, *idle).evaluate()

    yield from _along(lines, start, end, t, each, evaluate)


def interpolate_cnn(x: np.ndarray, tasks: list[Task], lines: np.ndarray, sizes: Any, slopes: Any, strides: Any,
                    norm_last: Any, pools: Any, shortcuts: Any, scale: np.ndarray, shift: np.ndarray, shape: Any,
                    gate_at: Any, gates: Any, start: Any, end: Any, points: np.ndarray,
                    precision: str | None = None, device: str = "cuda") -> Curves:  # fmt: skip
    """As interpolate_mlp, of the convolutional networks that `wsfast.kernels.triton.cnn` trains, in its precisions.

    The default is "tf32" as there: a set's records and the ends of its lines are then the same. ValueError for a pool
    behind a shortcut.
    """
    precision = precision or cnn.default_precision()
    batch_size = settled("interpolate_cnn", precision, min(LIMIT, most_rows(tasks)), tasks)
    matrix = matrices((np.asarray(gate_at), gates), [int(n) for n in sizes[1:-1]], device)
    units = plan.planned(
        sizes, slopes, strides, norm_last, pools, shortcuts, shape, batch_size, matrix, "interpolate_cnn"
    )
    images, t = Images.load(x, scale, shift, shape, -1, device), torch.from_numpy(points).to(device)
    classes = int(sizes[-1])
    each = len(t) * plan.bytes_per_network(units, classes, batch_size, most_rows(tasks), precision)

    def evaluate(jobs: Jobs, ends: torch.Tensor) -> torch.Tensor:
        made = cnn.Population(
            images, tasks, jobs, units, classes, population.FREE, *_idle(jobs, batch_size, precision, device)
        )
        made.load(_between(ends, t))
        return made.evaluate()

    yield from _along(lines, start, end, t, each, evaluate)


def interpolate_gru(x: np.ndarray, tasks: list[Task], lines: np.ndarray, alphabet: int, hidden: int, classes: int,
                    start: Any, end: Any, points: np.ndarray, device: str = "cuda") -> Curves:  # fmt: skip
    """As interpolate_mlp, of the recurrent networks that `wsfast.kernels.triton.gru` trains, over names, in float32."""
    gru.settled("interpolate_gru", hidden)
    names, t = gru.Names.load(x, tasks, alphabet, classes, device), torch.from_numpy(points).to(device)
    each = 8 * gru.size(alphabet, hidden, classes) + len(t) * gru.bytes_per_network(
        alphabet, hidden, classes, names.longest, 0
    )

    def evaluate(jobs: Jobs, ends: torch.Tensor) -> torch.Tensor:
        made = gru.Population(names, jobs, alphabet, hidden, classes)
        made.load(_between(ends, t))
        return made.evaluate()

    yield from _along(lines, start, end, t, each, evaluate)
