import numpy as np
import pytest

from wsfast import protocols
from wsfast.inference import p_chance


def population(tasks=8, repeats=20, signal=1.0, d=30):
    """A linear kernel of networks that scatter around their task's mean."""
    rng = np.random.default_rng([tasks, repeats])
    labels = np.repeat(np.arange(tasks), repeats)
    x = signal * rng.standard_normal((tasks, d))[labels] + rng.standard_normal((len(labels), d)) / np.sqrt(d)
    return x @ x.T, labels


def test_classification_split_is_per_task():
    _, labels = population()
    train, test = protocols.classification_split(labels, seed=1)
    np.testing.assert_array_equal(np.sort(np.concatenate([train, test])), np.arange(160))
    assert np.bincount(labels[train]).tolist() == [12] * 8
    assert (protocols.classification_split(labels, 2)[0] != train).any()


def test_the_papers_counts():
    labels = np.repeat(np.arange(50), 100)
    train, test = protocols.classification_split(labels, 0)
    assert (len(train), len(test)) == (3000, 2000)
    train, query, gallery = protocols.retrieval_split(labels, 0)
    assert (len(train), len(query), len(gallery)) == (3000, 400, 1600)
    assert not set(labels[train]) & set(labels[query])
    assert set(labels[query]) == set(labels[gallery])
    assert not set(query) & set(gallery)
    assert set(labels[protocols.retrieval_split(labels, 1)[0]]) != set(labels[train])
    train, query, gallery = protocols.retrieval_split(np.repeat(np.arange(9), 100), 0)
    assert (len(train), len(query), len(gallery)) == (500, 80, 320)


@pytest.mark.parametrize("solver", ["ridge", "sgd"])
def test_separable_tasks_are_found(solver):
    kernel, labels = population()
    found = protocols.classification(kernel, labels, solver=solver)
    assert found.errors == 0
    assert found.n == 64
    assert found.chance == 1 / 8
    for how in (solver, "cosine"):
        ranked = protocols.retrieval(kernel, labels, solver=how)
        assert ranked.errors == 0
        assert ranked.extra["map"] > 0.9
        assert ranked.chance == 1 / 3
        assert ranked.curve[0] == 1


def test_noise_is_at_chance():
    kernel, labels = population(signal=0.0, repeats=40)
    found = protocols.classification(kernel, labels, solver="ridge")
    assert 0.03 < found.accuracy < 0.25
    test = protocols.permutation_test(kernel, labels, 50)
    assert test["permutation_accuracy"] == found.accuracy
    assert test["p_permutation"] > 0.02
    assert test["permuted_accuracy"] == pytest.approx(1 / 8, abs=0.04)
    assert protocols.permutation_test(kernel, labels, 50) == test
    for seed in (1, 2):  # the split is the classification's
        accuracy = protocols.classification(kernel, labels, seed, "ridge").accuracy
        assert protocols.permutation_test(kernel, labels, 1, seed)["permutation_accuracy"] == accuracy != found.accuracy
    np.testing.assert_array_equal(protocols.classification(kernel, labels, solver="ridge").wrong, found.wrong)


@pytest.mark.parametrize("solver", ["logistic", "ridge"])
def test_chance_knows_that_one_task_may_be_larger_than_the_others(solver):
    """Whoever always says the largest task is right more often than one time in four, and has found nothing."""
    labels = np.repeat(np.arange(4), [80, 10, 10, 10])
    x = np.random.default_rng(0).standard_normal((110, 9))
    found = protocols.classification(x @ x.T, labels, solver=solver)
    assert found.accuracy > 0.5
    assert found.chance > 0.5
    assert p_chance(found.errors, found.n, found.chance) > 0.05


def test_chance_is_the_mean_over_shuffled_tasks():
    similarity = np.random.default_rng(2).standard_normal((30, 50))
    asked, stored = np.repeat([4, 7, 9], [20, 7, 3]), np.repeat([9, 7, 4], [30, 15, 5])
    ranked = protocols._ranked(similarity, asked, stored)
    shuffled = (protocols._ranked(similarity, np.random.default_rng(k).permutation(asked), stored) for k in range(400))
    assert ranked.chance == pytest.approx(np.mean([each.accuracy for each in shuffled]), abs=0.02)
    assert abs(ranked.chance - 1 / 3) > 0.05


def test_shuffled_labelings_of_few_networks_are_at_chance():
    """Each has as many networks of a task to train on and to test as the observed one, or it would do worse."""
    permuted = []
    for seed in range(20):
        x = np.random.default_rng(seed).standard_normal((20, 9))
        test = protocols.permutation_test(x @ x.T, np.repeat(np.arange(4), 5), 99, seed)
        permuted.append(test["permuted_accuracy"])
    assert np.mean(permuted) == pytest.approx(1 / 4, abs=0.02)


def test_permutations_find_a_signal():
    kernel, labels = population(signal=0.3)
    test = protocols.permutation_test(kernel, labels, 30)
    assert test["p_permutation"] == 1 / 31
    assert (test["permutations"], test["permutation_classifier"]) == (30, "ridge")


def test_outcomes_know_each_test_networks_task():
    kernel, labels = population(signal=0.2)
    found = protocols.classification(kernel, labels)
    assert np.bincount(found.tasks).tolist() == [8] * 8
    assert found.errors == found.wrong.sum() == round((1 - found.accuracy) * 64)
    ranked = protocols.retrieval(kernel, labels, solver="cosine")
    assert len(ranked.tasks) == len(ranked.wrong) == ranked.n == 12
    assert ranked.accuracy == pytest.approx(ranked.curve[0])


def test_cosines_do_not_see_the_length_of_a_feature():
    kernel, labels = population(tasks=20, signal=0.05)
    length = np.random.default_rng(0).uniform(0.1, 10, len(labels))
    one, other = (protocols.retrieval(k, labels, solver="cosine") for k in (kernel, kernel * np.outer(length, length)))
    assert one.errors > 0
    assert one.extra["rank5"] == one.curve[4] < one.extra["rank10"] == one.curve[9] < 1
    np.testing.assert_array_equal(one.curve, other.curve)


def test_a_network_without_a_direction_is_ranked():
    kernel, labels = population()
    kernel[3] = kernel[:, 3] = 0
    assert np.isfinite(protocols.retrieval(kernel, labels, solver="cosine").extra["map"])


def test_too_few_networks_or_tasks():
    kernel, labels = population(tasks=3, repeats=4)
    with pytest.raises(ValueError, match=r"retrieval: want at least 4 tasks .*, got 3"):
        protocols.retrieval(kernel, labels)
    with pytest.raises(
        ValueError, match=r"classification: task 0 has 1 usable networks, the 60% split needs at least 2"
    ):
        protocols.classification(kernel[::4, ::4], labels[::4])
    with pytest.raises(ValueError, match=r"retrieval: task \d has 1 usable networks"):
        protocols.retrieval(np.eye(6), np.arange(6))
