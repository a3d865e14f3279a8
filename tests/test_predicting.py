import json
from dataclasses import replace
from functools import partial

import numpy as np
import pytest

import wsfast
from wsfast import cli
from wsfast.aligning import shuffled_units
from wsfast.asymmetry import fixed_entries, free_weights
from wsfast.deep_sets import unit_features
from wsfast.joining import joined
from wsfast.layer_statistics import layer_statistics
from wsfast.predicting import _splits
from wsfast.starts import starts

RECIPES = ((0.005, 1), (0.01, 2), (0.02, 3), (0.05, 10))  # learning rate, epochs: from hardly trained to fitted
PROTOCOLS = ("seen tasks", "unseen tasks")


def population(network, tasks, seeds=range(4), repeats=7):
    """A set a recipe."""
    return [
        wsfast.generate(
            network,
            tasks,
            repeats=repeats,
            width=12,
            seed=seed,
            recipe=replace(tasks.recipe, lr=lr).with_epochs(epochs),
            progress=False,
        )
        for seed, (lr, epochs) in zip(seeds, RECIPES, strict=True)
    ]


@pytest.fixture(scope="module", autouse=True)
def _fewer_steps():
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("wsfast.deep_sets.STEPS", 400)
        yield


@pytest.fixture(scope="module")
def zoos(four_tasks):
    return population("mlp4", four_tasks)


@pytest.fixture(scope="module")
def result(zoos):
    return wsfast.metanetworks(zoos, progress=False)


def rows(result):
    return {(row["protocol"], row["predictor"]): row for row in result.to_dict()["rows"]}


def test_weights_tell_the_accuracy_and_nothing_tells_a_permuted_one(zoos, result):
    found = rows(result)
    wanted = ["task mean", "training loss", "chain 1", "chain 2", "chain 3", "layer statistics", "deep sets"]
    assert list(found) == [(protocol, predictor) for predictor in wanted for protocol in PROTOCOLS]
    truth = np.concatenate([zoo.records["test_accuracy"] for zoo in zoos])
    shuffled = np.random.default_rng(0).permutation(truth)
    control = rows(wsfast.metanetworks(zoos, shuffled, progress=False))
    for protocol in PROTOCOLS:
        for predictor in wanted[2:]:
            row, chance = found[protocol, predictor], control[protocol, predictor]
            assert row["r2_95"][0] <= row["r2"] <= row["r2_95"][1] <= 1
            assert row["tau"] > 0.3 > (chance["tau"] or 0), (protocol, predictor)
            assert row["r2"] > 0.15 > chance["r2"], (protocol, predictor)
        best, chance = found[protocol, "layer statistics"], control[protocol, "layer statistics"]
        assert best["r2_95"][0] > max(0.3, chance["r2_95"][1], found[protocol, "task mean"]["r2_95"][1])
        assert best["tau_95"][0] > max(0.2, chance["tau_95"][1])
    assert found["unseen tasks", "task mean"]["tau"] is None  # one prediction for all


def test_the_same_seed_and_stored_sets_give_the_same_scores_on_the_command_line(zoos, result, tmp_path, capsys):
    folders = [str(zoo.save(tmp_path / str(k))) for k, zoo in enumerate(zoos)]
    assert cli.main(["metanetworks", *folders, "--json", "--out", str(tmp_path / "out")]) == 0
    again = json.loads(capsys.readouterr().out)
    assert again["rows"] == result.numbers["rows"]
    assert json.loads((tmp_path / "out" / "metanetworks.json").read_text()) == again
    assert cli.main(["metanetworks", folders[0]]) == 2
    assert "want at least 50 usable networks, got 28" in capsys.readouterr().err


def test_the_order_of_hidden_units_does_not_matter(zoos, result):
    moved = wsfast.metanetworks([shuffled_units(zoo, 5) for zoo in zoos], progress=False)
    for (protocol, predictor), (truth, found) in result.predictions.items():
        if predictor.startswith("chain"):
            np.testing.assert_allclose(moved.predictions[protocol, predictor], [truth, found], atol=1e-4)
        else:  # rounding can move a tree's split or an optimiser's path
            want = rows(result)[protocol, predictor]["r2"]
            assert rows(moved)[protocol, predictor]["r2"] == pytest.approx(want, abs=0.1)


def test_what_is_saved(result, tmp_path):
    picture = result.save(tmp_path)
    assert picture.read_text().startswith("<svg")
    stored = json.loads((tmp_path / "metanetworks.json").read_text())
    assert stored["rows"] == result.to_dict()["rows"]
    assert stored["networks"] == 112
    assert [each["recipe"]["lr"] for each in stored["sets"]] == [lr for lr, _ in RECIPES]
    assert np.diff([each["target"] for each in stored["sets"]]).min() > 0
    said = result.table()
    assert "112 x mlp4 on digits: 4 tasks, 4 sets, 0 diverged" in said
    assert "deep sets" in said
    assert "tasks resampled" in said
    assert "networks resampled" in type(result)({**result.numbers, "tasks": 1}, {}).table()


