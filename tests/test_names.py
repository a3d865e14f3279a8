import numpy as np
import pytest

import wsfast
from wsfast import datasets, names
from wsfast.describing import describe
from wsfast.recipe import Recipe
from wsfast.verifying import verify


@pytest.fixture
def no_root(monkeypatch):
    monkeypatch.delenv("WSFAST_DATA", raising=False)


@pytest.fixture
def folder(tmp_path):
    """A data root whose names/ a test fills."""
    (tmp_path / "names").mkdir()
    return tmp_path


def write(folder, **files):
    for language, lines in files.items():
        (folder / "names" / f"{language}.txt").write_text("\n".join(lines) + "\n", encoding="utf-8")
    return folder


def spelled(tasks, row):
    return "".join(names.ALPHABET[k] for k in tasks.x[row] if k < len(names.ALPHABET))


def test_folding():
    assert len(names.ALPHABET) == 58
    assert names.fold("Marszałek") == "Marszalek"
    assert names.fold("Weiß") == "Weiss"
    assert names.fold(" Ñuñez-Åström\u00a0 D’Alia ") == "Nunez-Astrom D'Alia"


def test_surnames_without_a_data_root_are_fakers(no_root):
    tasks = wsfast.tasks("names")
    assert len(tasks) == 9
    assert tasks.classes == 2
    assert tasks.source.startswith("Faker ")
    assert "not NameData" in tasks.source
    assert tasks.name == "faker_surnames"  # what every result and every stored set calls them
    assert tasks.names[0] == "Croatian+Czech"
    assert tasks.x.dtype == np.uint8
    assert tasks.shape == (tasks.x.shape[1], 58)
    for task in tasks.tasks:
        train, test = np.bincount(task.train_labels), np.bincount(task.test_labels)
        assert (abs(train - test) <= 1).all()
        assert train.min() > 30
        rows = np.concatenate([task.train_rows, task.test_rows])
        assert len(np.unique(tasks.x[rows[: len(task.train_rows)]], axis=0)) > 0.9 * len(task.train_rows)
        assert len(np.unique(rows)) == len(rows)


def test_namedata_is_read_as_described(data_root):
    tasks = wsfast.tasks("names", root=data_root)
    assert (tasks.name, tasks.source) == ("names", str(data_root / "names"))
    assert tasks.names[0] == "Arabic+Chinese"
    assert len(tasks.tasks[0].train_rows) + len(tasks.tasks[0].test_rows) == 108 + 246
    spellings = {spelled(tasks, row) for row in range(len(tasks.x))}
    assert {"Maxa", "Lu", "Rafaj", "Grosser", "Lytkin"} <= spellings
    assert names.JUNK not in spellings
    published = wsfast.tasks("names", root=data_root, clean=False)
    assert len(published.x) == 20_074
    assert published.source.endswith("not cleaned")
    assert sum(spelled(published, row) == names.JUNK for row in range(20_074)) == 24


def test_what_a_network_sees(no_root):
    tasks = wsfast.tasks("names", n=1)
    seen = tasks.inputs(tasks[0].train_rows[:5])
    assert seen.shape == (5, *tasks.shape)
    lengths = [len(spelled(tasks, row)) for row in tasks[0].train_rows[:5]]
    np.testing.assert_array_equal(seen.sum(axis=(1, 2)), lengths)
    np.testing.assert_array_equal(seen[2, : lengths[2]].argmax(axis=1), tasks.x[tasks[0].train_rows[2], : lengths[2]])


def test_the_split_is_drawn_from_its_seed(folder):
    write(folder, A=[f"a{c}" for c in names.ALPHABET[:9]], B=[f"b{c}" for c in names.ALPHABET[:5]], C=["c", "d"])
    one, same, other = (wsfast.tasks("names", root=folder, split_seed=s) for s in (0, 0, 1))
    assert len(one) == 1
    assert np.bincount(one[0].train_labels).tolist() == [5, 3]
    assert np.bincount(one[0].test_labels).tolist() == [4, 2]
    np.testing.assert_array_equal(one[0].train_rows, same[0].train_rows)
    assert one[0].train_rows.tolist() != other[0].train_rows.tolist()


