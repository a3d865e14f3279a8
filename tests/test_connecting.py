import json
from dataclasses import replace
from itertools import chain

import numpy as np
import pytest
import torch
from torch.nn import AdaptiveAvgPool2d, BatchNorm2d, Conv2d, Flatten, Linear, MaxPool2d, ReLU, Sequential
from wsfast.reference.interpolate import barrier

import wsfast
from wsfast import cli
from wsfast.connecting import draw_pairs
from wsfast.initial import untrained


@pytest.fixture(scope="module")
def result(zoo):
    return wsfast.connectivity(zoo, pairs=5, points=5, progress=False)


def torch_loss(zoo, tasks, i, j, t, split):
    """Loss and error of one point, by torch."""
    ends = [zoo.to_torch(k).state_dict() for k in (i, j)]
    module, task = zoo.to_torch(i), tasks[int(zoo.labels[i])]
    module.load_state_dict({name: (1 - t) * ends[0][name] + t * ends[1][name] for name in ends[0]})
    rows, labels = getattr(task, f"{split}_rows"), torch.from_numpy(getattr(task, f"{split}_labels"))
    with torch.no_grad():
        logits = module(torch.from_numpy(tasks.inputs(rows)))
    return float(torch.nn.functional.cross_entropy(logits, labels)), float((logits.argmax(1) != labels).float().mean())


def test_curves_are_torchs(zoo, four_tasks, result):
    assert result.pairs.shape == (20, 2)
    assert (zoo.labels[result.pairs[:, 0]] == zoo.labels[result.pairs[:, 1]]).all()
    for pair in (0, 13):
        for k, t in enumerate(result.points):
            for split in ("train", "test"):
                want = torch_loss(zoo, four_tasks, *result.pairs[pair], float(t), split)
                found = [result.curves["naive", split, measure][pair, k] for measure in ("loss", "error")]
                np.testing.assert_allclose(found, want, rtol=1e-4, atol=1e-6)


def test_the_ends_of_lines_are_what_training_recorded(zoo, result):
    for split in ("train", "test"):
        for line, measure, end, column in (("naive", "loss", 0, 0), ("naive", "loss", -1, 1), ("init", "loss", -1, 1)):
            found = result.curves[line, split, measure][:, end]
            np.testing.assert_allclose(found, zoo.records[f"{split}_loss"][result.pairs[:, column]], rtol=1e-3)
    start = untrained(zoo[result.pairs[:, 1]])
    task = wsfast.tasks("digits", n=4)[int(start.labels[3])]
    with torch.no_grad():
        logits = start.to_torch(3)(torch.from_numpy(wsfast.tasks("digits", n=4).inputs(task.train_rows)))
    want = torch.nn.functional.cross_entropy(logits, torch.from_numpy(task.train_labels))
    assert result.curves["init", "train", "loss"][3, 0] == pytest.approx(float(want), rel=1e-5)


def test_numbers_are_of_the_curves(result):
    n = json.loads(json.dumps(result.to_dict(), allow_nan=False))
    rows = {(r["line"], r["split"], r["measure"]): r for r in n["lines"]}
    assert len(rows) == len(n["lines"]) == 8
    largest, middle = barrier(result.curves["naive", "test", "loss"], result.points)
    row = rows["naive", "test", "loss"]
    assert row["barrier_max"]["mean"] == pytest.approx(largest.mean())
    assert row["barrier_midpoint"]["quantiles"] == pytest.approx(np.quantile(middle, [0.05, 0.5, 0.95]).tolist())
    low, high = row["barrier_max"]["ci95"]
    assert high > row["barrier_max"]["mean"] > low > 0  # plain networks have one
    by_task = largest.reshape(4, 5).mean(axis=1)
    assert high - low == pytest.approx(2 * 1.96 * by_task.std() / 2, rel=0.2)  # not that of 20 pairs on their own
    init = rows["init", "train", "loss"]
    assert init["monotone"] > 0.8
    assert 0.5 < init["globally_convex"] <= 1
    assert n["pairs"] == 20
    assert n["tasks"] == 4


