import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from wsfast.kernels.numba.threads import unordered

import wsfast
from wsfast.initial import untrained
from wsfast.recipe import DIGITS


def same_bits(a, b):
    for name in a.parameters:
        np.testing.assert_array_equal(a.parameters[name], b.parameters[name], err_msg=name)
    for name in a.records:
        np.testing.assert_array_equal(a.records[name], b.records[name], err_msg=name)


@pytest.mark.parametrize("threads", [1, 2])
def test_a_network_is_the_same_bits_alone_and_among_many(zoo, threads):
    few = wsfast.generate("mlp4", wsfast.tasks("digits", n=2), repeats=3, width=24, threads=threads, progress=False)
    same_bits(few, zoo[(zoo.labels < 2) & (zoo.repeats < 3)])


def test_seeds_tasks_and_repeats_differ(four_tasks, zoo):
    other = wsfast.generate("mlp4", four_tasks, repeats=1, width=24, seed=1, progress=False)
    first = zoo.parameters["fc1.weight"].reshape(len(zoo), -1)
    assert len(np.unique(first, axis=0)) == len(zoo)
    assert not np.isin(other.parameters["fc1.weight"], first).all(axis=(1, 2)).any()


def test_networks_learn_and_are_recorded(zoo):
    assert zoo.records["train_accuracy"].min() > 0.95
    assert zoo.records["test_accuracy"].mean() > 0.95
    curve = zoo.records["loss_curve"]
    assert curve.shape == (40, 20)
    assert (curve[:, -1] < 0.2 * curve[:, 0]).all()
    assert not zoo.diverged.any()
    assert zoo.info["backend"] == "numba"
    assert zoo.info["recipe"]["lr"] == DIGITS.lr
    assert zoo.labels.tolist() == sorted([0, 1, 2, 3] * 10)


def test_records_are_what_torch_computes(zoo, four_tasks):
    import torch

    for i in (0, 17):
        task = four_tasks[int(zoo.labels[i])]
        with torch.no_grad():
            logits = zoo.to_torch(i)(torch.from_numpy(four_tasks.inputs(task.test_rows)))
        labels = torch.from_numpy(task.test_labels)
        loss = torch.nn.functional.cross_entropy(logits, labels).item()
        assert zoo.records["test_loss"][i] == pytest.approx(loss, rel=1e-4, abs=1e-7)
        assert zoo.records["test_accuracy"][i] == (logits.argmax(1) == labels).float().mean().item()


def test_reference_backend_trains_the_same_networks(four_tasks):
    recipe = replace(DIGITS, epochs=2)
    runs = {
        b: wsfast.generate(
            "mlp4", wsfast.tasks("digits", n=1), repeats=2, width=9, recipe=recipe, backend=b, progress=False
        )
        for b in ("numba", "reference")
    }
    assert runs["reference"].info["precision"] == "fp64"
    for name, want in runs["reference"].parameters.items():
        np.testing.assert_allclose(runs["numba"].parameters[name], want, rtol=1e-4, atol=1e-5)


def test_untrained_networks(zoo, four_tasks):
    recipe = replace(DIGITS, epochs=0)
    never = wsfast.generate("mlp4", four_tasks, repeats=10, width=24, recipe=recipe, progress=False)
    for name, array in untrained(zoo).parameters.items():
        np.testing.assert_array_equal(array, never.parameters[name])


@pytest.fixture(scope="module")
def residual():
    return wsfast.generate("resnet-mlp12", wsfast.tasks("digits", n=2), repeats=2, width=24, progress=False)


def test_residual_networks_learn_and_are_what_torch_computes(residual):
    import torch

    tasks = wsfast.tasks("digits", n=2)
    assert residual.records["train_accuracy"].min() == 1
    assert residual.records["test_accuracy"].min() > 0.95
    assert not residual.diverged.any()
    for i in range(len(residual)):
        task = tasks[int(residual.labels[i])]
        with torch.no_grad():
            logits = residual.to_torch(i)(torch.from_numpy(tasks.inputs(task.test_rows)))
        labels = torch.from_numpy(task.test_labels)
        loss = torch.nn.functional.cross_entropy(logits, labels).item()
        assert residual.records["test_loss"][i] == pytest.approx(loss, rel=1e-3, abs=1e-6)
        assert residual.records["test_accuracy"][i] == (logits.argmax(1) == labels).double().mean().item()


