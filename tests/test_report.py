import copy
import re
from dataclasses import replace

import numpy as np
import pytest

import wsfast
from wsfast import figures
from wsfast.report import report_html


@pytest.fixture(scope="module")
def result(zoo):
    return wsfast.study(zoo, permutations=9, controls={"other <labels>": zoo[zoo.repeats < 5]}, progress=False)


@pytest.fixture(scope="module")
def page(result):
    return report_html(result)


def changed(result, **numbers):
    return replace(result, numbers={**result.numbers, **numbers})


def test_it_is_one_page_with_every_figure_and_number(result, page):
    assert page.startswith("<!doctype html>")
    assert page.count("<svg") == 6  # accuracy, controls twice, distances, CMC, training
    assert page.count("<img") == 2  # heat map, embedding
    for cell in (*result.numbers["cells"], *result.numbers["controls"], *result.numbers["informative_controls"]):
        row = rf"<td>{cell['errors']} / {cell['n']}</td><td>{100 * cell['accuracy']:.1f}</td>"
        assert row in page
    for d in result.numbers["distances"]:
        assert f"<td>{d['pseudo_f']:,.1f}</td><td>{100 * d['r2']:.1f}</td>" in page
    for key in ("commit", "split_seed", "precision", "numba", "Classifier: logistic", "recipe: lr"):
        assert key in page


def test_it_loads_nothing_and_runs_nothing(page):
    loaded = re.findall(r"""(?:src|href)\s*=\s*["']?([^"'\s>]+)""", page) + re.findall(r"url\(([^)]*)\)", page)
    assert loaded
    assert all(target.startswith(("data:", "#")) for target in loaded)
    assert not re.search(r"<script|<link|@import", page)


def test_ids_are_unique_and_references_found(page):
    ids = re.findall(r' id="([^"]+)"', page)
    assert len(ids) == len(set(ids))
    assert set(re.findall(r'(?:href="|url\()#([^")]+)', page)) <= set(ids)


@pytest.mark.parametrize(
    ("established", "rule", "fine"), [(True, "accept", True), (False, "accept", False), (False, "reject", True)]
)
def test_the_verdict_is_in_words(result, established, rule, fine):
    """One protocol says this, the other its opposite: neither may borrow the other's words."""
    own = {"established": established, "p": 0.0126, "paper_rule": rule, "n_to_establish": 1234}
    other = {"established": not established, "p": 0.25, "paper_rule": "accept" if not established else "reject"}
    other["n_to_establish"] = None
    chance = {"controls_at_chance": fine, "controls_margin": 0.123}
    verdict = {"classification": own, "retrieval": other, **chance}
    page = report_html(changed(result, verdict=verdict))
    for protocol, v in (("classification", own), ("retrieval", other)):
        said = next(p for p in re.findall(r"<p>.*?</p>", page) if f"<b>{protocol}</b>" in p)
        assert ("class='badge yes'" in said) == v["established"]
        assert ("it is established" in said) == v["established"]
        assert ("it is not established" in said) != v["established"]
        assert f"p = {v['p']:.2g}" in said
        assert f"<b>{v['paper_rule']}</b>" in said
        assert ("luck" in said) == (v["paper_rule"] == "accept" and not v["established"])
    assert ("1,234 test networks a chain could establish it" in page) != established
    assert ("Not even 1,000,000,000 test networks could" in page) == established
    assert ("more than 12.3 points from chance is excluded" in page) == fine
    assert ("do not trust the verdict" in page) != fine


def test_names_are_escaped(result):
    keys = ("data", "network", "source", "device", "classifier", "backend")
    page = report_html(changed(result, **{k: f"<script>{k}('1' & \"2\")</script>" for k in keys}))
    assert "<script" not in page
    for key in keys:
        assert f"&lt;script&gt;{key}(&#x27;1&#x27; &amp; &quot;2&quot;)" in page


@pytest.mark.parametrize("loss", [np.empty((0, 0)), np.empty((40, 0))])
def test_imported_sets_have_no_training_curve(result, loss):
    timing = {**result.numbers["timing"], "networks_per_s": None}
    imported = replace(changed(result, train_accuracy=None, timing=timing), loss=loss)
    del imported.numbers["recipe"]
    page = report_html(imported)
    assert "No training curves" in page
    assert "no training recipe" in page
    assert page.count("<svg") == 5


def test_a_loss_of_zero_is_drawn(result):
    assert report_html(replace(result, loss=np.zeros_like(result.loss))).count("<svg") == 6


def test_what_was_skipped_is_said(zoo, page):
    quick = report_html(wsfast.study(zoo, quick=True, progress=False))
    assert "Not computed in this study: permutation tests, further split seeds, bootstrap by task, controls" in quick
    assert "What do the features read?" not in quick
    assert "by task 95" not in quick
    assert "Not computed" not in page
    assert "What do the features read?" in page


def test_the_papers_classifier_is_named(result):
    numbers = copy.deepcopy(result.numbers)
    for cell in numbers["cells"]:
        cell["classifier"] = cell["classifier"].replace("logistic", "sgd")
    curves = {(f, c, s.replace("logistic", "sgd")): v for (f, c, s), v in result.curves.items()}
    page = report_html(replace(result, numbers={**numbers, "classifier": "sgd"}, curves=curves))
    assert "retrieval (sgd)" in page
    assert "Classifier: sgd" in page


@pytest.mark.parametrize("chains", [1, 4])
def test_any_number_of_chains(result, chains):
    def over(rows):
        return [{**r, "chain": c} for c in range(1, chains + 1) for r in rows if r["chain"] == 1]

    numbers = {k: over(result.numbers[k]) for k in ("cells", "distances", "controls", "informative_controls")}
    curves = {(f, c, s): v for c in range(1, chains + 1) for (f, o, s), v in result.curves.items() if o == 1}
    page = report_html(replace(changed(result, **numbers), curves=curves, kernel_chain=1))
    assert page.count("<svg") == 6


def test_tiny_sets_are_drawn_or_said_to_be_too_small(result):
    few = replace(result, kernel=result.kernel[:6, :6], labels=result.labels[:6])
    assert "Too few networks to draw" in report_html(few)
    twelve = replace(result, kernel=result.kernel[::3, ::3][:12, :12], labels=np.repeat([0, 1], 6))
    assert report_html(twelve).count("<img") == 2


def test_identical_networks_are_drawn(result):
    same = replace(result, kernel=np.ones_like(result.kernel))
    assert report_html(same).count("<img") == 2


def test_the_same_result_gives_the_same_page(result, page):
    assert report_html(result) == page


def test_drawing_changes_no_global_setting(result):
    import matplotlib

    before = dict(matplotlib.rcParams)
    report_html(result)
    assert dict(matplotlib.rcParams) == before


def test_the_heat_map_of_thousands_of_networks_stays_small(result):
    """Noise packs worst; 1,801 leaves a last block of one network."""
    n = 1801
    x = np.random.default_rng(0).standard_normal((n, 5))
    x /= np.linalg.norm(x, axis=1, keepdims=True)
    assert len(figures.heat_map(replace(result, kernel=x @ x.T, labels=np.arange(n) % 40))) < 2.5e6


def test_only_some_of_many_networks_are_drawn(result, monkeypatch):
    drawn = figures.heat_map(result)
    monkeypatch.setattr(figures, "SHOWN", 25)
    assert figures.heat_map(result) != drawn
    monkeypatch.setattr(figures, "SHOWN", 40)
    assert figures.heat_map(result) == drawn
