import json
from dataclasses import replace

import numpy as np
import pytest
from scipy import stats

import wsfast
from wsfast import cli
from wsfast.aligning import shuffled_units
from wsfast.asymmetry import fixed_entries
from wsfast.grid_expectations import EXPECTATIONS, difference, judged
from wsfast.grid_features import ORDERLESS, TITLES, kernels, norm_orders, sides
from wsfast.gridding import COLUMNS
from wsfast.layer_statistics import layer_statistics
from wsfast.protocols import retrieval, retrieval_split, seen_from
from wsfast.shared_start import shared_start
from wsfast.trained_on import trained_on

RECIPE = wsfast.Recipe(lr=0.02, epochs=3, batch_size=32, decay_epochs=())
WIDTH = 8


@pytest.fixture(scope="module")
def five_tasks():
    """Of four, retrieval would learn two classes: logits on a line, all cosines 1 or -1, ranks decided by rounding."""
    return wsfast.tasks("digits", n=5)


@pytest.fixture(scope="module")
def result(five_tasks):
    return wsfast.grid(five_tasks, repeats=6, width=WIDTH, recipe=RECIPE, pairs=2, progress=False)


@pytest.fixture(scope="module")
def shared(four_tasks):
    net = wsfast.network("mlp4", four_tasks.shape, four_tasks.classes, WIDTH)
    return shared_start(net, four_tasks, repeats=2, seed=5, recipe=RECIPE)


def test_every_cell_is_there_and_orderless_ones_do_not_move(result):
    n = json.loads(json.dumps(result.to_dict(), allow_nan=False))
    cells = {(c["column"], c["features"], c["protocol"], c["shuffled"]): c for c in n["cells"]}
    assert len(cells) == len(n["cells"]) == len(COLUMNS) * len(TITLES) * 2 * 2
    for (column, features, protocol, shuffled), cell in cells.items():
        assert cell["n"] == (10 if protocol == "classification" else 2)
        assert cell["chance"] == (1 / 5 if protocol == "classification" else 1 / 2)
        assert cell["ci95"][0] <= cell["accuracy"] <= cell["ci95"][1]
        if features in ORDERLESS and not shuffled:
            assert cells[column, features, protocol, True]["errors"] == cell["errors"]
    assert {c["name"]: c["barrier"]["aligned"] is None for c in n["columns"]} == {
        name: name == "sigma-asym" for name in COLUMNS
    }
    assert len(n["columns"][0]["barrier"]["naive"]["by_task"]) == 5
    assert [e["says"] for e in n["expectations"]] == [e.says for e in EXPECTATIONS]


@pytest.fixture(scope="module")
def zoos(five_tasks):
    """Three columns' networks, trained again."""
    nets = {
        name: wsfast.network(kind, five_tasks.shape, five_tasks.classes, WIDTH, **options)
        for name, (kind, options) in COLUMNS.items()
    }
    found = {
        name: wsfast.generate(nets[name], five_tasks, repeats=6, recipe=RECIPE, progress=False)
        for name in ("standard", "W-asym 0.25")
    }
    return found | {"shared start": shared_start(nets["shared start"], five_tasks, repeats=6, recipe=RECIPE)}


def test_barriers_are_connectivitys(five_tasks, zoos, result):
    columns = {c["name"]: c for c in result.numbers["columns"]}
    for name, zoo in zoos.items():
        found = wsfast.connectivity(
            zoo, five_tasks, pairs=2, points=3, align=lambda z, to: wsfast.align(z, to).zoo, progress=False
        )
        assert columns[name]["test_accuracy"] == pytest.approx(zoo.records["test_accuracy"].mean())
        for line in ("naive", "aligned"):
            first, middle, last = found.curves[line, "test", "loss"].T
            by_task = (middle - (first + last) / 2).reshape(5, 2).mean(axis=1)
            got = columns[name]["barrier"][line]
            np.testing.assert_allclose(got["by_task"], by_task, rtol=1e-5, atol=1e-7)
            assert got["mean"] == pytest.approx(by_task.mean(), abs=1e-7)
            interval = stats.t.interval(0.95, 4, by_task.mean(), stats.sem(by_task))
            np.testing.assert_allclose(got["ci95"], interval, rtol=1e-4, atol=1e-7)