def test_residual_networks_are_the_same_bits_alone_and_untrained(residual):
    one = wsfast.generate("resnet-mlp12", wsfast.tasks("digits", n=1), repeats=1, width=24, progress=False)
    same_bits(one, residual[0])
    recipe = replace(DIGITS, epochs=0)
    never = wsfast.generate(
        "resnet-mlp12", wsfast.tasks("digits", n=2), repeats=2, width=24, recipe=recipe, progress=False
    )
    for name, array in untrained(residual).parameters.items():
        np.testing.assert_array_equal(array, never.parameters[name], err_msg=name)


CONVOLUTIONAL = wsfast.Recipe(lr=0.05, batch_size=16, epochs=6, decay_epochs=(4,), pad=2)


@pytest.fixture(scope="module")
def image_tasks():
    """Four tasks of two classes: images 3x16x16 of noise around a pattern of their class."""
    rng = np.random.default_rng(16)
    y = np.arange(240) % 4
    patterns = rng.integers(0, 256, (4, 3, 4, 4)).repeat(4, axis=2).repeat(4, axis=3)
    x = (patterns[y] + rng.integers(0, 256, (240, 3, 16, 16))) // 2
    return wsfast.tasks(x.astype(np.uint8), y, groups=[(0, 1), (1, 2), (2, 3), (3, 0)])


@pytest.fixture(scope="module")
def plain(image_tasks):
    return wsfast.generate("plainnet5", image_tasks, repeats=5, width=4, recipe=CONVOLUTIONAL, progress=False)


def test_convolutional_networks_learn_and_are_what_torch_computes(plain, image_tasks):
    import torch

    assert not plain.diverged.any()
    assert plain.records["train_accuracy"].mean() > 0.9
    assert (plain.records["loss_curve"][:, -1] < plain.records["loss_curve"][:, 0]).all()
    for i in (0, 6, 14):
        task = image_tasks[int(plain.labels[i])]
        with torch.no_grad():
            logits = plain.to_torch(i)(torch.from_numpy(image_tasks.inputs(task.test_rows)))
        labels = torch.from_numpy(task.test_labels)
        loss = torch.nn.functional.cross_entropy(logits, labels).item()
        assert plain.records["test_loss"][i] == pytest.approx(loss, rel=1e-4)
        assert plain.records["test_accuracy"][i] == (logits.argmax(1) == labels).double().mean().item()


@pytest.mark.parametrize("threads", [1, 2])
def test_convolutional_networks_are_the_same_bits_alone_and_untrained(plain, image_tasks, threads):
    few = wsfast.generate(
        "plainnet5", image_tasks, repeats=2, width=4, recipe=CONVOLUTIONAL, threads=threads, progress=False
    )
    same_bits(few, plain[plain.repeats < 2])
    none = replace(CONVOLUTIONAL, epochs=0)
    never = wsfast.generate("plainnet5", image_tasks, repeats=5, width=4, recipe=none, progress=False)
    for name, array in untrained(plain).parameters.items():
        np.testing.assert_array_equal(array, never.parameters[name], err_msg=name)


@pytest.mark.parametrize("name", ["plainnet5-text", "plainnet5-leaky", "resnet5"])
def test_reference_backend_trains_the_same_convolutional_networks(name, image_tasks):
    recipe = replace(CONVOLUTIONAL, epochs=1)
    runs = [
        wsfast.generate(name, image_tasks, repeats=1, width=2, recipe=recipe, backend=b, progress=False)
        for b in ("numba", "reference")
    ]
    for key, want in runs[1].parameters.items():
        np.testing.assert_allclose(runs[0].parameters[key], want, rtol=1e-4, atol=1e-5, err_msg=key)


def test_a_study_of_convolutional_networks(plain):
    study = wsfast.study(plain, permutations=0, progress=False)
    result = study.to_dict()
    assert result["network"] == "plainnet5"
    assert {c["chain"] for c in result["cells"]} == {1, 2, 3, 4}
    assert {c["features"] for c in result["cells"]} == {
        "chain",
        "chain_unit",
        "chain_folded",
        "raw",
        "statistics",
    }
    assert "chain, BN folded" in study.table()


