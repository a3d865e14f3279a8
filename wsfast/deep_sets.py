"""A metanetwork that sees every hidden layer as a set of units: what it says does not depend on their order."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import cast

import numpy as np
import torch
from threadpoolctl import threadpool_limits
from torch import nn

from .declaration import Network
from .families import fully_connected
from .kernel_arguments import mlp_layers
from .layer_statistics import CHUNK, moments
from .weights import WeightSet

WIDTH, BATCH, STEPS, EVERY, LR, DECAY = 64, 32, 1000, 20, 2e-3, 1e-2
HELD = 5  # every fifth training network decides which weights are kept
REACH = 5.0  # standard deviations; features further out are taken for this far


@dataclass(frozen=True)
class UnitFeatures:
    """sets: float32 [N, units, F] of every group of hidden units; alone: float32 [N, A] of parameters without one."""

    sets: tuple[np.ndarray, ...]
    alone: np.ndarray

    def __getitem__(self, rows: np.ndarray) -> "UnitFeatures":
        return UnitFeatures(tuple(s[rows] for s in self.sets), self.alone[rows])


def unit_features(zoo: WeightSet) -> UnitFeatures:
    """Of every hidden unit, and every parameter axis that it is a place on: the ten statistics of
    `wsfast.layer_statistics` of the numbers there (its incoming weights, its outgoing weights), or the number itself
    (its bias, its BatchNorm); of other parameters (the classes' biases) their statistics.

    Units in another order give the same sets in that order. ValueError for a network without hidden units.
    """
    axes = unit_axes(zoo.network)
    if not axes:
        raise ValueError(f"deep sets: {zoo.network.name} has no hidden units")
    found: list[list[np.ndarray]] = [[] for _ in axes]
    alone, used = [np.empty((len(zoo), 0), np.float32)], {name for pairs in axes.values() for name, _ in pairs}
    for p in zoo.network.parameters:
        if p.name not in used:
            alone.append(_statistics(zoo.parameters[p.name], p.size, None)[:, 0])
        for group, pairs in zip(found, axes.values(), strict=True):
            group += [_statistics(zoo.parameters[p.name], p.size, axis) for name, axis in pairs if name == p.name]
    return UnitFeatures(tuple(np.concatenate(group, axis=2) for group in found), np.concatenate(alone, axis=1))


def unit_axes(network: Network) -> dict[str, list[tuple[str, int]]]:
    """Every group of hidden units: the (parameter, axis) pairs that index its units.

    Of networks with FiGLU, whose F tells units apart, the groups that they would have without.
    """
    if not network.groups and (layers := mlp_layers(network)) is not None:
        sizes, slopes, norms, adds = (array.tolist() for array in layers)
        network = fully_connected(network.input_shape, network.classes, tuple(sizes[1:-1]), slopes, norms, adds)
    found: dict[str, list[tuple[str, int]]] = {group: [] for group in network.groups}
    for p in network.parameters:
        for axis, group in enumerate(p.axes):
            if group is not None:
                found[group].append((p.name, axis))
    return found


def _statistics(parameter: np.ndarray, size: int, axis: int | None) -> np.ndarray:
    """[N, *shape] -> float32 [N, units, 10], the slices along an axis, one where None; [N, units, 1] of vectors."""
    step, parts = max(1, CHUNK // size), []
    for i in range(0, len(parameter), step):
        part = np.asarray(parameter[i : i + step], np.float64)
        units = part[:, None] if axis is None else np.moveaxis(part, axis + 1, 1)
        rows = np.ascontiguousarray(units).reshape(units.shape[0] * units.shape[1], -1)
        parts.append((rows if rows.shape[1] == 1 else moments(rows)).reshape(*units.shape[:2], -1))
    return np.concatenate(parts).astype(np.float32)


class DeepSets(nn.Module):
    """rho(mean over units of phi_g(unit) of every group g, and what is alone): Zaheer et al., NeurIPS 2017."""

    def __init__(self, sets: Sequence[int], alone: int) -> None:
        super().__init__()
        self.phi = nn.ModuleList(
            nn.Sequential(nn.Linear(n, WIDTH), nn.ReLU(), nn.Linear(WIDTH, WIDTH), nn.ReLU()) for n in sets
        )
        self.rho = nn.Sequential(nn.Linear(len(sets) * WIDTH + alone, WIDTH), nn.ReLU(), nn.Linear(WIDTH, 1))

    def forward(self, sets: Sequence[torch.Tensor], alone: torch.Tensor) -> torch.Tensor:
        """sets [n, units, F] each, alone [n, A] -> [n]."""
        pooled = [phi(units).mean(dim=1) for phi, units in zip(self.phi, sets, strict=True)]
        return cast(torch.Tensor, self.rho(torch.cat([*pooled, alone], dim=1))[:, 0])


class DeepSetsRegressor:
    """DeepSets on standardised unit features, squared error, AdamW. Of the weights after every EVERY steps those with
    the least error on a fifth of the training networks, held out, are kept. A seed gives the same bits on one machine.
    """

    def __init__(self, seed: int = 0) -> None:
        self.seed = seed

    def fit(self, features: UnitFeatures, target: np.ndarray) -> "DeepSetsRegressor":
        """target float [n]."""
        self._scales = [_moments_over(s) for s in (*features.sets, features.alone)]
        self._mean, self._std = target.mean(), target.std() or 1.0
        sets, alone = self._inputs(features)
        y = torch.from_numpy(((target - self._mean) / self._std).astype(np.float32))
        rng = np.random.default_rng(self.seed)
        order = rng.permutation(len(y))
        held, rest = order[::HELD], np.delete(order, np.s_[::HELD])
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(self.seed)
            self._model = DeepSets([s.shape[2] for s in sets], alone.shape[1])
        optimizer = torch.optim.AdamW(self._model.parameters(), LR, weight_decay=DECAY)
        least, kept = np.inf, self._model.state_dict()
        with threadpool_limits(1):  # layers this small are slower on several cores
            for step in range(STEPS):
                rows = rng.choice(rest, min(BATCH, len(rest)), replace=False)
                loss = ((self._model([s[rows] for s in sets], alone[rows]) - y[rows]) ** 2).mean()
                optimizer.zero_grad()
                loss.backward()
                optimizer.step()
                if step % EVERY == EVERY - 1:
                    with torch.no_grad():
                        error = float(((self._model([s[held] for s in sets], alone[held]) - y[held]) ** 2).mean())
                    if error < least:
                        least, kept = error, {name: v.clone() for name, v in self._model.state_dict().items()}
        self._model.load_state_dict(kept)
        return self

    def predict(self, features: UnitFeatures) -> np.ndarray:
        """float64 [n]."""
        with torch.no_grad():
            found = self._model(*self._inputs(features)).numpy()
        return found.astype(np.float64) * self._std + self._mean

    def _inputs(self, features: UnitFeatures) -> tuple[list[torch.Tensor], torch.Tensor]:
        *sets, alone = (
            torch.from_numpy(np.clip((s - mean) / std, -REACH, REACH))
            for s, (mean, std) in zip((*features.sets, features.alone), self._scales, strict=True)
        )
        return sets, alone


def _moments_over(x: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Mean and deviation of the last axis's columns, float32; deviation 1 where a column is constant."""
    flat = x.reshape(-1, x.shape[-1])
    mean, std = flat.mean(axis=0, dtype=np.float64), flat.std(axis=0, dtype=np.float64)
    varies = std > 1e-6 * np.abs(flat).max(axis=0, initial=0)
    return mean.astype(np.float32), np.where(varies, std, 1).astype(np.float32)
