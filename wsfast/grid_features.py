"""The grid's rows: kernels of a weight set whose hidden units can be brought into any order."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import partial

import numpy as np

from .aligning import align, reordered, shuffled_units
from .asymmetry import free_weights
from .chains import feature_kernel
from .declaration import Network
from .kernels.numba.gram import linear_kernel
from .layer_statistics import layer_statistics, parameters_up_to, statistics_kernel
from .pairs import cosines
from .protocols import Kernel
from .table import TITLES as KNOWN
from .weights import WeightSet

TITLES = {
    "raw": "raw weights",
    "aligned": "raw, aligned to one network",
    "sorted": "raw, units sorted by norm",
    **{name: KNOWN[name] for name in ("statistics", "chain", "chain_unit")},
}
ORDERLESS = ("statistics", "chain", "chain_unit")  # no function of the units' order


@dataclass(frozen=True)
class Sides:
    """A set under a declaration with all permutation groups. whole: its weights; free: the same, fixed entries 0."""

    whole: WeightSet
    free: WeightSet

    def shuffled(self, seed: int) -> "Sides":
        """A copy, each network's hidden units in a random order of its own, the same in both."""
        return Sides(*(shuffled_units(zoo, seed) for zoo in (self.whole, self.free)))


def sides(zoo: WeightSet, symmetric: Network) -> Sides:
    """symmetric: a declaration of the same parameters with the groups that zoo's own may lack.

    A FiGLU network has none, because its F tells the units apart; reordering them is then a relabelling of the units
    together with F, which is no parameter. ValueError where the parameters differ.
    """
    if [(p.name, p.shape) for p in zoo.network.parameters] != [(p.name, p.shape) for p in symmetric.parameters]:
        raise ValueError(f"grid: {zoo.network.name} and {symmetric.name} have other parameters")
    whole = replace(zoo, network=symmetric)
    free = {name: np.asarray(array) for name, array in free_weights(zoo).parameters.items()}
    return Sides(whole, replace(whole, parameters=free))


def kernels(of: Sides, reference: WeightSet, chain: int, device: str = "cpu") -> dict[str, Kernel]:
    """Every row of TITLES: float64 [N, N], all of them cosines, of statistics once a training part is named.

    raw: the weights W_1 .. W_l of chain l end to end. aligned: the same, units reordered to match the one network of
    `reference` (`wsfast.align`, weight matching on all parameters, fixed ones included). sorted: the same, units of
    every hidden layer by the falling norm of their incoming weights. statistics: of the same layers. chain, chain_unit:
    of the chain's product.

    Fixed entries of asymmetric networks are the same in every network and would be features that nothing was learned
    in; raw, aligned, sorted and statistics see zeros in their places. A chain multiplies them with what was learned,
    so it has them. device: where the chains' kernels are computed.
    """
    orders = align(of.whole, reference).orders
    statistics = layer_statistics(of.free)[:, : parameters_up_to(of.free, chain)]
    return {
        "raw": _cosines(of.free, chain),
        "aligned": _cosines(reordered(of.free, orders), chain),
        "sorted": _cosines(reordered(of.free, norm_orders(of.free)), chain),
        "statistics": partial(statistics_kernel, statistics),
        "chain": feature_kernel("chain", of.whole, chain=chain, device=device),
        "chain_unit": feature_kernel("chain_unit", of.whole, chain=chain, device=device),
    }


def norm_orders(zoo: WeightSet) -> Mapping[str, np.ndarray]:
    """group -> int64 [N, units]: the units by the falling norm of their incoming weights."""
    found = {}
    for p in zoo.network.parameters:
        if len(p.shape) == 2 and p.axes[-1] is not None:
            found[p.axes[-1]] = np.argsort(-np.linalg.norm(zoo.parameters[p.name], axis=1), axis=1, kind="stable")
    return found


def _cosines(zoo: WeightSet, chain: int) -> np.ndarray:
    flat = [zoo.parameters[p.name].reshape(len(zoo), -1) for p in zoo.network.chain(chain)]
    kernel = linear_kernel(np.concatenate(flat, axis=1))
    norm = np.sqrt(np.diag(kernel))
    return cosines(kernel, norm, norm)
