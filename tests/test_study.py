import json
from dataclasses import replace

import numpy as np
import pytest
from scipy import stats

import wsfast
from wsfast import inference, protocols, rows, studying, table
from wsfast.controls import split_one_task
from wsfast.files import write_whole
from wsfast.layer_statistics import layer_statistics
from wsfast.protocols import Outcome


@pytest.fixture(scope="module")
def others(four_tasks):
    options = {"repeats": 6, "width": 24, "progress": False}
    relabelled = wsfast.generate("mlp4", four_tasks.regrouped(), **options)
    return {
        "relabelled images": relabelled,
        "shuffled labels": wsfast.generate("mlp4", four_tasks.shuffled(3), **options),
    }


@pytest.fixture(scope="module")
def result(zoo, others):
    return wsfast.study(zoo, permutations=19, controls=others, progress=False)


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
    assert n["timing"]["total_s"] > n["timing"]["generate_s"] + n["timing"]["controls_s"] > n["timing"]["generate_s"]
    assert n["skipped"] == []
    cells = {(c["features"], c["chain"], c["protocol"], c["classifier"]): c for c in n["cells"]}
    assert len(cells) == len(n["cells"]) == 4 * 3 * 3
    for c in cells.values():
        assert {"ci95", "wilson95", "p_error_ge_alpha", "p_chance", "p_holm", "established", "paper_rule"} <= set(c)
        assert c["accuracy"] == 1 - c["errors"] / c["n"]
        right = stats.binomtest(c["n"] - c["errors"], c["n"], c["chance"], alternative="greater")
        assert c["p_chance"] == pytest.approx(right.pvalue)
        assert c["p_error_ge_alpha"] == pytest.approx(stats.binom.cdf(c["errors"], c["n"], 0.05))
        both = stats.binomtest(c["n"] - c["errors"], c["n"])
        for interval, method in (("ci95", "exact"), ("wilson95", "wilson")):
            assert c[interval] == pytest.approx(both.proportion_ci(method=method), abs=1e-12)
        assert c["established"] == (c["p_holm"] <= 0.05) != ("n_to_establish" in c)
        assert c["bootstrap95"][0] <= c["accuracy"] <= c["bootstrap95"][1]
        assert ("split_seeds" in c) == (c["features"] == "chain" or c["classifier"] == "cosine")
        if "split_seeds" in c:
            assert c["split_seeds"]["seeds"] == [0, 1, 2, 3, 4]
            assert c["split_seeds"]["min"] <= c["split_seeds"]["mean"] <= c["split_seeds"]["max"]
            assert c["split_seeds"]["min"] <= c["accuracy"] <= c["split_seeds"]["max"]
        assert c["tested_tasks"] == (4 if c["protocol"] == "classification" else 2)
        assert c["p_holm"] >= c["p_error_ge_alpha"]
        assert c["paper_rule"] == ("accept" if c["errors"] / c["n"] < 0.05 else "reject")
    assert any(c["split_seeds"]["min"] < c["split_seeds"]["max"] for c in cells.values() if "split_seeds" in c)
    assert cells["chain", 2, "classification", "logistic"]["p_permutation"] == 1 / 20
    assert cells["chain", 2, "classification", "logistic"]["permutation_classifier"] == "ridge"
    assert "p_permutation" not in cells["raw", 1, "classification", "logistic"]
    assert 0 < cells["chain", 1, "retrieval", "cosine"]["map"] <= 1
    assert [c["control"] for c in n["controls"]] == ["A/A"] * 3 + ["untrained"] * 3
    for c in n["controls"]:
        assert c["classifier"] == "logistic"
        assert c["contains_chance"] == (c["ci95"][0] <= c["chance"] <= c["ci95"][1])
        assert abs(c["accuracy"] - c["chance"]) <= c["margin"] <= n["verdict"]["controls_margin"]
    assert all(c["tasks_left_out"] == 0 for c in n["controls"][:3])
    distances = {(d["features"], d["chain"]): d for d in n["distances"]}
    assert len(distances) == len(n["distances"]) == 4 * 3
    for d in distances.values():
        assert 0 <= d["r2"] <= 1
        assert d["r2_chance"] == 3 / 39
        assert d["within"] == sorted(d["within"])
    assert distances["chain", 2]["p"] == 1 / 20
    assert distances["chain", 2]["within"][2] < distances["chain", 2]["between"][2]


