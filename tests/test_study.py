import json
from dataclasses import replace

import numpy as np
import pytest

import wsfast
from wsfast.files import write_whole


@pytest.fixture(scope="module")
def result(zoo):
    return wsfast.study(zoo, permutations=19, progress=False)


def test_results_hold_what_the_format_promises(result, zoo):
    n = json.loads(json.dumps(result.to_dict(), allow_nan=False))
    want = {
        "schema": 1,
        "network": "mlp4",
        "data": "digits",
        "networks": 40,
        "tasks": 4,
        "repeats": 10,
        "seed": 0,
        "alpha": 0.05,
        "backend": "numba",
        "precision": "fp32",
        "diverged": 0,
    }
    assert {k: n[k] for k in want} == want
    assert {"device", "versions", "commit", "time", "recipe", "verdict"} <= set(n)
    assert set(n["train_accuracy"]) == {"mean", "min"}
    assert n["timing"]["generate_s"] == zoo.info["generate_s"]
    assert n["timing"]["total_s"] > n["timing"]["generate_s"]
    cells = {(c["features"], c["chain"], c["protocol"], c["classifier"]): c for c in n["cells"]}
    assert len(cells) == len(n["cells"]) == 3 * 3 * 3
    for c in cells.values():
        assert {"ci95", "wilson95", "p_error_ge_alpha", "p_chance", "p_holm", "established", "paper_rule"} <= set(c)
        assert c["ci95"][0] <= c["accuracy"] == 1 - c["errors"] / c["n"] <= c["ci95"][1]
        assert c["established"] == (c["p_holm"] <= 0.05)
        assert c["p_holm"] >= c["p_error_ge_alpha"]
        assert c["paper_rule"] == ("accept" if c["errors"] / c["n"] < 0.05 else "reject")
    assert cells["chain", 2, "classification", "ridge"]["p_permutation"] == 1 / 20
    assert "p_permutation" not in cells["raw", 1, "classification", "ridge"]
    assert 0 < cells["chain", 1, "retrieval", "cosine"]["map"] <= 1
    assert [c["control"] for c in n["controls"]] == ["A/A"] * 3 + ["untrained"] * 3


def test_chains_beat_raw_layers(result):
    accuracy = {}
    for c in result.to_dict()["cells"]:
        if c["protocol"] == "classification":
            accuracy.setdefault(c["features"], []).append(c["accuracy"])
    assert min(accuracy["chain"]) >= 0.8
    assert max(accuracy["raw"][1:]) <= 0.65


def test_the_table_says_all_of_it(result):
    text = result.table()
    for word in (
        "chain, unit columns",
        "raw layer",
        "control: A/A",
        "control: untrained",
        "the paper's rule",
        "controls:",
        "40 x mlp4 on digits",
    ):
        assert word in text
    for cell in result.to_dict()["cells"]:
        assert f"{100 * cell['accuracy']:.1f} [" in text


def test_saved_whole(result, tmp_path):
    report = result.save(tmp_path / "new" / "folder")
    assert report.read_text().startswith("<!doctype html>")
    assert json.loads((report.parent / "results.json").read_text()) == json.loads(json.dumps(result.to_dict()))
    assert sorted(p.name for p in report.parent.iterdir()) == ["report.html", "results.json"]


def test_an_interrupted_write_leaves_the_old_file(tmp_path):
    target = tmp_path / "results.json"
    target.write_text("old")
    with pytest.raises(UnicodeEncodeError):
        write_whole(target, "half \ud800")
    assert target.read_text() == "old"
    assert list(tmp_path.iterdir()) == [target]


def test_diverged_networks_are_counted_and_left_out(zoo, result):
    broken = zoo[:]
    for i in (3, 4):
        broken.parameters["fc2.weight"][i] = np.nan
        broken.records["train_accuracy"][i] = 0.1
    n = wsfast.study(broken, permutations=0, progress=False).to_dict()
    assert (n["networks"], n["diverged"]) == (40, 2)
    assert n["train_accuracy"]["min"] > 0.9
    used = sum(c["n"] for c in n["cells"][:1])
    assert used < result.to_dict()["cells"][0]["n"]
    assert "2 diverged and left out" in wsfast.study(broken, permutations=0, progress=False).table()
    for array in broken.parameters.values():
        array[:] = np.inf
    with pytest.raises(ValueError, match=r"all 40 networks diverged"):
        wsfast.study(broken)


def test_the_papers_recipe_runs(zoo):
    n = wsfast.study(zoo, classifier="sgd", progress=False).to_dict()
    assert n["classifier"] == "sgd"
    assert {c["classifier"] for c in n["cells"]} == {"sgd", "cosine"}


def test_imported_networks_can_be_studied(zoo):
    from torch import nn

    models = [nn.Sequential(*list(zoo.to_torch(i))[1:]) for i in range(len(zoo))]
    imported = wsfast.WeightSet.from_torch(models, labels=zoo.labels)
    n = wsfast.study(imported, permutations=0, progress=False).to_dict()
    assert n["data"] == "imported"
    assert n["train_accuracy"] is None
    assert n["seed"] is None
    json.dumps(n, allow_nan=False)


def test_the_same_study_twice(zoo, result):
    again = wsfast.study(zoo, permutations=19, progress=False)
    assert again.to_dict()["cells"] == result.to_dict()["cells"]
    np.testing.assert_array_equal(again.kernel, result.kernel)


def test_shuffled_labels_establish_nothing(zoo):
    shuffled = replace(zoo, labels=np.random.default_rng(0).permutation(zoo.labels))
    n = wsfast.study(shuffled, permutations=99, progress=False).to_dict()
    cell = n["cells"][0]
    assert cell["accuracy"] < 0.7
    assert cell["p_permutation"] > 0.01
    assert not cell["established"]
    assert n["verdict"]["classification"]["paper_rule"] == "reject"


def test_bad_input(zoo):
    for bad in (0, 1, -0.1):
        with pytest.raises(ValueError, match=r"alpha must be in"):
            wsfast.study(zoo, alpha=bad)
    with pytest.raises(ValueError, match=r"classifier must be ridge or sgd, got 'svm'"):
        wsfast.study(zoo, classifier="svm")
    with pytest.raises(ValueError, match=r"permutations must be at least 0"):
        wsfast.study(zoo, permutations=-1)
    with pytest.raises(ValueError, match=r"3 tasks are too few"):
        wsfast.study(zoo[zoo.labels < 3], progress=False)