def test_alignment_undoes_a_permutation(zoo):
    """Second networks are the first ones with their units reordered: a barrier as they come, none once put back."""
    order = np.random.default_rng(0).permutation(24)
    arrays = {name: array.copy() for name, array in zoo.parameters.items()}
    odd = zoo.repeats % 2 == 1
    for p in zoo.network.parameters:
        partner = arrays[p.name][np.flatnonzero(odd) - 1]
        for axis, group in enumerate(p.axes, start=1):
            if group is not None:
                partner = np.take(partner, order, axis=axis)
        arrays[p.name][odd] = partner
    twins = wsfast.WeightSet(zoo.network, arrays, zoo.labels, zoo.repeats, zoo.task_names, info=zoo.info)
    pairs = np.flatnonzero(odd)[:, None] - [1, 0]

    def align(networks, to):
        return wsfast.align(networks, to).zoo

    found = wsfast.connectivity(twins, pairs=pairs, points=5, align=align, progress=False)
    np.testing.assert_array_equal(found.pairs, pairs)
    loss = {line: found.curves[line, "train", "loss"] for line in ("naive", "aligned")}
    np.testing.assert_allclose(loss["naive"][:, 0], loss["naive"][:, -1], rtol=1e-4)
    assert (barrier(loss["naive"], found.points)[1] > 1e-3).mean() > 0.9
    np.testing.assert_allclose(barrier(loss["aligned"], found.points)[0], 0, atol=1e-6)


def test_imported_networks(zoo, four_tasks, result):
    """The same networks without their seed: the same lines, but for the way from initial weights that nobody knows."""
    imported = wsfast.WeightSet.from_torch([zoo.to_torch(i) for i in range(len(zoo))], zoo.labels)
    found = wsfast.connectivity(imported, four_tasks, pairs=5, points=5, progress=False)
    assert {line for line, _, _ in found.curves} == {"naive"}
    for key, curve in found.curves.items():
        np.testing.assert_array_equal(curve, result.curves[key])
    assert "from init" not in found.table()
    assert "20 pairs of mlp on digits" in found.table()