def test_what_the_features_read_stands_apart(result, others):
    """The same images under three labelings are told apart, which no verdict asks for."""
    n = result.to_dict()
    rows = n["informative_controls"]
    assert [(c["control"], c["chain"]) for c in rows] == [(name, chain) for name in others for chain in (1, 2, 3)]
    for c in rows:
        assert c["chance"] == 1 / 3
        assert c["n"] == 6
        assert c["train_accuracy"]["mean"] == others[c["control"]].records["train_accuracy"].mean()
    assert min(c["accuracy"] for c in rows[:3]) == 1
    assert n["verdict"]["controls_at_chance"]


def test_quick_skips_the_costly_parts_and_says_so(zoo, result):
    quick = wsfast.study(zoo, quick=True, progress=False)
    n = json.loads(json.dumps(quick.to_dict(), allow_nan=False))
    parts = ["permutation tests", "further split seeds", "bootstrap by task", "controls with networks of their own"]
    assert n["skipped"] == parts
    assert f"skipped: {', '.join(parts)}" in quick.table()
    assert n["permutations"] == 0
    for cell, whole in zip(n["cells"], result.to_dict()["cells"], strict=True):
        assert not {"split_seeds", "bootstrap95", "p_permutation"} & set(cell)
        assert cell == {k: whole[k] for k in cell}
    assert "p" not in n["distances"][0]
    assert wsfast.study(zoo, permutations=0, progress=False).to_dict()["skipped"] == [parts[0], parts[3]]


def test_how_many_networks_are_lacking(zoo):
    """With n test networks that all are right, 59 a chain establish the claim and 80 pass Holm over three chains."""
    n = wsfast.study(zoo, quick=True, progress=False).to_dict()
    right = [c for c in n["cells"] if c["errors"] == 0]
    assert right
    assert all(c["n_to_establish"] == 80 for c in right)
    wrong = [c for c in n["cells"] if c["errors"] / c["n"] >= 0.05]
    assert all(c["n_to_establish"] is None for c in wrong)
    for protocol in ("classification", "retrieval"):
        family = [
            c for c in n["cells"] if (c["features"], c["protocol"], c["classifier"]) == ("chain", protocol, "logistic")
        ]
        worst = max(c["errors"] for c in family)
        assert n["verdict"][protocol]["n_to_establish"] == (59 if worst == 0 else None)


def test_a_verdict_is_that_of_the_worst_chain():
    def cell(features, chain, classifier, errors):
        p = inference.p_error_at_least(errors, 400, 0.05)
        row = {"features": features, "chain": chain, "protocol": "retrieval", "classifier": classifier}
        return row | {"errors": errors, "n": 400, "p_error_ge_alpha": p, "paper_rule": "accept"}

    cells = [cell("chain", chain, "logistic", errors) for chain, errors in ((1, 0), (2, 15), (3, 3))]
    others = [cell("chain", 1, "cosine", 0), cell("raw", 1, "logistic", 0)]
    said = rows.verdict(cells + others, [{"p_two_sided": 1.0, "margin": 0.1}], 0.05)
    assert said["retrieval"]["p"] == pytest.approx(0.15, abs=0.005)
    assert not said["retrieval"]["established"]
    assert said["retrieval"]["n_to_establish"] == inference.smallest_n(15, 400, 0.05) > 400


def test_tasks_are_resampled_whole():
    tasks = np.repeat(np.arange(20), 20)
    found = rows.counts(Outcome(tasks < 4, tasks, 1 / 20), 500, 0)
    width = {name: found[name][1] - found[name][0] for name in ("ci95", "bootstrap95")}
    assert width["bootstrap95"] > 3 * width["ci95"]


def test_statistics_of_a_chain_are_those_of_its_layers(zoo):
    other = zoo[:]
    other.parameters["fc2.weight"][:20] *= 2
    everyone = np.arange(40)
    own, changed = (
        [studying._Features(z, "logistic").kernel("statistics", c)(everyone) for c in (1, 2)] for z in (zoo, other)
    )
    np.testing.assert_array_equal(own[0], changed[0])
    assert np.abs(own[1] - changed[1]).max() > 0.1


def test_statistics_are_standardised_by_the_training_part_alone(result, zoo):
    """Mean average precision tells kernels apart where few networks' accuracy may not."""
    x = layer_statistics(zoo)[:, :4].reshape(40, -1)
    train = x[protocols.retrieval_split(zoo.labels, 0)[0]]
    for part, same in ((train, True), (x, False)):
        z = (x - part.mean(axis=0)) / part.std(axis=0)
        want = protocols.retrieval(z @ z.T, zoo.labels, solver="cosine").extra["map"]
        own = [c for c in result.to_dict()["cells"] if (c["features"], c["chain"]) == ("statistics", 2)]
        assert (own[2]["map"] == pytest.approx(want, abs=1e-6)) == same


