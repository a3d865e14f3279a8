import numpy as np
import pytest
from numba.core.runtime import rtsys
from wsfast.kernels.numba import gram as compiled
from wsfast.reference import gram

DENSE = {
    "one": (1, [(1, 1)]),
    "odd": (5, [(7, 9), (9, 4), (4, 3)]),
    "tile": (3, [(64, 16), (16, 32)]),
    "tile + 1": (4, [(65, 17), (17, 33)]),
    "wide": (2, [(130, 40)]),
    "many": (260, [(9, 5)]),
}
CONV = {"conv": (3, [(3, 3, 3, 5), (5, 3, 3, 6), (6, 3, 3, 2)]), "conv grey": (2, [(1, 3, 3, 17)])}
SETS = {**DENSE, **CONV}


def weights(name):
    n, shapes = SETS[name]
    rng = np.random.default_rng([n, len(shapes)])
    return [rng.standard_normal((n, *s)).astype(np.float32) for s in shapes]


def options(name):
    rows = [False, True] if name in DENSE else [False]
    return [{"row_normalize": r, "column_normalize": c} for r in rows for c in (False, True)]


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


@pytest.mark.parametrize(("name", "how"), [(n, o) for n in SETS for o in options(n)])
def test_chain_factor(name, how, as_good_as):
    arrays = weights(name)
    got = compiled.chain_factor(arrays, **how)
    as_good_as("chain_factor", got, gram.chain_factor(arrays, **how), float32_factor(arrays, **how))


@pytest.mark.parametrize("name", SETS)
def test_chain_gram(name, as_good_as):
    x = float32_factor(weights(name), False, False)
    got = compiled.chain_gram(x)
    as_good_as("chain_gram", got, gram.chain_gram(x), x @ x.transpose(0, 2, 1))
    np.testing.assert_array_equal(got, got.transpose(0, 2, 1))
    eigenvalues = np.linalg.eigvalsh(got[:, :200, :200].astype(np.float64))  # a principal part is as definite
    assert eigenvalues.min() > -1e-5 * eigenvalues.max()