def test_cells_are_the_protocols_on_plain_kernels(zoos, result):
    """Mean average precision tells kernels apart where ten networks' accuracy may not."""

    def cosine(x):
        x = x.reshape(len(x), -1)
        x = x / np.linalg.norm(x, axis=1, keepdims=True)
        return x @ x.T

    zoo = zoos["standard"]
    cells = {(c["features"], c["shuffled"]): c for c in result.numbers["cells"][: 4 * len(TITLES)]
             if (c["column"], c["protocol"]) == ("standard", "retrieval")}  # fmt: skip
    aligned = wsfast.align(zoo, zoo[0]).zoo
    for features, shuffled, of in (
        ("raw", False, zoo), ("raw", True, shuffled_units(zoo, 0)), ("aligned", False, aligned),
        ("chain", False, zoo), ("statistics", False, zoo),
    ):  # fmt: skip
        w1, w2 = (np.asarray(of.parameters[f"fc{k}.weight"], np.float64) for k in (1, 2))
        if features == "chain":
            kernel = cosine(np.einsum("nij,nkj->nik", w1 @ w2, w1 @ w2))
        elif features == "statistics":
            layers = layer_statistics(of)[:, :4].reshape(len(of), -1)  # weights and biases of the chain's two layers
            train = layers[retrieval_split(of.labels, 0)[0]]
            kernel = cosine((layers - train.mean(axis=0)) / np.where(train.std(axis=0) > 1e-9, train.std(axis=0), 1))
        else:
            kernel = cosine(np.concatenate([w.reshape(len(w), -1) for w in (w1, w2)], axis=1))
        assert cells[features, shuffled]["map"] == pytest.approx(retrieval(kernel, of.labels).extra["map"], abs=1e-6)
    assert cells["raw", False]["map"] != cells["raw", True]["map"]


def test_the_same_seed_gives_the_same_grid(five_tasks, result):
    again = wsfast.grid(five_tasks, repeats=6, width=WIDTH, recipe=RECIPE, pairs=2, threads=1, progress=False)
    for key in ("cells", "columns", "expectations"):
        assert again.numbers[key] == result.numbers[key]


def test_a_shared_start_is_shared_and_the_order_of_samples_is_not(four_tasks, shared):
    none = replace(RECIPE, epochs=0)
    start = shared_start(shared.network, four_tasks, repeats=2, seed=5, recipe=none)
    first = wsfast.generate(shared.network, four_tasks, repeats=1, seed=5, recipe=none, progress=False)[0]
    for name, array in start.parameters.items():
        np.testing.assert_array_equal(array, np.broadcast_to(first.parameters[name], array.shape))
        assert (shared.parameters[name][0] != shared.parameters[name][1]).any()
    assert not shared.diverged.any()
    lines = wsfast.connectivity(shared, four_tasks, points=3, progress=False).curves
    assert {line for line, _, _ in lines} == {"naive"}  # initial weights drawn from a seed would be others
    half = wsfast.tasks("digits", n=2, test_fraction=0.5)
    assert trained_on("x", shared_start(shared.network, half, repeats=1, recipe=none)).sha256() == half.sha256()


