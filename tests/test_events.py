import logging

import numpy as np
import pytest

from wsfast import events, generation


def test_rate_and_time_left_are_of_this_run(monkeypatch, caplog):
    now = [100.0]
    monkeypatch.setattr(events.time, "perf_counter", lambda: now[0])
    with caplog.at_level(logging.INFO, "wsfast"), events.Progress("work", 10, "net", False, already=4) as said:
        said.finished(1)  # too early to be told
        now[0] += 2
        said.finished(3, loss=0.5)
        now[0] += 0.5
        said.finished(2)  # the last is told at once
    where = {"what": "work", "unit": "net", "total": 10}
    assert [record.fields for record in caplog.records] == [
        {**where, "done": 8, "per_s": 2.0, "eta_s": 1.0, "loss": 0.5},
        {**where, "done": 10, "per_s": pytest.approx(2.4), "eta_s": 0.0},
    ]


def test_what_is_known_of_the_networks_so_far():
    so_far = generation._SoFar()
    for diverged, train, test in (([1, 0], [0.5, 1], [0, 1]), ([1], [0], [0.5])):
        columns = {"diverged": diverged, "train_accuracy": train, "test_accuracy": test}
        told = so_far.add({name: np.array(column) for name, column in columns.items()})
    assert told == {"diverged": 2, "train_accuracy": 0.5, "test_accuracy": 0.5}
