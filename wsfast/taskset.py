"""Tasks: small classification problems on which populations of networks are trained."""

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np

from . import datasets
from .datasets import Data
from .recipe import Recipe

TEST_FRACTION = 0.2


@dataclass(frozen=True)
class Task:
    """One problem: rows of the set's samples (int64) and their classes 0..C-1 (int64), for training and for testing."""

    name: str
    train_rows: np.ndarray
    train_labels: np.ndarray
    test_rows: np.ndarray
    test_labels: np.ndarray


@dataclass(frozen=True)
class TaskSet:
    """Tasks over shared samples.

    x: uint8 or float32 [n, d]. shape: of one sample, (d,) or (channels, height, width). scale, shift: float32 [d]; a
    network's input is x * scale + shift. Names: shape (steps, alphabet), x uint8 [n, steps] of letters 0 .. alphabet -
    1, `alphabet` past a name's end; the input is one-hot. source: where the data came from. recipe, width: what suits
    this data. options: of `tasks`, those given beside the name and n.
    """

    name: str
    x: np.ndarray
    shape: tuple[int, ...]
    scale: np.ndarray
    shift: np.ndarray
    tasks: tuple[Task, ...]
    classes: int
    source: str
    recipe: Recipe = field(default_factory=Recipe)
    width: int | None = None
    options: Mapping[str, Any] = field(default_factory=dict)

    def __len__(self) -> int:
        return len(self.tasks)

    def __getitem__(self, task: int) -> Task:
        return self.tasks[task]

    @property
    def names(self) -> list[str]:
        return [task.name for task in self.tasks]

    def sha256(self) -> str:
        """Of everything that a network trained on these tasks depends on."""
        digest = hashlib.sha256(repr((self.shape, self.classes, len(self))).encode())
        arrays = [self.x, self.scale, self.shift]
        for t in self.tasks:
            arrays += [t.train_rows, t.train_labels, t.test_rows, t.test_labels]
        for array in arrays:
            digest.update(f"{array.dtype.str} {array.shape}".encode())
            digest.update(np.ascontiguousarray(array).data)
        return digest.hexdigest()

    def inputs(self, rows: np.ndarray) -> np.ndarray:
        """What a network sees of these rows: float32 [len(rows), *shape]; of a name, the steps before its end."""
        if len(self.shape) == 2:
            return (self.x[rows][:, :, None] == np.arange(self.shape[1])).astype(np.float32)
        return (self.x[rows] * self.scale + self.shift).astype(np.float32).reshape(-1, *self.shape)

    def regrouped(self) -> "TaskSet":
        """The same images under three labelings: 3 tasks of 2 classes, ab|cd, ac|bd and ad|bc.

        a, b, c, d are the first four classes of this set's tasks that share no sample. Networks that can be told apart
        by such a task were told apart by the labeling, not by the images. ValueError where there are not four.
        """
        found: list[tuple[Task, int]] = []
        used = np.zeros(len(self.x), bool)
        for task in self.tasks:
            for label in range(self.classes):
                train, test = task.train_rows[task.train_labels == label], task.test_rows[task.test_labels == label]
                own = np.concatenate([train, test])
                if len(found) < 4 and not used[own].any():
                    used[own] = True
                    found.append((task, label))
        if len(found) < 4:
            raise ValueError(
                f"regrouped: want 4 classes without a sample in common, the {len(self)} tasks of {self.name} have "
                f"{len(found)} (more tasks)"
            )

        def pairing(name: str, second: tuple[int, int]) -> Task:
            """Samples in one order whatever the labeling."""
            parts = []
            for kind in ("train", "test"):
                own = [getattr(t, f"{kind}_rows")[getattr(t, f"{kind}_labels") == label] for t, label in found]
                parts += [np.concatenate(own), np.repeat([int(i in second) for i in range(4)], [len(r) for r in own])]
            return Task(name, *parts)

        pairings = {"ab|cd": (2, 3), "ac|bd": (1, 3), "ad|bc": (1, 2)}
        three = tuple(pairing(*item) for item in pairings.items())
        return replace(self, name=f"{self.name}, relabelled", tasks=three, classes=2)

    def shuffled(self, n: int = 5, seed: int = 0) -> "TaskSet":
        """The first task's images under n random labelings, each dealt out once for all networks of its task.

        Labels can only be learned by heart, training and test labels are dealt apart, and the images are the same:
        tasks that can be told apart were told apart by what was memorised. ValueError for n below 2.
        """
        if n < 2:
            raise ValueError(f"shuffled: n must be at least 2, got {n}")
        rng, first = np.random.default_rng([seed, n]), self.tasks[0]

        def dealt(k: int) -> Task:
            labels = {name: rng.permutation(getattr(first, name)) for name in ("train_labels", "test_labels")}
            return replace(first, name=f"{first.name}, shuffled {k + 1}", **labels)

        return replace(self, name=f"{self.name}, shuffled", tasks=tuple(map(dealt, range(n))))


