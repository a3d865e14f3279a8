"""Sets of one seed hold networks that start from the same weights: splits that keep those on one side."""

from collections.abc import Sequence

import numpy as np

from .protocols import classification_split
from .weights import WeightSet


def starts(zoos: Sequence[WeightSet]) -> list[np.ndarray]:
    """Of each set int64 [N]: equal numbers where networks start from the same weights, those of one seed, task and
    repeat. Networks of a set without a seed all have their own.
    """
    seeds = [zoo.info.get("seed") for zoo in zoos]
    origins = [seeds.index(seed) if seed is not None else k for k, seed in enumerate(seeds)]
    repeats = [np.arange(len(z)) if seed is None else z.repeats for z, seed in zip(zoos, seeds, strict=True)]
    known = [np.stack([np.full(len(z), k), z.labels, r]) for k, z, r in zip(origins, zoos, repeats, strict=True)]
    numbers = np.unique(np.concatenate(known, axis=1), axis=1, return_inverse=True)[1].ravel()
    return np.split(numbers, np.cumsum([len(zoo) for zoo in zoos])[:-1])


def splits(
    labels: Sequence[np.ndarray], starts: Sequence[np.ndarray], seed: int
) -> list[tuple[np.ndarray, np.ndarray]]:
    """(train, test) positions of each set: `classification_split` of each where no start comes twice; else of the
    starts, so that all networks of one are on the same side, in every set.

    A task's starts are split by the sets that lack them, so that each set gets its share. ValueError naming a task of
    which there is but one start.
    """
    every, first = np.unique(np.concatenate(starts), return_index=True)
    if len(every) == sum(map(len, starts)):
        return [classification_split(own, seed) for own in labels]
    task = np.concatenate(labels)[first]
    classification_split(task, seed)  # refuses what cannot be split at all
    lack = sum(~np.isin(every, own) * 2**k for k, own in enumerate(starts))
    for t in np.unique(task):
        kinds, counts = np.unique(lack[task == t], return_counts=True)
        lack[(task == t) & np.isin(lack, kinds[counts == 1])] = kinds[counts.argmax()]  # one alone cannot be split
    train = every[classification_split(task * 2 ** len(starts) + lack, seed)[0]]
    sides = [np.isin(own, train) for own in starts]
    return [(np.flatnonzero(side), np.flatnonzero(~side)) for side in sides]