def test_fixed_entries_are_no_features(four_tasks):
    """Kernels of raw weights do not change with kappa where the trained weights are the same."""
    nets = [wsfast.network("mlp4-wasym", four_tasks.shape, 2, WIDTH, kappa=kappa) for kappa in (0.25, 1.0)]
    symmetric = wsfast.network("mlp4", four_tasks.shape, 2, WIDTH)
    none = replace(RECIPE, epochs=0)
    zoos = [wsfast.generate(net, four_tasks, repeats=2, recipe=none, progress=False) for net in nets]
    at, _ = fixed_entries(nets[0])
    assert (zoos[0].to_matrix()[0] != zoos[1].to_matrix()[0])[:, at].all()
    found = [sides(zoo, symmetric) for zoo in zoos]
    a, b = (kernels(of, of.whole[0], 2) for of in found)
    for features in TITLES:
        same = np.allclose(*(seen_from(k[features], np.arange(len(zoos[0]))) for k in (a, b)), rtol=1e-6)
        assert same == (features in ("raw", "sorted", "statistics")), features
    assert not found[0].free.to_matrix()[0][:, at].any()
    np.testing.assert_array_equal(found[0].whole.to_matrix()[0], zoos[0].to_matrix()[0])


def test_rows_against_plain_numpy(shared):
    of = sides(shared, shared.network)
    found, moved = kernels(of, shared[0], 2), kernels(of.shuffled(3), shared[0], 2)
    w1, w2 = (shared.parameters[f"fc{k}.weight"].astype(np.float64) for k in (1, 2))
    flat = np.concatenate([w1.reshape(len(w1), -1), w2.reshape(len(w2), -1)], axis=1)
    chain = np.einsum("nij,njk,nlk->nil", w1, w2, w1 @ w2).reshape(len(w1), -1)
    for features, x in (("raw", flat), ("chain", chain)):
        x = x / np.linalg.norm(x, axis=1, keepdims=True)
        np.testing.assert_allclose(found[features], x @ x.T, rtol=1e-5, err_msg=features)
    for features in TITLES:
        same = np.allclose(*(seen_from(k[features], np.arange(len(w1))) for k in (found, moved)), atol=1e-6)
        assert same == (features != "raw"), features  # one start: alignment finds every order back
    for group, orders in norm_orders(shared).items():
        norms = np.linalg.norm(shared.parameters[f"fc{group[-1]}.weight"], axis=1)
        assert (np.diff(np.take_along_axis(norms, orders, axis=1), axis=1) <= 0).all()


def planted(accuracy, barriers, n=400):
    """Cells and columns with these accuracies: (column, features, shuffled) -> share; others 0.5."""
    cells, columns = [], []
    for k, name in enumerate(COLUMNS):
        columns.append({"name": name, "barrier": {"naive": {"by_task": [barriers[k]] * 4}}})
        for features in TITLES:
            for shuffled in (False, True):
                share = accuracy.get((name, features, shuffled), 0.25 if (features, shuffled) == ("raw", True) else 0.5)
                counted = {"errors": round((1 - share) * n), "n": n, "accuracy": share, "chance": 0.25}
                cell = {"column": name, "features": features, "protocol": "classification", "shuffled": shuffled}
                cells.append({**cell, **counted, "by_task": [share] * 4})
    return judged(cells, columns)


RAW = dict(zip(COLUMNS, (0.25, 0.95, 0.3, 0.6, 0.9, 0.4), strict=True))
AS_EXPECTED = {
    **{(name, "raw", False): share for name, share in RAW.items()},
    **{("standard", "chain", shuffled): 0.98 for shuffled in (False, True)},
    ("standard", "aligned", False): 0.6,
}
TURNED = {
    **{(name, "raw", False): 1 - share for name, share in RAW.items()},
    **{(name, "raw", True): 0.4 for name in COLUMNS},
    ("standard", "chain", False): 0.2,
    ("standard", "chain", True): 0.3,
    ("standard", "aligned", False): 0.5,
}


