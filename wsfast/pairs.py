"""A kernel of all pairs of networks, a pair of runs at a time: as many as memory holds, or a Ray task each."""

import math
import os
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import Any

import numpy as np

from . import cluster
from .declaration import Parameter
from .memory import free_memory
from .weights import WeightSet


@dataclass(frozen=True)
class PairKernel:
    """A kernel of two runs of networks: product(x, y), x = ready(read(zoo, run)), or product(x, None) of one run.

    needs: what read takes of a set; size: bytes of one network's weights and features; norm(x): what the product is
    divided by, if anything, of each network of a run.
    """

    needs: Callable[[WeightSet], Sequence[Parameter]]
    read: Callable[[WeightSet, slice], Any]
    ready: Callable[[Any], Any]
    product: Callable[[Any, Any], np.ndarray]
    size: int
    norm: Callable[[Any], np.ndarray] | None = None

    def block(self, a: WeightSet, b: WeightSet | None) -> np.ndarray:
        x, y = (None if zoo is None else self.ready(self.read(zoo, slice(None))) for zoo in (a, b))
        block = self.product(x, y)
        if self.norm is not None:
            norms = self.norm(x)
            block = cosines(block, norms, norms if y is None else self.norm(y))
        return block


def cosines(block: np.ndarray, x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """Products [n, m] over the norms [n] and [m] of what was multiplied, 0 where one of them is 0."""
    norms = np.outer(x, y)
    return block / np.where(norms == 0, 1, norms)


def all_pairs(
    a: WeightSet,
    b: WeightSet | None,
    kernel: PairKernel,
    memory: int | None,
    device: str,
    engine: str,
    address: str | None,
) -> np.ndarray:
    """The kernel of all pairs, by pairs of runs that fit into `memory`: float64 [Na, Nb], [N, N] where b is None.

    Only the two runs of a pair are held; the next one is read in a thread meanwhile.
    """
    if cluster.checked("chain_kernel", engine, address):
        return _on_cluster(a, b, kernel, memory, device, address)
    step = _runs(kernel.size, memory, device)
    zoos = (a, a if b is None else b)
    rows, columns = (range(0, len(zoo), step) for zoo in zoos)
    pairs: list[tuple[tuple[int, int], tuple[int, int]]] = []  # of (set, first network); each shares one with the last
    for turn, i in enumerate(rows):
        if b is None:
            pairs += [((0, i), (0, i)), *(((0, i), (0, j)) for j in reversed(columns) if j > i)]
        else:
            pairs += [((0, i), (1, j)) for j in (reversed(columns) if turn % 2 else columns)]
    wanted = (key for old, new in pairwise([(), *pairs]) for key in dict.fromkeys(new) if key not in old)
    out = np.empty((len(a), len(zoos[1])))
    held: dict[tuple[int, int], Any] = {}
    norms: dict[tuple[int, int], np.ndarray] = {}  # of every run, also when it is read again
    with ThreadPoolExecutor(1) as thread:

        def next_read() -> Any:
            key = next(wanted, None)
            return key and thread.submit(kernel.read, zoos[key[0]], slice(key[1], key[1] + step))

        later = next_read()
        for pair in pairs:
            held = {key: held[key] for key in pair if key in held}
            for key in dict.fromkeys(pair):
                if key not in held:
                    weights, later = later.result(), next_read()
                    held[key] = kernel.ready(weights)
                    del weights
                    if kernel.norm is not None and key not in norms:
                        norms[key] = kernel.norm(held[key])
            i, j = pair[0][1], pair[1][1]
            alone = pair[0] == pair[1]
            block = kernel.product(held[pair[0]], None if alone else held[pair[1]])
            if norms:
                block = cosines(block, norms[pair[0]], norms[pair[1]])
            out[i : i + step, j : j + step] = block
            if b is None and not alone:
                out[j : j + step, i : i + step] = block.T
    return out


def _on_cluster(
    a: WeightSet, b: WeightSet | None, kernel: PairKernel, memory: int | None, device: str, address: str | None
) -> np.ndarray:
    """As `all_pairs`, a task a pair of runs."""
    if memory is None:
        memory = cluster.place("ray", address, device)(_memory_of_a_task, device)
    pairs = len(a) ** 2 // 2 if b is None else len(a) * len(b)
    share = math.isqrt(pairs // (cluster.SHARES * cluster.processors(address, device)))
    step = min(max(1, share), _runs(kernel.size, memory, device))

    def runs(zoo: WeightSet) -> dict[int, Any]:
        needed = replace(zoo, parameters={p.name: zoo.parameters[p.name] for p in kernel.needs(zoo)}, records={})
        return {i: cluster.share(address, needed[i : i + step]) for i in range(0, len(zoo), step)}

    rows = runs(a)
    columns = rows if b is None else runs(b)
    calls = (
        ((i, j), (x, None if b is None and i == j else y))
        for i, x in rows.items()
        for j, y in columns.items()
        if b is not None or i <= j
    )

    def told(key: tuple[int, int]) -> str:
        return f"chain_kernel: networks from {key[0]} and {key[1]}, {step} each"

    out = np.empty((len(a), len(a if b is None else b)))
    with closing(cluster.run(kernel.block, calls, address, device, told)) as done:
        for (i, j), block in done:
            out[i : i + step, j : j + step] = block
            if b is None and i != j:
                out[j : j + step, i : i + step] = block.T
    return out


def _runs(size: int, memory: int | None, device: str) -> int:
    """How many networks of `size` bytes (weights and features) a run may have.

    At most there are the features of two runs, the weights that one was made of, and those that are read meanwhile.
    """
    memory = free_memory(device) // 2 if memory is None else memory
    if memory < 2 * size:
        raise ValueError(
            f"memory must be at least {2 * size:,} bytes, the weights and features of two networks, got {memory:,} "
            "(raise it, or take an earlier chain)"
        )
    return int(memory // (2 * size))  # 2e9 is a number of bytes, too


def _memory_of_a_task(device: str) -> int:
    """Half of what is free here, shared by as many tasks as a machine runs side by side."""
    return free_memory(device) // 2 // (1 if device == "cuda" else os.cpu_count() or 1)
