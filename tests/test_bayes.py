import json

import numpy as np
import pytest
from wsfast.reference.calibration import calibration_error, reliability

import wsfast
from wsfast.bayes import matched
from wsfast.families import mlp


@pytest.fixture(scope="module")
def two_tasks():
    return wsfast.tasks("digits", n=2)


@pytest.fixture(scope="module")
def result(two_tasks):
    return wsfast.bayesian("mlp4-wasym", two_tasks, repeats=2, width=24, steps=400, samples=16, progress=False)


def test_calibration_error_by_hand():
    """Ten bins: three samples of confidence 0.8 of which two are right, one of 0.95 that is wrong."""
    p = np.array([[0.8, 0.2], [0.2, 0.8], [0.8, 0.2], [0.05, 0.95]])
    labels = np.array([0, 1, 1, 0])
    assert calibration_error(p, labels, 10) == pytest.approx((3 * (0.8 - 2 / 3) + 0.95) / 4)
    samples, confidence, right = reliability(p, labels, 10)
    np.testing.assert_array_equal(samples, [0] * 7 + [3, 0, 1])  # 0.8 is the upper edge of its bin
    np.testing.assert_allclose(confidence[[7, 9]], [2.4, 0.95])
    np.testing.assert_array_equal(right, [0] * 7 + [2, 0, 0])


def test_calibration_error_of_certainty_and_of_a_calibrated_forecast():
    one = np.array([[0.0, 1.0, 0.0]] * 4)
    assert calibration_error(one, np.ones(4, int)) == 0
    assert calibration_error(one, np.zeros(4, int)) == 1
    rng = np.random.default_rng(0)
    p = rng.dirichlet(np.ones(3), 100_000)
    drawn = (rng.random((len(p), 1)) > p.cumsum(axis=1)).sum(axis=1)
    assert calibration_error(p, drawn) < 0.01
    assert calibration_error(p, np.zeros(len(p), int)) > 0.1


def test_both_kinds_learn_and_are_compared(result):
    n = json.loads(json.dumps(result.to_dict(), allow_nan=False))
    rows = {row["model"]: row for row in n["rows"]}
    assert list(rows) == ["variational", "point", "variational, matched", "point, matched"]
    for model, row in rows.items():
        assert row["accuracy"] > 0.9, model
        assert row["nll"] < 0.4, model
        assert row["ece_95"][0] <= row["ece"] <= row["ece_95"][1]
        found = result.measured[model]
        assert found.shape == (3, 4)
        assert [row[k] for k in ("nll", "accuracy", "ece")] == pytest.approx(found.mean(axis=1).tolist())
        bins = row["reliability"]
        confidence, accuracy = (np.array(bins[k], float) for k in ("confidence", "accuracy"))
        shares = np.array(bins["samples"]) / sum(bins["samples"])
        assert np.nansum(shares * accuracy) == pytest.approx(row["accuracy"], abs=0.02)  # tasks differ in size
        assert (np.isnan(confidence) == (shares == 0)).all()
    against = {row["against"]: row for row in n["differences"]}
    assert list(against) == list(rows)[1:]
    assert against["point"]["nll"] == pytest.approx(rows["variational"]["nll"] - rows["point"]["nll"])


def test_a_posterior_is_less_sure_of_noisy_labels():
    """A hundred samples a task, a fifth of their labels wrong: the point networks learn them by heart."""
    rng = np.random.default_rng(0)
    x = rng.standard_normal((600, 8))
    y = (x[:, 0] + 0.7 * rng.standard_normal(600) > 0).astype(int)
    noisy = wsfast.tasks(x, y, groups=np.arange(600) % 3, test_fraction=0.5)
    found = wsfast.bayesian("mlp4", noisy, repeats=2, width=24, steps=400, samples=16, progress=False).to_dict()
    for row in found["differences"]:
        assert row["nll_95"][1] < -0.1, row["against"]
        assert row["ece_95"][1] < -0.05, row["against"]


def test_more_draws_of_a_posterior_lose_less(two_tasks):
    """The mean of probabilities, not of losses (Jensen); a point network has nothing to draw."""
    options = {"repeats": 2, "width": 12, "steps": 30, "prior": 30.0, "progress": False}
    one, many = (wsfast.bayesian("mlp4", two_tasks, samples=n, **options).measured for n in (1, 64))
    assert (many["variational"][0] < one["variational"][0]).all()
    np.testing.assert_array_equal(many["point"], one["point"])


