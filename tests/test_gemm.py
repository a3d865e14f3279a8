import numpy as np
import pytest
from wsfast.kernels.numba.gemm import (
    gather,
    multiply,
    multiply_backward,
    multiply_sgd,
    multiply_sgd_narrow,
    padded,
    transpose,
)
from wsfast.kernels.numba.tile import LANES

SHAPES = [
    (1, 1, 1),
    (3, LANES, 5),
    (8, 2 * LANES, 256),
    (9, LANES + 1, 257),
    (15, 3 * LANES, 700),
    (2, 1, 0),
    (37, LANES, 40),
    (33, 2, 8 * LANES),
]


def operands(m, n, k):
    rng = np.random.default_rng([m, n, k])
    ld = padded(n)
    a = rng.standard_normal((m, k)).astype(np.float32)
    b = np.zeros((k, ld), np.float32)
    b[:, :n] = rng.standard_normal((k, n))
    c = rng.standard_normal((m, ld)).astype(np.float32)
    return a, b, c, ld


def sloped(z, sign_of, slope):
    return np.where(sign_of > 0, z, z.dtype.type(slope) * z)


@pytest.mark.parametrize(("m", "n", "k"), [s for s in SHAPES if s[2]])
@pytest.mark.parametrize("by_column", [False, True])
@pytest.mark.parametrize("slope", [0.0, 0.01, 1.0])
def test_multiply(m, n, k, by_column, slope, as_good_as):
    a, b, c, ld = operands(m, n, k)
    oracle, baseline = a.astype(np.float64) @ b, a @ b
    flat, rs, cs = (np.ascontiguousarray(a.T).ravel(), 1, m) if by_column else (a.ravel(), k, 1)
    got = np.full_like(c, np.nan)
    arguments = flat, 0, rs, cs, b.ravel(), 0, ld, got.reshape(-1), 0, ld, m, ld, k
    multiply(*arguments, np.float32(slope))
    as_good_as("multiply", got, sloped(oracle, oracle, slope), sloped(baseline, baseline, slope))
    got[:] = np.nan
    multiply_backward(*arguments, c.ravel(), 0, np.float32(slope))
    as_good_as("multiply_backward", got, sloped(oracle, c, slope), sloped(baseline, c, slope))


def test_a_row_does_not_depend_on_the_tile_it_falls_into():
    a, b, c, ld = operands(13, 3 * LANES, 300)
    whole, alone, none = np.empty_like(c), np.empty(ld, np.float32), np.float32(1)
    multiply(a.ravel(), 0, 300, 1, b.ravel(), 0, ld, whole.reshape(-1), 0, ld, 13, ld, 300, none)
    for i in range(13):
        multiply(a.ravel(), 300 * i, 300, 1, b.ravel(), 0, ld, alone, 0, ld, 1, ld, 300, none)
        np.testing.assert_array_equal(alone, whole[i])


@pytest.mark.parametrize(("m", "n", "k"), SHAPES)
def test_multiply_sgd(m, n, k, as_good_as):
    a, b, w, ld = operands(m, n, k)
    v = np.random.default_rng(k).standard_normal(w.shape).astype(np.float32)
    lr, momentum, decay = np.float32(0.1), np.float32(0.9), np.float32(0.01)

    def step(kind):
        v_new = kind(momentum) * v.astype(kind) + a.astype(kind) @ b.astype(kind) + kind(decay) * w.astype(kind)
        return v_new, w.astype(kind) - kind(lr) * v_new

    (v_oracle, w_oracle), (v_base, w_base) = step(np.float64), step(np.float32)
    multiply_sgd(
        a.ravel(), 0, k, 1, b.ravel(), 0, ld, w.reshape(-1), v.reshape(-1), 0, ld, m, ld, k, lr, momentum, decay
    )
    as_good_as("velocity", v, v_oracle, v_base)
    as_good_as("weight", w, w_oracle, w_base)

    if k % LANES == 0 and n < LANES:
        w, v = operands(m, n, k)[2], np.random.default_rng(k).standard_normal(w.shape).astype(np.float32)
        columns = np.ascontiguousarray(b[:, :n].T)
        multiply_sgd_narrow(
            a.ravel(), 0, k, columns.ravel(), 0, k, w.reshape(-1), v.reshape(-1), 0, ld, m, n, k, lr, momentum, decay
        )
        as_good_as("velocity", v[:, :n], v_oracle[:, :n], v_base[:, :n])
        as_good_as("weight", w[:, :n], w_oracle[:, :n], w_base[:, :n])


def test_transpose():
    m, n = 2 * LANES, 3 * LANES
    source = np.arange(m * n, dtype=np.float32).reshape(m, n)
    target = np.full((n, m), np.nan, np.float32)
    transpose(source.ravel(), 0, n, target.reshape(-1), 0, m, m, n)
    np.testing.assert_array_equal(target, source.T)


@pytest.mark.parametrize("kind", [np.uint8, np.float32])
@pytest.mark.parametrize("d", [LANES, LANES + 1, 3 * LANES - 1])
def test_gather(d, kind):
    rng = np.random.default_rng(d)
    source, rows = rng.integers(0, 256, (9, d)).astype(kind), rng.integers(0, 9, 2 * LANES)
    scale, shift = (rng.standard_normal(padded(d)).astype(np.float32) for _ in range(2))
    target = np.full((d + 1, len(rows)), np.nan, np.float32)
    gather(source, d, d, rows, len(rows), scale, shift, target.reshape(-1), len(rows))
    np.testing.assert_array_equal(target[:d], (source[rows] * scale[:d] + shift[:d]).T)
    assert np.isnan(target[d]).all()
