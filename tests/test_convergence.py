import json
import re
from collections import Counter
from dataclasses import replace

import numpy as np
import pytest
import torch
from scipy.optimize import linear_sum_assignment
from sklearn.linear_model import Lasso

import wsfast
from wsfast import cli
from wsfast.activations import activations
from wsfast.aligning import shuffled_units
from wsfast.converge_report import converge_html
from wsfast.converging import PENALTIES, _drawn, sample_inputs
from wsfast.initial import untrained
from wsfast.matching import clustered, described, matching, scores_of, semi_matching

QUICK = {"pairs": 12, "progress": False}


@pytest.fixture(scope="module")
def inputs(four_tasks):
    return sample_inputs(four_tasks, 150)


@pytest.fixture(scope="module")
def result(zoo, inputs):
    return wsfast.convergence(zoo, inputs, **QUICK)


def rows(result, pairs):
    return [row for row in result.numbers["rows"] if row["pairs"] == pairs]


def test_matches_are_scipys_and_the_best():
    scores = np.random.default_rng(5).standard_normal((4, 5, 7))
    best, partner = semi_matching(scores), matching(scores)
    for s, b, p in zip(scores, best, partner, strict=True):
        np.testing.assert_array_equal(s.max(axis=1), s[np.arange(5), b])
        assert len(set(p)) == 5
        rows_, columns = linear_sum_assignment(-s)
        assert s[np.arange(5), p].sum() == pytest.approx(s[rows_, columns].sum())
    assert (scores_of(scores, best) >= scores_of(scores, partner)).all()
    assert matching(scores[:0]).shape == (0, 5)
    with pytest.raises(ValueError, match=r"matching: 7 units want as many partners, got 5"):
        matching(scores.transpose(0, 2, 1))


def test_planted_clusters_are_found():
    own, other = np.repeat([0, 1, 2], [2, 5, 3]), np.repeat([2, 0, 1], [4, 3, 1])
    r = np.where(own[:, None] == other, 0.8, 0.02) - np.eye(10, 8) * 0.01
    r[4], r[:, 7], own[4], other[7] = -0.1, 0, -1, -1  # correlates with nobody; a dead unit
    found = clustered(r, 2, seed=2**63)
    assert found[0][4] == found[1][7] == -1
    for label in (0, 2):
        mine, theirs = found[0][own == label], found[1][other == label]
        assert len({*mine, *theirs}) == 1
    listed = described(r, *found)
    assert sum(row["units"] for row in listed) == (found[0] >= 0).sum() + (found[1] >= 0).sum()
    one_sided = described(r, np.zeros(10, int), np.ones(8, int))
    assert [row["balance"] for row in one_sided] == [0, 0]
    assert all(np.isnan(row["r"]) for row in one_sided)
    for count in (1, 9):
        with pytest.raises(ValueError, match=r"clustered: count must be 2\.\.7, .* got " + str(count)):
            clustered(r, count)


def test_a_network_with_its_shuffled_self_converges_fully(zoo, inputs):
    """Every unit has its twin, whatever the measure; the order of units is all that differs."""
    first = zoo[0]
    twin = shuffled_units(first, seed=3)
    both = replace(
        first,
        parameters={k: np.concatenate([v, twin.parameters[k]]) for k, v in first.parameters.items()},
        labels=np.zeros(2, np.int64),
        repeats=np.arange(2),
        records={},
    )
    found = wsfast.convergence(both, inputs, **QUICK)
    for row in rows(found, "same task"):
        assert row["n"] == 1
        assert row["semi_r"]["mean"] == pytest.approx(1, abs=1e-5)
        assert row["match_r"]["mean"] == pytest.approx(1, abs=1e-5)
        assert row["match_mi"]["mean"] == pytest.approx(row["semi_mi"]["mean"], abs=1e-3)
        assert row["path"]["loss"][-1] < 0.01
        assert row["random_r"]["mean"] < 0.5
    assert rows(found, "other task") == []


def test_kinds_of_pairs_and_what_they_show(result, zoo):
    kinds = {row["pairs"]: rows(result, row["pairs"]) for row in result.numbers["rows"]}
    assert list(kinds) == ["same task", "other task", "shuffled inputs", "untrained"]
    for listed in kinds.values():
        assert [row["layer"] for row in listed] == ["act1", "act2", "act3"]
        for row in listed:
            assert row["n"] == 12
            assert row["semi_r"]["mean"] >= row["match_r"]["mean"] > row["random_r"]["mean"]
            assert row["semi_mi"]["mean"] >= row["match_mi"]["mean"] > 0
            assert 0 <= row["r_agreement"]["mean"] <= 1
            assert np.diff(row["path"]["nonzeros"]).min() >= 0
            assert row["clusters"]["count"] == 24 // 4
            assert row["clusters"]["units"]["mean"] * 6 <= 48
    for layer in range(3):
        same, other, shuffled, fresh = (kinds[k][layer]["match_r"]["mean"] for k in kinds)
        assert same > other > shuffled
        assert same > fresh > shuffled
        assert min(kinds["shuffled inputs"][layer]["path"]["loss"]) > 0.95
        assert min(kinds["same task"][layer]["path"]["loss"]) < 0.7


