import json
import os
import re
import signal
import subprocess
import sys
import time

import numpy as np
import pytest

import wsfast
from wsfast import arguments, cli, describing, planning, rows

SMALL = ["--tasks", "4", "--repeats", "6", "--width", "8", "--epochs", "3", "--permutations", "9"]


def test_study_from_the_command_line(tmp_path, capsys):
    out = tmp_path / "runs"
    assert cli.main(["study", *SMALL, "--out", str(out)]) == 0
    said = capsys.readouterr().out
    assert f"report: {out / 'report.html'}" in said
    assert 0.05 < float(re.search(r"([\d.]+) GB of memory at most", said)[1]) < 100
    assert "24 x mlp4 on digits: 4 tasks x 6 repeats" in said
    results = json.loads((out / "results.json").read_text())
    assert results["recipe"]["epochs"] == 3
    assert results["options"]["widths"] == [8, 8, 8]
    assert results["timing"]["total_s"] > results["timing"]["controls_s"] > 0
    assert results["skipped"] == []
    found = {(c["control"], c["n"], c["chance"]) for c in results["informative_controls"]}
    assert found == {("relabelled images", 6, 1 / 3), ("shuffled labels", 10, 1 / 5)}


def test_a_quick_study_trains_no_further_networks(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr("wsfast.taskset.TaskSet.regrouped", None)  # a call would fail
    assert cli.main(["study", *SMALL, "--quick", "--out", str(tmp_path)]) == 0
    assert "skipped: permutation tests, further split seeds, bootstrap by task, controls" in capsys.readouterr().out


def test_study_of_residual_networks(tmp_path, capsys):
    assert cli.main(["study", "--network", "resnet-mlp12", *SMALL, "--json", "--out", str(tmp_path)]) == 0
    results = json.loads(capsys.readouterr().out)
    assert results["network"] == "resnet-mlp12"
    assert {c["chain"] for c in results["cells"]} == set(range(1, 13))


def test_json_is_all_that_is_printed(tmp_path, capsys):
    assert cli.main(["study", *SMALL, "--json", "--out", str(tmp_path), "--classifier", "sgd", "--seed", "3"]) == 0
    printed = json.loads(capsys.readouterr().out)
    assert printed == json.loads((tmp_path / "results.json").read_text())
    assert printed["seed"] == 3


@pytest.mark.parametrize("command", cli.COMMANDS)
def test_help_says_every_default_once(command, capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "1000")
    with pytest.raises(SystemExit):
        cli.main([command, "--help"])
    said = capsys.readouterr().out
    purpose, options = arguments.COMMANDS[command]
    assert purpose in said
    assert not re.search(r"default: (None|False|[^)]*\) \(default)", said)
    for how in options.values():
        default = how.get("default")
        assert how["help"] + ("" if default is None else f" (default: {default})") in said


def test_info(capsys, tmp_path, monkeypatch):
    monkeypatch.delenv("WSFAST_DATA", raising=False)
    assert cli.main(["info", "--json", "--data-root", str(tmp_path)]) == 0
    known = json.loads(capsys.readouterr().out)
    assert "numba" in known["backends"]
    assert known["data"]["digits"] == "inside scikit-learn"
    assert "cifar-100-python is missing" in known["data"]["cifar100"]
    assert cli.main(["info"]) == 0
    assert "mlp4" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--data", "mnist1"], "data must be one of digits"),
        (["--network", "vgg"], "network must be one of mlp4"),
        (["--network", "plainnet5"], "plainnet5: images must be"),
        (["--tasks", "3"], "want at least 4 tasks (two to train on, two unseen), got 3"),
        (["--tasks", "1"], "want at least 4 tasks (two to train on, two unseen), got 1"),
        (["--repeats", "1"], "has 1 usable networks, want at least 2"),
        (["--permutations", "-1"], "permutations must be at least 0"),
        (["--repeats", "0"], "repeats must be at least 1"),
        (["--alpha", "2"], "alpha must be in"),
        (["--data", "cifar100", "--data-root", "nowhere"], "cifar-100-python is missing"),
    ],
)
def test_a_bad_request_says_why_and_writes_nothing(arguments, message, tmp_path, capsys, monkeypatch):
    def trained(*_):
        raise AssertionError("trained first")

    monkeypatch.setattr("wsfast.training._on_cpu", trained)
    assert cli.main(["study", *SMALL, "--out", str(tmp_path), *arguments]) == 2
    assert message in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []


def test_an_unwritable_folder_is_found_before_training(tmp_path, capsys, monkeypatch):
    (tmp_path / "file").write_text("in the way")
    monkeypatch.setattr("wsfast.training.trainer", None)  # training would fail
    assert cli.main(["study", *SMALL, "--out", str(tmp_path / "file" / "runs")]) == 2
    assert "cannot write into" in capsys.readouterr().err


