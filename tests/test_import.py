"""Anyone's own networks: matrices, state dicts, files."""

import io
import pickle
import zipfile
from itertools import pairwise

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from torch import nn
from wsfast.reference import gram

import wsfast
from wsfast import importing


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


class Named(nn.Module):
    """Layers whose names say nothing of their order, and sort otherwise."""

    def __init__(self, head=3):
        super().__init__()
        torch.manual_seed(head)
        self.start, self.body, self.act = nn.Linear(8, 8, bias=False), nn.Linear(8, 8, bias=False), nn.ReLU()
        self.add_module("a top", nn.Linear(8, head))

    def forward(self, x):
        return getattr(self, "a top")(self.act(self.body(self.act(self.start(x)))))


@pytest.mark.parametrize("suffix", [".pt", ".npz"])
def test_files_keep_the_order_they_were_saved_in(tmp_path, suffix):
    net, file = Named(), tmp_path / f"o{suffix}"
    if suffix == ".pt":
        torch.save(net.state_dict(), file)
    else:
        np.savez(file, **{name: value.numpy() for name, value in net.state_dict().items()})
    for row in wsfast.compare(net, file):
        assert [row[k] for k in ("cosine", "centred", "unit_columns")] == pytest.approx([1, 1, 1], abs=1e-6)


def safe(folder, shapes):
    """A .safetensors file of layers given as name -> (n_in, n_out[, 3, 3])."""
    rng = np.random.default_rng(len(shapes))
    state = {
        f"{name}.weight": torch.from_numpy(rng.standard_normal((b, a, *image)).astype(np.float32))
        for name, (a, b, *image) in shapes.items()
    }
    save_file(state, folder / "o.safetensors")
    return state, folder / "o.safetensors"


@pytest.mark.parametrize(
    "shapes",
    [
        {f"fc{k}": (8, 8) for k in range(1, 12)},
        {"start": (8, 9), "body": (9, 7), "a": (7, 3)},
        {"fc1": (8, 8), "fc2": (8, 8), "classifier": (8, 3)},
        {"conv1": (3, 5, 3, 3), "conv2": (5, 4, 3, 3), "a.1": (4 * 36, 9), "a.2": (9, 3)},
        {"body.0.up": (8, 6), "body.0.down": (6, 7), "body.1.up": (7, 6), "body.1.down": (6, 9)},
        {"stem": (3, 8, 3, 3), "fc": (32, 12), "out": (12, 32)},  # of the two only fc takes pixels of 8 channels
    ],
)
def test_safetensors_are_put_in_order_by_numbers_and_sizes(tmp_path, shapes):
    state, file = safe(tmp_path, shapes)
    read = importing.read_state(file, "test")
    assert list(read) == list(state)
    assert all(torch.equal(read[name], value) for name, value in state.items())


@pytest.mark.parametrize(
    "shapes",
    [
        {"start": (8, 8), "body": (8, 8), "top": (8, 3)},
        {"encoder.0": (20, 9), "encoder.2": (9, 4), "decoder.0": (4, 9), "decoder.2": (9, 20)},
        {"start": (8, 9), "body": (5, 7), "top": (7, 3)},
        {chr(k): (8, 8) for k in range(97, 123)},
    ],
)
def test_safetensors_whose_order_is_not_known_are_refused(tmp_path, shapes):
    _, file = safe(tmp_path, shapes)
    want = r"o\.safetensors: the order of .*\.weight \[.* is told neither .*hand over the nn\.Module"
    for read in (wsfast.WeightSet.from_files, lambda files: wsfast.compare(Named(), files[0])):
        with pytest.raises(ValueError, match=want):
            read([file])


