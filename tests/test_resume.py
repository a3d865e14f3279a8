"""generate(out=...): interrupted in every way, it goes on and ends with the same bits."""

import hashlib
import json
import multiprocessing
import signal
import time
from dataclasses import replace

import numpy as np
import pytest

import wsfast
from wsfast import storage, training
from wsfast.families import mlp

CALL = {"repeats": 10, "width": 24, "progress": False}


@pytest.fixture
def small_shards(zoo, monkeypatch):
    """Three networks a shard: fourteen of them, the last with one."""
    monkeypatch.setattr(storage, "SHARD", 3 * (zoo.nbytes // len(zoo)))
    monkeypatch.setattr(storage, "PARTS", 1)


def bits(folder):
    return {f.name: hashlib.sha256(f.read_bytes()).hexdigest() for f in sorted(folder.glob("shard-*"))}


def stop_after(monkeypatch, networks, error):
    """From now on generate fails once so many networks have been trained."""
    trained = training._on_cpu

    def some(*args):
        for k, batch in enumerate(trained(*args)):
            if k == networks:
                raise error
            yield batch

    monkeypatch.setattr(training, "_on_cpu", some)


def test_a_streamed_set_is_the_one_made_in_memory(zoo, four_tasks, tmp_path, small_shards):
    streamed = wsfast.generate("mlp4", four_tasks, **CALL, out=tmp_path)
    assert len(bits(tmp_path)) == 14
    np.testing.assert_array_equal(streamed.labels, zoo.labels)
    for name, array in zoo.parameters.items():
        np.testing.assert_array_equal(np.asarray(streamed.parameters[name]), array)
    for name, array in zoo.records.items():
        np.testing.assert_array_equal(streamed.records[name], array)
    for key in ("data", "recipe", "seed", "repeats", "backend", "precision", "source"):
        assert streamed.info[key] == pytest.approx(zoo.info[key]) if key != "recipe" else streamed.info[key]["lr"]
    assert streamed.info["networks_per_s"] > 0


@pytest.mark.parametrize("error", [KeyboardInterrupt(), OSError(28, "No space left on device")])
def test_interrupted_sets_go_on(four_tasks, tmp_path, small_shards, monkeypatch, error):
    whole = wsfast.generate("mlp4", four_tasks, **CALL, out=tmp_path / "whole")
    with monkeypatch.context() as patch:
        stop_after(patch, 17, error)
        with pytest.raises(type(error)) as caught:
            wsfast.generate("mlp4", four_tasks, **CALL, out=tmp_path / "broken")
    kept = len(wsfast.WeightSet.open(tmp_path / "broken", partial=True))
    assert 9 <= kept <= 17
    if isinstance(error, KeyboardInterrupt):
        assert len(caught.value.finished) == kept
    with pytest.raises(ValueError, match=f"holds {kept} of its 40 networks"):
        wsfast.WeightSet.open(tmp_path / "broken")
    before = {f: f.stat().st_mtime_ns for f in (tmp_path / "broken").glob("shard-*")}
    done = wsfast.generate("mlp4", four_tasks, **CALL, out=tmp_path / "broken")
    assert {f: f.stat().st_mtime_ns for f in before} == before  # what was finished is not trained again
    assert bits(tmp_path / "broken") == bits(tmp_path / "whole")
    assert [run["networks"] for run in done.info["runs"]] == [kept, 40 - kept]
    seconds = sum(run["seconds"] for run in done.info["runs"])
    assert (done.info["generate_s"], done.info["networks_per_s"]) == pytest.approx((seconds, 40 / seconds))
    assert len(whole.info["runs"]) == 1


def test_a_finished_set_is_only_opened(four_tasks, tmp_path, monkeypatch):
    wsfast.generate("mlp4", four_tasks, **CALL, out=tmp_path)
    stop_after(monkeypatch, 0, AssertionError("trained again"))
    assert len(wsfast.generate("mlp4", four_tasks, **CALL, out=tmp_path)) == 40


def test_an_interrupted_run_loses_a_hundredth_of_the_set_at_most(four_tasks, tmp_path, monkeypatch):
    """With shards as users have them."""
    with monkeypatch.context() as patch:
        stop_after(patch, 17, KeyboardInterrupt())
        with pytest.raises(wsfast.Interrupted) as caught:
            wsfast.generate("mlp4", four_tasks, **CALL, out=tmp_path)
    assert 17 - 40 / 100 <= len(caught.value.finished) <= 17


def test_damaged_and_missing_shards_when_going_on(four_tasks, tmp_path, small_shards):
    whole = wsfast.generate("mlp4", four_tasks, **CALL, out=tmp_path)
    weights = np.array(whole.parameters["fc1.weight"])
    shard = tmp_path / "shard-00002.safetensors"
    content = bytearray(shard.read_bytes())
    content[-40] ^= 1
    shard.write_bytes(content)
    with pytest.raises(ValueError, match=r"shard-00002.safetensors is damaged: its SHA-256 .* \(remove it"):
        wsfast.generate("mlp4", four_tasks, **CALL, out=tmp_path)
    shard.unlink()
    again = wsfast.generate("mlp4", four_tasks, **CALL, out=tmp_path)
    np.testing.assert_array_equal(again.parameters["fc1.weight"], weights)
    assert sum(run["networks"] for run in again.info["runs"]) == 40


def test_a_set_is_not_saved_where_another_is_being_made(four_tasks, zoo, tmp_path, monkeypatch):
    def now(*_):
        with pytest.raises(OSError, match=r"save: another process is writing into .* \(choose another folder\)"):
            zoo.save(tmp_path)
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr("wsfast.writer.Writer.add", now)
        with pytest.raises(wsfast.Interrupted):
            wsfast.generate("mlp4", four_tasks, **CALL, out=tmp_path)
    assert len(wsfast.generate("mlp4", four_tasks, **CALL, out=tmp_path)) == 40


def test_interrupted_while_compiling(four_tasks, tmp_path, monkeypatch):
    def interrupted(*_):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(training.Work, "prepare", interrupted)
        with pytest.raises(wsfast.Interrupted, match="with 0 networks finished"):
            wsfast.generate("mlp4", four_tasks, **CALL, out=tmp_path)
    assert len(wsfast.generate("mlp4", four_tasks, **CALL, out=tmp_path)) == 40


def test_compiling_is_no_training(four_tasks, monkeypatch):
    prepare = training.Work.prepare
    monkeypatch.setattr(training.Work, "prepare", lambda *a: time.sleep(1) or prepare(*a))
    few = replace(four_tasks, tasks=four_tasks.tasks[:1])
    start = time.perf_counter()
    counted = wsfast.generate("mlp4", few, repeats=1, width=8, progress=False).info["generate_s"]
    assert 0 < counted <= time.perf_counter() - start - 1  # however slow the machine is


def test_interrupted_before_the_first_shard(four_tasks, tmp_path, monkeypatch, small_shards):
    with monkeypatch.context() as patch:
        stop_after(patch, 2, KeyboardInterrupt())
        with pytest.raises(wsfast.Interrupted, match="with 0 networks finished"):
            wsfast.generate("mlp4", four_tasks, **CALL, out=tmp_path)
    assert len(wsfast.generate("mlp4", four_tasks, **CALL, out=tmp_path)) == 40


def test_another_plan_is_refused(four_tasks, tmp_path):
    first = wsfast.generate("mlp4", four_tasks, **CALL, out=tmp_path)
    fewer = wsfast.tasks("digits", n=3)
    for change, said in (
        ({"seed": 1}, "another seed: 0, this call has 1"),
        ({"repeats": 9}, "another repeats: 10, this call has 9"),
        ({"recipe": replace(four_tasks.recipe, lr=0.02)}, "another recipe"),
        ({"width": 25}, "another network"),
        ({"tasks": fewer}, "another tasks_sha256"),
    ):
        call = {"tasks": four_tasks, **CALL, **change}
        with pytest.raises(ValueError, match=said):
            wsfast.generate("mlp4", **call, out=tmp_path)
    first.save(tmp_path / "copy")
    with pytest.raises(ValueError, match="holds a saved set"):
        wsfast.generate("mlp4", four_tasks, **CALL, out=tmp_path / "copy")


def test_a_network_that_no_manifest_holds_is_refused_before_it_is_trained(four_tasks, tmp_path, monkeypatch):
    network = mlp((1, 8, 8), 2, (np.int64(4),) * 3)  # no number of JSON's
    zoo = wsfast.generate(network, four_tasks, repeats=1, progress=False)
    stop_after(monkeypatch, 0, AssertionError("trained"))
    for store in (zoo.save, lambda out: wsfast.generate(network, four_tasks, repeats=1, progress=False, out=out)):
        with pytest.raises(ValueError, match=r"wanted fc1.weight's shape as a number in 1..2\^40, got np.int64\(4\)"):
            store(tmp_path / "set")
        assert not (tmp_path / "set").exists()


def test_damage_is_named_and_nothing_is_trained(four_tasks, tmp_path, small_shards, monkeypatch):
    wsfast.generate("mlp4", four_tasks, **CALL, out=tmp_path)
    shard = tmp_path / "shard-00004.safetensors"
    shard.write_bytes(shard.read_bytes()[:-1])
    stop_after(monkeypatch, 0, AssertionError("trained again"))
    with pytest.raises(ValueError, match=r"shard-00004.safetensors is damaged"):
        wsfast.generate("mlp4", four_tasks, **CALL, out=tmp_path)


def test_shards_of_another_size_go_on_in_that_size(zoo, four_tasks, tmp_path, monkeypatch):
    """The size of a shard may change from version to version; a set keeps the one it was begun with."""
    size = zoo.nbytes // len(zoo)
    with monkeypatch.context() as patch:
        patch.setattr(storage, "SHARD", 3 * size)
        patch.setattr(storage, "PARTS", 1)
        wsfast.generate("mlp4", four_tasks, **CALL, out=tmp_path / "whole")
        stop_after(patch, 17, KeyboardInterrupt())
        with pytest.raises(wsfast.Interrupted):
            wsfast.generate("mlp4", four_tasks, **CALL, out=tmp_path / "broken")
    monkeypatch.setattr(storage, "SHARD", 7 * size)
    monkeypatch.setattr(storage, "PARTS", 1)
    wsfast.generate("mlp4", four_tasks, **CALL, out=tmp_path / "broken")
    assert bits(tmp_path / "broken") == bits(tmp_path / "whole")


def test_a_shard_under_another_number_is_refused(four_tasks, tmp_path, small_shards):
    wsfast.generate("mlp4", four_tasks, **CALL, out=tmp_path)
    manifest = json.loads((tmp_path / "manifest.json").read_text())
    last = manifest["shards"].pop()
    (tmp_path / last["file"]).rename(tmp_path / "shard-00020.safetensors")
    manifest["shards"].append({**last, "file": "shard-00020.safetensors"})
    (tmp_path / "manifest.json").write_text(json.dumps(manifest))
    with pytest.raises(ValueError, match=r"shard-00020.safetensors holds 1 networks, want 0 by its number"):
        wsfast.generate("mlp4", four_tasks, **CALL, out=tmp_path)


def test_two_writers(four_tasks, tmp_path, monkeypatch):
    trained = training._on_cpu

    def meanwhile(*args):
        monkeypatch.setattr(training, "_on_cpu", trained)
        with pytest.raises(OSError, match="another process is writing into"):
            wsfast.generate("mlp4", four_tasks, **CALL, out=tmp_path)
        return trained(*args)

    monkeypatch.setattr(training, "_on_cpu", meanwhile)
    assert len(wsfast.generate("mlp4", four_tasks, **CALL, out=tmp_path)) == 40


def _make(folder: str, pause: float = 0.0) -> None:
    storage.SHARD = storage.PARTS = 1  # a network a shard: most of the time something is being written
    trained = training._on_cpu

    def slowly(*args):
        for batch in trained(*args):
            time.sleep(pause)
            yield batch

    if pause:  # in a process of its own, which ends with this call
        training._on_cpu = slowly
    pairs = wsfast.tasks("digits", n=2)
    recipe = pairs.recipe.with_epochs(3)
    wsfast.generate("mlp4", pairs, repeats=30, width=24, recipe=recipe, progress=False, out=folder)


def test_killed_at_any_moment_it_ends_with_the_same_bits(tmp_path, monkeypatch):
    """SIGKILL at 20 moments drawn from the whole run, each time to the same folder until it is done.

    A moment is a number of networks on disk and a few milliseconds more, so that it does not depend on how fast the
    machine is today; the first is before anything is on disk.
    """
    monkeypatch.setattr(storage, "SHARD", 1)  # put back afterwards
    monkeypatch.setattr(storage, "PARTS", 1)
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["wsfast.generation", "wsfast.datasets", "sklearn.datasets"])
    _make(str(tmp_path / "whole"))
    rng, folder, seen = np.random.default_rng(0), tmp_path / "killed", [0]
    for kill in range(20):
        more = int(rng.integers(1, 6)) if kill else 0
        child = context.Process(target=_make, args=(str(folder), 0.02))
        child.start()
        while child.is_alive() and len(list(folder.glob("shard-*"))) < min(60, seen[-1] + more):
            time.sleep(0.001)
        child.join(timeout=float(rng.uniform(0.0, 0.04)))
        child.kill()
        child.join()
        assert child.exitcode in (0, -signal.SIGKILL)
        seen.append(len(bits(folder)))
        if seen[-1] == 60:  # done before its 20th death: begin again
            assert bits(folder) == bits(tmp_path / "whole")
            folder = tmp_path / f"killed{kill}"
            seen.append(0)
    _make(str(folder))
    assert bits(folder) == bits(tmp_path / "whole")
    assert {f.name for f in folder.iterdir()} == {*bits(folder), "manifest.json", ".lock"}
    assert any(0 < n < 60 for n in seen), seen  # it did die in the middle
