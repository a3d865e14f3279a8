"""Triton's chain features against the reference: on a GPU where there is one, in the interpreter elsewhere."""

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from triton.runtime import interpreter
from wsfast.kernels.triton import gram, grams, tiles
from wsfast.reference import gram as reference

CHAINS = {
    "one": (1, [(1, 1)]),
    "rank 1": (4, [(21, 1)]),
    "odd": (5, [(7, 9), (9, 4), (4, 3)]),
    "tile": (3, [(64, 16), (16, 32)]),
    "tile + 1": (2, [(65, 17), (17, 33)]),
    "wide": (2, [(20, 70), (70, 130)]),
    "conv": (3, [(3, 3, 3, 5), (5, 3, 3, 6)]),
    "conv grey": (2, [(1, 3, 3, 17)]),
}
FACTORS = {  # N, d, r
    "one": (1, 1, 1),
    "rank 1": (4, 21, 1),
    "odd": (5, 7, 3),
    "tile": (3, 64, 32),
    "three tiles": (2, 65, 33),
    "wide": (3, 9, 130),
    "more than a block": (130, 5, 2),
}


@pytest.fixture(autouse=True)
def poisoned(monkeypatch):
    """Memory that a launcher asks for starts as NaN."""
    plain = torch.empty

    def empty(*shape, **options):
        return plain(*shape, **options).fill_(torch.nan)

    monkeypatch.setattr(torch, "empty", empty)


@pytest.fixture
def same_order(monkeypatch):
    """The interpreter's products through float64: its float32 BLAS sums in an order that depends on the place."""

    def dot(self, a, b, d, input_precision, max_num_imprecise_acc):
        product = a.data.astype(np.float64) @ b.data.astype(np.float64)
        return interpreter.TensorHandle((product.astype(np.float32) + d.data).astype(np.float32), d.dtype.scalar)

    monkeypatch.setattr(interpreter.InterpreterBuilder, "create_dot", dot)


def weights(name):
    n, shapes = CHAINS[name]
    rng = np.random.default_rng([n, len(shapes)])
    return [rng.standard_normal((n, *s)).astype(np.float32) for s in shapes]


def factors(name):
    return np.random.default_rng(FACTORS[name]).standard_normal(FACTORS[name]).astype(np.float32)


def float32_factor(arrays, row_normalize, column_normalize):
    """The plain library way, in float32."""

    def unit(x, axis):
        return x / np.linalg.norm(x, axis=axis, keepdims=True)

    if row_normalize and len(arrays) > 1:
        arrays = [unit(w, 2) for w in arrays]
    x = arrays[0].reshape(len(arrays[0]), -1, arrays[0].shape[-1])
    for w in arrays[1:]:
        x = (x @ w.reshape(len(w), w.shape[1], -1)).reshape(len(w), -1, w.shape[-1])
    return unit(x, 1) if column_normalize else x


@pytest.mark.parametrize("name", CHAINS)
def test_chain_factor(name, as_good_as):
    arrays = weights(name)
    for rows in (False, True) if arrays[0].ndim == 3 else (False,):
        for columns in (False, True):
            got = gram.host(gram.chain_factor(arrays, rows, columns))
            want = reference.chain_factor(arrays, rows, columns)
            as_good_as(f"{rows}, {columns}", got, want, float32_factor(arrays, rows, columns))


def test_a_tensor_is_as_good_as_an_array(device):
    arrays = weights("odd")
    tensors = [torch.from_numpy(w).to(device) for w in arrays]
    got = gram.chain_factor(tensors, True)
    assert got.device.type == device
    assert torch.equal(got, gram.chain_factor(arrays, True))
    assert torch.equal(gram.chain_gram(gram.host(got)), gram.chain_gram(got))


def test_a_tensor_that_begins_anywhere_is_aligned_first(device):
    """Else other loads are compiled for it than for the same numbers elsewhere."""
    x = torch.arange(17.0, device=device)
    for shifted in (x[1:], x[1:].double(), x[:16], x[1:].cpu().numpy()):
        assert gram._tensor(shifted).data_ptr() % 16 == 0
        np.testing.assert_array_equal(gram.host(gram._tensor(shifted)), gram.host(shifted))
    assert gram._tensor(x[4:]).data_ptr() == x[4:].data_ptr()