@pytest.mark.parametrize("name", ["mlp4-wasym", "mlp4-sigma"])
def test_asymmetric_networks(name, monkeypatch):
    """What is fixed is seen by the chains alone."""
    zoos = population(name, wsfast.tasks("digits", n=2), repeats=10)
    fixed = fixed_entries(zoos[0].network)[0]

    def without_fixed(zoo, op):
        assert not zoo.to_matrix()[0][:, fixed].any()
        read.append(op)
        return op(zoo)

    read = []
    for op in (layer_statistics, unit_features):
        monkeypatch.setattr(f"wsfast.predicting.{op.__name__}", partial(without_fixed, op=op))
    found = rows(wsfast.metanetworks(zoos, seed=2**40, progress=False))
    assert {protocol for protocol, _ in found} == {"seen tasks"}  # two tasks, of which none can be left unseen
    assert found["seen tasks", "chain 2"]["tau_95"][0] > 0.1
    assert found["seen tasks", "layer statistics"]["tau_95"][0] > 0.1
    assert (read, len(fixed) > 0) == ([layer_statistics, unit_features], name == "mlp4-wasym")


def test_fixed_entries_are_zeros():
    net = wsfast.network("mlp4-wasym", (20,), 2, width=9)
    rng = np.random.default_rng(1)
    arrays = {p.name: rng.standard_normal((4, *p.shape)).astype(np.float32) for p in net.parameters}
    zoo = wsfast.WeightSet(net, arrays, np.zeros(4, np.int64), np.arange(4))
    want = zoo.to_matrix()[0]
    want[:, fixed_entries(net)[0]] = 0
    np.testing.assert_array_equal(free_weights(zoo).to_matrix()[0], want)
    np.testing.assert_array_equal(free_weights(zoo)[[2, 0]].to_matrix()[0], want[[2, 0]])


def test_joined_sets_read_their_own_networks(zoos):
    whole, source = joined("x", [zoos[1], zoos[0][:5]])
    np.testing.assert_array_equal(source, [0] * 28 + [1] * 5)
    rows = np.array([32, 3, 28, 27])
    for name, array in whole.parameters.items():
        want = np.concatenate([zoos[1].parameters[name], zoos[0].parameters[name][:5]])
        np.testing.assert_array_equal(np.asarray(array), want)
        np.testing.assert_array_equal(np.asarray(array[rows]), want[rows])
    np.testing.assert_array_equal(whole.labels[rows], [0, 0, 0, 3])


def test_the_baseline_of_a_task_is_its_training_networks_mean(zoos, result):
    whole, _ = joined("x", zoos)
    truth = whole.records["test_accuracy"]
    for protocol, train, test in _splits(whole.labels, np.concatenate(starts(zoos)), seed=0):
        means = {task: truth[train[whole.labels[train] == task]].mean() for task in np.unique(whole.labels[train])}
        want = [means.get(task, truth[train].mean()) for task in whole.labels[test]]
        np.testing.assert_allclose(result.predictions[protocol, "task mean"], [truth[test], want])


def test_one_start_is_never_on_both_sides(four_tasks):
    zoos = population("mlp4", four_tasks, seeds=[3, 3, 3, 4])
    whole, _ = joined("x", zoos)
    own = np.concatenate(starts(zoos))
    assert len(np.unique(own)) == 2 * 28
    splits = {protocol: (train, test) for protocol, train, test in _splits(whole.labels, own, seed=0)}
    assert list(splits) == list(PROTOCOLS)
    for train, test in splits.values():
        assert not np.intersect1d(own[train], own[test]).size
        np.testing.assert_array_equal(np.sort([*train, *test]), np.arange(112))
    assert not np.intersect1d(*(whole.labels[part] for part in splits["unseen tasks"])).size
    assert len(np.unique(whole.labels[splits["seen tasks"][0]])) == 4


def test_diverged_networks_are_left_out(zoos):
    broken = zoos[0][:]
    broken.parameters["fc1.weight"][[0, 9]] = np.nan
    n = wsfast.metanetworks([broken, *zoos[1:]], progress=False).to_dict()
    assert (n["networks"], n["diverged"]) == (110, 2)
    assert [each["diverged"] for each in n["sets"]] == [2, 0, 0, 0]


def test_bad_input(zoos, four_tasks):
    other = wsfast.generate("mlp4", four_tasks, repeats=1, width=13, progress=False)
    fewer = wsfast.generate("mlp4", wsfast.tasks("digits", n=2), repeats=1, width=12, progress=False)
    imported = wsfast.WeightSet.from_torch([zoos[0].to_torch(i) for i in range(3)], [0, 1, 2])
    half = wsfast.generate("mlp4", wsfast.tasks("digits", n=4, test_fraction=0.5), repeats=1, width=12, progress=False)
    for given, target, message in (
        ([], None, r"want at least one weight set, got none"),
        ([zoos[0], other], None, r"want sets of one declaration, set 0 has mlp4 .*, set 1 mlp4 of 1,237 trained"),
        ([zoos[0], fewer], None, r"want sets of the same tasks, set 0 has 4 of digits, set 1 2 of digits"),
        ([zoos[0], half], None, r"sets 0 and 1 were generated on different samples, splits or labels"),
        (imported, None, r"set 0 has no record of test accuracies \(target="),
        (zoos[0][:20], None, r"want at least 50 usable networks, got 20"),
        (zoos, np.zeros(112), r"the target of all networks is 0 \(vary learning rate"),
        (zoos, np.full(112, np.nan), r"the target of 112 networks is not finite"),
        (zoos, np.zeros(7), r"target must be \[112\], a number a network, got \(7,\)"),
    ):
        with pytest.raises(ValueError, match=message):
            wsfast.metanetworks(given, target, progress=False)
