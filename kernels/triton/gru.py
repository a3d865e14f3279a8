"""Train many two-layer GRU networks at once on one GPU; arguments and results as `wsfast.reference.gru.train_gru`.

One program trains one network, a name after the other as long as each is; a launch is an epoch, or STEPS of its steps.
"""

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from . import philox
from .chunks import Done, in_chunks
from .configs import config
from .population import packed
from .recurrent import FIRST, ROW, _show_gru_kernel, _train_gru_kernel
from .tiles import side

LIMIT = 128  # hidden units: the three tiles of a larger matrix do not fit a processor's registers
STEPS = 4096  # of a launch, at most
TOGETHER = 8  # names that an evaluation shows at once, to read the weights once
SQUARE = (1, 4, 5)  # U of layer 1, W and U of layer 2 in the list of ten parameters
IN_MEMORY = (*range(1, 10), 0)  # the order of the ten in a network's memory


@dataclass
class Names:
    """The names of all tasks on the device: task by task, the training names class by class, then the test names.

    letters, starts, labels: as `wsfast.kernels.triton.recurrent` has them. splits int32 [tasks, 2, 2]: where training
    and test names begin and end; sizes int64 [tasks, C]: training names of each class.
    """

    letters: torch.Tensor
    starts: torch.Tensor
    labels: torch.Tensor
    splits: torch.Tensor
    sizes: torch.Tensor
    longest: int

    @classmethod
    def load(cls, x: np.ndarray, tasks: list[Any], alphabet: int, classes: int, device: str) -> "Names":
        rows, labels, ends = [np.empty(0, np.int64)], [np.empty(0, np.int64)], [0]
        for task in tasks:
            for some, y in (task[:2], task[2:]):
                order = np.argsort(y, kind="stable")
                rows.append(some[order])
                labels.append(y[order])
                ends.append(ends[-1] + len(some))
        chosen = x[np.concatenate(rows)]
        inside = chosen < alphabet
        starts = np.concatenate([[0], np.cumsum(inside.sum(axis=1))])
        letters = chosen[inside].astype(np.int32)
        letters[starts[:-1]] += FIRST.value
        splits = np.column_stack([ends[:-1], ends[1:]]).reshape(-1, 2, 2)
        sizes = np.array([np.bincount(task[1], minlength=classes) for task in tasks])

        def put(array: np.ndarray, kind: type = np.int32) -> torch.Tensor:
            return torch.from_numpy(array.astype(kind)).to(device)

        longest = int(np.diff(starts).max(initial=1))
        return cls(put(letters), put(starts), put(np.concatenate(labels)), put(splits), put(sizes, np.int64), longest)


class Population:
    """One chunk of networks on the device. memory float32 [n, parameters and scratch]; parameters are views of it."""

    def __init__(self, names: Names, jobs: Any, alphabet: int, hidden: int, classes: int) -> None:
        self.names, self.n, self.hidden, self.classes = names, len(jobs), hidden, classes
        self.device = names.letters.device
        self.jobs = torch.tensor(jobs, dtype=torch.int64, device=self.device)
        self.shapes = shapes(alphabet, hidden, classes)
        self.H, self.CLASSES = padded(hidden, classes)
        self.R = TOGETHER * names.longest + 1
        self.wide = shapes(alphabet, self.H, self.CLASSES)
        sizes = [math.prod(shape) for shape in self.wide]
        self.memory = torch.empty(self.n, sum(sizes) + self.R * ROW.value * self.H, device=self.device)
        self.views: dict[int, torch.Tensor] = {}
        at = 0
        for item in IN_MEMORY:
            own = self.memory[:, at : at + sizes[item]]
            if item in SQUARE:  # gates first
                self.views[item] = own.view(self.n, 3, self.H, self.H).transpose(1, 2)
            else:
                self.views[item] = own.view(self.n, *self.wide[item])
            at += sizes[item]

    def draw(self, key: torch.Tensor) -> None:
        """Initial weights."""
        bound = float(np.float32(1 / np.sqrt(self.hidden)))
        for item, (*rows, columns) in enumerate(self.shapes):
            shape = self.wide[item]
            drawn = torch.empty(self.n, math.prod(shape[:-1]), shape[-1], device=self.device)
            philox.initial_weight(drawn, math.prod(rows), columns, bound, item, self.jobs, key)
            self.views[item].copy_(drawn.view(self.n, *shape))
        self._close()

    def load(self, flat: torch.Tensor) -> None:
        """Parameters [n, P] in the reference's order."""
        at = 0
        for item, own in enumerate(self._parameters()):
            self.views[item].zero_()
            own.copy_(flat[:, at : at + own[0].numel()].view_as(own))
            at += own[0].numel()
        self._close()

    def _close(self) -> None:
        """No name is of a class that is only there in memory."""
        self.views[9][:, self.classes :] = -torch.inf

    def _launch(self, kernel: Any, *arguments: Any, **constants: int) -> None:
        names, chosen = self.names, config("gru", 1, self.H, self.H)
        kernel[self.n,](names.letters, names.starts, names.labels, *arguments, self.R, V=self.shapes[0][0], H=self.H,
                        CLASSES=self.CLASSES, **constants, **chosen.options())  # fmt: skip

    def train(self, lr: list[float], steps: int, key: torch.Tensor,
              tick: Callable[[float], Any] | None = None) -> torch.Tensor:  # fmt: skip
        """All epochs, `steps` each, from weights drawn here; the mean loss of each: float64 [n, epochs]."""
        self.draw(key)
        tasks = self.jobs[:, 0]
        sizes = self.names.sizes[tasks]
        before = self.names.splits[tasks, 0, :1] + sizes.cumsum(1) - sizes  # names before each class's first
        losses = torch.empty(self.n, steps, device=self.device)
        curves = torch.zeros(self.n, len(lr), dtype=torch.float64, device=self.device)
        for epoch, rate in enumerate(lr):
            classes, members = philox.sample(sizes, steps, epoch, self.jobs, key)
            drawn = (before.gather(1, classes) + members).int()
            for first in range(0, steps, STEPS):
                last = min(first + STEPS, steps)
                self._launch(_train_gru_kernel, drawn, losses, self.memory, rate, first, last, steps)
            curves[:, epoch] = losses.double().mean(1)
            if tick is not None:
                if self.device.type == "cuda":
                    torch.cuda.synchronize()
                tick(self.n / len(lr))
        return curves

    def evaluate(self) -> torch.Tensor:
        """Train loss and accuracy, test loss and accuracy: float64 [n, 4], nan where there are no names."""
        found = []
        for splits in self.names.splits[self.jobs[:, 0]].unbind(1):
            losses = torch.empty(self.n, dtype=torch.float64, device=self.device)
            hits = torch.empty(self.n, dtype=torch.int32, device=self.device)
            own = splits.clone()  # one network's is contiguous as it is, but begins anywhere
            self._launch(_show_gru_kernel, own, losses, hits, self.memory, NAMES=TOGETHER)
            counts = splits[:, 1] - splits[:, 0]
            found += [losses / counts, hits.double() / counts]
        return torch.stack(found, 1)

    def parameters(self) -> torch.Tensor:
        """Every network's ten parameters in the reference's order: float32 [n, P]."""
        return packed(self._parameters())

    def _parameters(self) -> list[torch.Tensor]:
        """Of their own shapes, views of the memory."""
        parts = []
        for item, shape in enumerate(self.shapes):
            own = self.views[item]
            for axis, length in enumerate(shape, 1):
                own = own.narrow(axis, 0, length)
            parts.append(own)
        return parts


