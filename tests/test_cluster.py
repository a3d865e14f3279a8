"""Engine "ray" on a cluster of two workers that this module starts."""

import hashlib
import logging
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import numpy as np
import pytest
from wsfast.kernels.numba.threads import available

import wsfast
from wsfast import chains, cli, cluster, generation, storage
from wsfast.protocols import permutation_test

ray = pytest.importorskip("ray")

CALL = {"repeats": 10, "width": 24, "progress": False}
SOON = 60.0  # seconds that a thing of moments is waited for


@pytest.fixture(scope="module", autouse=True)
def two_workers():
    ray.init("local", num_cpus=2, include_dashboard=False, logging_level=logging.ERROR)
    yield
    ray.shutdown()


@pytest.fixture
def small_shards(zoo, monkeypatch):
    """Three networks a shard."""
    monkeypatch.setattr(storage, "SHARD", 3 * (zoo.nbytes // len(zoo)))
    monkeypatch.setattr(storage, "PARTS", 1)


def bits(folder):
    return {f.name: hashlib.sha256(f.read_bytes()).hexdigest() for f in sorted(folder.glob("shard-*"))}


def same_bits(a, b):
    for kind in ("parameters", "records"):
        for name, array in getattr(a, kind).items():
            np.testing.assert_array_equal(getattr(b, kind)[name], array, err_msg=name)


def wait_for(found):
    end = time.monotonic() + SOON
    while not found():
        assert time.monotonic() < end
        time.sleep(0.01)


def test_the_same_networks_in_memory_and_on_disk(zoo, four_tasks, tmp_path, small_shards):
    there = wsfast.generate("mlp4", four_tasks, **CALL, engine="ray")
    same_bits(zoo, there)
    assert (there.info["engine"], there.info["threads"]) == ("ray", 2)
    wsfast.generate("mlp4", four_tasks, **CALL, out=tmp_path / "here")
    wsfast.generate("mlp4", four_tasks, **CALL, out=tmp_path / "there", engine="ray")
    assert len(bits(tmp_path / "there")) == 14
    assert bits(tmp_path / "there") == bits(tmp_path / "here")


def test_a_killed_worker_is_replaced(zoo, four_tasks, tmp_path, monkeypatch):
    """The worker that trains task 1, repeat 5 is killed when it has trained and before it has answered."""
    mark, trained = tmp_path / "pid", generation._whole

    def whole(work, jobs):
        arrays = trained(work, jobs)
        if (1, 5) in jobs and not mark.exists():
            mark.with_suffix(".new").write_text(str(os.getpid()))
            mark.with_suffix(".new").rename(mark)
            time.sleep(10 * SOON)
        return arrays

    def kill():
        wait_for(mark.exists)
        os.kill(int(mark.read_text()), signal.SIGKILL)

    monkeypatch.setattr(generation, "_whole", whole)
    killer = threading.Thread(target=kill)
    killer.start()
    there = wsfast.generate("mlp4", four_tasks, **CALL, engine="ray")
    killer.join()
    same_bits(zoo, there)


def test_interrupted_it_stops_the_tasks_and_goes_on(zoo, four_tasks, tmp_path, small_shards, monkeypatch):
    trained, add = generation._whole, generation.Writer.add

    def whole(work, jobs):
        if jobs[0][0] == 3:
            time.sleep(10 * SOON)
        return trained(work, jobs)

    def stop(sink, networks, *rest):
        add(sink, networks, *rest)
        if sink.done.sum() >= 9:
            raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(generation, "_whole", whole)
        patch.setattr(generation.Writer, "add", stop)
        with pytest.raises(wsfast.Interrupted) as caught:
            wsfast.generate("mlp4", four_tasks, **CALL, out=tmp_path, engine="ray")
    assert len(caught.value.finished) == 9
    wait_for(lambda: ray.available_resources().get("CPU") == 2)  # nobody sleeps there
    done = wsfast.generate("mlp4", four_tasks, **CALL, out=tmp_path, engine="ray")
    assert [run["networks"] for run in done.info["runs"]] == [9, 31]
    same_bits(zoo, done)


@pytest.mark.parametrize("stored", [False, True])
def test_kernels_by_blocks_have_the_same_bits(zoo, tmp_path, stored):
    if stored:
        zoo.save(tmp_path / "zoo")
        zoo = wsfast.WeightSet.open(tmp_path / "zoo")
    for options in ({"chain": 2}, {"chain": 1, "cosine": True}, {"chain": 3, "form": "packed"}):
        there = wsfast.chain_kernel(zoo, **options, engine="ray")
        np.testing.assert_array_equal(there, wsfast.chain_kernel(zoo, **options))
        there = wsfast.chain_kernel(zoo, zoo[5:18:2], **options, engine="ray")
        np.testing.assert_array_equal(there, wsfast.chain_kernel(zoo, zoo[5:18:2], **options))
    for features in ("raw", "chain_unit"):
        there = chains.feature_kernel(features, zoo, chain=2, engine="ray")
        np.testing.assert_array_equal(there, chains.feature_kernel(features, zoo, chain=2))
    one = wsfast.chain_kernel(zoo[:1], chain=2, engine="ray")
    np.testing.assert_array_equal(one, wsfast.chain_kernel(zoo[:1], chain=2))


def test_permutations_by_blocks_are_the_same_numbers(zoo):
    k = wsfast.chain_kernel(zoo, chain=2)
    assert permutation_test(k, zoo.labels, 99, engine="ray") == permutation_test(k, zoo.labels, 99)


def test_a_study_is_the_same_study(zoo):
    here, there = (
        wsfast.study(zoo, permutations=9, progress=False, engine=engine).to_dict() for engine in cluster.ENGINES
    )
    for part in ("cells", "distances", "controls", "verdict"):
        assert here[part] == there[part]


def test_the_command_line_joins_a_running_cluster(tmp_path):
    arguments = ["generate", "--tasks", "2", "--repeats", "3", "--width", "9", "--epochs", "2", "--out"]
    address = ray.get_runtime_context().gcs_address
    command = [sys.executable, "-m", "wsfast", *arguments, str(tmp_path / "there")]
    environment = os.environ | {"PYTHONPATH": str(Path(wsfast.__file__).parent.parent)}
    subprocess.run([*command, "--engine", "ray", "--address", address], env=environment, check=True)
    assert cli.main([*arguments, str(tmp_path / "here")]) == 0
    assert bits(tmp_path / "there") == bits(tmp_path / "here") != {}


def test_calls_are_begun_a_few_at_a_time_with_one_thread_each():
    begun = []

    def calls():
        for i in range(50):
            begun.append(i)
            yield i, (i,)

    results = cluster.run(lambda i: (i * i, available()), calls())
    key, first = next(results)
    assert first == (key**2, 1)
    assert len(begun) == 4
    assert {key: square for key, (square, _) in results} | {key: key**2} == {i: i * i for i in range(50)}


def test_a_function_that_fails_and_workers_that_always_die(monkeypatch):
    def refuse(i):
        raise ValueError(f"refused {i}")

    with pytest.raises(ValueError, match=r"^refused 7$"):
        list(cluster.run(refuse, [(0, (7,))]))
    monkeypatch.setattr(cluster, "RETRIES", 1)
    lethal = cluster.run(lambda: os.kill(os.getpid(), signal.SIGKILL), [((3, 5), ())], told=lambda k: f"networks {k}")
    with pytest.raises(RuntimeError, match=r"networks \(3, 5\): given up, workers were lost 2 times"):
        list(lethal)


def test_another_version_there_is_refused(monkeypatch):
    monkeypatch.setattr(wsfast, "__version__", "7.0")
    with pytest.raises(RuntimeError, match=r"has wsfast [0-9.]+, want 7\.0 as here"):
        list(cluster.run(available, [(0, ())]))


def test_an_address_where_nobody_answers(monkeypatch):
    monkeypatch.setattr(ray, "is_initialized", lambda: False)
    with pytest.raises(ConnectionError, match=r"no Ray cluster answers at 127\.0\.0\.1:1: "):
        cluster.connected("127.0.0.1:1")


def test_what_cannot_be_met_is_refused(zoo, four_tasks, monkeypatch):
    for options, said in (
        ({"engine": "dask"}, "engine must be local or ray, got 'dask'"),
        ({"address": "10.0.0.1:6379"}, "address '10.0.0.1:6379' belongs to engine 'ray'"),
        ({"engine": "ray", "threads": 2}, "threads belongs to engine 'local'"),
        ({"engine": "ray", "device": "cuda"}, "the Ray cluster has no GPU"),
        ({"engine": "ray", "address": "10.0.0.1:6379"}, "connected to a Ray cluster already"),
    ):
        with pytest.raises(ValueError, match=said):
            wsfast.generate("mlp4", four_tasks, **CALL, **options)
    with pytest.raises(ValueError, match="engine must be local or ray"):
        wsfast.chain_kernel(zoo, engine="spark")
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(ImportError, match=r"needs Ray, which is not installed \(pip install 'wsfast\[ray\]'\)"):
        wsfast.generate("mlp4", four_tasks, **CALL, engine="ray")


def test_threads_that_the_environment_allows(monkeypatch):
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    cores = available()
    for told, want in (("1", 1), ("", cores), ("many", cores), ("0", cores), ("100000", cores)):
        monkeypatch.setenv("OMP_NUM_THREADS", told)
        assert available() == want