def test_numbers_are_the_matches_of_the_correlations(zoo, inputs, result):
    """One layer of three kinds, by NumPy and SciPy alone."""
    rng = np.random.default_rng([0, 12])
    same, other = (_drawn(zoo.labels, alike, 12, rng) for alike in (True, False))
    trained, fresh = (activations(z, inputs)["act2"].astype(float) for z in (zoo, untrained(zoo)))
    for kind, x, chosen in (("same task", trained, same), ("other task", trained, other), ("untrained", fresh, same)):
        want = []
        for i, j in chosen:
            alive = np.ptp(x[i], axis=1) > 0
            with np.errstate(invalid="ignore", divide="ignore"):
                r = np.nan_to_num(np.corrcoef(x[i], x[j])[:24, 24:])
            columns = linear_sum_assignment(-r)[1]
            want.append([r.max(axis=1)[alive].mean(), r[np.arange(24), columns][alive].mean(), r[alive].mean()])
        row = rows(result, kind)[1]
        found = [[row[k][m] for k in ("semi_r", "match_r", "random_r")] for m in ("mean", "sd")]
        np.testing.assert_allclose(found, [np.mean(want, axis=0), np.std(want, axis=0)], atol=1e-5, err_msg=kind)
        assert 0 < row["dead"] == pytest.approx((np.ptp(x[chosen], axis=3) == 0).mean())
    semi, match = result.curves["same task", "act2"]
    assert (np.diff(semi) <= 0).all()
    assert (semi >= match - 1e-6)[:3].all()


def test_sparse_prediction_is_scikit_learns(zoo, inputs, result):
    """Fitted to the first half of the inputs, means and deviations included; tested on the second."""
    x = activations(zoo, inputs)["act2"].astype(float)
    half, wanted, used = x.shape[2] // 2, [], []
    for i, j in _drawn(zoo.labels, True, 12, np.random.default_rng([0, 12])):
        ends = ((x[n] - x[n, :, :half].mean(1)[:, None]) / (x[n, :, :half].std(1)[:, None] + 1e-300) for n in (i, j))
        a, b = (np.where(np.ptp(z[:, :half], axis=1)[:, None] > 0, z, 0) for z in ends)
        alive = (np.ptp(b[:, :half], axis=1) > 0) & (np.ptp(b[:, half:], axis=1) > 0)
        models = [
            Lasso(alpha=p, fit_intercept=False, max_iter=20_000).fit(a[:, :half].T, b[alive, :half].T)
            for p in PENALTIES[:5]
        ]
        left = [((b[alive, half:] - m.coef_ @ a[:, half:]) ** 2).mean(1) / b[alive, half:].var(1) for m in models]
        wanted.append(np.mean(left, axis=1))
        used.append([(m.coef_ != 0).sum(axis=1).mean() for m in models])
    path = rows(result, "same task")[1]["path"]
    np.testing.assert_allclose(path["loss"][:5], np.mean(wanted, axis=0), rtol=2e-3)
    np.testing.assert_allclose(path["nonzeros"][:5], np.mean(used, axis=0), rtol=0.05)


def test_shuffled_inputs_keep_an_image_whole():
    """Units that answer to the place alone, whatever the image, still match when images are in another order."""
    rng = np.random.default_rng(3)
    x = rng.integers(100, 110, (40, 1, 16, 16)) + 100 * (np.arange(16) < 8)
    tasks = wsfast.tasks(x.astype(np.uint8), np.arange(40) % 2)
    zoo = wsfast.generate("plainnet5", tasks, repeats=2, width=4, recipe=wsfast.Recipe(epochs=1), progress=False)
    found = wsfast.convergence(zoo, tasks.inputs(np.arange(40)), pairs=1, progress=False)
    same, shuffled = (rows(found, kind)[0]["semi_r"]["mean"] for kind in ("same task", "shuffled inputs"))
    assert same > 0.7
    assert shuffled == pytest.approx(same, abs=0.05)


def test_the_same_seed_gives_the_same_numbers(zoo, inputs, result):
    again = wsfast.convergence(zoo, inputs, **QUICK)
    assert again.numbers["rows"] == result.numbers["rows"]
    assert again.numbers["backend"] == "numba"
    other = wsfast.convergence(zoo, inputs, **QUICK, seed=1)
    assert other.numbers["rows"] != result.numbers["rows"]