def settled(op: str, hidden: int) -> None:
    """ValueError for more hidden units than the kernels take."""
    if hidden > LIMIT:
        raise ValueError(
            f"{op}: the triton kernels take at most {LIMIT} hidden units, got {hidden} (a smaller width, or "
            "backend='numba')"
        )


def shapes(alphabet: int, hidden: int, classes: int) -> list[tuple[int, ...]]:
    """Of the ten parameters, as `wsfast.reference.gru.shapes`."""
    gates = 3, hidden
    layers = [[(n_in, *gates), (hidden, *gates), gates, gates] for n_in in (alphabet, hidden)]
    return [*layers[0], *layers[1], (hidden, classes), (classes,)]


def size(alphabet: int, hidden: int, classes: int) -> int:
    """Numbers of a network's parameters."""
    return sum(math.prod(shape) for shape in shapes(alphabet, hidden, classes))


def padded(hidden: int, classes: int) -> tuple[int, int]:
    """Hidden units and classes in memory: powers of two."""
    return side(hidden, LIMIT), max(4, 1 << (classes - 1).bit_length())


def bytes_per_network(alphabet: int, hidden: int, classes: int, longest: int, steps: int) -> int:
    """Device memory that one network of a chunk takes, everything included."""
    H, CLASSES = padded(hidden, classes)
    parameters = size(alphabet, H, CLASSES)
    return 4 * (3 * parameters + (TOGETHER * longest + 1) * ROW.value * H) + 64 * steps


def train_chunks(x: np.ndarray, tasks: list[Any], jobs: list[tuple[int, int]], alphabet: int, hidden: int,
                 classes: int, lr: np.ndarray, steps: int, seed: int, device: str = "cuda", chunk: int | None = None,
                 tick: Callable[[float], Any] | None = None,
                 into: np.ndarray | None = None) -> Iterator[Done]:  # fmt: skip
    """Train networks job by job, (task, repeat) each, a chunk at a time; yields chunks in order as they are done.

    x uint8 [n, longest]; tasks: (train rows, labels, test rows, labels) each, no name without a letter and no class
    without a training name; lr float32 [epochs]. chunk, tick, into: as `wsfast.kernels.triton.mlp.train_chunks`. The
    rest as `wsfast.reference.gru.train_gru`. All arithmetic is float32. ValueError for more than 128 hidden units;
    RuntimeError names the networks in work when the device fails.
    """
    settled("train_gru", hidden)
    names, key = Names.load(x, tasks, alphabet, classes, device), philox.key(int(seed), torch.device(device))
    each = bytes_per_network(alphabet, hidden, classes, names.longest, steps)

    def train(some: slice) -> list[torch.Tensor]:
        population = Population(names, jobs[some], alphabet, hidden, classes)
        curves = population.train(lr.tolist(), steps, key, tick)
        return [population.parameters(), curves, population.evaluate()]

    yield from in_chunks("train_gru", train, len(jobs), each, device, chunk, into)


def train_gru(x: np.ndarray, tasks: list[Any], jobs: list[tuple[int, int]], alphabet: int, hidden: int, classes: int,
              *arguments: Any, **options: Any) -> tuple[np.ndarray, np.ndarray, np.ndarray]:  # fmt: skip
    """train_chunks, all at once: (parameters float32 [N, P], curves float64 [N, epochs], records float64 [N, 4])."""
    options["into"] = parameters = np.empty((len(jobs), size(alphabet, hidden, classes)), np.float32)
    done = list(train_chunks(x, tasks, jobs, alphabet, hidden, classes, *arguments, **options))
    return parameters, np.concatenate([d.curves for d in done]), np.concatenate([d.records for d in done])
