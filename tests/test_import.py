"""Anyone's own networks: matrices, state dicts, files."""

import pickle
from itertools import pairwise

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from torch import nn
from wsfast.reference import gram

import wsfast


def model(seed, widths=(9, 7), d=6, classes=3):
    torch.manual_seed(seed)
    sizes = [d, *widths, classes]
    layers = [m for a, b in pairwise(sizes) for m in (nn.Linear(a, b), nn.ReLU())]
    return nn.Sequential(*layers[:-1])


@pytest.fixture
def matrices():
    rng = np.random.default_rng(0)
    return [rng.standard_normal((5, *s)).astype(np.float32) for s in ((6, 9), (9, 7), (7, 3))]


def test_matrices_alone(matrices):
    zoo = wsfast.WeightSet.from_arrays(matrices, labels=[0, 0, 1, 1, 1])
    assert zoo.repeats.tolist() == [0, 1, 0, 1, 2]
    for chain in (1, 2):
        want = gram.chain_kernel(gram.chain_factor(matrices[:chain]))
        np.testing.assert_allclose(wsfast.chain_kernel(zoo, chain=chain), want, rtol=1e-5)
    with pytest.raises(ValueError, match=r"chain must be 1\.\.2"):
        wsfast.chain_kernel(zoo, chain=3)
    x = np.random.default_rng(1).standard_normal((4, 6)).astype(np.float32)
    h = np.maximum(0, np.maximum(0, x @ matrices[0][2]) @ matrices[1][2]) @ matrices[2][2]
    np.testing.assert_allclose(zoo.to_torch(2)(torch.from_numpy(x)).detach(), h, rtol=1e-5, atol=1e-5)


def test_matrices_and_biases_are_the_torch_network(matrices):
    rng = np.random.default_rng(2)
    biases = [rng.standard_normal((5, w.shape[2])).astype(np.float32) for w in matrices]
    zoo = wsfast.WeightSet.from_arrays(matrices, biases=biases)
    back = wsfast.WeightSet.from_torch([zoo.to_torch(i) for i in range(5)])
    for name, array in zoo.parameters.items():
        np.testing.assert_array_equal(array, back.parameters[name])


def test_sets_without_biases_cannot_be_trained_but_stored(matrices, four_tasks, tmp_path):
    zoo = wsfast.WeightSet.from_arrays(matrices)
    back = wsfast.WeightSet.open(zoo.save(tmp_path))
    assert back.network == zoo.network
    own = wsfast.tasks(np.zeros((30, 6), np.float32), np.arange(30) % 3, groups=[(0, 1, 2)])
    with pytest.raises(ValueError, match="imported is declared but cannot be trained"):
        wsfast.generate(zoo.network, own, repeats=1)


def test_state_dicts_of_different_widths():
    """Narrower networks are filled up with units that do nothing."""
    models = [model(0), model(1, (12, 5)), model(2, (4, 8))]
    zoo = wsfast.WeightSet.from_torch([m.state_dict() for m in models])
    x = torch.randn(11, 6)
    for i, m in enumerate(models):
        assert torch.allclose(zoo.to_torch(i)(x), m(x), atol=1e-6)
        for row in wsfast.compare(zoo[i], m):
            assert row["cosine"] == pytest.approx(1, abs=1e-6)
            assert row["unit_columns"] == pytest.approx(1, abs=1e-6)


def test_sets_of_mixed_widths_are_stored_studied_and_searched(four_tasks, tmp_path):
    recipe = four_tasks.recipe.with_epochs(2)
    parts = [
        wsfast.generate("mlp4", four_tasks, repeats=4, width=width, recipe=recipe, progress=False) for width in (8, 11)
    ]
    states = [part.to_torch(i).state_dict() for part in parts for i in range(len(part))]
    zoo = wsfast.WeightSet.from_torch(states, np.concatenate([part.labels for part in parts]))
    folder = zoo.save(tmp_path / "zoo")
    cells = wsfast.study(wsfast.WeightSet.open(folder), quick=True, progress=False).to_dict()["cells"]
    assert {c["features"] for c in cells} == {"chain", "chain_unit", "raw", "statistics"}
    np.testing.assert_allclose(
        wsfast.chain_kernel(zoo, chain=3)[:16, 16:], wsfast.chain_kernel(*parts, chain=3), rtol=1e-5
    )
    (best, *_) = wsfast.search(parts[1].to_torch(5), folder, top=1)
    assert best["network"] == 16 + 5


