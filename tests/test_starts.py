"""Splits that keep networks of one start on one side."""

from dataclasses import replace

import numpy as np
import pytest

from wsfast.protocols import classification_split
from wsfast.starts import splits, starts


def test_each_set_gets_its_share_of_each_task():
    """Of 20 starts of a task a lacks five, b another five, c none."""
    labels, starts = np.repeat([0, 7], 20), np.arange(40)
    kept = [starts % 20 >= 5, starts % 20 < 15, starts % 20 >= 0]
    order = np.random.default_rng(0).permutation(40)
    own = [order[k[order]] for k in kept]
    found = splits([labels[o] for o in own], [starts[o] for o in own], seed=3)
    train, test = ({k for o, part in zip(own, found, strict=True) for k in o[part[side]]} for side in (0, 1))
    assert not train & test
    for o, (train, test) in zip(own, found, strict=True):
        np.testing.assert_array_equal(np.sort([*train, *test]), np.arange(len(o)))
        np.testing.assert_array_equal(np.bincount(labels[o[train]], minlength=8)[[0, 7]], [0.6 * len(o) / 2] * 2)


def test_starts_that_one_set_has_alone():
    """Of each task one start is in both sets, one in a alone, one in b alone: all three are split together."""
    labels, a, b = np.array([0, 0, 1, 1]), np.array([0, 1, 10, 11]), np.array([0, 2, 10, 12])
    for seed in range(9):
        found = splits([labels, labels], [a, b], seed)
        train = {*a[found[0][0]], *b[found[1][0]]}
        assert len(train & {0, 1, 2}) == len(train & {10, 11, 12}) == 2


def test_sets_without_a_common_start_are_split_alone():
    labels = np.repeat([0, 1, 2], 5)
    for train, test in splits([labels, labels], [np.arange(15), np.arange(15, 30)], 4):
        np.testing.assert_array_equal(train, classification_split(labels, 4)[0])
        np.testing.assert_array_equal(test, classification_split(labels, 4)[1])


def test_a_task_of_one_start_is_named():
    labels = np.array([0, 0, 0, 6, 6])
    with pytest.raises(ValueError, match="task 6 has 1 usable networks"):
        splits([labels], [np.array([1, 2, 3, 8, 8])], 0)


def test_networks_share_a_start_by_seed_task_and_repeat(zoo):
    """A set without a seed, put together by hand, may number its networks as it likes."""
    own = replace(zoo, repeats=np.zeros_like(zoo.repeats), info={"data": "imported"})
    first, again, other, unknown = starts([zoo, zoo[::-1], replace(zoo, info={**zoo.info, "seed": 1}), own])
    np.testing.assert_array_equal(first, again[::-1])
    assert len(np.unique([*first, *other, *unknown])) == 3 * len(zoo)
