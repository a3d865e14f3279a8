import json

import numpy as np
import pytest

import wsfast
from bench import million

RUN = {"rows": [{"suite": "train_mlp", "case": "64-100-100-100-2, batch 32", "contender": "wsfast", "median": 2e-5}]}


def test_the_page_is_that_of_the_stored_runs():
    assert (million.HERE / "MILLION.md").read_text() == million.text()


def test_a_suite_that_the_last_run_left_out_is_an_earlier_ones(tmp_path, monkeypatch):
    def store(day, device, **suites):
        rows = [{"part": part, "median": median} for part, median in suites.items()]
        (tmp_path / f"2026-01-0{day}.json").write_text(json.dumps({"device": device, "rows": rows}))

    store(1, "ours", mlp=1, gru=2, cnn=3)
    store(2, "ours", mlp=4, gru=5)
    store(3, "theirs", chains=6)
    store(4, "ours", gru=7)
    monkeypatch.setattr(million, "RESULTS", tmp_path)
    assert {row["part"]: row["median"] for row in million.measured()["rows"]} == {"gru": 7, "mlp": 4, "cnn": 3}


def test_populations_are_what_generate_makes():
    digits, *others = million.populations()
    zoo = wsfast.generate("mlp4", wsfast.tasks("digits", n=1), repeats=1, progress=False)
    assert digits.size == zoo.nbytes
    assert digits.steps == pytest.approx(20 * 9, rel=0.03)  # 9 batches of 32 an epoch
    assert [p.steps for p in others] == [50 * 1000 / 128, 50 * 1000 / 128, 10_000]


def test_hours_are_core_seconds_over_cores():
    head, _, row, *rest = million.training(RUN, None, 3)
    cells = [cell.strip() for cell in row.split("|")[1:-1]]
    assert len(cells) == head.count("|") - 1
    one = 3 * 2e-5 * million.populations()[0].steps
    assert float(cells[5]) == pytest.approx(one, rel=0.01)
    assert float(cells[6].removesuffix(" s")) == pytest.approx(1e6 * one / 64, rel=0.01)
    assert all(line.count("not measured yet") == 2 for line in rest)  # neither a processor's rate nor a GPU's


def test_a_kernels_rows_count_its_operations():
    row = {"suite": "chain_kernel", "case": "N = 5, d = 7, r = 3", "contender": "wsfast", "gflops": 2.0}
    lines = list(million.kernels({"rows": [row]}, 2))[2:]
    cells = [[cell.strip() for cell in line.split("|")[1:-1]] for line in lines]
    assert [c[1] for c in cells][-2:] == ["1,000,000 x 1,000,000", "1,000 x 1,000,000"]
    np.testing.assert_allclose(float(cells[-2][4]), 7 * 8 * (1e6 * 3 + 1e12 / 2), rtol=0.05)
    assert cells[-2][2] == "8 TB"
    assert cells[-2][3] == "84 MB"
    assert cells[-2][5] == f"{7 * 8 * 1e12 / 2 / 1e9 / 64:.3g} s"
