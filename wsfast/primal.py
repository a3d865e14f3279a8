"""The paper's weight classifier on the d x d weights themselves, run through a backend's fused `head`."""

from collections.abc import Callable
from types import ModuleType

import numpy as np

from .chains import GRAM_LIMIT
from .kernels.numba import philox
from .reference.mlp import cross_entropy
from .reference.philox import CLASSIFIER


def primal_head(d: int, classes: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """The start of `reference.classifier.initial_head` as (A [C, d, d], b [C]), float32: <A_c, G> + b_c are the logits.

    ValueError with the size where A would take over 4 GiB.
    """
    size = classes * d * d * 4
    if size > GRAM_LIMIT:
        raise ValueError(
            f"WeightClassifier: sgd-primal's weights [{classes}, {d}, {d}] would take {size / 2**30:,.1f} GiB, the "
            f"limit is {GRAM_LIMIT / 2**30:.0f} (use solver='sgd', the same run in the dual)"
        )
    draw = (1 / d, np.uint64(seed), 0, 0, CLASSIFIER)  # 1 / sqrt(d^2)
    a = philox.uniform(d * d * classes, *draw, 0).reshape(d * d, classes)
    return np.ascontiguousarray(a.T).reshape(classes, d, d), philox.uniform(classes, *draw, 1)


def primal_sgd(
    ops: ModuleType,
    factor: Callable[[np.ndarray], np.ndarray],
    run: int,
    labels: np.ndarray,
    a: np.ndarray,
    b: np.ndarray,
    order: np.ndarray,
    lr: np.ndarray,
    momentum: float,
) -> tuple[np.ndarray, np.ndarray]:
    """SGD with momentum from (a, b), one network a step, as `reference.classifier.primal_sgd` -> (a [C, d, d], b [C]).

    ops: a backend's gram module; factor: positions [n] -> chain factors [n, d, r], asked for `run` networks at a time,
    anew in each epoch; labels int [N]; order int [epochs, N]; lr [epochs]. Holds those factors, three arrays of a's
    size beside a step's, and no Gram.
    """
    a, b = a.copy(), b.copy()
    v_a, v_b = np.zeros_like(a), np.zeros_like(b)
    for rate, epoch in zip(lr.tolist(), order, strict=True):
        for rows in np.split(epoch, range(run, len(epoch), run)):
            x = factor(rows)
            for i, row in enumerate(rows):
                _, gradient = cross_entropy(ops.head(x[i : i + 1], a) + b, labels[row : row + 1])
                v_a *= momentum
                v_a += ops.head_gradient(x[i : i + 1], gradient)
                v_b = momentum * v_b + gradient[0].astype(b.dtype)
                a -= rate * v_a
                b -= rate * v_b
    return a, b