@pytest.mark.parametrize("suffix", [".safetensors", ".npz", ".pt"])
def test_files_in_folders_are_labelled_by_them(tmp_path, suffix):
    models = [model(i) for i in range(6)]
    for i, m in enumerate(models):
        folder = tmp_path / ("cats" if i < 4 else "dogs")
        folder.mkdir(exist_ok=True)
        state = {k: v.contiguous() for k, v in m.state_dict().items()}
        if suffix == ".safetensors":
            save_file(state, folder / f"{i}{suffix}")
        elif suffix == ".npz":
            np.savez(folder / f"{i}{suffix}", **{k: v.numpy() for k, v in state.items()})
        else:
            torch.save({"state_dict": state} if i % 2 else state, folder / f"{i}{suffix}")
    zoo = wsfast.WeightSet.from_files(tmp_path)
    assert zoo.task_names == ("cats", "dogs")
    assert zoo.labels.tolist() == [0, 0, 0, 0, 1, 1]
    want = wsfast.WeightSet.from_torch(models)
    for name, array in want.parameters.items():
        np.testing.assert_array_equal(zoo.parameters[name], array)
    one = wsfast.WeightSet.from_files([tmp_path / "dogs" / f"5{suffix}"])
    np.testing.assert_array_equal(one.parameters["fc1.weight"][0], zoo.parameters["fc1.weight"][5])


def test_what_cannot_be_read_is_named(tmp_path, matrices):
    load = wsfast.WeightSet.from_files
    with pytest.raises(ValueError, match="is not a folder"):
        load(tmp_path / "none")
    with pytest.raises(ValueError, match=r"holds no \.safetensors"):
        load(tmp_path)
    for name in ("a.safetensors", "b.npz", "c.pt"):
        (tmp_path / name).write_bytes(b"not a network")
        with pytest.raises(ValueError, match=f"{name} cannot be read"):
            load([tmp_path / name])
        (tmp_path / name).unlink()
    (tmp_path / "x.txt").touch()
    with pytest.raises(ValueError, match=r"x\.txt must be one of"):
        load([tmp_path / "x.txt"])
    conv = nn.Sequential(nn.Conv2d(1, 2, 3), nn.Flatten(), nn.Linear(8, 2))
    with pytest.raises(ValueError, match=r"model 0: cannot read 0\.weight"):
        wsfast.WeightSet.from_torch([conv.state_dict()])
    with pytest.raises(ValueError, match="model 1 has 3 layers, 5 inputs"):
        wsfast.WeightSet.from_torch([model(0).state_dict(), model(0, d=5).state_dict()])
    with pytest.raises(ValueError, match="matrix 2 takes 7 inputs, matrix 1 gives 9"):
        wsfast.WeightSet.from_arrays([matrices[0], matrices[1].swapaxes(1, 2), matrices[2]])
    with pytest.raises(ValueError, match=r"matrix 1 must be \[N, n_in, n_out\]"):
        wsfast.WeightSet.from_arrays([matrices[0][0], matrices[1]])
    with pytest.raises(ValueError, match="5 networks and labels of shape"):
        wsfast.WeightSet.from_arrays(matrices, labels=[1, 2])


@pytest.mark.filterwarnings("ignore:Detected pickle protocol")  # torch's remark on the harmful file
def test_nothing_is_unpickled(tmp_path):
    class Harmful:
        def __reduce__(self):
            return (tmp_path.joinpath("harm").touch, ())

    (tmp_path / "a.pt").write_bytes(pickle.dumps(Harmful()))
    torch.save(Harmful(), tmp_path / "b.pt")
    np.save(tmp_path / "c.npy", np.array([Harmful()], object), allow_pickle=True)
    (tmp_path / "c.npy").rename(tmp_path / "c.npz")
    for name in ("a.pt", "b.pt", "c.npz"):
        with pytest.raises(ValueError, match=f"{name} cannot be read"):
            wsfast.WeightSet.from_files([tmp_path / name])
    assert not (tmp_path / "harm").exists()


def test_one_big_matrix(zoo):
    matrix, layout = zoo.to_matrix()
    assert matrix.shape == (len(zoo), zoo.network.size)
    for entry in layout:
        part = matrix[:, entry["start"] : entry["stop"]].reshape(len(zoo), *entry["shape"])
        np.testing.assert_array_equal(part, zoo.parameters[entry["name"]])