def test_cleaning_is_optional(folder):
    write(folder, A=["\ufeffAb", "Ab", "", "To The First\u00a0 Page", "Lu:", "Cd1", "Maxa /B"], B=["X", "Y"])
    tasks = wsfast.tasks("names", root=folder)
    assert sorted(spelled(tasks, row) for row in range(4)) == ["Ab", "Cd", "Lu", "Maxa"]
    with pytest.raises(ValueError, match=r"A\.txt line 3, '', holds no letter \(clean=True leaves it out\)"):
        wsfast.tasks("names", root=folder, clean=False)
    write(folder, A=["\ufeffAb", "Ab", "Lu:", "Maxa/B", "Жук B"])
    published = wsfast.tasks("names", root=folder, clean=False)
    assert [spelled(published, row) for row in range(5)] == ["Ab", "Ab", "Lu", "MaxaB", " B"]


def test_bad_input(folder, no_root):
    with pytest.raises(ValueError, match=r"holds 0 \.txt files, want one a language and at least 2"):
        wsfast.tasks("names", root=folder)
    write(folder, A=["Ab", "Жук"], B=["X", "Y"])
    with pytest.raises(ValueError, match=r"A\.txt line 2, 'Жук': 'Ж' is none of the 58 letters"):
        wsfast.tasks("names", root=folder)
    write(folder, A=["Ab", "Ab"])
    with pytest.raises(ValueError, match=r"A\.txt holds 1 names, want at least 2: half of them train"):
        wsfast.tasks("names", root=folder)
    (folder / "names" / "A.txt").write_bytes(b"\xff\xfe")
    with pytest.raises(ValueError, match=r"A\.txt is not UTF-8"):
        wsfast.tasks("names", root=folder)
    with pytest.raises(FileNotFoundError, match=r"names is missing \(the data root must hold names/\)"):
        wsfast.tasks("names", root=folder / "names")
    with pytest.raises(ValueError, match=r"faker_surnames has 9 tasks, got n=10"):
        wsfast.tasks("names", n=10)
    with pytest.raises(ValueError, match=r"split_seed must be at least 0, got -1"):
        wsfast.tasks("names", split_seed=-1)
    with pytest.raises(TypeError, match=r"digits has no option clean"):
        wsfast.tasks("digits", clean=False)
    with pytest.raises(TypeError, match=r"cifar100 has no option test_fraction"):
        wsfast.tasks("cifar100", test_fraction=0.5)
    with pytest.raises(TypeError, match=r"arrays have no option split_seed"):
        wsfast.tasks(np.zeros((4, 2)), np.arange(4) % 2, split_seed=1)
    with pytest.raises(ValueError, match=r"steps must be None or 1\.\.16777215, got 0"):
        Recipe(steps=0)


def test_info_says_which_names_there_are(no_root, folder):
    assert "faker_surnames stand for it" in datasets.found()["names"]
    assert datasets.found(folder)["names"] == str(folder / "names")


def test_a_stored_set_of_fakers_surnames_is_checked_against_them(no_root, folder, monkeypatch):
    """Also where there is a NameData by now."""
    recipe = Recipe(momentum=0.0, batch_size=1, epochs=1, decay_epochs=(), steps=5)
    zoo = folder / "zoo"
    wsfast.generate("gru2", wsfast.tasks("names"), repeats=1, width=3, recipe=recipe, out=zoo, progress=False)
    write(folder, A=["a", "b"], B=["c", "d"])
    monkeypatch.setenv("WSFAST_DATA", str(folder))
    assert wsfast.tasks("names").name == "names"
    assert verify(zoo, retrain=2) == []


@pytest.mark.parametrize("name", ["names", "faker_surnames"])
def test_a_stored_set_of_another_split_is_trained_again(name, folder, no_root):
    root = write(folder, A=["Ab", "Ab", "Ac1", "Ad"], B=["X", "Y", "Zu"])
    recipe = Recipe(momentum=0.0, batch_size=1, epochs=1, decay_epochs=(), steps=5)
    tasks = wsfast.tasks(name, n=1, root=root, clean=False, split_seed=np.int64(3))
    assert tasks.sha256() != wsfast.tasks(name, n=1, root=root).sha256()
    wsfast.generate("gru2", tasks, repeats=1, width=3, recipe=recipe, out=folder / "zoo", progress=False)
    assert verify(folder / "zoo", retrain=1, root=root) == []
    assert describe(folder / "zoo")["data_options"] == {"clean": False, "split_seed": 3}