def test_ctrl_c_writes_nothing(tmp_path, capsys, monkeypatch):
    def interrupted(*_, **__):
        raise KeyboardInterrupt

    monkeypatch.setattr(rows, "retrieval", interrupted)
    assert cli.main(["study", *SMALL, "--out", str(tmp_path)]) == 130
    assert "interrupted" in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []


def test_a_real_ctrl_c_in_the_middle_of_training(tmp_path):
    out = tmp_path / "runs"
    command = [sys.executable, "-m", "wsfast", "study", "--repeats", "5000", "--out", str(out)]
    run = subprocess.Popen(
        command,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        # tests run in the background are born with SIGINT ignored, and so would be what they start
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )
    try:
        while not out.exists() and run.poll() is None:  # made before the first network is trained
            time.sleep(0.1)
        time.sleep(3)
        run.send_signal(signal.SIGINT)
        _, said = run.communicate(timeout=60)
    finally:
        run.kill()
    assert run.returncode == 130, said
    assert re.search(r"interrupted with \d+ networks finished; nothing was written", said)
    assert list(out.iterdir()) == []


def test_module_and_usage():
    run = subprocess.run(
        [sys.executable, "-m", "wsfast", "--version"],
        capture_output=True,
        text=True,
        check=True,
        env={**os.environ, "COLUMNS": "100"},
    )
    assert run.stdout.startswith("wsfast 0.")
    with pytest.raises(SystemExit):
        cli.main(["study", "--backend", "nonsense"])


def test_a_set_is_generated_verified_and_studied(tmp_path, capsys):
    zoo = str(tmp_path / "zoo")
    assert cli.main(["generate", *SMALL[: SMALL.index("--permutations")], "--out", zoo]) == 0
    assert "24 x mlp4, 4 tasks), 0 diverged, " in capsys.readouterr().out
    assert cli.main(["verify", zoo, "--retrain", "99"]) == 0
    assert "sound, 24 networks trained again are the same" in capsys.readouterr().out
    assert cli.main(["study", zoo, "--permutations", "9", "--out", str(tmp_path / "run"), "--json"]) == 0
    results = json.loads(capsys.readouterr().out)
    assert results["networks"] == 24
    assert results["skipped"] == ["controls with networks of their own"]
    shard = tmp_path / "zoo" / "shard-00000.safetensors"
    shard.write_bytes(shard.read_bytes()[:-1])
    assert cli.main(["verify", zoo]) == 1
    assert "shard-00000.safetensors is damaged" in capsys.readouterr().err
    assert cli.main(["study", zoo, "--out", str(tmp_path / "other")]) == 2
    assert "shard-00000.safetensors is damaged" in capsys.readouterr().err
    shard.write_bytes(shard.read_bytes() + b"x")  # of the right size, with another last number
    assert cli.main(["study", zoo, "--out", str(tmp_path / "other")]) == 2
    assert "its SHA-256 is not the manifest's" in capsys.readouterr().err
    assert cli.main(["study", zoo, "--repeats", "7"]) == 2
    assert "--repeats is for a new set" in capsys.readouterr().err
    assert not (tmp_path / "other").exists()


def test_a_dry_run_says_what_it_would_take_and_writes_nothing(tmp_path, capsys):
    zoo = tmp_path / "zoo"
    command = ["generate", *SMALL[: SMALL.index("--permutations")], "--out", str(zoo)]
    assert cli.main([*command, "--dry-run"]) == 0
    said = capsys.readouterr().out
    assert "24 x mlp4 on digits: 4 tasks x 6 repeats, 0 of them there already" in said
    assert "682 parameters and 30 steps a network (3 epochs)" in said
    assert "weights 65.5 kB, shards: 24" in said
    assert "chain 3: factors [64, 8], packed" in said
    assert re.search(r"training about \d+ s, from trials of 24 now", said)
    assert not zoo.exists()
    assert cli.main(command) == 0
    capsys.readouterr()
    assert cli.main([*command, "--dry-run"]) == 0
    assert "24 of them there already" in capsys.readouterr().out
    assert cli.main([*command, "--dry-run", "--seed", "1"]) == 2
    assert "was made with another seed: 0, this call has 1" in capsys.readouterr().err
    assert cli.main([*command, "--dry-run", "--repeats", "0"]) == 2
    assert "repeats must be at least 1, got 0" in capsys.readouterr().err
    assert cli.main(["study", *SMALL, "--dry-run", "--json", "--out", str(tmp_path / "run")]) == 0
    assert json.loads(capsys.readouterr().out)["shards"] is None
    assert cli.main(["study", str(zoo), "--dry-run", "--out", str(tmp_path / "run")]) == 0
    assert "24 of 24 x mlp4" in capsys.readouterr().out
    assert not (tmp_path / "run").exists()