@pytest.fixture(scope="module")
def surnames():
    """Two tasks of surnames, 1,200 names a network."""
    tasks = wsfast.tasks("faker_surnames", n=2)
    return replace(tasks, recipe=replace(tasks.recipe, epochs=3, decay_epochs=(2,), steps=400))


@pytest.fixture(scope="module")
def recurrent(surnames):
    return wsfast.generate("gru2", surnames, repeats=3, width=20, progress=False)


def test_recurrent_networks_learn_and_are_what_torch_computes(recurrent, surnames):
    import torch

    assert (recurrent.records["loss_curve"][:, -1] < recurrent.records["loss_curve"][:, 0]).all()
    assert recurrent.records["train_accuracy"].mean() > 0.75
    assert recurrent.records["loss_curve"].shape == (6, 3)
    for i in (0, 5):
        task, module = surnames[int(recurrent.labels[i])], recurrent.to_torch(i).double()
        with torch.no_grad():
            rows = [x[: int(x.sum())] for x in torch.from_numpy(surnames.inputs(task.test_rows)).double()]
            logits = torch.cat([module(row[None]) for row in rows])
        labels = torch.from_numpy(task.test_labels)
        loss = torch.nn.functional.cross_entropy(logits, labels).item()
        assert recurrent.records["test_loss"][i] == pytest.approx(loss, rel=1e-5)
        right = (logits.argmax(1) == labels).double().mean().item()
        assert recurrent.records["test_accuracy"][i] == pytest.approx(right, abs=1.5 / len(labels))


@pytest.mark.parametrize("threads", [1, 2])
def test_recurrent_networks_are_the_same_bits_alone_and_untrained(recurrent, surnames, threads):
    one = replace(surnames, tasks=surnames.tasks[:1])
    same_bits(wsfast.generate("gru2", one, repeats=1, width=20, threads=threads, progress=False), recurrent[0])
    never = wsfast.generate(
        "gru2", surnames, repeats=3, width=20, recipe=replace(surnames.recipe, epochs=0), progress=False
    )
    for name, array in untrained(recurrent).parameters.items():
        np.testing.assert_array_equal(array, never.parameters[name], err_msg=name)


def test_the_reference_trains_the_same_recurrent_networks(surnames):
    recipe = replace(surnames.recipe, epochs=1, steps=30)
    few = replace(surnames, tasks=tuple(replace(t, test_rows=t.test_rows[:5], test_labels=t.test_labels[:5],
                                               train_rows=t.train_rows[::40], train_labels=t.train_labels[::40])
                                       for t in surnames.tasks))  # fmt: skip
    numba, reference = (
        wsfast.generate("gru2", few, repeats=1, width=5, recipe=recipe, backend=b, progress=False)
        for b in ("numba", "reference")
    )
    for name, want in reference.parameters.items():
        np.testing.assert_allclose(numba.parameters[name], want, rtol=1e-4, atol=1e-6)


def test_what_recurrent_networks_cannot_be_trained_with(surnames, four_tasks):
    for change in ({"momentum": 0.9}, {"batch_size": 2}, {"weight_decay": 0.1}, {"pad": 1}, {"steps": None}):
        with pytest.raises(ValueError, match=r"gru2 is trained by plain SGD on single names, want a recipe with steps"):
            wsfast.generate("gru2", surnames, repeats=1, recipe=replace(surnames.recipe, **change))
    empty = surnames.x.copy()
    empty[7] = surnames.shape[1]
    with pytest.raises(ValueError, match=r"name 7 of faker_surnames has no letter"):
        wsfast.generate("gru2", replace(surnames, x=empty), repeats=1)
    first = surnames[0]
    own = first.train_labels == 0
    half = replace(first, train_rows=first.train_rows[own], train_labels=first.train_labels[own])
    with pytest.raises(ValueError, match=rf"a class of task {re.escape(first.name)} has no training name"):
        wsfast.generate("gru2", replace(surnames, tasks=(half,)), repeats=1)
    with pytest.raises(
        ValueError, match=r"faker_surnames and recipes with steps are for gru2, mlp4 has no use for them"
    ):
        wsfast.generate("mlp4", surnames, repeats=1)
    with pytest.raises(ValueError, match=r"digits and recipes with steps are for gru2"):
        wsfast.generate("mlp4", four_tasks, repeats=1, recipe=surnames.recipe)
    with pytest.raises(ValueError, match=r"gru2: the input must be \[steps, alphabet\], got \(1, 8, 8\)"):
        wsfast.generate("gru2", four_tasks, repeats=1)


