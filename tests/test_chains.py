import numpy as np
import pytest
from wsfast.reference import gram

import wsfast
from wsfast import chains
from wsfast.grid_features import _cosines


def test_public_functions_are_the_reference(zoo):
    for chain in (1, 2, 3):
        for how in ({}, {"row_normalize": True}, {"column_normalize": True}):
            x = wsfast.chain_factor(zoo, chain, **how)
            want = wsfast.chain_factor(zoo, chain, **how, backend="reference")
            np.testing.assert_allclose(x, want, atol=2e-6 * np.abs(want).max())
        k = wsfast.chain_kernel(zoo, chain=chain)
        for form in ("factorised", "packed"):
            want = wsfast.chain_kernel(zoo, chain=chain, form=form, backend="reference")
            np.testing.assert_allclose(k, want, rtol=1e-6)
        np.testing.assert_allclose(wsfast.chain_kernel(zoo[:3], zoo, chain), k[:3], rtol=1e-6)
        g = wsfast.chain_gram(zoo, chain).astype(np.float64)
        np.testing.assert_allclose(np.einsum("iab,jab->ij", g, g), k, rtol=1e-5)


def test_triton_gives_the_same_features(zoo, device):
    for chain, unit in ((1, False), (2, True)):
        options = {"chain": chain, "column_normalize": unit}
        for f in (wsfast.chain_factor, wsfast.chain_gram, wsfast.chain_kernel):
            got, want = f(zoo[:3], **options, backend="triton", device=device), f(zoo[:3], **options)
            np.testing.assert_allclose(got, want, atol=1e-5 * np.abs(want).max())
    k = wsfast.chain_kernel(zoo[:3], zoo[3:5], 2, cosine=True, backend="triton", device=device)
    np.testing.assert_allclose(k, wsfast.chain_kernel(zoo[:3], zoo[3:5], 2, cosine=True), rtol=1e-5)


@pytest.mark.parametrize("width", [1, 9, 32])
def test_recurrent_chains_are_the_references(width):
    net = wsfast.network("gru2", (5, 58), 2, width=width)
    rng = np.random.default_rng(width)
    parameters = {p.name: rng.standard_normal((3, *p.shape)).astype(np.float32) for p in net.parameters}
    zoo = wsfast.WeightSet(net, parameters, np.zeros(3, np.int64), np.arange(3))
    for chain in (1, 2, 3, 4):
        x = wsfast.chain_factor(zoo, chain)
        want = wsfast.chain_factor(zoo, chain, backend="reference")
        assert x.shape == (3, *chains.factor_shape(net, chain))
        np.testing.assert_allclose(x, want, atol=2e-6 * np.abs(want).max())
        k = wsfast.chain_kernel(zoo, chain=chain, backend="reference")
        np.testing.assert_allclose(wsfast.chain_kernel(zoo, chain=chain), k, atol=2e-6 * k.max())
        np.testing.assert_allclose(np.diag(chains.feature_kernel("raw", zoo, chain=chain)), 1, rtol=1e-6)
    with pytest.raises(ValueError, match=r"chain must be 1\.\.4 for gru2, got 5"):
        wsfast.chain_factor(zoo, 5)
    with pytest.raises(ValueError, match=r"row_normalize is for fully connected chains, gru2"):
        wsfast.chain_factor(zoo, 3, row_normalize=True)
    for row in wsfast.compare(zoo[0], zoo[1]):
        k = wsfast.chain_kernel(zoo[0], zoo[1], row["chain"], cosine=True, backend="reference")
        assert row["cosine"] == pytest.approx(k[0, 0], rel=1e-5)


def test_rescaling_between_layers(zoo):
    """W_1 D, D^-1 W_2 keeps the function of a ReLU net: G_1 moves, G_2 and the unit-column chains do not."""
    scaled = zoo[:5]
    d = np.random.default_rng(0).uniform(0.5, 2, 24).astype(np.float32)
    scaled.parameters["fc1.weight"] *= d
    scaled.parameters["fc1.bias"] *= d
    scaled.parameters["fc2.weight"] /= d[:, None]
    for chain, unit, moves in ((1, False, True), (1, True, False), (2, False, False), (2, True, False)):
        a = wsfast.chain_gram(zoo[:5], chain, column_normalize=unit)
        b = wsfast.chain_gram(scaled, chain, column_normalize=unit)
        assert np.allclose(a, b, atol=1e-5 * np.abs(a).max()) != moves, (chain, unit)


def test_cosine_kernel_is_one_on_the_diagonal(zoo):
    for features in chains.features_of(zoo.network):
        k = chains.feature_kernel(features, zoo, chain=2)
        np.testing.assert_allclose(np.diag(k), 1, rtol=1e-6)
        assert np.linalg.eigvalsh(k).min() > -1e-5
        np.testing.assert_allclose(chains.feature_kernel(features, zoo[:4], zoo, chain=2), k[:4], rtol=1e-5)


