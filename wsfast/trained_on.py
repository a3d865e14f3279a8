"""The tasks that a set's networks were trained on, as its info tells them."""

from collections.abc import Sequence
from pathlib import Path

from .datasets import LOADERS
from .taskset import TaskSet, tasks
from .weights import WeightSet


def same_data(zoos: Sequence[WeightSet]) -> bool | None:
    """Whether all sets were generated on the same samples, splits and labels, by digest; None where one has none."""
    digests = [zoo.info.get("tasks_sha256") for zoo in zoos]
    return None if None in digests else len(set(digests)) == 1


def trained_on(op: str, zoo: WeightSet, given: TaskSet | None = None, root: str | Path | None = None) -> TaskSet:
    """The tasks of a set, loaded by its data's name and options (from `root`) where None are given.

    op: who asks, for messages. ValueError where no name tells them, or they are not those that the set was made from.
    """
    data, options = zoo.info.get("data"), zoo.info.get("data_options", {})
    if given is None and data not in LOADERS:
        raise ValueError(
            f"{op}: the set was trained on {data!r}, which no loader has: want its tasks, label i is tasks[i] "
            "(Python's tasks=...; of a known data set connectivity and converge take --data)"
        )
    try:
        found = tasks(data, n=len(zoo.task_names), root=root, **options) if given is None else given
    except TypeError as error:  # a manifest may say anything
        raise ValueError(f"{op}: {data} cannot be loaded with the set's data_options {options!r}: {error}") from error
    digest = zoo.info.get("tasks_sha256")
    if digest is not None and digest != found.sha256():
        raise ValueError(
            f"{op}: the set was trained on other data than these {len(found)} tasks of {found.name} ({found.source}): "
            "another version of it, or a choice of tasks or samples that only Python's tasks=... can give"
        )
    return found
