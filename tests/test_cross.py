import json
from dataclasses import replace

import numpy as np
import pytest

import wsfast
from wsfast import chains, cli, crossing, protocols
from wsfast.inference import holm, p_mcnemar


@pytest.fixture(scope="module")
def other(four_tasks):
    """The same tasks, a wider network, other seeds, another number of repeats."""
    return wsfast.generate("mlp4", four_tasks, repeats=9, seed=1, width=31, progress=False)


@pytest.fixture(scope="module")
def result(zoo, other):
    return wsfast.cross(zoo, other, progress=False)


def cells(result):
    n = result.to_dict()["cells"]
    return {(c["chain"], c["protocol"], c["trained_on"], c["tested_on"]): c for c in n}


def test_every_pair_of_sets_is_there(result):
    found = cells(result)
    assert len(found) == len(result.to_dict()["cells"]) == 3 * 2 * 4
    for (_, protocol, trained, tested), c in found.items():
        assert c["n"] == {"classification": {"a": 16, "b": 16}, "retrieval": {"a": 4, "b": 4}}[protocol][tested]
        assert c["ci95"][0] <= c["accuracy"] == 1 - c["errors"] / c["n"] <= c["ci95"][1]
        assert ("drop" in c) == ("p_mcnemar" in c) == (trained != tested)
    assert found[2, "classification", "a", "b"]["accuracy"] > 0.9  # chains do not depend on the width


@pytest.mark.parametrize(("solver", "cosine"), [("logistic", True), ("sgd", False)])
def test_within_a_set_it_is_the_studys_protocol(zoo, other, solver, cosine):
    result = wsfast.cross(zoo, other, classifier=solver, progress=False)
    for chain in (1, 2, 3):
        kernel = chains.feature_kernel("chain", zoo, chain=chain, cosine=cosine)
        for protocol in ("classification", "retrieval"):
            want = getattr(protocols, protocol)(kernel, zoo.labels, solver=solver)
            found = cells(result)[chain, protocol, "a", "a"]
            assert (found["n"], found["errors"], found["chance"]) == (want.n, want.errors, want.chance)
            assert found.get("map") == want.extra.get("map")


@pytest.fixture(scope="module")
def noisy(zoo):
    """The set with so much noise on its weights that tasks are confused."""
    rng = np.random.default_rng(0)
    arrays = {
        name: w + 1.5 * w.std() * rng.standard_normal(w.shape).astype(np.float32) for name, w in zoo.parameters.items()
    }
    return replace(zoo, parameters=arrays)


def test_across_sets_it_is_the_same_classifier_elsewhere(zoo, noisy):
    found = cells(wsfast.cross(zoo, noisy, features="raw", classifier="ridge", seed=3, progress=False))
    train, _ = protocols.classification_split(zoo.labels, 3)
    _, test = protocols.classification_split(noisy.labels, 3)
    model = wsfast.WeightClassifier(1, "raw", "ridge").fit(zoo[train])
    wrong = model.predict(noisy[test]) != noisy.labels[test]
    own = wsfast.WeightClassifier(1, "raw", "ridge").fit(noisy[train]).predict(noisy[test]) != noisy.labels[test]
    c = found[1, "classification", "a", "b"]
    assert 0 < c["errors"] == wrong.sum()
    assert (c["only_cross"], c["only_within"]) == ((wrong & ~own).sum(), (own & ~wrong).sum())
    assert c["drop"] == pytest.approx(wrong.mean() - own.mean())
    assert c["p_mcnemar"] == p_mcnemar(c["only_cross"], c["only_within"])
    family = [found[chain, "classification", "a", "b"] for chain in (1, 2, 3)]
    assert [c["p_holm"] for c in family] == holm([c["p_mcnemar"] for c in family])


