"""What every population of networks on one GPU shares: its samples, step sizes, epochs and records."""

from collections.abc import Callable
from typing import Any

import numpy as np
import torch

from . import philox
from .blocks import block
from .configs import LIMIT, config, wide
from .images import Images

Task = tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]  # train rows, train labels, test rows, test labels
Fixed = tuple[np.ndarray, np.ndarray]  # entries of a network's parameters, ascending, and what they stay
FREE: Fixed = (np.empty(0, np.int64), np.empty(0, np.float32))
Jobs = list[tuple[int, int]] | np.ndarray  # task and repeat of each network
ROW = 112  # bytes of a sample in a network's tables, and beside them while an order is drawn and sorted
PRECISIONS = ("tf32x3", "tf32", "bf16", "ieee")


def hip() -> bool:
    """Whether the device is AMD's."""
    return torch.version.hip is not None


class Population:
    """One chunk of networks on the device. A kind of network says how a batch is learned from and shown."""

    def __init__(self, images: Images, tasks: list[Task], jobs: Jobs, lr: torch.Tensor,
                 decay: torch.Tensor, momentum: float, batch_size: int, seed: int, precision: str,
                 start: tuple[int, int] | None = None) -> None:  # fmt: skip
        self.images, self.precision, self.momentum, self.size = images, precision, float(momentum), batch_size
        self.device, self.n, self.epochs = images.x.device, len(jobs), lr.shape[1]
        self.lr, self.decay = lr, decay
        self.lr_now = torch.zeros(self.n, device=self.device)
        self.jobs = torch.as_tensor(jobs, dtype=torch.int64, device=self.device)
        self.tasks = self.jobs[:, 0]
        if start is not None:
            self.jobs = torch.tensor(start, device=self.device).expand(self.n, 2).contiguous()
        self.key = philox.key(seed, self.device)
        self.B = wide(batch_size)
        self.splits = [self._split([task[i : i + 2] for task in tasks]) for i in (0, 2)]
        self._tables(self.splits[0][0].shape[1])
        self.held: list[tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]] = []

    def _hold(self, fixed: Fixed, start: int, w: torch.Tensor, v: torch.Tensor, rows: np.ndarray, n_out: int) -> None:
        """Fix entries of a weight w [n, K, N] by a velocity v of NaN, which every step keeps.

        start: where the weight [len(rows), n_out] is in a network's parameters; rows: where its rows are in w.
        """
        at, to = fixed
        own = (at >= start) & (at < start + len(rows) * n_out)
        row, column = np.divmod(at[own] - start, n_out)
        place, value = torch.from_numpy(rows[row] * w.shape[2] + column), torch.from_numpy(to[own])
        place, value = place.to(self.device), value.to(self.device)
        w.view(self.n, -1)[:, place] = value
        v.view(self.n, -1)[:, place] = torch.nan
        self.held.append((w, v, place, value))

    def release(self) -> None:
        """After training: a weight whose velocity became NaN has diverged and is NaN, but for those that are fixed."""
        for w, v, place, value in self.held:
            w.masked_fill_(v.isnan(), torch.nan)
            w.view(self.n, -1)[:, place] = value

    def _learn(self, now: int, counts: torch.Tensor) -> None:
        """A training step on the batch at row `now`; counts int32 [n]: rows of each network."""
        raise NotImplementedError

    def _show(self, now: int, counts: torch.Tensor) -> None:
        """Losses and hits of the batch at row `now`."""
        raise NotImplementedError

    def _split(self, pairs: list[Any]) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """(rows int64 [n, R], labels int32 [n, R], counts int32 [n]) from every task's, zeros past its own rows."""
        counts = [len(rows) for rows, _ in pairs]
        rows, labels = np.zeros((2, len(pairs), max([1, *counts])), np.int64)
        for i, (r, y) in enumerate(pairs):
            rows[i, : len(r)], labels[i, : len(r)] = r, y
        to, task = self.device, self.tasks
        return (
            torch.from_numpy(rows).to(to)[task],
            torch.from_numpy(labels).int().to(to)[task],
            torch.tensor(counts, dtype=torch.int32, device=to)[task],
        )

    def _options(self, kernel: str, K: int, N: int) -> dict[str, Any]:
        """Of a launch over a whole batch, from K padded inputs to N outputs."""
        chosen = config(kernel, self.B, K, N, hip=hip()).options()
        return {"B": self.B, "K": K, "N": N, "PRECISION": self.precision, **chosen}

    def _zeros(self, *shape: int) -> torch.Tensor:
        return torch.zeros(self.n, *shape, device=self.device)

    def _gating(self, kernel: str, N: int) -> dict[str, Any]:
        chosen = block(kernel, N, N, hip=hip()).options()
        return {"B": self.B, "N": N, "PRECISION": self.precision, **chosen, "BM": self.B}

    def _tables(self, rows: int) -> None:
        """Where a pass over so many rows keeps its samples, and each batch's summed loss and hits."""
        batches = -(-rows // self.size)
        self.bases = torch.zeros(self.n, rows, dtype=torch.int64, device=self.device)
        self.labels = torch.zeros(self.n, rows, dtype=torch.int32, device=self.device)
        self.losses = self._zeros(batches)
        self.hits = torch.zeros(self.n, batches, dtype=torch.int32, device=self.device)

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
        for now in range(0, self.bases.shape[1], self.size):
            self._learn(now, self.splits[0][2])

    def train(self, tick: Callable[[float], Any] | None = None) -> torch.Tensor:
        """All epochs; the mean loss of each: float64 [n, epochs]."""
        counts = self.splits[0][2].clamp(min=1).double()
        curves = torch.zeros(self.n, self.epochs, dtype=torch.float64, device=self.device)
        graph = None
        for epoch in range(self.epochs):
            self._load(0, epoch)
            self.lr_now.copy_(self.lr[:, epoch])
            self.losses.zero_()
            if epoch == 1 and self.device.type == "cuda":  # the first epoch compiled the kernels
                graph = torch.cuda.CUDAGraph()
                # another thread may be copying the last chunk: its calls are none of the capture's
                with torch.cuda.graph(graph, capture_error_mode="thread_local"):
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
                torch.cuda.current_stream().synchronize()  # not the last chunk's copy
            tick(networks)

    def evaluate(self) -> torch.Tensor:
        """Train loss and accuracy, test loss and accuracy: float64 [n, 4], nan where there are no samples."""
        found = []
        for split, (rows, _, counts) in enumerate(self.splits):
            self._tables(rows.shape[1])
            self._load(split, None)
            for now in range(0, rows.shape[1], self.size):
                self._show(now, counts)
            found += [self.losses.double().sum(1) / counts, self.hits.double().sum(1) / counts]
        return torch.stack(found, 1)


def packed(parameters: list[torch.Tensor]) -> torch.Tensor:
    """[n, P] of views [n, ...], each copied into its place: there is never a second copy of all."""
    out = parameters[0].new_empty(len(parameters[0]), sum(p[0].numel() for p in parameters))
    for own, p in zip(out.split([p[0].numel() for p in parameters], 1), parameters, strict=True):
        own.view(p.shape).copy_(p)
    return out


def most_rows(tasks: list[Task]) -> int:
    """Rows of the largest split."""
    return max([1, *(len(t[0]) for t in tasks), *(len(t[2]) for t in tasks)])


def settled(op: str, precision: str, batch_size: int, tasks: list[Task]) -> int:
    """The batch size, no larger than any split; ValueError for one, or a precision, that the kernels do not take."""
    if precision not in PRECISIONS:
        raise ValueError(f"{op}: precision must be one of {', '.join(PRECISIONS)}, got {precision!r}")
    batch_size = min(int(batch_size), most_rows(tasks))
    if batch_size > LIMIT:
        raise ValueError(
            f"{op}: the triton kernels take batches of at most {LIMIT} samples, got {batch_size} "
            f"(a smaller batch_size, or backend='numba')"
        )
    return batch_size


def schedules(lr: Any, weight_decay: Any, n: int) -> tuple[torch.Tensor, torch.Tensor]:
    """(step sizes [n, epochs], weight decays [n]) from one for all networks or one each."""
    rates = np.broadcast_to(np.atleast_2d(np.asarray(lr, np.float32)), (n, np.shape(lr)[-1]))
    return torch.tensor(rates), torch.tensor(np.broadcast_to(np.asarray(weight_decay, np.float32), (n,)))
