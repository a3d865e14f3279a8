"""Train many convolutional networks at once on one GPU; arguments and results as `wsfast.reference.cnn.train_cnn`.

A step: every unit's convolution, whose tiles leave BatchNorm's sums and their windows' winners, these sums added up,
the unit's output; the mean and the last layer with its loss. Back from there, unit by unit: gamma's and beta's step, z
overwritten by its own gradient, the gradient below, the weights' step. Of a unit z, what won and the output are kept;
masks and who won are found again on the way back. precision="bf16" keeps these in bfloat16; parameters, sums and losses
are always float32. A gate comes between BatchNorm and the pool, on whole images, and so does its gradient.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from . import philox, population
from .batchnorm import SCALE, STATISTICS, _affine_kernel, _normal_gradient_kernel, _normal_kernel, _statistics_kernel
from .blocks import block
from .chunks import Done, in_chunks
from .configs import wide
from .convolution import _convolve_kernel, _data_kernel, _weight_kernel
from .figlu import UNGATED, Gates, _gate_kernel, _gate_leave_kernel, matrices
from .images import Images
from .layers import _gradient_kernel, _last_kernel, _update_kernel
from .meanpool import _mean_kernel, _spread_kernel
from .plan import Unit, bytes_per_network, most_gated, parts, planned
from .pooling import _pool_kernel, _unpool_kernel
from .population import FREE, Fixed, Jobs, Task, hip, most_rows, packed, schedules, settled


def default_precision() -> str:
    """tf32, its operands rounded; AMD's own float32 matrix instructions."""
    return "ieee" if hip() else "tf32"


@dataclass
class Branch:
    """A convolution with its BatchNorm: w [n, K, N], b [n, N], norm [n, 4, N], their velocities v, z [n, B, ...]."""

    size: int
    w: torch.Tensor
    wv: torch.Tensor
    b: torch.Tensor
    bv: torch.Tensor
    norm: torch.Tensor
    nv: torch.Tensor
    stat: torch.Tensor
    z: torch.Tensor


@dataclass
class Gate:
    """A unit's F [N, N], its output before the pool y and the sigmoid s [n, B, ...], statistics that change nothing."""

    f: torch.Tensor
    y: torch.Tensor
    s: torch.Tensor
    same: torch.Tensor