@pytest.mark.filterwarnings("ignore:torch.quantize_per_tensor")  # old checkpoints hold them
def test_numbers_of_every_kind_that_torch_stores(tmp_path):
    net = model(0)
    plain = {name: value.contiguous() for name, value in net.state_dict().items()}
    want = wsfast.WeightSet.from_torch([net]).parameters["fc1.weight"]
    brain = {name: value.bfloat16() for name, value in plain.items()}
    kinds = {
        "parameters": dict(net.named_parameters()),
        "bfloat16": brain,
        "sparse": {name: v.to_sparse() if v.ndim == 2 else v for name, v in plain.items()},
        "double": {name: value.double() for name, value in plain.items()},
    }
    save_file(brain, tmp_path / "o.safetensors")
    kinds["safetensors"] = tmp_path / "o.safetensors"
    for name in ("bfloat16", "sparse"):
        torch.save(kinds[name], tmp_path / f"{name}.pt")
        kinds[f"saved {name}"] = tmp_path / f"{name}.pt"
    for name, given in kinds.items():
        read = wsfast.WeightSet.from_torch if isinstance(given, dict) else wsfast.WeightSet.from_files
        zoo = read([given])
        assert zoo.parameters["fc1.weight"].dtype == np.float32
        np.testing.assert_allclose(zoo.parameters["fc1.weight"], want, rtol=2**-8 if name != "double" else 0)
        assert wsfast.compare(given, net)[1]["cosine"] == pytest.approx(1, abs=1e-3), name
    half = model(0).bfloat16()
    np.testing.assert_allclose(wsfast.WeightSet.from_torch([half]).parameters["fc1.weight"], want, rtol=2**-8)
    assert wsfast.compare(half, net)[1]["cosine"] == pytest.approx(1, abs=1e-3)
    integers = torch.quantize_per_tensor(plain["0.weight"], 0.01, 0, torch.qint8)
    read = wsfast.WeightSet.from_torch([{**plain, "0.weight": integers}]).parameters["fc1.weight"]
    np.testing.assert_array_equal(read[0], integers.dequantize().numpy().T)


def test_entries_that_are_no_weights_are_named(tmp_path):
    plain = {name: value.contiguous() for name, value in model(0).state_dict().items()}
    bad = {
        "complex64": plain["0.weight"].to(torch.complex64),
        "float8_e4m3fn": plain["0.weight"].to(torch.float8_e4m3fn),
        "meta tensor": plain["0.weight"].to("meta"),
    }
    for why, tensor in bad.items():
        for file, save in (("o.pt", torch.save), ("o.safetensors", save_file)):
            if why == "meta tensor" and file == "o.safetensors":
                continue
            save({**plain, "0.weight": tensor}, tmp_path / file)
            with pytest.raises(ValueError, match=rf"{file}: 0\.weight .*{why}"):
                wsfast.WeightSet.from_files([tmp_path / file])
            with pytest.raises(ValueError, match=rf"{file}\): 0\.weight .*{why}"):
                wsfast.compare(tmp_path / file, model(0))
    np.savez(tmp_path / "o.npz", **{"0.weight": np.array([["a", "b"]])})
    with pytest.raises(ValueError, match=r"o\.npz: 0\.weight must hold real numbers, got <U1"):
        wsfast.WeightSet.from_files([tmp_path / "o.npz"])
    with pytest.raises(ValueError, match=r"matrix 2 must hold real numbers, got complex128"):
        wsfast.WeightSet.from_arrays([np.ones((1, 2, 3)), np.ones((1, 3, 2), complex)])
    with pytest.raises(
        ValueError, match=r"model 0: fc1\.weight must hold real numbers of 16 bits or more, got .*complex"
    ):
        wsfast.WeightSet.from_torch([nn.Sequential(nn.Linear(3, 2, dtype=torch.complex64))])
    torch.save({**plain, "epoch": 3}, tmp_path / "o.pt")
    with pytest.raises(ValueError, match=r"o\.pt: epoch is int, want a state dict of tensors alone"):
        wsfast.WeightSet.from_files([tmp_path / "o.pt"])