def test_a_dead_unit_stays_zero():
    x = [np.random.default_rng(3).standard_normal((2, 5, 4)).astype(np.float32), np.ones((2, 4, 3), np.float32)]
    x[0][:, 2], x[1][:, :, 1] = 0, 0
    got = gram.host(gram.chain_factor(x, True, True))
    assert (got[:, 2] == 0).all()
    assert (got[:, :, 1] == 0).all()
    np.testing.assert_allclose(np.linalg.norm(got, axis=1)[:, [0, 2]], 1, rtol=1e-6)


@pytest.mark.parametrize("name", FACTORS)
def test_chain_gram(name, as_good_as, same_order):
    x = factors(name)[:5]
    got = gram.host(gram.chain_gram(x))
    as_good_as("chain_gram", got, reference.chain_gram(x), x @ x.transpose(0, 2, 1))
    np.testing.assert_array_equal(got, got.transpose(0, 2, 1))
    eigenvalues = np.linalg.eigvalsh(got.astype(np.float64))
    assert eigenvalues.min() > -1e-5 * eigenvalues.max()


def test_the_order_of_units_is_not_seen():
    x = factors("tile")
    other = x[:, :, np.random.default_rng(0).permutation(32)]
    a, b = (gram.host(gram.chain_gram(v)) for v in (x, other))
    np.testing.assert_allclose(a, b, atol=1e-6 * np.abs(a).max())


