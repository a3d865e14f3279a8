import json

import numpy as np
import pytest
from safetensors.torch import save_file

import wsfast
from wsfast import cli, searching


def test_a_network_finds_itself_then_its_task(zoo):
    rows = wsfast.search(zoo[13], zoo, top=10)
    assert [(r["chain"], r["rank"]) for r in rows] == [(c, k) for c in (1, 2, 3) for k in range(1, 11)]
    for chain in (1, 2, 3):
        own = [r for r in rows if r["chain"] == chain]
        assert own[0]["network"] == 13
        assert own[0]["cosine"] == pytest.approx(1, abs=1e-6)
        assert all(r["task"] == zoo.task_names[1] for r in own[:5])


def test_scores_are_the_kernels(zoo, monkeypatch):
    monkeypatch.setattr(searching, "RUN", 5 * 4 * 64 * 24)  # five networks at a time
    rows = wsfast.search(zoo[0], zoo, top=40)
    for chain in (1, 2, 3):
        k = wsfast.chain_kernel(zoo, chain=chain, cosine=True)[0]
        own = [r for r in rows if r["chain"] == chain]
        np.testing.assert_allclose([r["cosine"] for r in own], -np.sort(-k), rtol=1e-6)
        np.testing.assert_allclose([k[r["network"]] for r in own], -np.sort(-k), rtol=1e-6)


def test_other_hidden_widths_can_be_searched(zoo, four_tasks):
    wide = wsfast.generate("mlp4", four_tasks, repeats=1, width=40, progress=False)
    found = wsfast.search(wide[2], zoo, top=3)
    assert {r["task"] for r in found if r["chain"] == 2} == {zoo.task_names[2]}


def test_ties_stand_in_the_sets_order(zoo):
    rows = wsfast.search(zoo[0], zoo[[3, 9] * 30], top=60)
    own = [r["network"] for r in rows if r["chain"] == 2]
    assert own == [*range(0, 60, 2), *range(1, 60, 2)]


def test_diverged_networks_are_left_out(zoo):
    broken = zoo[:]
    broken.parameters["fc2.weight"][7] = np.nan
    assert 7 not in {r["network"] for r in wsfast.search(broken[6], broken, top=40)}
    with pytest.raises(ValueError, match="none of the set's 1 networks"):
        wsfast.search(zoo[0], broken[7])


def test_search_on_the_command_line(zoo, tmp_path, capsys):
    zoo.save(tmp_path / "set")
    query = tmp_path / "query.safetensors"
    save_file({k: v.contiguous() for k, v in zoo.to_torch(21).state_dict().items()}, query)
    asked = ["search", str(query), "--zoo", str(tmp_path / "set"), "--top", "2"]
    assert cli.main([*asked, "--json"]) == 0
    rows = json.loads(capsys.readouterr().out)
    assert [r["network"] for r in rows if r["rank"] == 1] == [21] * 3
    assert cli.main(asked) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].split() == ["chain", "rank", "network", "task", "repeat", "cosine"]
    assert len(lines) == 7
    assert cli.main(["search", str(query), "--zoo", str(tmp_path)]) == 2
    assert "holds no weight set" in capsys.readouterr().err


def test_bad_questions(zoo):
    with pytest.raises(ValueError, match="top must be at least 1"):
        wsfast.search(zoo[0], zoo, top=0)
    with pytest.raises(ValueError, match="query must be one network, got a set of 2"):
        wsfast.search(zoo[:2], zoo)
    with pytest.raises(TypeError, match="zoo must be a WeightSet or its folder"):
        wsfast.search(zoo[0], 3)
    small = wsfast.generate("mlp4", wsfast.tasks(*blobs()), repeats=1, width=6, progress=False)
    with pytest.raises(ValueError, match="d = 5 in the query and 64 in the set"):
        wsfast.search(small[0], zoo)


def blobs():
    rng = np.random.default_rng(0)
    return rng.standard_normal((40, 5)).astype(np.float32), np.arange(40) % 2