def damaged_files():
    """name -> bytes of files that are not what they are called."""
    array, packed = io.BytesIO(), io.BytesIO()
    np.save(array, np.ones((3, 2)))
    np.savez_compressed(packed, w=np.arange(999.0))
    broken = bytearray(packed.getvalue())
    with zipfile.ZipFile(packed) as file:
        at = file.infolist()[0].header_offset + 60
    broken[at : at + 40] = bytes(40)
    texts = {
        f"text {k}.pt": text for k, text in enumerate((b"", b"hello, world", b"a text", b"(weights)", b"\xff" * 50))
    }
    return {"empty.npz": b"", "renamed.npz": array.getvalue(), "broken.npz": bytes(broken), **texts}


@pytest.mark.parametrize("name", damaged_files())
def test_damaged_files_are_named(tmp_path, name):
    (tmp_path / name).write_bytes(damaged_files()[name])
    for read in (wsfast.WeightSet.from_files, lambda files: wsfast.compare(*files, *files)):
        with pytest.raises(ValueError, match=f"{name} cannot be read"):
            read([tmp_path / name])


def test_folders_with_labels_of_their_own_and_networks_astray(tmp_path):
    states = {f"{name}.pt": model(i).state_dict() for i, name in enumerate(("a/2", "a/10", "b/1"))}
    for name, state in states.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        torch.save(state, tmp_path / name)
    (tmp_path / "b" / "1.pt").rename(tmp_path / "b" / "1.PT")
    (tmp_path / "notes.txt").touch()
    zoo = wsfast.WeightSet.from_files(tmp_path, labels=[1, 1, 0])
    assert zoo.task_names == ("0", "1")
    assert zoo.labels.tolist() == [1, 1, 0]
    for got, state in zip(zoo.parameters["fc1.weight"], states.values(), strict=True):
        np.testing.assert_array_equal(got, state["0.weight"].T)
    assert wsfast.WeightSet.from_files(tmp_path).task_names == ("a", "b")
    for stray in ("c.npz", "a/deeper/d.pth"):
        (tmp_path / stray).parent.mkdir(exist_ok=True)
        (tmp_path / stray).touch()
        with pytest.raises(ValueError, match=rf"holds {stray}; want networks in the folder alone or in its subfolders"):
            wsfast.WeightSet.from_files(tmp_path)
        (tmp_path / stray).unlink()


def test_labels_are_positions_in_a_list_of_tasks(matrices):
    labels = np.array([4, 0, 4, 1, 0], np.uint64)
    zoo = wsfast.WeightSet.from_arrays(matrices, labels)
    assert zoo.labels.tolist() == labels.tolist()
    assert zoo.repeats.tolist() == [0, 0, 1, 0, 1]
    assert zoo.task_names == ("0", "1", "2", "3", "4")
    for far in ([10**8, 0, 0, 0, 0], np.array([2**63, 0, 0, 0, 0], np.uint64), [-1, 0, 0, 0, 0]):
        with pytest.raises(ValueError, match=r"labels must be 0\.\.65535, .* got .*np\.unique"):
            wsfast.WeightSet.from_arrays(matrices, far)


def test_matrices_are_copied(matrices):
    biases = [np.zeros((5, w.shape[2]), np.float32) for w in matrices]
    zoo = wsfast.WeightSet.from_arrays(matrices, biases=biases)
    matrices[0][:], biases[1][:] = 7, 7
    assert zoo.parameters["fc1.weight"].max() < 7
    assert zoo.parameters["fc2.bias"].max() == 0
    for wrong in (biases[:2], [*biases, biases[0]]):
        with pytest.raises(ValueError, match=rf"want a bias for each of 3 matrices, got {len(wrong)}"):
            wsfast.WeightSet.from_arrays(matrices, biases=wrong)


def test_one_big_matrix(zoo):
    assert zoo[:0].to_matrix()[0].shape == (0, zoo.network.size)
    matrix, layout = zoo.to_matrix()
    assert matrix.shape == (len(zoo), zoo.network.size)
    for entry in layout:
        part = matrix[:, entry["start"] : entry["stop"]].reshape(len(zoo), *entry["shape"])
        np.testing.assert_array_equal(part, zoo.parameters[entry["name"]])