def test_repeats_are_the_networks_a_task_has(zoo):
    n = wsfast.study(zoo[(zoo.repeats >= 4) & ((zoo.labels > 0) | (zoo.repeats > 5))], quick=True, progress=False)
    assert {k: n.to_dict()[k] for k in ("networks", "tasks", "repeats")} == {"networks": 22, "tasks": 4, "repeats": 6}


def test_the_kernel_that_is_drawn_is_the_middle_chains(result, zoo):
    assert result.kernel_chain == 2
    np.testing.assert_array_equal(result.kernel, wsfast.chain_kernel(zoo, chain=2, cosine=True))


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
        "reads: relabelled images",
        "PERMANOVA",
        "tasks resampled",
        "5 splits, mean",
        "the paper's rule",
        "controls:",
        "40 x mlp4 on digits",
    ):
        assert word in text
    for cell in result.to_dict()["cells"]:
        assert f"{100 * cell['accuracy']:.1f} [" in text
    assert max(map(len, text.splitlines())) < 128


def test_that_two_tasks_are_too_few_to_learn_a_ranking_from_is_said(result):
    five = replace(result, numbers={**result.numbers, "tasks": 5})
    for found, said in ((result, True), (five, False)):
        assert ("etrieval was learned from two tasks" in found.table()) == said
        assert ("etrieval was learned from two tasks" in found.drawn()) == said


def test_the_table_shows_the_largest_chance_of_unequal_tasks(result):
    n = json.loads(json.dumps(result.to_dict()))
    for c in n["cells"] + n["controls"]:
        c["chance"] = 0.1 + 0.123 * (c["chain"] == 2)
    assert table.table(n).count("  22.3  ") == 4 * 3 + 2
    assert table.table(n).count("  10.0  ") == 0


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


def test_tasks_with_fewer_than_two_usable_networks_are_left_out_and_counted(zoo):
    """One task that diverged as a whole, one of a single network that did not."""
    tasks = wsfast.tasks("digits", n=6)
    more = wsfast.generate("mlp4", tasks, repeats=4, width=24, progress=False)
    broken = more[(more.labels != 5) | (more.repeats == 0)]
    broken.parameters["fc1.weight"][broken.labels == 2] = np.nan
    whole = more[(more.labels != 2) & (more.labels != 5)]
    mine = {"mine": broken}
    found, want = (wsfast.study(z, quick=True, controls=mine, progress=False) for z in (broken, whole))
    n, whole = found.to_dict(), want.to_dict()
    assert {k: n[k] for k in ("networks", "diverged", "tasks", "tasks_left_out")} == {
        "networks": 21, "diverged": 4, "tasks": 4, "tasks_left_out": 2
    }  # fmt: skip
    assert (whole["tasks"], whole["tasks_left_out"]) == (4, 0)
    for part in ("cells", "distances", "controls", "informative_controls"):
        assert n[part] == whole[part]
    assert n["informative_controls"][0]["tested_tasks"] == 4
    for text, count in ((found.table(), 1), (want.table(), 0)):
        assert text.count("tasks left out, with fewer than 2 usable networks: 2") == count
    assert "tasks left out<b>2</b>" in found.drawn()
    assert "tasks left out<b>" not in want.drawn()


@pytest.mark.parametrize("repeats", [2, 3])
def test_without_four_networks_a_task_the_split_in_two_is_left_out_and_said(zoo, repeats):
    found = wsfast.study(zoo[zoo.repeats < repeats], permutations=9, progress=False)
    n = found.to_dict()
    said = "A/A control (no task has 4 usable networks)"
    assert n["skipped"] == [said, "controls with networks of their own"]
    assert {c["control"] for c in n["controls"]} == {"untrained"}
    assert {"controls_at_chance", "controls_margin"} <= set(n["verdict"])
    assert said in found.table()
    page = found.drawn()
    assert said in page
    assert "split at random in two" not in page
    assert "initial weights carry no task" in page


def test_what_always_answering_one_task_would_meet_is_refused(zoo):
    """Four of seven tested networks are of one task: a classifier that says nothing else errs in 3 / 7."""
    uneven = zoo[(zoo.repeats < 2) | (zoo.labels == 1)]
    with pytest.raises(ValueError, match=r"4 of the 7 networks that classification tests are of task 1: always answer"):
        wsfast.study(uneven, alpha=3 / 7 + 0.001, quick=True, progress=False)
    assert wsfast.study(uneven, alpha=3 / 7, quick=True, progress=False).to_dict()["tasks"] == 4
    with pytest.raises(ValueError, match=r"2 of the 4 networks that retrieval tests are of task .* alpha = 0\.6"):
        wsfast.study(zoo, alpha=0.6, progress=False)