def test_networks_of_one_start_are_on_one_side(zoo):
    """Of one seed, whatever either set lacks; noisy copies of a's own networks would be found by their very weights."""
    rng = np.random.default_rng(1)
    fewer = zoo[np.flatnonzero((zoo.repeats < 7) & ~((zoo.labels == 1) & (zoo.repeats == 2)))]
    arrays = {
        name: w + 0.1 * w.std() * rng.standard_normal(w.shape).astype(np.float32)
        for name, w in fewer.parameters.items()
    }
    fewer = replace(fewer, parameters=arrays)[rng.permutation(len(fewer))]
    for a, b in ((zoo, fewer), (fewer, zoo), (zoo[zoo.repeats > 1], fewer)):
        parts = crossing._classification_splits({"a": a, "b": b}, 0)
        train, test = ({key: set(zip(z.labels[p], z.repeats[p], strict=True)) for key, z, p in
                        (("a", a, parts["a"][side]), ("b", b, parts["b"][side]))} for side in (0, 1))  # fmt: skip
        for key, other in (("a", "b"), ("b", "a")):
            assert not train[key] & test[other]
            assert {t for t, _ in train[key]} == {t for t, _ in test[key]} == set(range(4))
    parts = crossing._classification_splits({"a": zoo, "b": fewer}, 0)
    for z, (train, _) in zip((zoo, fewer), parts.values(), strict=True):
        shares = np.bincount(z.labels[train]) / np.bincount(z.labels)
        assert (abs(shares - 0.6) < 0.1).all()  # of each set, whatever the other one lacks
    found = cells(wsfast.cross(zoo, fewer, features="raw", progress=False))
    assert found[2, "classification", "a", "b"]["accuracy"] < 0.7
    other = replace(fewer, info={**fewer.info, "seed": 1})
    independent = crossing._classification_splits({"a": zoo, "b": other}, 0)
    for key, z in (("a", zoo), ("b", other)):
        for got, want in zip(independent[key], protocols.classification_split(z.labels, 0), strict=True):
            np.testing.assert_array_equal(got, want)
    with pytest.raises(ValueError, match=r"sets of one seed share leaves nothing .* of [ab]'s tasks \[.*more repeats"):
        wsfast.cross(*(zoo[np.isin(zoo.repeats, own)] for own in ([0, 1], [0, 9])))


def test_other_data_of_the_same_names_is_said(zoo, other, result, tmp_path):
    said = "the sets' data differ under the same names"
    assert result.numbers["same_data"] is True
    assert said not in result.table()
    few = wsfast.tasks("digits", n=4, test_fraction=0.5)
    strange = wsfast.generate("mlp4", few, repeats=9, seed=1, width=24, progress=False, out=tmp_path / "set")
    found = wsfast.cross(zoo, tmp_path / "set", progress=False)
    assert found.numbers["same_data"] is False
    assert said in found.table()
    imported = wsfast.WeightSet.from_torch([strange.to_torch(i) for i in range(36)], strange.labels)
    found = wsfast.cross(zoo, replace(imported, task_names=zoo.task_names), progress=False)
    assert found.numbers["same_data"] is None
    assert "is not known" in found.table()


def test_retrieval_trains_and_ranks_on_other_tasks(zoo, noisy):
    """The classifier of one set has seen none of the tasks that the other's networks are looked for in."""

    def ranked(model, across, labels, query, gallery):
        assert not set(model.classes_) & set(labels[query]) | set(model.classes_) & set(labels[gallery])
        seen.append(set(model.classes_))
        return protocols.rank(model, across, labels, query, gallery)

    seen = []
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(crossing.PROTOCOLS, "retrieval", ranked)
        for seed in range(3):
            wsfast.cross(zoo, noisy, classifier="ridge", seed=seed, progress=False)
    assert len(seen) == 3 * 3 * 4
    c = cells(wsfast.cross(zoo, noisy, classifier="ridge", progress=False))[2, "retrieval", "a", "b"]
    train, query, gallery = protocols.retrieval_split(noisy.labels, 0)
    assert not set(zoo.labels[train]) & set(noisy.labels[query])
    model = wsfast.WeightClassifier(2, solver="ridge").fit(zoo[train])
    q, g = (model.decision_function(noisy[part]) for part in (query, gallery))
    q, g = (z / np.linalg.norm(z, axis=1, keepdims=True) for z in (q, g))
    nearest = noisy.labels[gallery][(q @ g.T).argmax(axis=1)]
    assert c["errors"] == (nearest != noisy.labels[query]).sum()


def test_a_set_against_itself_drops_nothing(zoo):
    for c in wsfast.cross(zoo, zoo, progress=False).to_dict()["cells"]:
        assert c.get("drop", 0) == c.get("only_cross", 0) == 0
        assert c.get("p_mcnemar", 1) == 1


def test_depth_may_differ(zoo, four_tasks):
    deep = wsfast.generate(
        "resnet-mlp12", four_tasks, repeats=5, width=8, recipe=wsfast.Recipe(epochs=2, lr=0.05), progress=False
    )
    assert {c["chain"] for c in wsfast.cross(zoo, deep, progress=False).to_dict()["cells"]} == {1, 2, 3}