def tasks(
    data: Any,
    y: Any = None,
    *,
    groups: Any = None,
    n: int | None = None,
    root: str | Path | None = None,
    test_fraction: float = TEST_FRACTION,
    **options: Any,
) -> TaskSet:
    """The tasks of a known data set, or of any arrays.

    `tasks("digits")`: scikit-learn's 8x8 digits, the 45 pairs of classes. `tasks("cifar100")`: classes (2i, 2i+1), 50
    tasks, from `cifar-100-python/`. `tasks("tiny_imagenet")`: four classes each in folder order, 50 tasks, 32x32
    pixels, from `tiny-imagenet-200/`. `tasks("names", clean=True, split_seed=0)`: surnames of two languages each, 9
    tasks, from `names/*.txt` (NameData), or where root is None and there is no such folder `tasks("faker_surnames")`,
    those of the Faker package, the set's name in every result; half of each language trains, drawn from split_seed;
    clean: junk and repeated lines left out (`wsfast.names.tidy`). root: the folder that holds them, the environment's
    WSFAST_DATA where None.

    `tasks(x, y, groups=...)`: x [samples, ...] uint8 or float (images as [channels, height, width]), y [samples]
    integers. groups: a list of tuples of classes, one task each; or an array [samples] that gives each sample's task;
    every pair of classes where None. test_fraction of each class of a task (also of digits) is held out, chosen by a
    fixed seed.

    n: the first so many tasks. ValueError for a name that is not known, labels that do not match, data that is not
    finite; FileNotFoundError or ValueError for a data root that is missing or damaged.
    """
    if n is not None and n < 1:
        raise ValueError(f"tasks: n must be at least 1, got {n}")
    if isinstance(data, str):
        if y is not None or groups is not None:
            raise ValueError(
                f"tasks: y and groups belong to arrays, {data!r} has its own (want tasks(x, y, groups=...))"
            )
        if data not in datasets.LOADERS:
            raise ValueError(f"tasks: data must be one of {', '.join(datasets.LOADERS)} or an array, got {data!r}")
        given = options if test_fraction == TEST_FRACTION else {**options, "test_fraction": test_fraction}
        known = datasets.OPTIONS.get(data, {})
        if unknown := given.keys() - known.keys():
            raise TypeError(f"tasks: {data} has no option {', '.join(sorted(unknown))}")
        loaded = datasets.LOADERS[data](n, root, **options)
        options = {name: known[name](value) for name, value in given.items()}
    elif options:
        raise TypeError(f"tasks: arrays have no option {', '.join(sorted(options))}")
    else:
        loaded = datasets.from_arrays(data, y)
    found = _published(loaded) if loaded.split is not None else _split(loaded, groups, n, test_fraction)
    return replace(found, options=options)


def _set(data: Data, found: list[Task]) -> TaskSet:
    if not found:
        raise ValueError("tasks: want at least one task, of at least 2 classes, got none")
    counts = [len(np.unique(t.train_labels)) for t in found]
    if len(set(counts)) > 1:
        raise ValueError(f"tasks: every task needs the same number of classes, got {sorted(set(counts))}")
    if counts[0] < 2:
        raise ValueError("tasks: every task needs at least 2 classes, got 1")
    channels = data.shape[0] if len(data.shape) == 3 else 1
    per_channel = data.x.shape[1] // channels
    scale, shift = (np.repeat(np.asarray(v, np.float32), per_channel) for v in (data.scale, data.shift))
    x = np.require(data.x, requirements=("C", "W"))  # kernels would be compiled once more for others, or not at all
    return TaskSet(
        data.name, x, data.shape, scale, shift, tuple(found), counts[0], data.source, data.recipe, data.width
    )


def _published(data: Data) -> TaskSet:
    """Tasks of a data set with its own train and test split."""
    assert data.split is not None
    found = []
    for group in data.groups or []:
        parts = []
        for test in (False, True):
            rows = np.flatnonzero(np.isin(data.y, group) & (data.split == test))
            parts += [rows, np.searchsorted(group, data.y[rows])]
        found.append(Task("+".join(data.class_names[c] for c in group), *parts))
    return _set(data, found)


def _split(data: Data, groups: Any, n: int | None, test_fraction: float) -> TaskSet:
    """Tasks of arrays, a share of each class of a task held out."""
    if not 0 <= test_fraction < 1:
        raise ValueError(f"tasks: test_fraction must be in [0, 1), got {test_fraction}")
    found = []
    for index, (name, rows) in enumerate(_members(data, groups, n)):
        classes, labels = np.unique(data.y[rows], return_inverse=True)
        rng = np.random.default_rng([index, len(rows)])
        test = np.zeros(len(rows), bool)
        for c in range(len(classes)):
            own = np.flatnonzero(labels == c)
            test[rng.permutation(own)[: int(test_fraction * len(own))]] = True
        found.append(Task(name, rows[~test], labels[~test], rows[test], labels[test]))
    return _set(data, found)


def _members(data: Data, groups: Any, n: int | None) -> list[tuple[str, np.ndarray]]:
    """(name, rows) of each task."""
    if groups is None:
        classes = np.unique(data.y)
        groups = [(a, b) for i, a in enumerate(classes) for b in classes[i + 1 :]]
    groups = list(groups)
    if groups and not isinstance(groups[0], (Sequence, np.ndarray)):
        array = np.asarray(groups)
        if array.shape != data.y.shape:
            raise ValueError(f"tasks: groups must give each of {len(data.y)} samples its task, got shape {array.shape}")
        return [(str(g), np.flatnonzero(array == g)) for g in np.unique(array)[:n]]
    known = set(data.y.tolist())
    for group in groups[:n]:
        if missing := set(group) - known:
            raise ValueError(f"tasks: group {tuple(group)} names class {missing.pop()}, which has no sample")
    names = data.class_names
    label = (lambda c: names[c]) if names else str
    return [("+".join(label(c) for c in g), np.flatnonzero(np.isin(data.y, list(g)))) for g in groups[:n]]