def test_a_plans_time_counts_every_further_epoch(four_tasks, monkeypatch):
    took = {1: 0.75, 2: 1.0}  # seconds of a trial of so many epochs

    def trained(*args, recipe, **options):
        zoo = wsfast.generate(*args, recipe=recipe, **options)
        zoo.info["generate_s"] = took[recipe.epochs]
        return zoo

    monkeypatch.setattr(planning, "generate", trained)
    plan = planning.plan_training("mlp4", four_tasks, repeats=3, width=4, recipe=wsfast.Recipe(epochs=11))
    assert (plan["trial_networks"], plan["seconds"]) == (1, pytest.approx(12 * (0.75 + 10 * 0.25)))


@pytest.mark.parametrize(("d", "r", "n", "form"), [(20, 3, 50, "factorised"), (4, 9, 50, "packed")])
def test_multiplications_of_a_kernel(d, r, n, form):
    net = wsfast.network("mlp4", (d,), 2, width=r)
    zoo = wsfast.WeightSet(net, {}, np.zeros(0, np.int64), np.zeros(0, np.int64))
    pairs = [(i, j) for i in range(n) for j in range(i + 1)]
    entries = [(i, j) for i in range(d) for j in range(i + 1)]
    counted = {"factorised": len(pairs) * d * r * r, "packed": len(entries) * (n * r + len(pairs))}
    found = describing.chains(zoo, n)
    assert found[1] == {"chain": 2, "d": d, "r": r, "form": form, "multiplications": counted[form]}
    assert counted[form] == min(counted.values())


def test_info_of_a_stored_set(tmp_path, capsys, zoo):
    zoo.save(tmp_path / "zoo")
    assert cli.main(["info", str(tmp_path / "zoo")]) == 0
    said = capsys.readouterr().out
    assert "40 of 40 x mlp4, 2,810 parameters each, 4 tasks of digits" in said
    assert "0 diverged" in said
    assert "made by numba fp32, seed 0: lr 0.05" in said
    assert cli.main(["info", str(tmp_path / "zoo"), "--json"]) == 0
    about = json.loads(capsys.readouterr().out)
    assert about["accuracy"]["train_accuracy"]["mean"] == pytest.approx(zoo.records["train_accuracy"].mean())
    assert [c["d"] for c in about["chains"]] == [64, 64, 64]
    assert cli.main(["info", str(tmp_path)]) == 2


def test_events_are_lines_of_json(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr("wsfast.events.EVERY", 0.0)
    log = tmp_path / "events"
    small = SMALL[: SMALL.index("--permutations")]
    assert cli.main(["--log-json", str(log), "generate", *small, "--out", str(tmp_path / "zoo")]) == 0
    events = [json.loads(line) for line in log.read_text().splitlines()]
    assert [events[0]["event"], events[-1]["event"]] == ["start", "end"]
    assert events[0]["arguments"]["repeats"] == 6
    assert (events[-1]["code"], events[-1]["message"]) == (0, None)
    progress = [e for e in events if e["event"] == "progress"]
    assert [e["done"] for e in progress] == list(range(1, 25))
    last = progress[-1]
    assert (last["total"], last["unit"], last["diverged"]) == (24, "net", 0)
    assert last["per_s"] > 0 == last["eta_s"]
    assert 0.3 < last["train_accuracy"] <= 1
    assert cli.main(["study", str(tmp_path / "zoo"), "--alpha", "2", "--log-json", str(log)]) == 2
    events = [json.loads(line) for line in log.read_text().splitlines()]
    assert (events[-1]["code"], events[-1]["message"]) == (2, "study: alpha must be in (0, 1), got 2.0")


def test_more_than_memory_holds_is_no_mistake_of_ours(tmp_path, capsys):
    assert cli.main(["study", *SMALL, "--width", "3000000", "--out", str(tmp_path)]) == 2
    assert "wsfast: not enough memory: Unable to allocate" in capsys.readouterr().err


def test_a_device_that_fails_has_an_exit_code_of_its_own(tmp_path, capsys, monkeypatch):
    def fails(*_, **__):
        raise RuntimeError("CUDA error in networks 3 to 7")

    monkeypatch.setattr("wsfast.training._on_cpu", fails)
    assert cli.main(["generate", "--out", str(tmp_path)]) == 3
    said = capsys.readouterr().err
    assert "Traceback" in said
    assert said.endswith("wsfast: CUDA error in networks 3 to 7\n")
    with pytest.raises(SystemExit):
        cli.main(["--help"])
    assert "3    the device or the cluster failed" in capsys.readouterr().out


def test_a_reader_that_stops_is_no_error():
    command = [sys.executable, "-m", "wsfast", "info"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as run:
        run.stdout.close()
        assert (run.stderr.read(), run.wait()) == ("", 141)
