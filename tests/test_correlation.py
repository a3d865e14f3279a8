import numpy as np
import pytest
import torch
from wsfast.kernels.numba import correlation as numba
from wsfast.reference import correlation as reference

SHAPES = {  # networks, units of a, of b, samples
    "one": (1, 1, 1, 2),
    "odd": (3, 5, 7, 13),
    "tile": (2, 48, 32, 128),
    "tile + 1": (2, 49, 33, 129),
    "long": (2, 9, 17, 3000),
    "wide": (2, 101, 7, 40),
}


def problem(name):
    n, u, v, m = SHAPES[name]
    rng = np.random.default_rng(SHAPES[name])
    a, b = (rng.standard_normal((n, k, m)).astype(np.float32) + np.float32(3) for k in (u, v))
    return a, b, rng.integers(0, n, (5, 2))


def torchs(a, b, pairs):
    """The plain loop, in float32."""
    x, y = torch.from_numpy(a), torch.from_numpy(b)
    found = [torch.corrcoef(torch.cat([x[i], y[j]]))[: a.shape[1], a.shape[1] :] for i, j in pairs]
    return torch.stack(found).numpy()


@pytest.mark.parametrize("name", SHAPES)
def test_the_reference_is_numpys(name):
    a, b, pairs = problem(name)
    found = reference.correlation(a, b, pairs)
    for r, (i, j) in zip(found, pairs, strict=True):
        want = np.corrcoef(a[i].astype(float), b[j].astype(float))[: a.shape[1], a.shape[1] :]
        np.testing.assert_allclose(r, want, atol=1e-12)


@pytest.mark.parametrize("name", SHAPES)
def test_numba(name, as_good_as):
    a, b, pairs = problem(name)
    got = numba.correlation(a, b, pairs)
    assert got.dtype == np.float32
    as_good_as(name, got, reference.correlation(a, b, pairs), torchs(a, b, pairs))


def test_a_network_with_itself():
    a, _, _ = problem("tile + 1")
    r = numba.correlation(a, a, [(1, 1), (0, 1), (1, 0)])
    np.testing.assert_allclose(np.diagonal(r[0]), 1, atol=1e-6)
    np.testing.assert_array_equal(r[1], r[2].T)
    np.testing.assert_array_equal(r, numba.correlation(a, a.copy(), [(1, 1), (0, 1), (1, 0)]))


def test_alone_is_among_many():
    a, b, _ = problem("odd")
    pairs = np.random.default_rng(0).integers(0, 3, (300, 2))
    many = numba.correlation(a, b, pairs)
    for p in (0, 151, 299):
        np.testing.assert_array_equal(numba.correlation(a, b, pairs[p : p + 1])[0], many[p])


@pytest.mark.parametrize("correlation", [reference.correlation, numba.correlation])
def test_constant_units_correlate_with_nothing(correlation):
    a, b, _ = problem("odd")
    a[0, 2], b[1, 4] = 0.1, 0
    r = correlation(a, b, [(0, 1)])[0]
    dead = np.zeros((5, 7), bool)
    dead[2], dead[:, 4] = True, True
    assert (r[dead] == 0).all()
    assert (r[~dead] != 0).all()


@pytest.mark.parametrize("correlation", [reference.correlation, numba.correlation])
def test_no_pairs(correlation):
    a, b, _ = problem("odd")
    assert correlation(a, b, np.empty((0, 2), int)).shape == (0, 5, 7)


def test_scale_and_shift_do_not_matter():
    """Also where float32 squares would overflow or vanish."""
    a, b, pairs = problem("odd")
    want = reference.correlation(a, b, pairs)
    for scale in (np.float32(1e25), np.float32(1e-25)):
        np.testing.assert_allclose(numba.correlation(a * scale, b, pairs), want, atol=1e-6)


@pytest.mark.parametrize("correlation", [reference.correlation, numba.correlation])
def test_bad_input(correlation):
    a, b, _ = problem("odd")
    with pytest.raises(ValueError, match=r"activations must have one M, got \[3, 5, 13\] and \[3, 7, 12\]"):
        correlation(a, b[:, :, 1:], [(0, 0)])
    for pair in ((0, 3), (-1, 0)):
        with pytest.raises(ValueError, match=r"pairs must name networks 0\.\.2 and 0\.\.2"):
            correlation(a, b, [pair])