def test_matched_networks_have_as_many_trained_numbers(result, two_tasks):
    net = wsfast.network("mlp4-wasym", two_tasks.shape, 2, 24)
    rows = {row["model"]: row for row in result.to_dict()["rows"]}
    assert rows["variational"]["trained"] == 2 * net.size == 2 * rows["point"]["trained"]
    for model in ("variational, matched", "point, matched"):
        assert rows[model]["trained"] == pytest.approx(rows["variational"]["trained"], rel=0.04)
        assert rows[model]["network"] == "mlp"


def test_matched_is_the_nearest_width():
    net = mlp((10,), 3, (20, 10))
    assert matched(net, net.size).layers == net.layers
    for trained in (1, 60, 700, 5000):
        sizes = {w: mlp((10,), 3, (w, max(1, round(w / 2)))).size for w in range(1, 90)}
        assert matched(net, trained).size == min(sizes.values(), key=lambda size: abs(size - trained))


def test_the_same_seed_gives_the_same_numbers(two_tasks):
    def run(seed):
        options = {"repeats": 2, "width": 5, "steps": 10, "samples": 2, "progress": False}
        return wsfast.bayesian("mlp4", two_tasks, seed=seed, **options)

    a, b, other = run(1), run(1), run(2)
    assert list(a.measured) == ["variational", "point", "point, matched"]  # a standard network is its own match
    for model, found in a.measured.items():
        np.testing.assert_array_equal(found, b.measured[model])
        assert (found[0] != other.measured[model][0]).all()


def test_gated_networks(two_tasks):
    found = wsfast.bayesian("mlp4-sigma", two_tasks, repeats=1, width=16, steps=300, samples=8, progress=False)
    assert {row["model"]: row["accuracy"] > 0.8 for row in found.to_dict()["rows"]} == dict.fromkeys(
        found.measured, True
    )


def test_what_is_saved(result, tmp_path):
    assert result.save(tmp_path).read_text().startswith("<svg")
    assert json.loads((tmp_path / "bayesian.json").read_text())["rows"] == result.to_dict()["rows"]
    said = result.table()
    assert "2 tasks of digits x 2 networks, 400 steps, 16 draws" in said
    assert said.count("point, matched") == 2


def test_intervals_of_a_single_task_are_over_its_networks():
    task = wsfast.tasks("digits", n=1)
    options = {"width": 5, "steps": 30, "samples": 2, "progress": False}
    found = wsfast.bayesian("mlp4", task, repeats=9, **options)
    for row in found.to_dict()["rows"]:
        nll = found.measured[row["model"]][0]
        low, high = row["nll_95"]
        assert high - low == pytest.approx(2 * 1.96 * nll.std() / 3, rel=0.2)
    assert "networks resampled" in found.table()
    alone = wsfast.bayesian("mlp4", task, repeats=1, **options)
    assert {row["nll_95"] for row in alone.to_dict()["rows"]} == {None}
    assert alone.table().count("[") == 1  # the legend's
    assert alone.drawn().startswith("<svg")


def test_bad_input(two_tasks):
    for wrong, message in (
        ({"network": "resnet-mlp12"}, r"want linear layers and activations, .* got resnet-mlp12"),
        ({"network": mlp(two_tasks.shape, 2, ()), "width": None}, r"one hidden layer or more, got mlp"),
        ({"network": mlp((9,), 2, (4,)), "width": None}, r"mlp takes \(9,\) and gives 2 classes"),
        ({"network": mlp(two_tasks.shape, 2, (4,))}, r"width belongs to a named network"),
        ({"repeats": 0}, r"repeats must be at least 1, got 0"),
        ({"samples": 0}, r"samples must be at least 1, got 0"),
        ({"lr": 0.0}, r"lr must be above 0, got 0"),
        ({"prior": float("nan")}, r"prior must be above 0, got nan"),
        ({"seed": -1}, r"seed must be 0\.\.2\^64 - 1, got -1"),
        ({"device": "tpu"}, r"device must be cpu or cuda, got 'tpu'"),
        ({"lr": 1e30}, r"predictions are not finite \(a smaller lr\)"),
    ):
        options = {"network": "mlp4", "repeats": 1, "width": 4, "steps": 3, "progress": False, **wrong}
        with pytest.raises(ValueError, match=message):
            wsfast.bayesian(tasks=two_tasks, **options)
    with pytest.raises(TypeError, match=r"bayesian: tasks must be a TaskSet \(wsfast.tasks\), got str"):
        wsfast.bayesian("mlp4", "digits", repeats=1)
    untested = wsfast.tasks(np.zeros((8, 4)), np.arange(8) % 2, test_fraction=0)
    with pytest.raises(ValueError, match=r"a task of .* has no test samples"):
        wsfast.bayesian("mlp4", untested, repeats=1, width=4)