def test_pairs_in_hand_are_few_and_curves_the_same(zoo, four_tasks, monkeypatch):
    """Of sets whose pairs do not fit in memory together."""

    def align(networks, to):
        sizes.append(len(networks))
        return wsfast.align(networks, to).zoo

    def run():
        return wsfast.connectivity(zoo, four_tasks, pairs=5, points=3, align=align, progress=False)

    sizes = []
    whole = run()
    monkeypatch.setattr("wsfast.connecting.RUN", 7 * zoo.nbytes // len(zoo))
    parts = run()
    assert sizes == [20, 7, 7, 6]
    assert list(parts.curves) == list(whole.curves)
    for key, curve in whole.curves.items():
        np.testing.assert_array_equal(parts.curves[key], curve)


def test_drawn_pairs_are_positions_in_the_set(zoo, four_tasks):
    arrays = {name: np.array(array) for name, array in zoo.parameters.items()}
    next(iter(arrays.values()))[[0, 3]] = np.nan
    broken = replace(zoo, parameters=arrays)
    found = wsfast.connectivity(broken, four_tasks, pairs=45, points=3, progress=False)
    assert not np.isin([0, 3], found.pairs).any()
    assert found.pairs.max() == 39
    again = wsfast.connectivity(broken, four_tasks, pairs=found.pairs, points=3, progress=False)
    for key, curve in found.curves.items():
        np.testing.assert_array_equal(curve, again.curves[key])
    with pytest.raises(ValueError, match=r"a network of the pairs diverged \(WeightSet.diverged\)"):
        wsfast.connectivity(broken, four_tasks, pairs=np.array([[1, 2], [3, 4]]), points=3)


def test_tasks_without_test_samples(zoo, four_tasks, result):
    """Their pairs have no test loss; the others' keep theirs."""
    first = replace(four_tasks[0], test_rows=four_tasks[0].test_rows[:0], test_labels=four_tasks[0].test_labels[:0])
    tasks = replace(four_tasks, tasks=(first, *four_tasks.tasks[1:]))
    found = wsfast.connectivity(zoo, tasks, pairs=result.pairs, points=5, progress=False)
    rows = {(r["line"], r["split"], r["measure"]): r for r in found.to_dict()["lines"]}
    for split, kept in (("train", slice(None)), ("test", slice(5, None))):
        row, curve = rows["naive", split, "loss"], result.curves["naive", split, "loss"][kept]
        assert row["n"] == len(curve)
        np.testing.assert_allclose(row["curve"], curve.mean(axis=0))
    assert found.drawn().startswith("<svg")


def test_pairs_are_drawn_without_repeats():
    labels = np.repeat([3, 5, 9], [6, 2, 1])
    pairs = draw_pairs(labels, 4, seed=1)
    assert len(pairs) == 4 + 1
    assert len({tuple(p) for p in pairs}) == 5
    assert (pairs[:, 0] < pairs[:, 1]).all()
    np.testing.assert_array_equal(pairs, draw_pairs(labels, 4, seed=1))
    assert len(draw_pairs(labels, 99, 0)) == 15 + 1
    with pytest.raises(ValueError, match=r"no task has two usable networks"):
        draw_pairs(np.arange(4), 2, 0)


def test_on_the_command_line(zoo, tmp_path, capsys):
    zoo.save(tmp_path / "zoo")
    command = ["connectivity", str(tmp_path / "zoo"), "--pairs", "3", "--points", "5"]
    assert cli.main([*command, "--out", str(tmp_path / "out")]) == 0
    assert "12 pairs of mlp4 on digits: 4 tasks, 5 points a line" in capsys.readouterr().out
    assert (tmp_path / "out" / "barriers.svg").read_text().startswith("<svg")
    stored = json.loads((tmp_path / "out" / "connectivity.json").read_text())
    assert {row["line"] for row in stored["lines"]} == {"naive", "aligned", "init"}
    assert cli.main([*command, "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["lines"] == stored["lines"]
    assert cli.main([*command, "--points", "4"]) == 2
    assert "points must be odd and at least 3, so that one is the middle, got 4" in capsys.readouterr().err
    assert cli.main([*command, "--backend", "numba", "--device", "cuda"]) == 2
    assert "backend numba runs on cpu, not on cuda" in capsys.readouterr().err


def test_an_imported_set_on_the_command_line(zoo, result, tmp_path, capsys):
    imported = wsfast.WeightSet.from_torch([zoo.to_torch(i) for i in range(len(zoo))], zoo.labels)
    imported.save(tmp_path / "zoo")
    command = ["connectivity", str(tmp_path / "zoo"), "--pairs", "5", "--points", "5", "--json"]
    assert cli.main(command) == 2
    assert "connectivity: the set was trained on 'imported', which no loader has" in capsys.readouterr().err
    assert cli.main([*command, "--data", "digits"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert (found["data"], found["tasks"]) == ("digits", 4)
    want = {(r["split"], r["measure"]): r for r in result.numbers["lines"] if r["line"] == "naive"}
    for row in found["lines"]:
        if row["line"] == "naive":
            assert row["curve"] == want[row["split"], row["measure"]]["curve"]
    part = replace(imported[np.isin(imported.labels, [3, 1])], task_names=("0+2", "0+4"))
    part = replace(part, labels=(part.labels == 3).astype(np.int64))
    part.save(tmp_path / "part")
    assert cli.main(["connectivity", str(tmp_path / "part"), *command[2:], "--data", "digits"]) == 0
    chosen = np.isin(zoo.labels[result.pairs[:, 0]], [1, 3])
    for row in json.loads(capsys.readouterr().out)["lines"]:
        if row["line"] == "naive":
            curve = result.curves["naive", row["split"], row["measure"]][chosen]
            np.testing.assert_allclose(
                [row["curve"][0], row["curve"][-1]], 0, atol=0.2
            )  # of other tasks they are above 1
            assert len(curve) == row["n"] == 10
    replace(part, task_names=("0+2", "cats")).save(tmp_path / "strange")
    assert cli.main(["connectivity", str(tmp_path / "strange"), "--data", "digits"]) == 2
    assert "strange has a task 'cats', digits has none of this name" in capsys.readouterr().err
    assert cli.main([*command, "--data", "faker_surnames"]) == 2
    assert (
        "the set takes (64,), has 2 classes and labels 0..3, tasks of faker_surnames are (" in capsys.readouterr().err
    )


def test_networks_without_symmetries_are_not_aligned(four_tasks, tmp_path, capsys):
    recipe = wsfast.Recipe(lr=0.1, batch_size=32, epochs=1, decay_epochs=())
    zoo = wsfast.generate("mlp4-sigma", four_tasks, repeats=2, width=8, recipe=recipe, progress=False)
    zoo.save(tmp_path / "zoo")
    assert cli.main(["connectivity", str(tmp_path / "zoo"), "--points", "3", "--json"]) == 0
    assert {row["line"] for row in json.loads(capsys.readouterr().out)["lines"]} == {"naive", "init"}


@pytest.mark.parametrize("backend", ["numba", "reference"])
def test_convolutional_networks(backend):
    rng = np.random.default_rng(4)
    y = np.arange(40) % 2
    x = rng.integers(0, 128, (40, 3, 16, 16)) + 100 * y[:, None, None, None] * (np.arange(16) < 8)
    tasks = wsfast.tasks(x.astype(np.uint8), y)
    recipe = wsfast.Recipe(lr=0.05, epochs=2, batch_size=16, decay_epochs=())
    for name in ("plainnet5", "resnet5", "plainnet5-sigma"):
        zoo = wsfast.generate(name, tasks, repeats=2, width=3, recipe=recipe, progress=False)
        found = wsfast.connectivity(zoo, tasks, points=3, backend=backend, progress=False)
        assert {row[kind]["ci95"] for row in found.to_dict()["lines"] for kind in row if kind.startswith("b")} == {None}
        for k, t in enumerate(found.points):
            want = torch_loss(zoo, tasks, *found.pairs[0], float(t), "train")
            got = [found.curves["naive", "train", measure][0, k] for measure in ("loss", "error")]
            np.testing.assert_allclose(got, want, rtol=1e-4, atol=1e-6)


def test_recurrent_networks():
    """Lines begin and end with what training recorded; imported ones are the same; aligned ones are of equal loss."""
    tasks = wsfast.tasks("faker_surnames", n=2)
    recipe = wsfast.Recipe(lr=0.05, momentum=0, batch_size=1, epochs=1, decay_epochs=(), steps=300)
    zoo = wsfast.generate("gru2", tasks, repeats=3, width=6, recipe=recipe, progress=False)

    def align(networks, to):
        return wsfast.align(networks, to).zoo

    found = wsfast.connectivity(zoo, points=3, align=align, progress=False)
    assert {line for line, _, _ in found.curves} == {"naive", "aligned", "init"}
    for split in ("train", "test"):
        loss = {line: found.curves[line, split, "loss"] for line in ("naive", "aligned", "init")}
        recorded = zoo.records[f"{split}_loss"]
        np.testing.assert_array_equal(loss["naive"][:, 0], recorded[found.pairs[:, 0]])
        for line in ("naive", "init"):
            np.testing.assert_array_equal(loss[line][:, -1], recorded[found.pairs[:, 1]])
            error = found.curves[line, split, "error"][:, -1]
            np.testing.assert_allclose(error, 1 - zoo.records[f"{split}_accuracy"][found.pairs[:, 1]])
        np.testing.assert_allclose(loss["aligned"][:, -1], loss["naive"][:, -1], rtol=1e-5)
    imported = wsfast.WeightSet.from_torch([zoo.to_torch(i) for i in range(6)], zoo.labels)
    again = wsfast.connectivity(imported, tasks, points=3, progress=False)
    for measure in ("loss", "error"):
        np.testing.assert_array_equal(again.curves["naive", "test", measure], found.curves["naive", "test", measure])
    exact = wsfast.connectivity(imported, tasks, pairs=1, points=3, backend="reference", progress=False)
    same = [i for i, pair in enumerate(again.pairs.tolist()) if pair in exact.pairs.tolist()]
    np.testing.assert_allclose(
        again.curves["naive", "train", "loss"][same], exact.curves["naive", "train", "loss"], rtol=1e-5
    )
    x = tasks.x.copy()
    x[7] = tasks.shape[1]
    with pytest.raises(ValueError, match=r"connectivity: name 7 of faker_surnames has no letter"):
        wsfast.connectivity(imported, replace(tasks, x=x), points=3, progress=False)


def test_imported_convolutions_take_images_of_any_size():
    def model(seed):
        torch.manual_seed(seed)
        units = [(Conv2d(a, 3, 3, padding=1), BatchNorm2d(3), ReLU(), MaxPool2d(2)) for a in (1, 3, 3)]
        return Sequential(*chain(*units), AdaptiveAvgPool2d(1), Flatten(), Linear(3, 2)).eval()

    zoo = wsfast.WeightSet.from_torch([model(seed) for seed in range(3)])
    rng, y = np.random.default_rng(9), np.arange(20) % 2
    for shape in ((1, 8, 8), (1, 9, 35)):
        tasks = wsfast.tasks(rng.random((20, *shape), np.float32), y)
        found = wsfast.connectivity(zoo, tasks, pairs=np.int64(1), points=3, progress=False)
        for k, t in enumerate(found.points):
            want = torch_loss(zoo, tasks, *found.pairs[0], float(t), "train")
            got = [found.curves["naive", "train", measure][0, k] for measure in ("loss", "error")]
            np.testing.assert_allclose(got, want, rtol=1e-4, atol=1e-6)
    for shape in ((1, 7, 8), (2, 8, 8)):
        with pytest.raises(ValueError, match=r"the set takes \(1, 32, 32\)"):
            wsfast.connectivity(zoo, wsfast.tasks(rng.random((20, *shape), np.float32), y), progress=False)


def test_bad_input(zoo, four_tasks):
    two_tasks = wsfast.tasks("digits", n=2)
    imported = wsfast.WeightSet.from_torch([zoo.to_torch(0), zoo.to_torch(1)], labels=[4, 4])
    small = wsfast.WeightSet.from_arrays([np.ones((2, 3, 4)), np.ones((2, 4, 2))])
    names = wsfast.tasks("faker_surnames", n=1)
    names = replace(names, x=names.x[:, :1].repeat(20, axis=1), shape=(20, 58))
    turned = replace(imported, task_names=("0+1", "0+3", "mine", "0+2", "4"))
    letters = wsfast.WeightSet.from_arrays([np.ones((2, 1160, 4)), np.ones((2, 4, 2))])
    for wrong, message in (
        ({"zoo": imported, "tasks": None}, r"trained on 'imported', which no loader has: want its tasks, label i is"),
        ({"zoo": imported}, r"has 2 classes and labels 4\.\.4, tasks of digits are \(1, 8, 8\), 2, 0\.\.3"),
        ({"zoo": replace(zoo, labels=zoo.labels - 1)}, r"has 2 classes and labels -1\.\.2, tasks of digits"),
        ({"zoo": turned}, r"the set's label 1 is 0\+3, which is tasks\[2\] of digits \(want tasks in the order"),
        ({"zoo": small}, r"the set takes \(3,\), has 2 classes"),
        ({"zoo": letters, "tasks": names}, r"the set takes \(1160,\), .* are \(20, 58\), 2"),
        ({"tasks": two_tasks}, r"trained on other tasks than these 2 of digits"),
        ({"seed": -1}, r"connectivity: seed must be 0\.\.2\^64 - 1, got -1"),
        ({"pairs": 0}, r"pairs must be at least 1, got 0"),
        ({"pairs": np.array([[0, 39]])}, r"both networks of a pair must be of one task"),
        ({"pairs": np.array([[0, 40]])}, r"pairs must be of 0\.\.39, got 0\.\.40"),
        ({"pairs": np.array([0, 1])}, r"pairs must be integers \[P, 2\], got int64 \(2,\)"),
        ({"align": lambda b, a: b[:1]}, r"align returned .*, wanted the 80 networks it was given"),
        ({"backend": "numba", "device": "cuda"}, r"backend numba runs on cpu, not on cuda"),
    ):
        with pytest.raises(ValueError, match=message):
            wsfast.connectivity(**{"zoo": zoo, "tasks": four_tasks, "progress": False, **wrong})
    with pytest.raises(TypeError, match=r"connectivity: tasks must be a TaskSet \(wsfast.tasks\), got str"):
        wsfast.connectivity(zoo, "digits")
