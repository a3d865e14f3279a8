import numpy as np
import pytest

from wsfast import controls
from wsfast.inference import clopper_pearson
from wsfast.protocols import Outcome


def population(tasks=8, repeats=60, modes=1, d=30):
    """A linear kernel of networks that scatter around the modes of their task."""
    rng = np.random.default_rng([tasks, repeats, modes])
    labels = np.repeat(np.arange(tasks), repeats)
    mode = rng.integers(modes, size=len(labels))
    x = rng.standard_normal((tasks, modes, d))[labels, mode] + rng.standard_normal((len(labels), d)) / np.sqrt(d)
    return x @ x.T, labels


def counted(errors):
    """So many errors of a hundred, chance one half."""
    return Outcome(np.arange(100) < errors, np.zeros(100, int), 0.5)


@pytest.mark.parametrize("modes", [1, 2])
@pytest.mark.parametrize("solver", ["ridge", "sgd"])
def test_one_task_split_in_two_is_at_chance_modes_or_not(modes, solver):
    kernel, labels = population(modes=modes)
    halves, left_out = controls.split_one_task(kernel, labels, solver=solver)
    assert left_out == 0
    assert halves.chance == 0.5
    assert halves.n == 8 * 24
    assert np.bincount(halves.tasks).tolist() == [24] * 8
    assert 0.35 < halves.accuracy < 0.65


def test_the_halves_do_not_follow_the_sets_order():
    """Networks that alternate between two kinds, as where two machines trained them in turn."""
    kernel, labels = population()
    kind = 3.0 * (np.arange(len(labels)) % 2)
    halves, _ = controls.split_one_task(kernel + np.outer(kind, kind), labels)
    assert 0.35 < halves.accuracy < 0.65


def test_the_classifier_is_the_studys():
    kernel, labels = population()
    ridge, sgd = (controls.split_one_task(kernel, labels, solver=s)[0].wrong for s in ("ridge", "sgd"))
    assert (ridge != sgd).any()


def test_small_tasks_are_left_out_and_counted():
    kernel, labels = population(tasks=4, repeats=8)
    kept = np.concatenate([np.arange(8), np.arange(8, 11), np.arange(16, 20), np.arange(24, 25)])  # 8, 3, 4, 1 networks
    halves, left_out = controls.split_one_task(kernel[np.ix_(kept, kept)], labels[kept] + 5)
    assert left_out == 2
    assert sorted(set(halves.tasks)) == [5, 7]
    few = np.array([0, 8, 9, 10, 16, 17])
    with pytest.raises(ValueError, match=r"want a task of at least 4 usable networks \(generate more repeats\)"):
        controls.split_one_task(kernel[np.ix_(few, few)], labels[few] + 5)


def test_the_margin_is_the_far_end_of_the_interval():
    found = controls.against_chance(counted(52))
    low, high = clopper_pearson(52, 100)
    assert found["margin"] == pytest.approx(max(0.5 - (1 - high), (1 - low) - 0.5))
    assert found["contains_chance"]
    assert found["p_two_sided"] > 0.6


@pytest.mark.parametrize("errors", [20, 80])
def test_a_control_is_off_chance_in_either_direction(errors):
    fine, off = controls.against_chance(counted(51)), controls.against_chance(counted(errors))
    assert not off["contains_chance"]
    assert controls.chance_verdict([fine, fine], 0.05)["controls_at_chance"]
    said = controls.chance_verdict([fine, off], 0.05)
    assert not said["controls_at_chance"]
    assert said["controls_margin"] == off["margin"] > 0.3


def test_one_of_many_controls_may_be_unlucky():
    unlucky = controls.against_chance(counted(39))
    assert unlucky["p_two_sided"] < 0.05
    assert controls.chance_verdict([unlucky] + [controls.against_chance(counted(50))] * 5, 0.05)["controls_at_chance"]


def test_all_controls_are_judged_together():
    """The least p-value of two counts double (Holm)."""
    for p, fine in ((0.024, False), (0.026, True)):
        said = controls.chance_verdict([{"p_two_sided": p, "margin": 0.1}, {"p_two_sided": 0.5, "margin": 0.2}], 0.05)
        assert said == {"controls_at_chance": fine, "controls_margin": 0.2}
