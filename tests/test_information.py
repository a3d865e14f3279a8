import numpy as np
import pytest
from sklearn.linear_model import lasso_path as scikit_learns
from sklearn.metrics import mutual_info_score
from wsfast.kernels.numba import information as numba
from wsfast.kernels.numba import lasso as numba_lasso
from wsfast.reference import information as reference
from wsfast.reference import lasso as reference_lasso

SHAPES = {"one": (1, 1, 1, 2), "odd": (3, 5, 7, 41), "long": (2, 3, 2, 1500)}


def problem(name):
    n, u, v, m = SHAPES[name]
    rng = np.random.default_rng(SHAPES[name])
    a = rng.standard_normal((n, u, m)).astype(np.float32)
    b = (a[:, rng.integers(0, u, v)] + rng.standard_normal((n, v, m))).astype(np.float32)
    return a, b, rng.integers(0, n, (4, 2))


@pytest.mark.parametrize("bins", [2, 8, 16])
@pytest.mark.parametrize("name", SHAPES)
def test_mutual_information_is_scikit_learns_of_the_same_bins(name, bins):
    a, b, pairs = problem(name)
    of_a, of_b = (reference.binned(x, bins) for x in (a, b))
    want = reference.mutual_information(a, b, pairs, bins)
    for k, (i, j) in enumerate(pairs):
        for u in range(a.shape[1]):
            for v in range(b.shape[1]):
                assert want[k, u, v] == pytest.approx(mutual_info_score(of_a[i, u], of_b[j, v]), abs=1e-9)
    np.testing.assert_allclose(numba.mutual_information(a, b, pairs, bins), want, atol=1e-6)


def test_bins_cut_the_range_evenly():
    x = np.array([[0, 0.24, 0.26, 0.5, 1], [3, 3, 3, 3, 3]], np.float32)
    np.testing.assert_array_equal(reference.binned(x, 4), [[0, 0, 1, 2, 3], [0] * 5])


@pytest.mark.parametrize("op", [reference.mutual_information, numba.mutual_information])
def test_a_unit_with_itself_a_dead_one_and_no_pairs(op):
    a, _, _ = problem("odd")
    a[0, 1] = 2
    found = op(a, a, [(0, 0)], 8)[0]
    assert (abs(found[1]) < 1e-12).all()
    assert (abs(found[:, 1]) < 1e-12).all()
    shares = np.bincount(reference.binned(a[0, 3], 8)) / a.shape[2]
    assert found[3, 3] == pytest.approx(-(shares[shares > 0] * np.log(shares[shares > 0])).sum(), abs=1e-6)
    np.testing.assert_allclose(found, found.T, atol=1e-6)
    assert op(a, a, np.empty((0, 2), int), 8).shape == (0, 5, 5)
    with pytest.raises(ValueError, match=r"mutual_information: pairs must name networks 0\.\.2 and 0\.\.2"):
        op(a, a, [(0, 3)], 8)


PENALTIES = np.geomspace(0.6, 0.01, 6)


def correlations(u, v, m):
    rng = np.random.default_rng([u, v, m])
    x = rng.standard_normal((u, m))
    y = rng.standard_normal((v, u)) @ x + rng.standard_normal((v, m))
    x, y = ((z - z.mean(1, keepdims=True)) / z.std(1, keepdims=True) for z in (x, y))
    return x, y, x @ x.T / m, x @ y.T / m


def test_the_reference_path_is_scikit_learns():
    x, y, g, c = correlations(6, 3, 50)
    found = reference_lasso.lasso_path(g, c, PENALTIES)
    for v in range(3):
        _, want, _ = scikit_learns(x.T, y[v], alphas=PENALTIES, tol=1e-10)
        np.testing.assert_allclose(found[:, v], want.T, atol=1e-3)


@pytest.mark.parametrize(("u", "v"), [(1, 1), (5, 9), (17, 8)])
def test_the_compiled_path_is_the_references(u, v):
    _, _, g, c = correlations(u, v, 60)
    found, want = (lasso.lasso_path(g, c, PENALTIES) for lasso in (numba_lasso, reference_lasso))
    np.testing.assert_allclose(found, want, atol=1e-9)
    assert abs(found[-1]).sum() > abs(found[0]).sum()


@pytest.mark.parametrize("lasso", [numba_lasso, reference_lasso])
def test_a_path_with_dead_units_and_a_large_penalty(lasso):
    _, _, g, c = correlations(5, 4, 60)
    g[2], g[:, 2], c[2], c[:, 1] = 0, 0, 0, 0
    found = lasso.lasso_path(g, c, [2.0, 0.05])
    assert (found[0] == 0).all()
    assert (found[1, :, 2] == 0).all()
    assert (found[1, 1] == 0).all()
    assert (found[1, 0] != 0).any()


@pytest.mark.parametrize("lasso", [numba_lasso, reference_lasso])
def test_without_correlation_among_the_predictors_it_is_soft_thresholding(lasso):
    c = np.array([[0.5, -0.3], [0.1, 0.9]])
    found = lasso.lasso_path(np.eye(2), c, [0.2])[0]
    np.testing.assert_allclose(found, [[0.3, 0], [-0.1, 0.7]], atol=1e-12)