def test_a_dead_network_is_said_to_be_dead(zoo, inputs):
    quiet = replace(zoo[:2], parameters={k: v.copy() for k, v in zoo[:2].parameters.items()})
    quiet.parameters["fc2.bias"][:] = -1e3
    found = wsfast.convergence(quiet, inputs, **QUICK)
    second = rows(found, "same task")[1]
    assert second["dead"] == 1
    assert second["semi_r"] is None
    assert "clusters" not in second
    assert "path" not in second
    assert " - " in found.table()
    assert "nan" not in json.dumps(found.to_dict()).lower()
    assert converge_html(found)


def test_the_page_holds_every_number_and_loads_nothing(result, tmp_path):
    page = result.save(tmp_path).read_text()
    assert page.count("<svg") == 2
    assert page.count("<img") == 1
    for row in result.numbers["rows"]:
        assert f"<td>{row['match_r']['mean']:.3f} ({row['match_r']['sd']:.3f})</td>" in page
    loaded = re.findall(r"""(?:src|href)\s*=\s*["']?([^"'\s>]+)""", page) + re.findall(r"url\(([^)]*)\)", page)
    assert all(target.startswith(("data:", "#")) for target in loaded)
    ids = re.findall(r' id="([^"]+)"', page)
    assert len(ids) == len(set(ids))
    assert json.loads((tmp_path / "converge.json").read_text()) == result.to_dict()
    for row in result.numbers["rows"]:
        assert f"{row['match_mi']['mean']:.3f}" in result.table()