class Population(population.Population):
    """One chunk of networks on the device."""

    def __init__(self, images: Images, tasks: list[Task], jobs: Jobs, plan: list[Unit], classes: int,
                 fixed: Fixed, *schedule: Any) -> None:  # fmt: skip
        super().__init__(images, tasks, jobs, *schedule)
        self.plan, self.classes = plan, classes
        self.kept = torch.bfloat16 if self.precision == "bf16" else torch.float32
        self.nets, item, start = [], 0, 0
        for unit in plan:
            net = [self._branch(unit, size, K, item + 6 * i) for i, (size, K) in enumerate(unit.branches)]
            for branch in net:
                rows = np.arange(branch.size**2 * unit.n_in).reshape(unit.n_in, -1)  # of a weight as declared
                if unit is not plan[0]:
                    rows = np.arange(branch.size**2) * unit.C + np.arange(unit.n_in)[:, None]
                self._hold(fixed, start, branch.w, branch.wv, rows.ravel(), unit.n_out)
                start += (rows.size + 5) * unit.n_out
            self.nets.append(net)
            item += 6 * len(net)
        self.tops = [self._kept(*u.output) if u.early else net[0].z for u, net in zip(plan, self.nets, strict=True)]
        self.gates = [self._gate(unit) for unit in plan]
        self.outputs = [self._output(*pair) for pair in zip(plan, self.gates, strict=True)]
        self.met, self.taken = self._kept(most_gated(plan)), self._kept(most_gated(plan))
        self.d = self._kept(max(int(np.prod(u.output)) for u in plan))
        self.parts = self._zeros(parts(plan, self.size))
        n, N, C = plan[-1].n_out, plan[-1].N, wide(classes)
        self.features, self.d_features = self._zeros(self.B, N), self._zeros(self.B, N)
        self.w, self.b, self.dz = self._zeros(N, C), self._zeros(1, C), self._zeros(self.B, C)
        self._draw(self.w, n, classes, n, item)
        self._draw(self.b, 1, classes, n, item + 1)
        self.wv, self.bv = torch.zeros_like(self.w), torch.zeros_like(self.b)
        self._hold(fixed, start, self.w, self.wv, np.arange(n), classes)

    def _kept(self, *shape: int) -> torch.Tensor:
        return torch.zeros(self.n, self.size, *shape, dtype=self.kept, device=self.device)

    def _draw(self, out: torch.Tensor, high: int, wide: int, fan_in: int, item: int) -> None:
        philox.initial_weight(out, high, wide, float(np.float32(1 / np.sqrt(fan_in))), item, self.jobs, self.key)

    def _branch(self, unit: Unit, size: int, K: int, item: int) -> Branch:
        area, fan_in = size**2, size**2 * unit.n_in
        w, b, norm = self._zeros(K, unit.N), self._zeros(1, unit.N), self._zeros(4, unit.N)
        if unit is self.plan[0]:
            self._draw(w, fan_in, unit.n_out, fan_in, item)
        else:
            drawn = self._zeros(fan_in, unit.N)
            self._draw(drawn, fan_in, unit.n_out, fan_in, item)
            self._declared(unit, w).copy_(drawn.view(self.n, unit.n_in, area, unit.N))
        self._draw(b, 1, unit.n_out, fan_in, item + 1)
        norm[:, 0, : unit.n_out], norm[:, 3, : unit.n_out] = 1, 1
        return Branch(size, w, torch.zeros_like(w), b, torch.zeros_like(b), norm, torch.zeros_like(norm),
                      self._zeros(STATISTICS.value, unit.N), self._kept(*unit.result))  # fmt: skip

    def _gate(self, unit: Unit) -> Gate | None:
        if unit.f is None:
            return None
        same = self._zeros(STATISTICS.value, unit.N)
        same[:, SCALE.value] = 1
        return Gate(unit.f, self._kept(*unit.result), self._kept(*unit.result), same)

    def _output(self, unit: Unit, gate: Gate | None) -> torch.Tensor:
        """Where a unit's output goes; the last one's only where it has a gate."""
        if gate is not None and not unit.pool:
            return gate.y
        return self._kept(*unit.output) if gate is not None or unit is not self.plan[-1] else self._kept(0)

    def _declared(self, unit: Unit, w: torch.Tensor) -> torch.Tensor:
        """A view of a later unit's weight with its channels major, [n, n_in, size size, N], as declared and drawn."""
        return w.view(self.n, -1, unit.C, unit.N)[:, :, : unit.n_in].transpose(1, 2)

    def _options(self, kernel: str, C: int, N: int) -> dict[str, Any]:
        return block(kernel, C, N, hip=hip()).options()

    def _bent(self, k: int) -> tuple[list[torch.Tensor], float, bool]:
        """What unit k's activation meets: z, its statistics and the shortcut's; its slope; whether there is one.

        Of a unit with a gate, which has acted already: its output, and that nothing happens to it.
        """
        main, side, gate = self.nets[k][0], self.nets[k][-1], self.gates[k]
        if gate is not None:
            return [self.outputs[k], self.outputs[k], gate.same, gate.same], 1.0, False
        return [self.tops[k], side.z, main.stat, side.stat], self.plan[k].bend, self.plan[k].side

    def _input(self, k: int) -> list[torch.Tensor]:
        """Unit k's: the output below, or the images and how they are gathered."""
        images = self.images
        x = self.outputs[k - 1] if k else images.x
        return [x, self.bases, images.offsets, images.scale, images.shift]

    def _convolution(self, k: int, kernel: str, branch: Branch) -> tuple[dict[str, Any], int]:
        """Constants of a launch that reads unit k's input, and its tiles of a weight's columns."""
        u = self.plan[k]
        K = branch.w.shape[1]
        chosen = self._options(kernel, u.C if k else K, u.N)
        shape = {"B": self.size, "H": u.H, "W": u.W, "C": u.C, "K": K, "N": u.N, "SIZE": branch.size}
        flags = {"STRIDE": u.stride, "FIRST": k == 0, "LAST": u.last, "PRECISION": self.precision}
        return {**shape, **flags, **chosen}, u.N // chosen["BN"]

    def _forward(self, now: int, counts: torch.Tensor, evaluate: bool) -> None:
        """From the images to the loss of the batch at row `now`."""
        R, last = self.bases.shape[1], len(self.plan) - 1
        for k, u in enumerate(self.plan):
            for branch in self.nets[k]:
                options, across = self._convolution(k, "convolve", branch)
                tiles = -(-self.size * u.rows // options["BM"])
                _convolve_kernel[self.n * tiles * across,](
                    *self._input(k), branch.w, branch.b, branch.norm, branch.z, self.tops[k], self.parts, counts,
                    u.slope, now, self.size, R, POOL=u.early, **options)  # fmt: skip
                h, w, N = u.result
                chosen = self._options("moments", N, N)
                _statistics_kernel[self.n, N // chosen["BN"]](
                    self.parts, branch.norm, branch.b, branch.stat, counts, now, self.size, TILES=tiles, AREA=h * w,
                    ROWS=u.rows, N=N, BM=options["BM"], BIAS=not u.last, EVALUATE=evaluate, **chosen)  # fmt: skip
            gate = self.gates[k]
            if gate is not None:
                self._show_gate(k, gate, now, counts)
            elif k < last:
                self._normal(*self._bent(k), self.outputs[k], u.output, now, counts)
        (z, slope, side), (h, w, N) = self._bent(last), self.plan[last].output
        chosen = self._options("mean", N, N)
        _mean_kernel[self.n, self.B // chosen["BM"], N // chosen["BN"]](
            *z, self.features, counts, slope, now, self.size, B=self.size, PADDED=self.B, AREA=h * w, N=N, SIDE=side,
            **chosen)  # fmt: skip
        _last_kernel[self.n,](
            self.features, self.w, self.b, self.labels, counts, self.dz, self.losses, self.hits, 1.0, now, self.size,
            now // self.size, R, self.losses.shape[1], self.classes, EVALUATE=evaluate,
            **self._head("last"))  # fmt: skip

    def _normal(self, z: list[torch.Tensor], slope: float, side: bool, to: torch.Tensor, shape: tuple[int, int, int],
                now: int, counts: torch.Tensor) -> None:  # fmt: skip
        """The activation of BatchNorm, all as `_bent` gives it, into `to`."""
        h, w, N = shape
        chosen = self._options("normal", N, N)
        _normal_kernel[self.n, -(-self.size * h * w // chosen["BM"]), N // chosen["BN"]](
            *z, to, counts, slope, now, self.size, B=self.size, AREA=h * w, N=N, SIDE=side, PRECISION=self.precision,
            **chosen)  # fmt: skip

    def _before_gate(self, k: int) -> list[torch.Tensor]:
        """What makes up the numbers that unit k's gate meets: the convolutions' results and their statistics."""
        main, side = self.nets[k][0], self.nets[k][-1]
        return [main.z, side.z, main.stat, side.stat]

    def _show_gate(self, k: int, gate: Gate, now: int, counts: torch.Tensor) -> None:
        u = self.plan[k]
        h, w, N = u.result
        self._normal(self._before_gate(k), 1.0, u.side, self.met, u.result, now, counts)
        chosen = self._options("gate", N, N)
        _gate_kernel[self.n, -(-self.size * h * w // chosen["BM"]), N // chosen["BN"]](
            self.met, gate.f, gate.y, gate.s, counts, now, self.size, B=self.size, AREA=h * w, N=N,
            PRECISION=self.precision, **chosen)  # fmt: skip
        if u.pool:
            chosen = self._options("pool", N, N)
            _pool_kernel[self.n, -(-self.size * (h // 2) * (w // 2) // chosen["BM"]), N // chosen["BN"]](
                gate.y, self.outputs[k], counts, now, self.size, self.size, h, w, N, **chosen
            )

    def _gate_back(self, k: int, gate: Gate, now: int, counts: torch.Tensor) -> None:
        """From d at a unit's output to that at BatchNorm's, with the sums of it over tiles."""
        u, d = self.plan[k], self.d
        h, w, N = u.result
        if u.pool:
            chosen, d = self._options("pool", N, N), self.met
            windows = -(-h // 2) * -(-w // 2)
            _unpool_kernel[self.n, -(-self.size * windows // chosen["BM"]), N // chosen["BN"]](
                gate.y, self.d, d, counts, now, self.size, self.size, h, w, N, **chosen
            )
        chosen = self._options("gate_gradient", N, N)
        self.tiled = chosen["BM"]
        _gate_leave_kernel[self.n, -(-self.size * h * w // self.tiled), N // chosen["BN"]](
            d, gate.y, gate.s, gate.f, *self._before_gate(k), self.taken, self.parts, counts, now, self.size,
            B=self.size, AREA=h * w, N=N, SIDE=u.side, PRECISION=self.precision, **chosen)  # fmt: skip

    def _head(self, kernel: str) -> dict[str, Any]:
        return super()._options(kernel, *self.w.shape[1:])

    def _show(self, now: int, counts: torch.Tensor) -> None:
        self._forward(now, counts, evaluate=True)

    def _learn(self, now: int, counts: torch.Tensor) -> None:
        self._forward(now, counts, evaluate=False)
        self._last_back(now, counts)
        for k in range(len(self.plan) - 1, -1, -1):
            self._unit_back(k, now, counts)

    def _last_back(self, now: int, counts: torch.Tensor) -> None:
        """The last layer's step and the last unit's d."""
        options, none, f = self._head("gradient"), self.features, self.features
        _gradient_kernel[self.n, f.shape[2] // options["BK"]](
            self.dz, self.w, f, self.d_features, none, none, none, none, none, counts, self.lr_now, self.decay,
            self.momentum, 1.0, now, self.size, NORM=False, ADD=False, KEEP=False, **options)  # fmt: skip
        options = self._head("update")
        _update_kernel[self.n, f.shape[2] // options["BK"], self.w.shape[2] // options["BN"]](
            f, self.dz, self.w, self.wv, self.b, self.bv, counts, self.lr_now, self.decay, self.momentum, now,
            **options)  # fmt: skip
        z, slope, side = self._bent(len(self.plan) - 1)
        h, w, N = self.plan[-1].output
        chosen = self._options("spread", N, N)
        self.tiled = chosen["BM"]
        _spread_kernel[self.n, -(-self.size * h * w // self.tiled), N // chosen["BN"]](
            self.d_features, *z, self.d, self.parts, counts, slope, now, self.size, B=self.size, PADDED=self.B,
            AREA=h * w, N=N, SIDE=side, **chosen)  # fmt: skip

    def _unit_back(self, k: int, now: int, counts: torch.Tensor) -> None:
        """A unit's step from its d and the sums of d over tiles of self.tiled rows; leaves the d of the unit below."""
        u, net, d, gate = self.plan[k], self.nets[k], self.d, self.gates[k]
        (h, w, N), (high, across, _) = u.result, u.output
        if gate is not None:
            self._gate_back(k, gate, now, counts)
            d, high, across = self.taken, h, w
        steps = self.lr_now, self.decay, self.momentum
        for i, branch in enumerate(net):
            chosen = self._options("moments", N, N)
            _affine_kernel[self.n, N // chosen["BN"]](
                self.parts, branch.norm, branch.nv, branch.stat, counts, *steps, now, self.size,
                TILES=-(-self.size * high * across // self.tiled), AREA=h * w, ROWS=high * across, N=N, BM=self.tiled,
                BRANCH=i, **chosen)  # fmt: skip
            chosen = self._options("normal_gradient", N, N)
            windows = u.rows // 4 if u.early else u.rows
            _normal_gradient_kernel[self.n, -(-self.size * windows // chosen["BM"]), N // chosen["BN"]](
                branch.z, d, branch.stat, counts, u.slope, now, self.size, B=self.size, H=h, W=w, N=N, POOL=u.early,
                LAST=u.last, PRECISION=self.precision, **chosen)  # fmt: skip
        if k:
            z, slope, side = self._bent(k - 1)
            chosen = self._options("data", u.C, N)
            self.tiled = chosen["BM"]
            tiles = -(-self.size * u.H * u.W // self.tiled) * (u.C // chosen["BN"])
            _data_kernel[self.n * tiles,](
                net[0].z, net[0].w, net[-1].z, net[-1].w, *z, self.d, self.parts, counts, slope, now, self.size,
                B=self.size, H=u.H, W=u.W, C=u.C, N=N, STRIDE=u.stride, SIDE=u.side, BELOW=side,
                PRECISION=self.precision, **chosen)  # fmt: skip
        for branch in net:
            options, across = self._convolution(k, "weight" if k else "pixels", branch)
            _weight_kernel[self.n * (options["K"] // options["BK"]) * across,](
                *self._input(k), branch.z, branch.w, branch.wv, branch.b, branch.bv, counts, *steps, now, self.size,
                self.bases.shape[1], **options)  # fmt: skip

    def _views(self) -> list[torch.Tensor]:
        """Every network's parameters in the declaration's order, [n, ...] each."""
        found = []
        for k, (u, net) in enumerate(zip(self.plan, self.nets, strict=True)):
            for branch in net:
                w = self._declared(u, branch.w) if k else branch.w[:, : 9 * u.n_in]
                found += [p[..., : u.n_out] for p in (w, branch.b, branch.norm)]
        return found + [p[..., : self.classes] for p in (self.w[:, : self.plan[-1].n_out], self.b)]

    def parameters(self) -> torch.Tensor:
        """Every network's parameters in the declaration's order: float32 [n, P]."""
        return packed(self._views())

    def load(self, parameters: torch.Tensor) -> None:
        """Put there what `parameters` gives."""
        views = self._views()
        for p, own in zip(views, parameters.split([p[0].numel() for p in views], 1), strict=True):
            p.copy_(own.view(p.shape))


def train_chunks(x: np.ndarray, tasks: list[Task], jobs: list[tuple[int, int]], sizes: Any, slopes: Any, strides: Any,
                 norm_last: Any, pools: Any, shortcuts: Any, scale: np.ndarray, shift: np.ndarray, shape: Any, lr: Any,
                 momentum: float, weight_decay: Any, batch_size: int, pad: int, seed: int, precision: str | None = None,
                 device: str = "cuda", chunk: int | None = None, tick: Callable[[float], Any] | None = None,
                 into: np.ndarray | None = None, fixed: Fixed = FREE,
                 gates: Gates = UNGATED, start: tuple[int, int] | None = None) -> Iterator[Done]:  # fmt: skip
    """Train networks job by job, (task, repeat) each, a chunk at a time; yields chunks in order as they are done.

    precision: "tf32" (operands rounded, the default), "tf32x3" (fp32-grade), "ieee" (AMD's default) or "bf16", which
    keeps the convolutions' results in bfloat16 too. The networks as `wsfast.reference.cnn.train_cnn` takes them, the
    rest as `wsfast.kernels.triton.mlp.train_chunks`.
    """
    precision = precision or default_precision()
    batch_size = settled("train_cnn", precision, batch_size, tasks)
    matrix = matrices(gates, [int(n) for n in sizes[1:-1]], device)
    plan = planned(sizes, slopes, strides, norm_last, pools, shortcuts, shape, batch_size, matrix)
    classes = int(sizes[-1])
    images = Images.load(x, scale, shift, shape, pad, device)
    rates, decays = schedules(lr, weight_decay, len(jobs))
    each = bytes_per_network(plan, classes, batch_size, most_rows(tasks), precision)

    def train(some: slice) -> list[torch.Tensor]:
        chosen = Population(images, tasks, jobs[some], plan, classes, fixed, rates[some].to(device),
                            decays[some].to(device), momentum, batch_size, seed, precision, start)  # fmt: skip
        curves = chosen.train(tick)
        chosen.release()
        return [chosen.parameters(), curves, chosen.evaluate()]

    yield from in_chunks("train_cnn", train, len(jobs), each, device, chunk, into)


def train_cnn(x: np.ndarray, tasks: list[Task], jobs: list[tuple[int, int]], *arguments: Any,
              **options: Any) -> tuple[np.ndarray, np.ndarray, np.ndarray]:  # fmt: skip
    """train_chunks, all at once: (parameters float32 [N, P], curves float64 [N, epochs], records float64 [N, 4])."""
    done = list(train_chunks(x, tasks, jobs, *arguments, **options))
    return (
        np.concatenate([d.parameters for d in done]),
        np.concatenate([d.curves for d in done]),
        np.concatenate([d.records for d in done]),
    )