@pytest.mark.parametrize("form", ["factorised", "packed"])
@pytest.mark.parametrize("cosine", [False, True])
@pytest.mark.parametrize("name", SETS)
def test_chain_kernel(name, form, cosine):
    x = float32_factor(weights(name), False, False)[:20]
    y = x[: max(1, len(x) // 2)] * np.float32(0.5)
    for other in (None, y):
        want = gram.chain_kernel(x, other, form, cosine)
        got = compiled.chain_kernel(x, other, form, cosine)
        assert got.dtype == np.float64
        np.testing.assert_allclose(got, want, rtol=0, atol=1e-6 * np.abs(want).max())
    got = compiled.chain_kernel(x, form=form, cosine=cosine)
    np.testing.assert_array_equal(got, got.T)


def test_the_two_forms_of_the_reference_agree():
    x = gram.chain_factor(weights("odd"))
    np.testing.assert_allclose(gram.chain_kernel(x, form="packed"), gram.chain_kernel(x, form="factorised"), rtol=1e-12)
    g = gram.chain_gram(x)
    np.testing.assert_allclose(gram.chain_kernel(x), np.einsum("iab,jab->ij", g, g), rtol=1e-12)


def test_conv_chain_against_an_independent_einsum():
    """Entry (c0, a, b, c1-offsets..., out) of the product, written as one contraction."""
    w1, w2 = weights("conv")[:2]
    want = np.einsum("ncabi,nideo->ncabdeo", w1.astype(np.float64), w2.astype(np.float64))
    np.testing.assert_allclose(gram.chain_factor([w1, w2]), want.reshape(3, 3 * 9 * 9, 6), rtol=1e-12)


@pytest.mark.parametrize("form", ["factorised", "packed"])
def test_an_entry_does_not_depend_on_the_other_networks(form):
    x = np.random.default_rng(0).standard_normal((300, 70, 20)).astype(np.float32)
    whole = compiled.chain_kernel(x, form=form)
    part = [2, 290, 17]
    np.testing.assert_array_equal(compiled.chain_kernel(x[part], form=form), whole[np.ix_(part, part)])
    np.testing.assert_array_equal(compiled.chain_kernel(x[part], x, form=form), whole[part])


def test_linear_kernel():
    x = np.random.default_rng(1).standard_normal((270, 5000)).astype(np.float32)
    want = x.astype(np.float64) @ x.astype(np.float64).T
    np.testing.assert_allclose(compiled.linear_kernel(x), want, atol=1e-6 * want.max())
    np.testing.assert_allclose(compiled.linear_kernel(x, x[:7]), want[:, :7], atol=1e-6 * want.max())


def test_cosines_survive_huge_and_tiny_weights():
    x = np.random.default_rng(2).standard_normal((4, 9, 5)).astype(np.float32)
    scaled = x * np.array([1e-18, 1, 1e18, 3], np.float32)[:, None, None]
    np.testing.assert_allclose(compiled.chain_kernel(scaled, cosine=True), gram.chain_kernel(x, cosine=True), atol=1e-6)


@pytest.mark.parametrize("form", ["packed", "factorised"])
def test_a_dead_network_is_like_no_other(form):
    x = np.random.default_rng(9).standard_normal((5, 9, 4)).astype(np.float32)
    x[2] = 0
    others = [0, 1, 3, 4]
    for implementation in (gram, compiled):
        alive = implementation.chain_kernel(x[others], form=form, cosine=True)
        for b in (None, x):
            kernel = implementation.chain_kernel(x, b, form, cosine=True)
            np.testing.assert_array_equal(kernel[2], 0)
            np.testing.assert_array_equal(kernel[:, 2], 0)
            np.testing.assert_allclose(kernel[np.ix_(others, others)], alive, rtol=1e-6)


def test_a_dead_unit_stays_zero():
    x = [np.random.default_rng(3).standard_normal((2, 5, 4)).astype(np.float32)]
    x[0][:, :, 1] = 0
    for implementation in (gram, compiled):
        unit = implementation.chain_factor(x, column_normalize=True)
        np.testing.assert_array_equal(unit[:, :, 1], 0)
        np.testing.assert_allclose(np.linalg.norm(unit, axis=1)[:, [0, 2, 3]], 1, rtol=1e-6)


@pytest.mark.parametrize(("n", "d", "r", "classes"), [(1, 1, 1, 1), (5, 17, 3, 2), (34, 150, 20, 49), (3, 300, 7, 5)])
def test_head_and_its_gradient(n, d, r, classes, as_good_as):
    rng = np.random.default_rng([n, d, r])
    x = rng.standard_normal((n, d, r)).astype(np.float32)
    a = rng.standard_normal((classes, d, d)).astype(np.float32)  # not symmetric
    g = rng.standard_normal((n, classes)).astype(np.float32)
    dense = (x @ x.transpose(0, 2, 1)).reshape(n, -1)
    as_good_as("head", compiled.head(x, a), gram.head(x, a), dense @ a.reshape(classes, -1).T)
    got = compiled.head_gradient(x, g)
    as_good_as("head_gradient", got, gram.head_gradient(x, g), (g.T @ dense).reshape(got.shape))
    np.testing.assert_array_equal(got, got.transpose(0, 2, 1))


def test_head_gradient_of_the_reference_by_finite_differences():
    rng = np.random.default_rng(4)
    x, a, g = rng.standard_normal((3, 5, 2)), rng.standard_normal((2, 5, 5)), rng.standard_normal((3, 2))
    want = np.empty_like(a)
    for at in np.ndindex(a.shape):
        moved = a.copy()
        moved[at] += 1
        want[at] = (g * (gram.head(x, moved) - gram.head(x, a))).sum()  # linear: the step may be large
    np.testing.assert_allclose(gram.head_gradient(x, g), want, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize(("d", "r"), [(1, 1), (7, 1), (47, 16), (145, 3), (289, 40), (300, 129)])
def test_the_kernel_of_odd_sizes(d, r):
    rng = np.random.default_rng([d, r])
    x, y = (rng.standard_normal((n, d, r)).astype(np.float32) for n in (51, 3))
    for other in (None, y):
        want = gram.chain_kernel(x, other)
        for form in ("packed", "factorised"):
            got = compiled.chain_kernel(x, other, form)
            assert np.linalg.norm(got - want) <= 2e-7 * np.linalg.norm(want), form
    assert np.linalg.eigvalsh(got := compiled.chain_kernel(x)).min() >= -1e-6 * np.trace(got)
    np.testing.assert_array_equal(compiled.chain_kernel(y, x), compiled.chain_kernel(x, y).T)


def test_factors_of_two_widths():
    rng = np.random.default_rng(5)
    x, y = (rng.standard_normal((4, 30, r)).astype(np.float32) for r in (9, 21))
    for form in ("packed", "factorised"):
        np.testing.assert_allclose(compiled.chain_kernel(x, y, form), gram.chain_kernel(x, y, form), rtol=1e-5)


def test_the_order_of_hidden_units_does_not_matter():
    rng = np.random.default_rng(6)
    w = [rng.standard_normal((4, *s)).astype(np.float32) for s in ((150, 30), (30, 40))]
    first, second = rng.permutation(30), rng.permutation(40)
    permuted = [w[0][:, :, first], w[1][:, first][:, :, second]]
    g, h = (compiled.chain_gram(compiled.chain_factor(v)) for v in (w, permuted))
    np.testing.assert_allclose(g, h, atol=1e-6 * np.abs(g).max())
    k, m = (compiled.chain_kernel(compiled.chain_factor(v)) for v in (w, permuted))
    np.testing.assert_allclose(k, m, rtol=1e-6)


@pytest.mark.parametrize("form", ["packed", "factorised"])
def test_a_network_that_diverged_spoils_its_own_entries_only(form):
    x = np.random.default_rng(7).standard_normal((20, 33, 5)).astype(np.float32)
    want = compiled.chain_kernel(x, form=form)
    x[3, 2, 1] = np.nan
    got = compiled.chain_kernel(x, form=form)
    others = np.delete(np.arange(20), 3)
    assert np.isnan(got[3]).all()
    np.testing.assert_array_equal(got[np.ix_(others, others)], want[np.ix_(others, others)])


def test_no_array_outlives_its_call():
    """Compiled leaves count no references; an array they counted and never gave back would live for ever."""
    rng = np.random.default_rng(8)
    w = [rng.standard_normal((20, *s)).astype(np.float32) for s in ((150, 9), (9, 5))]
    a, g = rng.standard_normal((2, 150, 150)), rng.standard_normal((20, 2))

    def everything():
        x = compiled.chain_factor(w, True, True)
        for form in ("packed", "factorised"):
            compiled.chain_kernel(x, x[:3], form, cosine=True)
        compiled.chain_gram(x), compiled.head(x, a), compiled.head_gradient(x, g), compiled.linear_kernel(x[:, :, 0])

    def alive():
        stats = rtsys.get_allocation_stats()
        return stats.alloc - stats.free

    everything()  # compiles, which allocates too
    before = alive()
    for _ in range(3):
        everything()
    assert alive() == before