def test_raw_layers_see_the_order_of_units(zoo):
    order = np.random.default_rng(0).permutation(24)
    other = zoo[:4]
    other.parameters["fc1.weight"] = other.parameters["fc1.weight"][:, :, order]
    assert np.diag(chains.raw_kernel(other, zoo[:4])).max() < 0.5
    weights = zoo.parameters["fc2.weight"].astype(np.float64)
    rows = (weights / np.linalg.norm(weights, axis=2, keepdims=True)).reshape(40, -1)
    np.testing.assert_allclose(chains.raw_kernel(zoo, layer=2), rows @ rows.T / 24, atol=1e-6)


def test_a_dead_network_is_like_no_other(zoo):
    dead = zoo[:]
    dead.parameters["fc1.weight"][3] = 0
    alive = np.arange(40) != 3
    for features in chains.features_of(zoo.network):
        kernel = chains.feature_kernel(features, dead)
        np.testing.assert_array_equal(kernel[3], 0)
        want = chains.feature_kernel(features, zoo)
        np.testing.assert_allclose(kernel[np.ix_(alive, alive)], want[np.ix_(alive, alive)], rtol=1e-6)
    np.testing.assert_array_equal(_cosines(dead, 1)[3], 0)
    assert {row["cosine"] for row in wsfast.compare(dead[3], zoo[0])} == {0}


SIZES = [(2, 10, 3), (50, 64, 100), (1000, 2187, 32), (1000, 2187, 128), (3, 4, 100), (70, 3072, 64), (85, 3072, 64)]


@pytest.mark.parametrize(("n", "d", "r"), SIZES)
def test_the_cheaper_form_by_counting(n, d, r):
    pairs = n * n
    factorised, packed = pairs * 2 * d * r * r, 2 * n * d * d * r + pairs * d * d
    assert chains.cheaper_form(n, n, d, r, r) == ("factorised" if factorised < packed else "packed")
    for m, s in ((n, 4 * r), (7 * n, 1)):
        factorised, packed = n * m * 2 * d * r * s, d * d * (n * r + m * s) + n * m * d * d
        want = "factorised" if factorised < packed else "packed"
        assert chains.cheaper_form(n, m, d, r, s) == chains.cheaper_form(m, n, d, s, r) == want


def test_bad_input(zoo, monkeypatch):
    with pytest.raises(ValueError, match=r"chain must be 1\.\.3 for mlp4, got 9"):
        wsfast.chain_factor(zoo, 9)
    with pytest.raises(TypeError, match=r"chain_kernel: want a WeightSet, got int \(chain_kernel\(zoo, chain=2\)\)"):
        wsfast.chain_kernel(zoo, 2)
    for op in (wsfast.chain_factor, wsfast.chain_gram, wsfast.chain_kernel, chains.raw_kernel):
        with pytest.raises(TypeError, match=rf"{op.__name__}: want a WeightSet, got ndarray"):
            op(np.ones((3, 2, 2)))
        with pytest.raises(ValueError, match=rf"{op.__name__}: want one network or more, got an empty set"):
            op(zoo[:0])
    with pytest.raises(ValueError, match=r"form must be auto, factorised or packed, got 'fast'"):
        wsfast.chain_kernel(zoo, form="fast")
    with pytest.raises(ValueError, match=r"features must be one of chain, chain_unit, chain_folded, raw"):
        chains.feature_kernel("gram", zoo)
    with pytest.raises(ValueError, match=r"by cosine only"):
        chains.feature_kernel("raw", zoo, cosine=False)
    with pytest.raises(ValueError, match=r"backend must be one of"):
        wsfast.chain_gram(zoo, backend="tritium")
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    with pytest.raises(ValueError, match=r"backend triton cannot run here"):
        wsfast.chain_kernel(zoo, device="cuda")
    monkeypatch.setattr(chains, "GRAM_LIMIT", 1000)
    with pytest.raises(ValueError, match=r"chain_gram: 40 x 64 x 64 would take .* GiB, .*use chain_kernel"):
        wsfast.chain_gram(zoo)
    small = wsfast.generate(
        "mlp4",
        wsfast.tasks(np.random.default_rng(0).random((9, 4)), np.arange(9) % 3),
        repeats=1,
        width=4,
        progress=False,
    )
    with pytest.raises(ValueError, match=r"chain 1 of mlp4 has d = 64, of mlp4 d = 4"):
        wsfast.chain_kernel(zoo, small)
    plain = wsfast.network("plainnet5", (3, 16, 16), 2, width=2)
    arrays = {p.name: np.ones((1, *p.shape), np.float32) for p in plain.parameters}
    conv = wsfast.WeightSet(plain, arrays, np.zeros(1, np.int64), np.zeros(1, np.int64))
    with pytest.raises(ValueError, match=r"row_normalize is for fully connected chains, plainnet5"):
        wsfast.chain_factor(conv, 2, row_normalize=True)
    with pytest.raises(ValueError, match=r"fold_norm wants BatchNorm, chain 2 of mlp4 has none"):
        chains.feature_kernel("chain_folded", zoo, chain=2)
    assert wsfast.chain_factor(conv, 2).shape == (1, 243, 4)
    assert gram.chain_factor([arrays["conv1.weight"]]).shape == (1, 27, 2)
