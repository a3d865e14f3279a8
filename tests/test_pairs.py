import tracemalloc
from dataclasses import replace

import numpy as np
import pytest
from wsfast.kernels.numba import gram as compiled
from wsfast.reference import gram

import wsfast
from wsfast import chains


def on_disk(zoo, folder):
    """The same set, its parameters mapped from files."""
    arrays = {}
    for name, array in zoo.parameters.items():
        np.save(folder / f"{name}.npy", array)
        arrays[name] = np.load(folder / f"{name}.npy", mmap_mode="r")
    return replace(zoo, parameters=arrays)


class Counted:
    """An array on a disk that does not exist: slices of it are made when they are read, and the largest is noted."""

    def __init__(self, n, shape):
        self.n, self.shape, self.largest, self.reads = n, shape, 0, 0

    def __getitem__(self, run):
        networks = np.arange(self.n)[run]
        self.largest, self.reads = max(self.largest, len(networks)), self.reads + 1
        return np.stack([np.random.default_rng(i).standard_normal(self.shape, np.float32) for i in networks])


@pytest.mark.parametrize("options", [{}, {"column_normalize": True, "cosine": True}, {"form": "factorised"}])
def test_runs_of_networks_give_the_same_bits(zoo, tmp_path, options):
    size = 4 * (64 * 24 + 24 * 24 + 64 * 24)  # weights and factor of one network, chain 2
    mapped = on_disk(zoo, tmp_path)
    whole, across = (wsfast.chain_kernel(zoo, b, 2, **options) for b in (None, zoo[:7]))
    assert 2 * 7 * size < sum(mapped.parameters[f"fc{k}.weight"].nbytes for k in (1, 2))  # less than the set
    for networks in (1, 7, 39):
        memory = 2 * networks * size
        np.testing.assert_array_equal(wsfast.chain_kernel(mapped, chain=2, memory=memory, **options), whole)
        np.testing.assert_array_equal(wsfast.chain_kernel(zoo, mapped[:7], 2, memory=float(memory), **options), across)
    with pytest.raises(
        ValueError, match=rf"memory must be at least {2 * size:,} bytes, .* got {2 * size - 1:,} \(raise it"
    ):
        wsfast.chain_kernel(zoo, chain=2, memory=2 * size - 1)


def test_a_runs_norms_are_computed_once(zoo, monkeypatch):
    counted, original = [], compiled.gram_norm
    monkeypatch.setattr(compiled, "gram_norm", lambda x: counted.append(len(x)) or original(x))
    memory = 2 * 7 * 2 * 4 * 64 * 24  # seven networks' weights and factors
    for b, runs in ((None, [5, 7, 7, 7, 7, 7]), (zoo[:9], [2, 5, 7, 7, 7, 7, 7, 7])):
        wsfast.chain_kernel(zoo, b, cosine=True, memory=memory)
        assert sorted(counted) == runs
        counted.clear()


def test_raw_layers_in_runs_give_the_same_bits(zoo, tmp_path):
    mapped = on_disk(zoo, tmp_path)
    for b in (None, zoo[:7]):
        whole = chains.feature_kernel("raw", zoo, b, chain=2)
        for networks in (1, 13):
            memory = networks * 16 * 24 * 24
            np.testing.assert_array_equal(chains.feature_kernel("raw", mapped, b, chain=2, memory=memory), whole)


def test_a_set_larger_than_the_limit_is_read_in_parts():
    """Counted: bytes in hand stay under the limit, and what is held beyond them under one tile a network."""
    n, d, r = 60, 400, 300
    network = wsfast.network("mlp4", (d,), 2, width=r)
    weight = Counted(n, (d, r))
    big = wsfast.WeightSet(network, {"fc1.weight": weight}, np.zeros(n, np.int64), np.arange(n))
    size = 2 * 4 * d * r  # weights and factor
    memory = 2 * 10 * size
    assert memory < n * 4 * d * r  # the weights alone are larger
    wsfast.chain_kernel(wsfast.WeightSet(network, {"fc1.weight": Counted(3, (d, r))}, np.zeros(3), np.arange(3)))
    tracemalloc.start()
    try:
        got = wsfast.chain_kernel(big, form="packed", memory=memory)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert weight.largest == 10
    assert weight.reads == 6 + 10  # the runs of the first row of pairs, then those right of each next row's second
    workspace = 2 * 48 * 4 * 400 * 401 // 2 + (16 << 20)  # every number of G of two panels of networks, and scratch
    assert peak < memory + workspace, peak
    np.testing.assert_array_equal(got, got.T)
    part = [0, 31, 59]
    x = np.stack([weight[i : i + 1][0] for i in part])
    np.testing.assert_allclose(got[np.ix_(part, part)], gram.chain_kernel(x), rtol=1e-6)


def test_the_wider_of_two_sets_counts_against_the_limit():
    d, r, wide = 64, 2, 50
    weights = {width: Counted(30, (d, width)) for width in (r, wide)}
    narrow, other = (
        wsfast.WeightSet(wsfast.network("mlp4", (d,), 2, width), {"fc1.weight": w}, np.zeros(30), np.arange(30))
        for width, w in weights.items()
    )
    wsfast.chain_kernel(narrow, other, memory=2 * 10 * 4 * 2 * d * wide)
    assert weights[wide].largest == 10


def test_what_goes_wrong_while_reading_is_raised(zoo):
    class Broken(Counted):
        def __getitem__(self, run):
            if run.start:
                raise KeyboardInterrupt
            return super().__getitem__(run)

    broken = replace(zoo, parameters={"fc1.weight": Broken(40, (64, 24))})
    with pytest.raises(KeyboardInterrupt):
        wsfast.chain_kernel(broken, memory=10 * 8 * 4 * 64 * 24)
