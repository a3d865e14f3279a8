import json

import numpy as np
import pytest

import wsfast
from wsfast import storage
from wsfast.verifying import verify


@pytest.fixture
def made(four_tasks, zoo, tmp_path, monkeypatch):
    """40 networks in shards of seven."""
    monkeypatch.setattr(storage, "SHARD", 7 * (zoo.nbytes // len(zoo)))
    monkeypatch.setattr(storage, "PARTS", 1)
    wsfast.generate("mlp4", four_tasks, repeats=10, width=24, progress=False, out=tmp_path / "set")
    return tmp_path / "set"


def flip_a_bit(shard):
    content = bytearray(shard.read_bytes())
    content[-5] ^= 1
    shard.write_bytes(content)


def test_a_sound_set_has_no_problem(made):
    assert verify(made, retrain=3, progress=False) == []


def test_every_damaged_shard_is_named(made):
    flip_a_bit(made / "shard-00001.safetensors")
    (made / "shard-00003.safetensors").unlink()
    first, second = verify(made, retrain=3, progress=False)
    assert "shard-00001.safetensors is damaged: its SHA-256" in first
    assert "shard-00003.safetensors is missing" in second


def test_an_unfinished_set_says_so(made):
    manifest = json.loads((made / "manifest.json").read_text())
    manifest["shards"].pop()
    (made / "manifest.json").write_text(json.dumps(manifest))
    assert verify(made, progress=False) == ["35 of its 40 networks are there: generating them was interrupted"]


def test_other_bits_are_found_by_training_again(made):
    """A network that was altered, its hash with it."""
    shard = made / "shard-00002.safetensors"
    flip_a_bit(shard)
    manifest = json.loads((made / "manifest.json").read_text())
    from wsfast.verifying import sha256

    manifest["shards"][2]["sha256"] = sha256(shard)
    (made / "manifest.json").write_text(json.dumps(manifest))
    assert verify(made, progress=False) == []
    found = verify(made, retrain=40, progress=False)
    assert len(found) == 1
    assert "trained again, has other bits here" in found[0]


def test_an_unfinished_set_is_checked_as_far_as_it_goes(made, four_tasks):
    manifest = json.loads((made / "manifest.json").read_text())
    dropped = manifest["shards"].pop()
    (made / "manifest.json").write_text(json.dumps(manifest))
    assert verify(made, retrain=2, progress=False) == [
        f"{40 - dropped['networks']} of its 40 networks are there: generating them was interrupted"
    ]
    with pytest.raises(ValueError, match="retrain must be at least 0, got -1"):
        verify(made, retrain=-1, progress=False)


def test_what_cannot_be_trained_again(made, zoo, four_tasks, tmp_path):
    wsfast.WeightSet.from_torch([zoo.to_torch(0)]).save(tmp_path / "imported")
    assert verify(tmp_path / "imported", progress=False) == []
    with pytest.raises(ValueError, match="was not generated"):
        verify(tmp_path / "imported", retrain=1, progress=False)
    rng = np.random.default_rng(0)
    own = wsfast.tasks(rng.standard_normal((40, 5)).astype(np.float32), np.arange(40) % 2)
    wsfast.generate("mlp4", own, repeats=2, width=6, progress=False, out=tmp_path / "own")
    with pytest.raises(ValueError, match=r"trained on 'arrays', which no loader has: want its tasks"):
        verify(tmp_path / "own", retrain=1, progress=False)
    with pytest.raises(ValueError, match="other data"):
        verify(tmp_path / "own", retrain=1, tasks=four_tasks, progress=False)
    assert verify(tmp_path / "own", retrain=2, tasks=own, progress=False) == []


def test_a_saved_set_knows_what_it_was_generated_from(zoo, tmp_path):
    zoo[5:9].save(tmp_path / "part")
    assert verify(tmp_path / "part", retrain=4, progress=False) == []


def test_options_of_the_data_are_in_the_manifest(tmp_path):
    recipe = wsfast.Recipe(epochs=1, decay_epochs=())
    few = wsfast.tasks("digits", n=2, test_fraction=0.5)
    wsfast.generate("mlp4", few, repeats=1, width=4, recipe=recipe, progress=False, out=tmp_path / "set")
    assert verify(tmp_path / "set", retrain=2, progress=False) == []
    path = tmp_path / "set" / "manifest.json"
    sound = path.read_text()
    for options in ('{"test_fraction": 0.25}', "{}"):
        path.write_text(sound.replace('{\n   "test_fraction": 0.5\n  }', options))
        with pytest.raises(ValueError, match=r"other data than these 2 tasks of digits \(scikit-learn load_digits\)"):
            verify(tmp_path / "set", retrain=1, progress=False)
    for options in ('{"clean": true}', "[1]", '{"n": 3}', '{"test_fraction": "x"}', '{"y": [1]}'):
        path.write_text(sound.replace('{\n   "test_fraction": 0.5\n  }', options))
        with pytest.raises(ValueError, match=r"with the set's data_options|could not convert|y and groups belong"):
            verify(tmp_path / "set", retrain=1, progress=False)


def test_a_plan_is_enough_to_know_the_data_and_the_backend(made):
    path = made / "manifest.json"
    manifest = json.loads(path.read_text())
    for key in manifest["plan"]:  # what generate also writes into info
        manifest["info"].pop(key, None)
    path.write_text(json.dumps(manifest))
    with pytest.raises(ValueError, match="other data than these 4 tasks of digits"):
        verify(made, retrain=1, tasks=wsfast.tasks("digits", n=4, test_fraction=0.5), progress=False)
    assert verify(made, retrain=1, progress=False) == []
    manifest["plan"]["backend"] = "triton"
    path.write_text(json.dumps(manifest))
    with pytest.raises(ValueError, match="was trained on a GPU; networks are trained again on the CPU only"):
        verify(made, retrain=1, progress=False)
