"""The configurations that are shipped, each as a walk: training, evaluation and lines of one network, or its features,
at full size.
"""

from collections.abc import Callable
from functools import partial
from itertools import pairwise
from typing import Any

import numpy as np
import torch

from . import cnn, correlation, gram, gru, interpolate, mlp
from .configs import LIMIT
from .population import PRECISIONS

Walk = Callable[[str], None]  # with products in this precision, or nothing where it is not offered
NETWORKS = {  # input, hidden widths, classes, batch sizes
    "mlp4-3072": (3072, (500,) * 3, 2, (128,)),
    "mlp4-12288": (12288, (500,) * 3, 2, (128,)),
    "mlp4-3072-100": (3072, (100,) * 3, 2, (128,)),
    "mlp4-64-32": (64, (32,) * 3, 2, (32, 128)),
    "mlp4-64-64": (64, (64,) * 3, 10, (32, 128)),
    "mlp4-64-128": (64, (128,) * 3, 2, (32, 128)),
    "resnet-mlp12": (3072, (500,) * 12, 2, (128,)),
    "mlp4-sigma": (3072, (500,) * 3, 2, (128,)),
}
CONVOLUTIONAL: dict[str, tuple[Any, ...]] = {  # strides, pools, shortcuts, gates, precisions; CIFAR's images, batch 128
    "plainnet5": ([1] * 4, [1] * 4, [0] * 4, False, PRECISIONS),
    "resnet5": ([1, 2, 2, 2], [0] * 4, [0, 1, 1, 1], False, ("tf32", "ieee")),  # the defaults: compiling takes long
    "plainnet5-sigma": ([1] * 4, [1] * 4, [0] * 4, True, ("tf32", "ieee")),
}
RECURRENT = (128, 64, 32, 16)  # hidden units of a gru2
CHAINS: dict[str, list[tuple[int, ...]]] = {  # weights of a chain, input first
    "mlp4-3072": [(3072, 500), (500, 500), (500, 500)],
    "mlp4-12288": [(12288, 500)],
    "mlp4-64-100": [(64, 100), (100, 100)],
    "plainnet5, chain 3": [(3, 3, 3, 32), (32, 3, 3, 64), (64, 3, 3, 128)],
    "plainnet5, chain 4": [(2187, 128), (128, 3, 3, 256)],
    "gru2": [(58, 384)],
}
UNITS = {"mlp4-64-100": (100, 360), "mlp4-3072": (500, 512), "plainnet5": (128, 4096)}  # of a layer, samples


def walks() -> dict[str, Walk]:
    found: dict[str, Walk] = {}
    for name, (d, widths, classes, batches) in NETWORKS.items():
        for batch in batches:
            found[f"{name}, batch {batch}"] = partial(
                _network, d, widths, classes, batch, name.startswith("resnet"), name == "mlp4-sigma"
            )
    found |= {name: partial(_cnn, *declared) for name, declared in CONVOLUTIONAL.items()}
    found |= {f"gru2-{hidden}": partial(_recurrent, hidden) for hidden in RECURRENT}
    found |= {f"chains of {name}": partial(_chain, weights) for name, weights in CHAINS.items()}
    found |= {f"units of {name}": partial(_units, *units) for name, units in UNITS.items()}
    return found


def _network(d: int, widths: tuple[int, ...], classes: int, batch: int, residual: bool, gated: bool,
             precision: str) -> None:  # fmt: skip
    """Train and evaluate one network for two steps, and the line from it to itself."""
    count = len(widths) + 1
    gates = np.array([gated - 1] * (count - 1) + [-1]), np.zeros(max(widths) ** 2, np.float32)
    rows, labels = np.arange(2 * batch), np.arange(2 * batch) % classes
    norms = [1] * (count - 1) * residual + [0] if residual else [0] * count
    adds = [k - 2 if residual and k % 2 and 1 < k < count - 1 else -1 for k in range(count)]
    x, one = _bytes(2 * batch, d, 256), np.ones(d, np.float32)
    tasks, sizes, slopes = [(rows, labels, rows, labels)], [d, *widths, classes], [0.0] * (count - 1) + [1.0]
    list(mlp.train_chunks(x, tasks, [(0, 0)], sizes, slopes, norms, adds, one, one, (1, 1, d), np.ones(1, np.float32),
                          0.9, 0.0, batch, -1, 0, precision, "cpu", gates=gates))  # fmt: skip
    if precision in ("tf32x3", "ieee") and batch == LIMIT:  # lines are measured in these
        ends = np.zeros((1, sum((a + 1 + 4 * norm) * b for (a, b), norm in zip(pairwise(sizes), norms, strict=True))))
        list(interpolate.interpolate_mlp(x, tasks, np.zeros(1, int), sizes, slopes, norms, adds, one, one, *gates,
                                         ends, ends, one[:1], precision, "cpu"))  # fmt: skip


def _cnn(strides: list[int], pools: list[int], shortcuts: list[int], gated: bool, precisions: tuple[str, ...],
         precision: str) -> None:  # fmt: skip
    """Train and evaluate one network of the paper's channels for two steps."""
    if precision not in precisions:
        return
    rows, labels, none = np.arange(256), np.arange(256) % 2, [0] * len(pools)
    x, one = _bytes(256, 3072, 256), np.ones(3072, np.float32)
    gates = np.array([gated - 1] * len(pools)), np.zeros(256**2, np.float32)
    list(cnn.train_chunks(x, [(rows, labels, rows, labels)], [(0, 0)], [3, 32, 64, 128, 256, 2], none, strides, none,
                          pools, shortcuts, one, one, (3, 32, 32), np.ones(1, np.float32), 0.9, 0.0, 128, 4, 0,
                          precision, "cpu", gates=gates))  # fmt: skip


def _recurrent(hidden: int, precision: str) -> None:
    """Train and evaluate one gru2 on two names, float32 whatever the others do."""
    names, rows, lr = _bytes(2, 3, 58), np.arange(2), np.ones(1, np.float32)
    list(gru.train_chunks(names, [(rows, rows, rows, rows)], [(0, 0)], 58, hidden, 2, lr, 1, 0, "cpu"))


def _chain(weights: list[tuple[int, ...]], precision: str) -> None:
    """Every chain feature of one network, and a classifier of 50 classes where its weights fit a device."""
    if precision not in gram.PRECISIONS:
        return
    arrays = [torch.ones(1, *shape) for shape in weights]
    dense = all(len(shape) == 2 for shape in weights)
    x = gram.chain_factor(arrays, row_normalize=dense, column_normalize=True, precision=precision)
    gram.chain_factor(arrays, precision=precision)
    D = x.shape[1]
    for form in ("packed", "factorised"):
        for b in (None, x):
            gram.chain_kernel(x, b, form, cosine=True, precision=precision)
    if D <= 4096:
        gram.chain_gram(x, precision=precision)
        gram.head(x, torch.empty(50, D, D), precision=precision)
        gram.head_gradient(x, torch.ones(1, 50), precision=precision)


def _units(units: int, samples: int, precision: str) -> None:
    if precision in gram.PRECISIONS:
        x = torch.ones(1, units, samples)
        correlation.correlation(x, x, [(0, 0)], precision=precision)


def _bytes(n: int, size: int, below: int) -> np.ndarray:
    return np.random.default_rng(0).integers(0, below, (n, size), np.uint8)
