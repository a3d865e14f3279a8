"""The whole path on real images; skipped, with the reason, where WSFAST_DATA is not set."""

from dataclasses import replace

import numpy as np
import pytest

import wsfast
from wsfast import cli


@pytest.mark.parametrize(
    ("name", "classes", "train", "test"), [("cifar100", 2, 500, 100), ("tiny_imagenet", 4, 100, 50)]
)
def test_tasks(data_root, name, classes, train, test):
    tasks = wsfast.tasks(name, n=2, root=data_root)
    assert tasks.shape == (3, 32, 32)
    assert tasks.classes == classes
    assert tasks.x.dtype == np.uint8
    for task in tasks.tasks:
        assert np.bincount(task.train_labels).tolist() == [train] * classes
        assert np.bincount(task.test_labels).tolist() == [test] * classes
    seen = tasks.inputs(tasks[0].train_rows)
    assert abs(seen.mean()) < 1
    assert 0.5 < seen.std() < 1.5


def test_cifar100_labels_are_the_published_ones(data_root):
    assert wsfast.tasks("cifar100", n=2, root=data_root).names == ["apple+aquarium_fish", "baby+bear"]


@pytest.mark.parametrize("name", ["cifar100", "tiny_imagenet"])
def test_a_small_study_on_real_images(data_root, name):
    tasks = wsfast.tasks(name, n=4, root=data_root)
    recipe = replace(tasks.recipe.with_epochs(6), lr=0.05)
    zoo = wsfast.generate("mlp4", tasks, repeats=10, width=32, recipe=recipe, progress=False)
    assert recipe.pad == 4
    assert zoo.records["train_accuracy"].mean() > 1.2 / tasks.classes
    result = wsfast.study(zoo, permutations=19, progress=False).to_dict()
    chain = [c for c in result["cells"] if c["features"] == "chain" and c["protocol"] == "classification"]
    assert min(c["accuracy"] for c in chain) >= 0.75
    assert all(c["p_chance"] < 1e-3 for c in chain)
    controls = [c for c in result["controls"] if c["control"] == "untrained"]
    assert min(c["p_chance"] for c in controls) > 1e-3


def test_convolutional_networks_on_real_images(data_root):
    tasks = wsfast.tasks("cifar100", n=2, root=data_root)
    recipe = tasks.recipe.with_epochs(4)
    zoo = wsfast.generate("plainnet5", tasks, repeats=2, width=8, recipe=recipe, progress=False)
    assert not zoo.diverged.any()
    assert (zoo.records["loss_curve"][:, -1] < zoo.records["loss_curve"][:, 0]).all()
    assert zoo.records["train_accuracy"].mean() > 0.6


def test_the_command_line_on_real_images(data_root, tmp_path, capsys):
    out = tmp_path / "out"
    assert (
        cli.main(
            [
                "study",
                "--data",
                "cifar100",
                "--data-root",
                str(data_root),
                "--tasks",
                "4",
                "--repeats",
                "4",
                "--width",
                "16",
                "--epochs",
                "1",
                "--permutations",
                "0",
                "--out",
                str(out),
            ]
        )
        == 0
    )
    assert (out / "report.html").stat().st_size > 10_000
    assert "16 x mlp4 on cifar100" in capsys.readouterr().out
