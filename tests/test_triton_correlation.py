"""Triton's correlations against the reference: on a GPU where there is one, in the interpreter elsewhere."""

import numpy as np
import pytest
import torch
from wsfast.kernels.triton import correlation as triton
from wsfast.reference import correlation as reference

SHAPES = {  # networks, units of a, of b, samples
    "one": (1, 1, 1, 2),
    "odd": (3, 5, 7, 13),
    "tile": (2, 64, 16, 64),
    "tile + 1": (2, 65, 17, 65),
    "long": (2, 3, 4, 999),
}


@pytest.fixture(autouse=True)
def poisoned(monkeypatch):
    """Memory that a launcher asks for starts as NaN."""
    for name in ("empty", "empty_like"):
        plain = getattr(torch, name)
        monkeypatch.setattr(torch, name, lambda *a, plain=plain, **o: plain(*a, **o).fill_(torch.nan))


def problem(name):
    n, u, v, m = SHAPES[name]
    rng = np.random.default_rng(SHAPES[name])
    a, b = (rng.standard_normal((n, k, m)).astype(np.float32) + np.float32(3) for k in (u, v))
    return a, b, rng.integers(0, n, (4, 2))


@pytest.mark.parametrize("name", SHAPES)
def test_against_the_reference(name, as_good_as):
    a, b, pairs = problem(name)
    x, y = torch.from_numpy(a), torch.from_numpy(b)
    plain = [torch.corrcoef(torch.cat([x[i], y[j]]))[: a.shape[1], a.shape[1] :] for i, j in pairs]
    as_good_as(name, triton.correlation(a, b, pairs), reference.correlation(a, b, pairs), torch.stack(plain).numpy())


def test_a_set_with_itself():
    a, _, pairs = problem("tile + 1")
    np.testing.assert_allclose(triton.correlation(a, a, pairs), reference.correlation(a, a, pairs), atol=1e-6)


def test_constant_units_correlate_with_nothing():
    a, b, _ = problem("odd")
    a[0, 2], b[1, 4] = 0.1, 0
    r = triton.correlation(a, b, [(0, 1)])[0]
    dead = np.zeros((5, 7), bool)
    dead[2], dead[:, 4] = True, True
    assert (r[dead] == 0).all()
    assert (r[~dead] != 0).all()


def test_alone_is_among_many():
    a, b, _ = problem("odd")
    pairs = [(0, 0), (2, 1), (1, 2)]
    np.testing.assert_array_equal(triton.correlation(a, b, pairs[1:2])[0], triton.correlation(a, b, pairs)[1])


def test_no_pairs_and_bad_input():
    a, b, _ = problem("odd")
    assert triton.correlation(a, b, np.empty((0, 2), int)).shape == (0, 5, 7)
    with pytest.raises(ValueError, match=r"activations must have one M, got \[3, 5, 13\] and \[3, 7, 12\]"):
        triton.correlation(a, b[:, :, 1:], [(0, 0)])
    with pytest.raises(ValueError, match=r"pairs must name networks 0\.\.2 and 0\.\.2"):
        triton.correlation(a, b, [(0, 3)])
    with pytest.raises(ValueError, match=r"correlation: precision must be one of tf32x3"):
        triton.correlation(a, b, [(0, 0)], precision="fp8")
