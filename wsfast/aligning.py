"""Bring the hidden units of networks into another network's order: the baseline that chain features do without."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
from scipy.optimize import linear_sum_assignment
from threadpoolctl import threadpool_limits

from . import backends
from .activations import activations, hidden_outputs
from .declaration import Network, Parameter
from .kernels.numba.threads import unordered
from .weights import WeightSet

METHODS = ("weights", "activations")
LEAST = 1e-12  # a gain, as a share of |a| |b|, that is more than rounding
Arrays = Mapping[str, np.ndarray]


@dataclass(frozen=True)
class Alignment:
    """zoo: the same networks with their units reordered. orders: group -> int64 [N, units]: unit orders[g][i, k] of
    network i now stands at place k. objective: each network's values, float64, never falling: as it came, then after
    every step that was taken."""

    zoo: WeightSet
    orders: dict[str, np.ndarray]
    objective: tuple[np.ndarray, ...]


def align(
    zoo: WeightSet,
    to: WeightSet,
    *,
    method: str = "weights",
    inputs: np.ndarray | Sequence[np.ndarray] | None = None,
    backend: str | None = None,
    device: str = "cpu",
    threads: int | None = None,
) -> Alignment:
    """Reorder every network's hidden units so that they match those of a reference; its function stays the same.

    to: one network, the reference of all, or as many as the set has, network i's being the i-th. method "weights":
    weight matching (Ainsworth et al., "Git Re-Basin", ICLR 2023, section 3.2): coordinate ascent over the declaration's
    permutation groups on the inner product of all trained parameters, a linear assignment each, until none gains. It
    starts from the order found layer by layer from the inputs on, or from the networks' own where that is better. Where
    a group stands on both axes of a weight (a GRU's W_hh) the assignment is one of the linearised objective, and is
    taken only if the objective itself gains. method "activations": one assignment a group on the Pearson correlations
    of the units (Li et al. 2016) over `inputs`, [samples, *input_shape] as a network takes them (a list of arrays for
    names of several lengths), summed over the group's layers; the objective is the sum of matched correlations.
    backend, device: of the correlations. threads: networks aligned at the same time, all cores where None.

    ValueError for networks of another shape or number, diverged ones, or inputs that are missing or out of place.
    """
    if method not in METHODS:
        raise ValueError(f"align: method must be one of {', '.join(METHODS)}, got {method!r}")
    if (inputs is None) == (method == "activations"):
        raise ValueError(
            f"align: inputs belong to method activations alone, got {method} with{'out' * (inputs is None)}"
        )
    if zoo.network.layers != to.network.layers:
        raise ValueError(f"align: the networks must be of one declaration, got {zoo.network.name}, {to.network.name}")
    if len(to) not in (1, len(zoo)):
        raise ValueError(f"align: to must be 1 network or as many as the set's {len(zoo)}, got {len(to)}")
    for name, given in (("zoo", zoo), ("to", to)):
        if given.diverged.any():
            raise ValueError(f"align: {int(given.diverged.sum())} networks of {name} diverged (zoo[~zoo.diverged])")
    network = zoo.network
    if inputs is not None:
        scores = _correlations(zoo, to, inputs, backend, device)
        one = lambda i: _assigned({group: r[i] for group, r in scores.items()})  # noqa: E731
    else:
        one = lambda i: _ascended(network, _numbers(to, i % len(to)), _numbers(zoo, i))  # noqa: E731
    with threadpool_limits(1, "blas"):  # its threads beside ours wait for each other
        found = dict(unordered(one, range(len(zoo)), threads))
    orders = {group: np.array([found[i][0][group] for i in range(len(zoo))]) for group in network.groups}
    return Alignment(reordered(zoo, orders), orders, tuple(found[i][1] for i in range(len(zoo))))


def reordered(zoo: WeightSet, orders: Arrays) -> WeightSet:
    """The same networks with unit orders[group][i, k] of network i at place k: int [N, units] of every group."""
    parameters = {}
    for p in zoo.network.parameters:
        array = np.empty((len(zoo), *p.shape), np.float32)
        for i in range(len(zoo)):
            array[i] = _reordered(p, zoo.parameters[p.name][i], {group: rows[i] for group, rows in orders.items()})
        parameters[p.name] = array
    return replace(zoo, parameters=parameters)


def shuffled_units(zoo: WeightSet, seed: int = 0) -> WeightSet:
    """The same networks, each with the units of every group in a random order of its own."""
    rng = np.random.default_rng(seed)
    groups = zoo.network.groups.items()
    return reordered(zoo, {g: np.array([rng.permutation(n) for _ in range(len(zoo))]) for g, n in groups})


def _reordered(p: Parameter, array: np.ndarray, orders: Arrays, but: int = -1) -> np.ndarray:
    """One parameter with the axes of these groups reordered, except the axis `but`."""
    for axis, group in enumerate(p.axes):
        if group is not None and group in orders and axis != but:
            array = array.take(orders[group], axis)
    return array


def _numbers(zoo: WeightSet, i: int) -> dict[str, np.ndarray]:
    return {p.name: zoo.parameters[p.name][i].astype(np.float64) for p in zoo.network.parameters if p.trained}


def _assign(scores: np.ndarray) -> np.ndarray:
    return linear_sum_assignment(scores, maximize=True)[1]


def _ascended(network: Network, a: Arrays, b: Arrays) -> tuple[dict[str, np.ndarray], np.ndarray]:
    """(the orders of b's groups, the objective's path) by weight matching."""
    orders = {group: np.arange(n) for group, n in network.groups.items()}
    start: dict[str, np.ndarray] = {}
    for group in orders:
        start[group] = _assign(_scores(network, group, a, b, start))
    path = [_objective(network, a, b, orders)]
    least = LEAST * np.sqrt(sum((x**2).sum() for x in a.values()) * sum((x**2).sum() for x in b.values()))

    def better(tried: dict[str, np.ndarray]) -> bool:
        value = _objective(network, a, b, tried)
        gains = value > path[-1] + least
        if gains:
            path.append(value)
        return gains

    if better(start):
        orders = start
    gained = True
    while gained:
        gained = False
        for group in orders:
            tried = {**orders, group: _assign(_scores(network, group, a, b, orders))}
            if better(tried):
                orders, gained = tried, True
    return orders, np.array(path)


def _objective(network: Network, a: Arrays, b: Arrays, orders: Arrays) -> float:
    trained = (p for p in network.parameters if p.trained)
    return float(sum(np.vdot(a[p.name], _reordered(p, b[p.name], orders)) for p in trained))


def _scores(network: Network, group: str, a: Arrays, b: Arrays, orders: Arrays) -> np.ndarray:
    """[n, n]: inner products of the group's units of a and of b, over the parameters whose other groups are ordered."""
    n = network.groups[group]
    total = np.zeros((n, n))
    for p in network.parameters:
        for axis, own in enumerate(p.axes):
            others = {g for k, g in enumerate(p.axes) if k != axis and g is not None}
            if p.trained and own == group and others <= orders.keys():
                theirs = _reordered(p, b[p.name], orders, but=axis)
                x, y = (np.moveaxis(z, axis, 0).reshape(n, -1) for z in (a[p.name], theirs))
                total += x @ y.T
    return total


def _correlations(
    zoo: WeightSet, to: WeightSet, inputs: np.ndarray | Sequence[np.ndarray], backend: str | None, device: str
) -> dict[str, np.ndarray]:
    """group -> [N, n, n]: correlations of the reference's units with each network's, summed over the group's layers."""
    correlation = backends.load("correlation", backend, device).correlation
    pairs = np.array([(i % len(to), i) for i in range(len(zoo))])
    ours, theirs = activations(zoo, inputs), activations(to, inputs)
    total: dict[str, np.ndarray] = {}
    for layer, group in hidden_outputs(zoo.network).items():
        if group is not None:
            total[group] = total.get(group, 0) + correlation(theirs[layer], ours[layer], pairs)
    return total


def _assigned(scores: Arrays) -> tuple[dict[str, np.ndarray], np.ndarray]:
    orders = {group: _assign(r) for group, r in scores.items()}
    before = sum(np.trace(r, dtype=np.float64) for r in scores.values())
    after = sum(r[np.arange(len(r)), orders[group]].sum(dtype=np.float64) for group, r in scores.items())
    return orders, np.array([before, after])
