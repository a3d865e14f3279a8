import json
from dataclasses import replace

import numpy as np
import pytest

import wsfast
from wsfast.recipe import Recipe


def arrays(n=30, shape=(5,), classes=3):
    rng = np.random.default_rng([n, *shape])
    return rng.standard_normal((n, *shape)), np.arange(n) % classes


def test_digits_are_all_pairs():
    tasks = wsfast.tasks("digits")
    assert len(tasks) == 45
    assert tasks.names[:2] == ["0+1", "0+2"]
    assert tasks.shape == (1, 8, 8)
    assert tasks.classes == 2
    for task in tasks.tasks:
        rows = np.concatenate([task.train_rows, task.test_rows])
        assert len(np.unique(rows)) == len(rows)
        assert set(task.train_labels) == set(task.test_labels) == {0, 1}
        assert len(task.test_rows) == pytest.approx(0.2 * len(rows), abs=2)
    seen = tasks.inputs(np.arange(1797))
    assert seen.dtype == np.float32
    assert abs(seen.mean()) < 1e-3
    assert abs(seen.std() - 1) < 1e-3


def test_the_first_tasks_are_the_same_tasks():
    some, all_of_them = wsfast.tasks("digits", n=3), wsfast.tasks("digits")
    for a, b in zip(some.tasks, all_of_them.tasks, strict=False):
        np.testing.assert_array_equal(a.train_rows, b.train_rows)
    np.testing.assert_array_equal(some.x, all_of_them.x)