def test_on_the_command_line(zoo, other, tmp_path, capsys):
    for name, each in (("a", zoo), ("b", other)):
        each.save(tmp_path / name)
    out = tmp_path / "runs"
    command = ["cross", str(tmp_path / "a"), str(tmp_path / "b")]
    assert cli.main([*command, "--out", str(out)]) == 0
    said = capsys.readouterr().out
    assert "a: 40 x mlp4, 0 diverged" in said
    assert said.count("  drop ") == 4
    stored = json.loads((out / "cross.json").read_text())
    assert (out / "cross.svg").read_text().startswith("<svg")
    assert cli.main([*command, "--json"]) == 0
    printed = json.loads(capsys.readouterr().out)
    assert printed["cells"] == stored["cells"]
    assert printed["a"]["networks"] == 40
    assert printed["backend"] == "numba"


def test_sets_that_cannot_be_crossed(zoo, tmp_path, capsys):
    wide = wsfast.WeightSet.from_arrays([np.ones((40, d, n)) for d, n in ((70, 9), (9, 2))], zoo.labels)
    wide = replace(wide, task_names=zoo.task_names)
    with pytest.raises(ValueError, match=r"chain 1 is 64 x 64 in a \(mlp4\) and 70 x 70 in b \(imported\)"):
        wsfast.cross(zoo, wide)
    with pytest.raises(ValueError, match=r"label 1 means '0\+2' in a and 'swapped' in b"):
        wsfast.cross(zoo, replace(zoo, task_names=("0+1", "swapped", *zoo.task_names[2:])))
    with pytest.raises(ValueError, match=r"label 3 means '0\+4' in a and nothing in b"):
        wsfast.cross(zoo, replace(zoo, task_names=zoo.task_names[:3]))
    with pytest.raises(ValueError, match=r"only one of the sets has usable networks of the tasks \[2\]"):
        wsfast.cross(zoo, zoo[zoo.labels != 2])
    with pytest.raises(ValueError, match=r"cross: seed must be 0\.\.2\^64 - 1, got -1"):
        wsfast.cross(zoo, zoo, seed=-1)
    with pytest.raises(ValueError, match=r"classifier must be one of logistic, ridge, sgd, got 'svm'"):
        wsfast.cross(zoo, zoo, classifier="svm")
    with pytest.raises(ValueError, match=r"features must be one of chain"):
        wsfast.cross(zoo, zoo, features="gram")
    with pytest.raises(TypeError, match=r"cross: b: want a WeightSet, got int"):
        wsfast.cross(zoo, 3)
    zoo.save(tmp_path / "a")
    assert cli.main(["cross", str(tmp_path / "a"), str(tmp_path / "missing")]) == 2
    assert "holds no weight set" in capsys.readouterr().err


def test_convolutional_networks_of_other_shapes():
    """Depth, width, blocks and activations may differ, the images' channels may not."""

    def drawn(name, shape, width):
        net = wsfast.network(name, shape, 2, width)
        rng = np.random.default_rng(net.size)
        arrays = {p.name: rng.uniform(0.1, 1, (20, *p.shape)).astype(np.float32) for p in net.parameters}
        return wsfast.WeightSet(net, arrays, np.arange(20) // 5, np.arange(20) % 5, tuple("abcd"))

    plain, rgb = drawn("plainnet5", (3, 32, 32), 2), (3, 32, 32)
    for other in (drawn("plainnet6", rgb, 2), drawn("plainnet5-leaky", rgb, 3), drawn("resnet5", rgb, 2)):
        for features in ("chain", "chain_folded"):
            found = wsfast.cross(plain, other, features=features, progress=False).to_dict()["cells"]
            assert {c["chain"] for c in found} == {1, 2, 3, 4}
    with pytest.raises(ValueError, match=r"chain 1 is 27 x 27 in a \(plainnet5\) and 9 x 9 in b \(plainnet5\)"):
        wsfast.cross(plain, drawn("plainnet5", (1, 32, 32), 2))


def test_raw_layers_must_have_the_same_shape(zoo, other):
    with pytest.raises(ValueError, match=r"chain 1 is 64 x 24 in a \(mlp4\) and 64 x 31 in b \(mlp4\)"):
        wsfast.cross(zoo, other, features="raw")