def test_verdicts_of_planted_numbers():
    barriers = [2 - share for share in RAW.values()]
    assert [e["verdict"] for e in planted(AS_EXPECTED, barriers)] == ["confirmed"] * len(EXPECTATIONS)
    assert [e["verdict"] for e in planted(TURNED, barriers)] == ["refuted"] * len(EXPECTATIONS)
    few = planted(AS_EXPECTED, barriers, n=4)
    assert [e["verdict"] for e in few].count("not decided") == 7
    assert few[-1]["verdict"] == "not decided"  # that so few networks are not told from chance shows nothing
    rows = planted({}, [1.0] * len(COLUMNS))
    undecided = [e["verdict"] for e in rows if e["quantity"] == "difference of accuracies"]
    assert undecided == ["not decided"] * 6
    assert rows[7]["value"] == 0
    for e in rows:
        assert e["ci95"][0] <= e["value"] <= e["ci95"][1]


def test_the_interval_of_a_difference_is_of_two_exact_ones():
    ends = [stats.binomtest(k, 40).proportion_ci(0.975, "exact") for k in (31, 12)]
    cells = [{"n": 40, "errors": 40 - k, "accuracy": k / 40} for k in (31, 12)]
    value, interval = difference(*cells)
    assert value == pytest.approx(19 / 40)
    assert interval == pytest.approx((ends[0].low - ends[1].high, ends[0].high - ends[1].low))


def test_the_interval_of_a_difference_covers():
    """At least 95 % of drawn pairs of counts, also where both are of the same networks."""
    rng, hit = np.random.default_rng(0), 0
    for _ in range(300):
        u = rng.random(40)
        cells = [{"n": 40, "errors": int((u >= p).sum()), "accuracy": float((u < p).mean())} for p in (0.8, 0.5)]
        low, high = difference(*cells)[1]
        hit += low <= 0.3 <= high
    assert hit / 300 >= 0.95
    assert high - low < 0.7


def test_on_the_command_line(tmp_path, capsys, monkeypatch, result):
    asked = {}

    def run(tasks, **options):
        asked.update(options, tasks=len(tasks))
        return result

    monkeypatch.setattr(wsfast, "grid", run)
    command = ["grid", "--tasks", "5", "--repeats", "6", "--chain", "3", "--out", str(tmp_path)]
    assert cli.main(command) == 0
    assert {"tasks": 5, "repeats": 6, "chain": 3}.items() <= asked.items()
    said = capsys.readouterr().out
    assert "raw, aligned to one network  retrieval" in said
    assert all(e.says in said for e in EXPECTATIONS)
    assert json.loads((tmp_path / "grid.json").read_text()) == json.loads(json.dumps(result.to_dict()))
    page = (tmp_path / "grid.html").read_text()
    assert page.count("<svg") == 1
    assert "http" not in page.replace("http://www.w3.org", "")
    assert cli.main([*command, "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["chain"] == 2


def test_bad_input(four_tasks, five_tasks):
    net = wsfast.network("mlp4", four_tasks.shape, 2, WIDTH)
    wild = replace(RECIPE, lr=1e6)
    for wrong, message in (
        ({"classifier": "forest"}, r"classifier must be one of logistic, ridge, sgd, got 'forest'"),
        ({"repeats": 1}, r"want 2 repeats and 1 pair or more, got 1 and 5"),
        ({"pairs": 0}, r"want 2 repeats and 1 pair or more, got 2 and 0"),
        ({"chain": 4}, r"chain must be 1\.\.3 for mlp4, got 4"),
        ({"recipe": wild}, r"standard has 0 usable networks of task 0, 10 of 10 diverged"),
    ):
        with pytest.raises(ValueError, match=message):
            wsfast.grid(five_tasks, **{"repeats": 2, "width": WIDTH, "recipe": RECIPE, "progress": False, **wrong})
    with pytest.raises(ValueError, match=r"want at least 5 tasks, so that retrieval learns 3 .*, got 4"):
        wsfast.grid(four_tasks)
    zoo = wsfast.generate(net, four_tasks, repeats=1, recipe=RECIPE, progress=False)
    with pytest.raises(ValueError, match=r"mlp4 and plainnet5 have other parameters"):
        sides(zoo, wsfast.network("plainnet5", (3, 16, 16), 2, 2))