def test_augmented_images_train():
    images = np.random.default_rng(0).integers(0, 255, (60, 3, 8, 8)).astype(np.uint8)
    tasks = wsfast.tasks(images, np.arange(60) % 2)
    made = [
        wsfast.generate("mlp4", tasks, repeats=2, width=10, recipe=wsfast.Recipe(epochs=2, pad=pad), progress=False)
        for pad in (None, 1)
    ]
    assert not np.allclose(made[0].parameters["fc1.weight"], made[1].parameters["fc1.weight"])


def test_diverged_networks_are_kept_and_marked(four_tasks):
    wild = wsfast.generate("mlp4", four_tasks, repeats=2, width=24, recipe=replace(DIGITS, lr=30.0), progress=False)
    assert wild.diverged.any()
    assert len(wild) == 8
    np.testing.assert_array_equal(wild.diverged, wild.records["diverged"])


def test_leaving_early_starts_no_more_calls():
    started = []
    for n, _ in enumerate(unordered(started.append, range(1000), threads=2)):
        if n == 5:
            break
    assert len(started) < 50


def test_an_error_in_a_thread_reaches_the_caller():
    with pytest.raises(ZeroDivisionError):
        list(unordered(lambda i: 1 // i, range(10), threads=2))


def test_compiled_code_is_kept_on_disk(zoo):
    from wsfast.kernels.numba.jit import CACHE

    assert any("train_mlp" in file.name for file in Path(CACHE).rglob("*.nbi"))


def test_bad_input(four_tasks):
    def generate(network="mlp4", **options):
        return wsfast.generate(network, four_tasks, **{"repeats": 1, "progress": False, **options})

    with pytest.raises(ValueError, match=r"network must be one of"):
        generate("vgg")
    with pytest.raises(ValueError, match=r"backend must be one of reference, numba, triton, got 'cuda'"):
        generate(backend="cuda")
    with pytest.raises(ValueError, match=r"backend numba runs on cpu, not on cuda"):
        generate(backend="numba", device="cuda")
    with pytest.raises(ValueError, match=r"device must be one of cpu, cuda, got 'tpu'"):
        generate(device="tpu")
    with pytest.raises(ValueError, match=r"repeats must be at least 1, got 0"):
        generate(repeats=0)
    with pytest.raises(ValueError, match=r"seed must be 0\.\.2\^64 - 1, got -1"):
        generate(seed=-1)
    with pytest.raises(ValueError, match=r"takes \(5,\) and gives 2 classes, the tasks have \(1, 8, 8\) and 2"):
        generate(wsfast.network("mlp4", (5,), 2))
    with pytest.raises(TypeError, match=r"network must be a name or a wsfast.Network, got NoneType"):
        generate(None)
    with pytest.raises(ValueError, match=r"a declaration has its own"):
        generate(wsfast.network("mlp4", (1, 8, 8), 2), width=5)
    letters = replace(wsfast.tasks(np.random.default_rng(0).random((8, 36)), np.arange(8) % 2), shape=(4, 9))
    with pytest.raises(ValueError, match=r"gru2 is trained by plain SGD on single names"):
        wsfast.generate("gru2", letters, repeats=1)
    small = wsfast.tasks(np.zeros((8, 3, 15, 16), np.uint8), np.arange(8) % 2)
    with pytest.raises(ValueError, match=r"plainnet5: images must be .* of 16x16 or more, got \(3, 15, 16\)"):
        wsfast.generate("plainnet5", small, repeats=1)
    images = wsfast.tasks(np.zeros((8, 3, 16, 16), np.uint8), np.arange(8) % 2)
    with pytest.raises(ValueError, match=r"plainnet5 takes \(1, 16, 16\) and gives 2 classes, the tasks have \(3, 16"):
        wsfast.generate(wsfast.network("plainnet5", (1, 16, 16), 2), images, repeats=1)
    flat = wsfast.tasks(np.random.default_rng(0).random((8, 4)), np.arange(8) % 2)
    with pytest.raises(ValueError, match=r"random crops need images"):
        wsfast.generate("mlp4", flat, repeats=1, recipe=wsfast.Recipe(pad=4))