@pytest.mark.parametrize("form", ["factorised", "packed"])
@pytest.mark.parametrize("name", FACTORS)
def test_chain_kernel(name, form, as_good_as):
    x = factors(name)
    x = x if form == "packed" else x[:6]
    y = x[: max(1, len(x) // 2), :, : max(1, x.shape[2] // 2)] * np.float32(0.5)
    for other, cosine in ((None, False), (y, True)):
        got = gram.chain_kernel(x, other, form, cosine)
        flat = [v.reshape(len(v), -1) for v in (g @ g.transpose(0, 2, 1) for g in (x, x if other is None else other))]
        plain = flat[0] @ flat[1].T
        if cosine:
            plain = plain / np.outer(*(np.linalg.norm(v, axis=1) for v in flat))
        assert got.dtype == np.float64
        want = reference.chain_kernel(x, other, form, cosine)
        factor = 16 if form == "packed" else 4  # 256 sums of 16, which a matrix unit truncates
        as_good_as(f"{form}, {cosine}", got, want, plain, factor)
        if other is None:
            np.testing.assert_array_equal(got, got.T)


def test_lower_precision_stays_near():
    x = factors("tile")
    want = reference.chain_kernel(x)
    for form in ("packed", "factorised"):
        error = np.linalg.norm(gram.chain_kernel(x, form=form, precision="tf32") - want) / np.linalg.norm(want)
        assert 1e-6 < error < 1e-3


@pytest.mark.parametrize("form", ["factorised", "packed"])
def test_an_entry_has_the_same_bits_in_any_company(form, same_order, monkeypatch):
    x = np.random.default_rng(0).standard_normal((150, 20, 3)).astype(np.float32)
    x = x if form == "packed" else x[:12]
    whole = gram.chain_kernel(x, form=form)
    np.testing.assert_array_equal(whole, whole.T)
    some = [2, len(x) - 1, 7]
    np.testing.assert_array_equal(gram.chain_kernel(x[some], form=form), whole[np.ix_(some, some)])
    np.testing.assert_array_equal(gram.chain_kernel(x[:3], x[some], form=form), whole[:3][:, some])
    np.testing.assert_array_equal(gram.chain_kernel(x[some], x[:3], form=form), whole[some][:, :3])
    monkeypatch.setattr(gram, "STEP", 5)
    monkeypatch.setattr(gram, "SCRATCH", 0)  # five networks at once
    x = x[:12]
    for cosine in (False, True):
        got = gram.chain_kernel(x, form=form, cosine=cosine)
        np.testing.assert_array_equal(got, got.T)
        if not cosine:
            np.testing.assert_array_equal(got, whole[:12, :12])
        np.testing.assert_allclose(got, reference.chain_kernel(x, form=form, cosine=cosine), rtol=2e-6, atol=1e-5)


def test_a_network_has_the_same_bits_alone(same_order):
    arrays = weights("odd")
    x = gram.chain_factor(arrays, True, True)
    a = np.random.default_rng(1).standard_normal((3, 7, 7)).astype(np.float32)
    every = x, gram.chain_gram(x), gram.gram_norm(x), gram.head(x, a)
    for i in range(len(x)):
        alone = gram.chain_factor([w[i : i + 1] for w in arrays], True, True)
        for v, w in zip(
            every, (alone, gram.chain_gram(alone), gram.gram_norm(alone), gram.head(alone, a)), strict=True
        ):
            np.testing.assert_array_equal(gram.host(v)[i], gram.host(w)[0])


def test_huge_and_tiny_weights():
    x = np.random.default_rng(2).standard_normal((4, 9, 5)).astype(np.float32)
    scaled = x * np.array([1e-30, 1, 1e30, 3], np.float32)[:, None, None]
    for form in ("packed", "factorised"):
        want = reference.chain_kernel(x, cosine=True)
        np.testing.assert_allclose(gram.chain_kernel(scaled, form=form, cosine=True), want, atol=1e-6)
        got, want = gram.chain_kernel(scaled, form=form), reference.chain_kernel(scaled)
        np.testing.assert_array_equal(got, got.T)
        np.testing.assert_allclose(got, want, rtol=1e-5)
    np.testing.assert_allclose(gram.gram_norm(scaled), reference.gram_norm(scaled), rtol=1e-6)


@pytest.mark.parametrize("form", ["packed", "factorised"])
def test_a_dead_network_is_like_no_other(form):
    x = np.random.default_rng(9).standard_normal((3, 9, 4)).astype(np.float32)
    x[1] = 0
    for b in (None, x):
        got = gram.chain_kernel(x, b, form, cosine=True)
        np.testing.assert_allclose(got, reference.chain_kernel(x, b, form, cosine=True), rtol=2e-6)
        np.testing.assert_array_equal(got[1], 0)


def test_a_diverged_network_spoils_only_its_own_entries():
    x = factors("odd")
    x[1, 2, 0] = np.nan
    for form in ("packed", "factorised"):
        k = gram.chain_kernel(x, form=form)
        assert np.isnan(k[1]).all()
        assert np.isnan(k[:, 1]).all()
        rest = [0, 2, 3, 4]
        np.testing.assert_allclose(k[np.ix_(rest, rest)], reference.chain_kernel(x[rest]), rtol=1e-5, atol=1e-4)


@pytest.mark.parametrize(("name", "classes"), [("one", 1), ("rank 1", 17), ("odd", 3), ("three tiles", 2)])
def test_head_and_its_gradient(name, classes, as_good_as, monkeypatch):
    monkeypatch.setattr(gram, "GROUP", 2)
    x = factors(name)
    n, d, _ = x.shape
    rng = np.random.default_rng([n, d, classes])
    a, g = rng.standard_normal((classes, d, d)).astype(np.float32), rng.standard_normal((n, classes)).astype(np.float32)
    flat = (x @ x.transpose(0, 2, 1)).reshape(n, -1)
    as_good_as("head", gram.head(x, a), reference.head(x, a), flat @ a.reshape(classes, -1).T)
    plain = (g.T @ flat).reshape(classes, d, d)
    as_good_as("head_gradient", gram.head_gradient(x, g), reference.head_gradient(x, g), plain)


def test_memory_is_planned_before_it_is_asked_for(monkeypatch):
    """A full card takes fewer networks at once; the plan never passes SCRATCH."""
    card = torch.device("cuda")
    monkeypatch.setattr(torch.cuda, "memory_reserved", torch.cuda.memory_allocated)  # torch keeps nothing for later
    for free in (0, 2**24, 2**31, 2**40):
        monkeypatch.setattr(torch.cuda, "mem_get_info", lambda device, free=free: (free, 2**40))
        together = gram._at_once(3072, card)
        assert together % gram.STEP == 0
        assert together == gram.STEP or 2 * together * 4 * 64**2 <= min(gram.SCRATCH, free // 2)
    assert together == gram.LAUNCH
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda device: (2**28, 2**40))
    assert gram._at_once(3072, card) == 2**27 // (2 * 4 * 64**2)


@pytest.mark.parametrize("form", ["packed", "factorised"])
def test_no_gram_of_the_set_is_held(form, monkeypatch):
    """All that is allocated beside the factors and K: a tile of every network's G, and a few numbers a network."""
    x, sizes, plain = factors("three tiles"), [], torch.empty
    monkeypatch.setattr(torch, "empty", lambda *s, **o: sizes.append(torch.Size(s).numel()) or plain(*s, **o))
    gram.chain_kernel(x, x[:1].copy(), form)
    assert sum(sizes) == (3 * 64 * 64 if form == "packed" else 0)


def test_bad_input():
    x = factors("odd")
    with pytest.raises(ValueError, match="form must be packed or factorised, got 'fast'"):
        gram.chain_kernel(x, form="fast")
    with pytest.raises(ValueError, match=r"one d, got \[5, 7, 3\] and \[1, 1, 1\]"):
        gram.chain_kernel(x, factors("one"))
    with pytest.raises(ValueError, match=r"precision must be one of tf32x3, tf32, ieee, got 'bf16'"):
        gram.chain_gram(x, precision="bf16")
    with pytest.raises(ValueError, match=r"no empty axis, got \[0, 7, 3\]"):
        gram.chain_kernel(x[:0])
    with pytest.raises(ValueError, match=r"must be \[C, 7, 7\] for factors \[5, 7, 3\], got \[2, 3, 3\]"):
        gram.head(x, np.ones((2, 3, 3)))
    with pytest.raises(ValueError, match=r"g must be \[5, C\] for factors \[5, 7, 3\], got \[4, 2\]"):
        gram.head_gradient(x, np.ones((4, 2)))


def test_tiles_follow_from_the_shape():
    assert [tiles.side(n, 64) for n in (1, 16, 17, 64, 65, 3072)] == [16, 16, 32, 64, 64, 64]
    with pytest.raises(KeyError):
        tiles.tiles("wgmma", 1, 1, 1)


FAR = """
import os, sys
import torch
if not torch.cuda.is_available():
    os.environ["TRITON_INTERPRET"] = "1"
sys.path.insert(0, sys.argv[1])
from far.grams import _tile_kernel
device = "cuda" if torch.cuda.is_available() else "cpu"
D, R = 2**27, 16   # network 1 starts 2^31 numbers after network 0
x = torch.empty(D * R + 16 * R, device=device)
x[D * R :] = 1.0
scale, g = torch.ones(2, device=device), torch.full((2, 16 * 16), torch.nan, device=device)
_tile_kernel[2,](x, scale, g, 0, 0, D=D, R=R, T=16, BK=16, PRECISION="ieee")
assert (g[1] == R).all(), g[1]
"""


@pytest.mark.parametrize("wide", [True, False])
def test_offsets_beyond_two_to_the_31(wide, tmp_path):
    """The tile of a network 2^31 numbers after the first; with 32-bit indices the same kernel crashes or misses it."""
    (tmp_path / "far").mkdir()
    (tmp_path / "far/__init__.py").touch()
    for name in ("layers", "products", "grams"):
        source = Path(grams.__file__).with_name(f"{name}.py").read_text()
        (tmp_path / "far" / f"{name}.py").write_text(source if wide else source.replace(".to(tl.int64)", ""))
    (tmp_path / "run.py").write_text(FAR)
    run = subprocess.run([sys.executable, tmp_path / "run.py", tmp_path], capture_output=True, text=True)
    if wide and "can't allocate memory" in run.stderr:
        pytest.skip("no room for 8.6 GB of addresses")
    assert (run.returncode == 0) == wide, run.stderr