def test_the_papers_recipe_runs(zoo):
    n = wsfast.study(zoo, classifier="sgd", permutations=9, progress=False).to_dict()
    assert n["classifier"] == "sgd"
    assert {c["classifier"] for c in n["cells"]} == {"sgd", "cosine"}
    assert {c["classifier"] for c in n["controls"]} == {"sgd"}
    assert n["cells"][0]["permutation_classifier"] == "ridge"


def test_the_papers_recipe_reads_grams_as_they_are(zoo, result):
    """Mean average precision tells kernels apart; what is no classifier's remains that of cosines."""
    found = wsfast.study(zoo, classifier="sgd", permutations=19, progress=False)
    n, logistic = found.to_dict(), result.to_dict()
    plain, scaled = (wsfast.chain_kernel(zoo, chain=3, cosine=cosine) for cosine in (False, True))
    recipe, shorter = (protocols.retrieval(k, zoo.labels, solver="sgd").extra["map"] for k in (plain, scaled))
    cells = [c for c in n["cells"] if (c["features"], c["chain"]) == ("chain", 3)]
    assert cells[1]["map"] == recipe != shorter
    assert n["controls"][2]["errors"] == split_one_task(plain, zoo.labels, 0, "sgd")[0].errors
    for own, theirs in zip(n["cells"], logistic["cells"], strict=True):
        assert own.get("permuted_accuracy") == theirs.get("permuted_accuracy")
        assert own["classifier"] == "sgd" or own["map"] == pytest.approx(theirs["map"])
    for own, theirs in zip(n["distances"], logistic["distances"], strict=True):
        assert own["r2"] == pytest.approx(theirs["r2"])
        assert own["within"] == pytest.approx(theirs["within"], abs=1e-6)
    np.testing.assert_allclose(found.kernel, result.kernel, atol=1e-6)


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
    for part in ("cells", "distances", "controls", "verdict"):
        assert again.to_dict()[part] == result.to_dict()[part]
    np.testing.assert_array_equal(again.kernel, result.kernel)


def test_shuffled_labels_establish_nothing(zoo):
    shuffled = replace(zoo, labels=np.random.default_rng(0).permutation(zoo.labels))
    n = wsfast.study(shuffled, permutations=99, progress=False).to_dict()
    cell = n["cells"][0]
    assert cell["accuracy"] < 0.7
    assert cell["p_permutation"] > 0.01
    assert not cell["established"]
    assert n["verdict"]["classification"]["paper_rule"] == "reject"


def test_numbers_of_numpy_are_numbers(zoo, tmp_path):
    options = {"alpha": np.float32(0.05), "permutations": np.int64(3), "seed": np.uint8(2)}
    wsfast.study(zoo, **options, progress=False).save(tmp_path)
    n = json.loads((tmp_path / "results.json").read_text())
    assert (n["alpha"], n["permutations"], n["split_seed"]) == (pytest.approx(0.05), 3, 2)


def test_bad_input(zoo):
    for bad in (0, 1, -0.1):
        with pytest.raises(ValueError, match=r"alpha must be in"):
            wsfast.study(zoo, alpha=bad)
    with pytest.raises(ValueError, match=r"classifier must be one of logistic, ridge, sgd, got 'svm'"):
        wsfast.study(zoo, classifier="svm")
    with pytest.raises(ValueError, match=r"permutations must be at least 0"):
        wsfast.study(zoo, permutations=-1)
    with pytest.raises(TypeError, match=r"'float' object cannot be interpreted as an integer"):
        wsfast.study(zoo, permutations=2.5)
    with pytest.raises(ValueError, match=r"want at least 4 tasks .*, got 3"):
        wsfast.study(zoo[zoo.labels < 3], progress=False)
    with pytest.raises(ValueError, match=r"want at least 4 tasks .*, got 1"):
        wsfast.study(zoo[zoo.labels == 2], progress=False)
    with pytest.raises(ValueError, match=r"want tasks of at least 2 usable networks, got one of each \(generate more"):
        wsfast.study(zoo[zoo.repeats < 1], progress=False)
    with pytest.raises(TypeError, match=r"control 'mine': want a WeightSet, got list"):
        wsfast.study(zoo, controls={"mine": []}, progress=False)
    with pytest.raises(ValueError, match=r"control 'mine': want at least 2 tasks, got 1"):
        wsfast.study(zoo, controls={"mine": zoo[:10]}, progress=False)
    with pytest.raises(ValueError, match=r"control 'mine': want tasks of at least 2 usable networks, got one of each"):
        wsfast.study(zoo, controls={"mine": zoo[zoo.repeats < 1]}, progress=False)
    with pytest.raises(ValueError, match=r"control 'untrained': the name is taken"):
        wsfast.study(zoo, controls={"untrained": zoo}, progress=False)
