import re
from dataclasses import replace

import numpy as np
import pytest

import wsfast
from wsfast.report import report_html


@pytest.fixture(scope="module")
def result(zoo):
    return wsfast.study(zoo, permutations=9, progress=False)


def test_it_is_one_page_with_every_figure_and_number(result):
    page = report_html(result)
    assert page.startswith("<!doctype html>")
    assert page.count("<svg") == 4  # accuracy, controls, CMC, training
    assert page.count("<img") == 2  # heat map, embedding
    assert not re.search(r"(src|href)\s*=\s*[\"']?(?!data:)(https?:)?//", page)
    assert "<script" not in page
    for cell in (*result.numbers["cells"], *result.numbers["controls"]):
        assert f"<td>{100 * cell['accuracy']:.1f}</td>" in page
    for key in ("commit", "split_seed", "precision", "recipe", "numba"):
        assert key in page


def test_the_verdict_is_in_words(result):
    good = report_html(result)
    verdict = {**result.numbers["verdict"], "controls_at_chance": False}
    bad = report_html(replace(result, numbers={**result.numbers, "verdict": verdict}))
    assert "as they must be" in good
    assert "do not trust the verdict" not in good
    assert "do not trust the verdict" in bad


def test_names_are_escaped(result):
    page = report_html(replace(result, numbers={**result.numbers, "data": "<script>alert(1)</script>"}))
    assert "<script" not in page
    assert "&lt;script&gt;" in page


def test_imported_sets_have_no_training_curve(result):
    numbers = {**result.numbers, "train_accuracy": None, "timing": {**result.numbers["timing"], "networks_per_s": None}}
    page = report_html(replace(result, numbers=numbers, loss=np.empty((0, 0))))
    assert "No training curves" in page
    assert page.count("<svg") == 3


def test_tiny_sets_are_drawn_or_said_to_be_too_small(result):
    few = replace(result, kernel=result.kernel[:6, :6], labels=result.labels[:6])
    assert "Too few networks to draw" in report_html(few)
    twelve = replace(result, kernel=result.kernel[::3, ::3][:12, :12], labels=np.repeat([0, 1], 6))
    assert report_html(twelve).count("<img") == 2


def test_thousands_of_networks_fit_the_heat_map(result):
    n = 1801
    rng = np.random.default_rng(0)
    x = rng.standard_normal((n, 5))
    x /= np.linalg.norm(x, axis=1, keepdims=True)
    page = report_html(replace(result, kernel=x @ x.T, labels=np.arange(n) % 40))
    assert len(page) < 3e6