def test_arrays_in_every_form_of_groups():
    x, y = arrays()
    pairs = wsfast.tasks(x, y)
    assert pairs.names == ["0+1", "0+2", "1+2"]
    named = wsfast.tasks(x, y, groups=[(2, 0)])
    assert named.names == ["2+0"]
    assert set(y[named[0].train_rows]) == {0, 2}
    per_sample = wsfast.tasks(x, y, groups=np.arange(30) // 15)
    assert len(per_sample) == 2
    assert per_sample.classes == 3
    assert per_sample[1].train_rows.min() >= 15


def test_images_are_standardised_per_channel():
    images = np.random.default_rng(0).integers(0, 255, (40, 3, 4, 4)).astype(np.uint8)
    images[:, 1] //= 4
    tasks = wsfast.tasks(images, np.arange(40) % 2)
    seen = tasks.inputs(np.arange(40))
    assert seen.shape == (40, 3, 4, 4)
    np.testing.assert_allclose(seen.mean(axis=(0, 2, 3)), 0, atol=1e-5)
    np.testing.assert_allclose(seen.std(axis=(0, 2, 3)), 1, rtol=1e-4)


def test_samples_in_any_layout_are_the_same_tasks():
    x, y = arrays()
    for samples in (x.astype(np.float32), (9 * x).astype(np.uint8)):
        want = wsfast.tasks(samples, y)
        frozen = samples.copy()
        frozen.flags.writeable = False
        for given in (np.asfortranarray(samples), frozen, np.repeat(samples, 2, axis=1)[:, ::2]):
            got = wsfast.tasks(given, y)
            assert got.x.flags.c_contiguous
            assert got.x.flags.writeable
            assert got.sha256() == want.sha256()


def test_regrouped_digits_are_the_same_images_under_three_labelings():
    digits = wsfast.tasks("digits", n=4)
    three = digits.regrouped()
    assert three.names == ["ab|cd", "ac|bd", "ad|bc"]
    assert (three.classes, three.shape, three.name) == (2, digits.shape, "digits, relabelled")
    np.testing.assert_array_equal(three.x, digits.x)
    first = three[0]
    for task in three.tasks:
        np.testing.assert_array_equal(task.train_rows, first.train_rows)
        np.testing.assert_array_equal(task.test_rows, first.test_rows)
        assert not set(task.train_rows) & set(task.test_rows)
    for kind in ("train_labels", "test_labels"):
        codes = np.stack([getattr(t, kind) for t in three.tasks], axis=1)
        assert {tuple(row) for row in np.unique(codes, axis=0)} == {(0, 0, 0), (0, 1, 1), (1, 0, 1), (1, 1, 0)}
    a, b = (digits[0].train_rows[digits[0].train_labels == c] for c in (0, 1))  # a is 0, b is 1
    for rows, codes in ((a, (0, 0, 0)), (b, (0, 1, 1))):
        for task, code in zip(three.tasks, codes, strict=True):
            assert set(task.train_labels[np.isin(task.train_rows, rows)]) == {code}


def test_regrouped_takes_classes_of_one_task_or_of_several():
    x, y = arrays(n=60, classes=6)
    for groups in ([(0, 1, 2, 3)], [(0, 1), (2, 3)], [(0, 1), (1, 2), (2, 3)], [(4, 5), (2, 3), (0, 1)]):
        three = wsfast.tasks(x, y, groups=groups).regrouped()
        assert len(np.unique(np.concatenate([three[0].train_rows, three[0].test_rows]))) == 40
    with pytest.raises(ValueError, match=r"want 4 classes without a sample in common, the 2 tasks of arrays have 3"):
        wsfast.tasks(x, y, groups=[(0, 1), (1, 2)]).regrouped()


def test_shuffled_labels_are_dealt_once():
    digits = wsfast.tasks("digits", n=4)
    dealt, again, other = digits.shuffled(3, seed=1), digits.shuffled(3, seed=1), digits.shuffled(3, seed=2)
    assert dealt.names == ["0+1, shuffled 1", "0+1, shuffled 2", "0+1, shuffled 3"]
    before = digits[0]
    for k, (task, same, new) in enumerate(zip(dealt.tasks, again.tasks, other.tasks, strict=True)):
        np.testing.assert_array_equal(task.train_rows, before.train_rows)
        np.testing.assert_array_equal(task.test_rows, before.test_rows)
        np.testing.assert_array_equal(np.bincount(task.train_labels), np.bincount(before.train_labels))
        assert 0.3 < (task.train_labels == before.train_labels).mean() < 0.7
        assert 0.2 < (task.test_labels == before.test_labels).mean() < 0.8
        assert 0.3 < (task.train_labels == dealt[k - 1].train_labels).mean() < 0.7
        np.testing.assert_array_equal(task.train_labels, same.train_labels)
        assert (task.train_labels != new.train_labels).any()
    with pytest.raises(ValueError, match="shuffled: n must be at least 2, got 1"):
        digits.shuffled(1)


def test_the_digest_is_of_all_that_training_depends_on():
    tasks = wsfast.tasks(*arrays(), groups=[(0, 1), (1, 2)])
    digest = tasks.sha256()
    assert replace(tasks, name="other", x=tasks.x.copy()).sha256() == digest
    others = [replace(tasks, **{name: getattr(tasks, name) + 1}) for name in ("x", "scale", "shift", "classes")]
    others += [replace(tasks, shape=(5, 1)), replace(tasks, tasks=tasks.tasks[:1])]
    for name in ("train_rows", "train_labels", "test_rows", "test_labels"):
        last = replace(tasks[1], **{name: getattr(tasks[1], name) + 1})
        others.append(replace(tasks, tasks=(tasks[0], last)))
    assert len({digest, *(other.sha256() for other in others)}) == 1 + len(others)


def test_bad_input(tmp_path, monkeypatch):
    x, y = arrays()
    with pytest.raises(
        ValueError,
        match=r"data must be one of digits, cifar100, tiny_imagenet, names, faker_surnames or an array, got 'mnist2'",
    ):
        wsfast.tasks("mnist2")
    with pytest.raises(ValueError, match=r"n must be at most 45 for digits, got 46"):
        wsfast.tasks("digits", n=46)
    for how, most in (({}, 3), ({"groups": [(0, 1)]}, 1), ({"groups": np.arange(30) // 15}, 2)):
        with pytest.raises(ValueError, match=rf"n must be at most {most} for arrays, got 4"):
            wsfast.tasks(x, y, n=4, **how)
    with pytest.raises(TypeError, match=r"x must hold real numbers, got complex128"):
        wsfast.tasks(x + 1j, y)
    for empty in (x[:0], x[:, :0]):
        with pytest.raises(ValueError, match=r"none empty, got \("):
            wsfast.tasks(empty, y[: len(empty)])
    with pytest.raises(ValueError, match=r"n must be at least 1, got 0"):
        wsfast.tasks("digits", n=0)
    with pytest.raises(ValueError, match=r"y and groups belong to arrays"):
        wsfast.tasks("digits", y)
    with pytest.raises(
        ValueError, match=r"want x \[samples, ...\] and y \[samples\], none empty, got \(30, 5\) and \(29,\)"
    ):
        wsfast.tasks(x, y[:-1])
    with pytest.raises(ValueError, match=r"need labels"):
        wsfast.tasks(x)
    with pytest.raises(TypeError, match=r"y must hold integers, got float64"):
        wsfast.tasks(x, y / 2)
    with pytest.raises(ValueError, match=r"group .* names class 7, which has no sample"):
        wsfast.tasks(x, y, groups=[(0, 7)])
    with pytest.raises(ValueError, match=r"must give each of 30 samples its task"):
        wsfast.tasks(x, y, groups=np.arange(29))
    with pytest.raises(ValueError, match=r"same number of classes, got \[2, 3\]"):
        wsfast.tasks(x, y, groups=[(0, 1), (0, 1, 2)])
    with pytest.raises(ValueError, match=r"at least 2 classes"):
        wsfast.tasks(x, y, groups=[(0,)])
    for none in ({"y": 0 * y}, {"y": y, "groups": []}):
        with pytest.raises(ValueError, match=r"want at least one task, of at least 2 classes, got none"):
            wsfast.tasks(x, **none)
    with pytest.raises(ValueError, match=r"test_fraction"):
        wsfast.tasks(x, y, test_fraction=1)
    x[17, 2] = np.inf
    with pytest.raises(ValueError, match=r"x must be finite, sample 17 is not"):
        wsfast.tasks(x, y)

    monkeypatch.delenv("WSFAST_DATA", raising=False)
    with pytest.raises(FileNotFoundError, match=r"no data root .set WSFAST_DATA or --data-root"):
        wsfast.tasks("cifar100")
    with pytest.raises(FileNotFoundError, match=r"tiny-imagenet-200 is missing"):
        wsfast.tasks("tiny_imagenet", root=tmp_path)
    (tmp_path / "tiny-imagenet-200").mkdir()
    with pytest.raises(ValueError, match=r"tiny_imagenet: .* is damaged"):
        wsfast.tasks("tiny_imagenet", root=tmp_path)
    for wnid in ("n1", "n2", "n3", "n4"):
        (tmp_path / "tiny-imagenet-200" / "train" / wnid).mkdir(parents=True)
    (tmp_path / "tiny-imagenet-200" / "val").mkdir()
    for line in ("a.JPEG", "a.JPEG\tn5\t0"):
        (tmp_path / "tiny-imagenet-200" / "val" / "val_annotations.txt").write_text(f"b.JPEG\tn1\t0\n{line}\n")
        with pytest.raises(ValueError, match=r"val_annotations.txt line 2: '(n5)?' is no folder of .*train"):
            wsfast.tasks("tiny_imagenet", root=tmp_path)
    (tmp_path / "cifar-100-python").mkdir()
    (tmp_path / "cifar-100-python" / "train").write_bytes(b"not the file")
    with pytest.raises(ValueError, match=r"cifar100: .* is damaged, a file's md5"):
        wsfast.tasks("cifar100", root=tmp_path)


def test_recipe():
    rates = Recipe(lr=0.1, epochs=4, decay_epochs=(2, 3)).learning_rates()
    np.testing.assert_allclose(rates, [0.1, 0.1, 0.01, 0.001], rtol=1e-6)
    assert rates.dtype == np.float32
    short = Recipe(epochs=50, decay_epochs=(30,)).with_epochs(10)
    assert short.decay_epochs == (6,)
    for bad in ({"lr": -1}, {"lr": np.nan}, {"epochs": -1}, {"batch_size": 0}, {"pad": -1}, {"momentum": -0.1}):
        with pytest.raises(ValueError, match=f"{next(iter(bad))} must be"):
            Recipe(**bad)
    for bad in ({"lr": "0.1"}, {"lr": 1e39}, {"decay": 10**400}):
        with pytest.raises(ValueError, match=f"{next(iter(bad))} must be a number in 0\\.\\."):
            Recipe(**bad)


def test_a_recipe_of_numpys_numbers_is_the_same_recipe():
    lr, epochs, decay_epochs = np.float32(0.5), np.int64(3), np.array([1, 2])
    recipe = Recipe(lr=lr, epochs=epochs, decay_epochs=decay_epochs, pad=np.int32(2))
    assert recipe == Recipe(lr=0.5, epochs=3, decay_epochs=(1, 2), pad=2)
    assert Recipe(**json.loads(json.dumps(recipe.to_dict()))) == recipe
