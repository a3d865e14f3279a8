"""Per-layer statistics of weights: a baseline that cannot see more than how each layer's numbers are distributed."""

import numpy as np

from .weights import WeightSet

QUANTILES = (0.0, 0.25, 0.5, 0.75, 1.0)
CHUNK = 1 << 22  # numbers summarised at a time


def layer_statistics(zoo: WeightSet) -> np.ndarray:
    """Statistics of every trained parameter: float64 [N, P, 10], parameters in the network's order.

    Mean, standard deviation, skewness, kurtosis (0 for a constant), Euclidean norm and the quantiles 0, 25, 50, 75,
    100 %. None depends on the order of hidden units. In imported sets of mixed widths the zeros that fill up narrower
    networks count, too. Means, deviations and quantiles of each layer's weights and biases are the features of
    Unterthiner et al., Predicting Neural Network Accuracy from Weights (arXiv 2002.11448).
    """
    return np.stack([_summary(zoo.parameters[p.name], p.size) for p in zoo.network.parameters if p.trained], axis=1)


def _summary(parameter: np.ndarray, size: int) -> np.ndarray:
    """[N, ...] of `size` numbers each -> [N, 10], a few networks read at a time."""
    step = max(1, CHUNK // size)
    parts = (np.asarray(parameter[i : i + step], np.float64) for i in range(0, len(parameter), step))
    return np.concatenate([moments(part.reshape(len(part), -1)) for part in parts])


def moments(x: np.ndarray) -> np.ndarray:
    """The ten statistics of every row of x [n, m]: float64 [n, 10]."""
    mean = x.mean(axis=1)
    centred = x - mean[:, None]
    std = np.sqrt((centred**2).mean(axis=1))
    constant = std <= 1e-12 * np.abs(x).max(axis=1)
    z = centred / np.where(constant, 1, std)[:, None]
    square = z * z  # z**3 would call pow
    skewness, kurtosis = (np.where(constant, 0, (square * v).mean(axis=1)) for v in (z, square))
    norm = np.linalg.norm(x, axis=1)
    return np.stack([mean, std, skewness, kurtosis, norm, *np.quantile(x, QUANTILES, axis=1)], axis=1)


def parameters_up_to(zoo: WeightSet, chain: int) -> int:
    """How many trained parameters the layers have, up to the last weight of a chain and its bias."""
    last, count = zoo.network.chain(chain)[-1].name, 0
    for layer in zoo.network.layers:
        count += sum(p.trained for p in layer.parameters)
        if any(p.name == last for p in layer.parameters):
            break
    return count


def statistics_kernel(statistics: np.ndarray, train: np.ndarray) -> np.ndarray:
    """Cosines of standardised statistics [N, P, S] -> float64 [N, N].

    Each column to mean 0 and deviation 1 over the networks at `train`, positions int [n], without looking at labels; a
    column that is constant there counts as 0, and so does the cosine of a network at the mean.
    """
    x = statistics.reshape(len(statistics), -1)
    mean, std = x[train].mean(axis=0), x[train].std(axis=0)
    varies = std > 1e-9 * np.abs(x[train]).max(axis=0)
    x = (x - mean)[:, varies] / std[varies]
    norm = np.linalg.norm(x, axis=1, keepdims=True)
    x /= np.where(norm > 0, norm, 1)
    return x @ x.T