def test_pairs_are_drawn_evenly_from_sets_of_any_size():
    rng, labels = np.random.default_rng(0), np.array([2, 0, 2, 1, 0, 2])
    same = {(1, 4), (0, 2), (0, 5), (2, 5)}
    every = {(i, j) for j in range(6) for i in range(j)}
    for alike, want in ((True, same), (False, every - same)):
        drawn = _drawn(labels, alike, 99, rng)
        assert len(drawn) == len(want)
        assert {tuple(pair) for pair in drawn.tolist()} == want
        counts = Counter(tuple(pair) for _ in range(400) for pair in _drawn(labels, alike, 2, rng).tolist())
        assert set(counts) == want
        assert max(counts.values()) < 2 * min(counts.values())
    assert _drawn(np.arange(3), True, 5, rng).shape == (0, 2)
    labels = rng.permutation(np.arange(300_000) // 100)  # 4.5e10 pairs, which no memory holds
    for alike in (True, False):
        i, j = _drawn(labels, alike, 50, rng).T
        assert ((labels[i] == labels[j]) == alike).all()
        assert (i < j).all()
        assert len({*zip(i.tolist(), j.tolist(), strict=True)}) == 50


def _halves(batches):
    """Those before and after lengths begin anew."""
    (cut,) = np.flatnonzero(np.diff([b.shape[1] for b in batches]) < 0) + 1
    return batches[:cut], batches[cut:]


def test_sample_inputs(four_tasks):
    (x,) = sample_inputs(four_tasks, 20)
    assert x.shape == (20, 1, 8, 8)
    test_rows = np.unique(np.concatenate([t.test_rows for t in four_tasks.tasks]))
    seen = {a.tobytes() for a in four_tasks.inputs(test_rows)}
    assert {a.tobytes() for a in x} <= seen
    names = wsfast.tasks("names", n=2)
    batches = sample_inputs(names, 30)
    assert sum(map(len, batches)) == 30
    lengths = [np.concatenate([[b.shape[1]] * len(b) for b in part]) for part in _halves(sample_inputs(names, 600))]
    assert 0 <= len(lengths[0]) - len(lengths[1]) <= 1
    assert abs(np.mean(lengths[0]) - np.mean(lengths[1])) < 0.5 < np.std(lengths[0])
    for batch in batches:
        assert (batch.sum(axis=2) == 1).all()  # no step is past a name's end


@pytest.mark.parametrize("name", ["plainnet5", "gru2"])
def test_other_networks(name):
    rng = np.random.default_rng(len(name))
    if name == "gru2":
        data = wsfast.tasks("names", n=2)
    else:
        data = wsfast.tasks(rng.random((40, 3, 16, 16), np.float32), np.arange(40) % 4)
    net = wsfast.network(name, data.shape, data.classes, width=4)
    parameters = {p.name: rng.random((4, *p.shape), np.float32) - np.float32(0.3) for p in net.parameters}
    for p in net.parameters:
        if p.name.endswith("running_var"):
            parameters[p.name] += 1
    nets = wsfast.WeightSet(net, parameters, np.arange(4) // 2, np.arange(4) % 2)
    found = wsfast.convergence(nets, sample_inputs(data, 12), pairs=2, clusters=3, progress=False)
    layers = {"plainnet5": ["pool1", "pool2", "pool3", "gap"], "gru2": ["gru1", "last"]}[name]
    for kind in ("same task", "other task", "shuffled inputs", "untrained"):
        assert [row["layer"] for row in rows(found, kind)] == layers
    assert rows(found, "untrained")[0]["clusters"]["count"] <= 3


def test_from_the_command_line(tmp_path, capsys):
    zoo = tmp_path / "zoo"
    made = ["--tasks", "2", "--repeats", "3", "--width", "8", "--epochs", "1", "--out", str(zoo)]
    assert cli.main(["generate", *made]) == 0
    capsys.readouterr()
    out = ["--out", str(tmp_path / "run")]
    assert cli.main(["converge", str(zoo), "--pairs", "3", "--samples", "40", *out]) == 0
    said = capsys.readouterr().out
    assert "6 x mlp4 on digits, 0 diverged" in said
    assert f"report: {tmp_path / 'run' / 'converge.html'}" in said
    assert cli.main(["converge", str(zoo), "--pairs", "3", "--samples", "40", "--json", *out]) == 0
    assert json.loads(capsys.readouterr().out)["rows"][0]["n"] == 3
    assert cli.main(["converge", str(tmp_path / "nothing"), *out]) == 2
    assert "holds no weight set" in capsys.readouterr().err


def test_an_imported_set_on_the_command_line(zoo, tmp_path, capsys):
    """To it the images are pixels in a row."""
    imported = wsfast.WeightSet.from_torch([zoo.to_torch(i) for i in range(40)], zoo.labels)
    assert (zoo.network.input_shape, imported.network.input_shape) == ((1, 8, 8), (64,))
    found = []
    for name, each in (("own", zoo), ("imported", imported)):
        each.save(tmp_path / name)
        out = ["--out", str(tmp_path / "run"), "--json", "--pairs", "3", "--samples", "40"]
        assert cli.main(["converge", str(tmp_path / name), *out, "--data", "digits"]) == 0
        found.append([r for r in json.loads(capsys.readouterr().out)["rows"] if r["pairs"] != "untrained"])
    assert len(found[0]) == len(found[1]) == 9
    for own, other in zip(*found, strict=True):
        assert other | {"layer": own["layer"]} == own
    assert cli.main(["converge", str(tmp_path / "imported"), *out]) == 2
    assert "converge: the set was trained on 'imported', which no loader has" in capsys.readouterr().err
    assert cli.main(["converge", str(tmp_path / "imported"), "--out", str(tmp_path / "not made")]) == 2
    assert not (tmp_path / "not made").exists()
    assert cli.main(["converge", str(tmp_path / "own"), *out, "--data", "faker_surnames"]) == 2
    said = f"converge: --data is for imported sets, {tmp_path / 'own'} was generated on digits"
    assert said in capsys.readouterr().err


def test_bad_input(zoo, four_tasks, inputs):
    with pytest.raises(ValueError, match=r"pairs must be at least 1, got 0"):
        wsfast.convergence(zoo, inputs, pairs=0)
    with pytest.raises(ValueError, match=r"clusters must be at least 2, got 1"):
        wsfast.convergence(zoo, inputs, clusters=1)
    with pytest.raises(ValueError, match=r"convergence: seed must be 0\.\.2\^64 - 1, got -1"):
        wsfast.convergence(zoo, inputs, seed=-1)
    with pytest.raises(ValueError, match=r"want a task with two usable networks \(generate more repeats\)"):
        wsfast.convergence(zoo[::10], inputs)
    with pytest.raises(ValueError, match=r"inputs must be finite, got NaN or infinity among them"):
        wsfast.convergence(zoo, np.full((3, 1, 8, 8), np.nan))
    with pytest.raises(ValueError, match=r"inputs must be \[samples, 1, 8, 8\], got \[3, 64\]"):
        wsfast.convergence(zoo, np.ones((3, 64)))
    with pytest.raises(ValueError, match=r"inputs must be one array or more, got none"):
        wsfast.convergence(zoo, [])
    for wrong, kind in ((four_tasks, "Task"), (inputs[0].tolist(), "list"), (torch.from_numpy(inputs[0]), "Tensor")):
        with pytest.raises(TypeError, match=rf"a list of arrays, got {kind} among them \(of tasks: .*sample_inputs\)"):
            wsfast.convergence(zoo, wrong)
    with pytest.raises(TypeError, match=r"convergence: want a WeightSet, got str"):
        wsfast.convergence("zoos/digits", inputs)
    with pytest.raises(ValueError, match=r"samples must be at least 2, got 1"):
        sample_inputs(four_tasks, 1)
