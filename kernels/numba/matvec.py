"""A matrix times one vector, from either side: both stream the matrix once, row by row, sums in registers.

Arrays are flat float32 with offsets, widths multiples of LANES, as in `gemm`. An entry's sum does not depend on how the
loops around it are blocked.
"""

from llvmlite import ir
from numba import types
from numba.extending import intrinsic

from .jit import leaf
from .tile import LANES, ROWS, _addresses, _each_width, _fma, _integers, _load, _pointer, _store, _sum_over_k

WIDE = 2 * ROWS  # vectors of sums that fit the registers beside their operands
_F32, _I32, _I64 = ir.FloatType(), ir.IntType(32), ir.IntType(64)
_VEC = ir.VectorType(_F32, LANES)


@intrinsic
def row_tile(typingctx, vectors, a, ao, cs, b, bo, ldb, k, start, so, c, co):
    """c[co:] = start[so:] + a B on `vectors` (1 .. WIDE) x LANES numbers; a[ao + k cs] meets b[bo + k ldb:]."""
    signature = types.void(vectors, a, ao, cs, b, bo, ldb, k, start, so, c, co)

    def codegen(context, builder, signature, args):
        vectors, a, ao, cs, b, bo, ldb, k, start, so, c, co = _integers(context, builder, signature, args)
        at_a, at_b, at_start, at_c = (
            _pointer(context, builder, signature.args[p], array, offset)
            for p, array, offset in ((1, a, ao), (4, b, bo), (8, start, so), (10, c, co))
        )

        def emit(nv):
            [acc] = _sum_over_k(builder, 1, nv, at_a, _I64(0), cs, at_b, ldb, k)
            [first], [out] = (_addresses(builder, at, _I64(0), 1, nv) for at in (at_start, at_c))
            for value, before, target in zip(acc, first, out, strict=True):
                _store(builder, builder.fadd(_load(builder, before), value), target)

        _each_width(builder, vectors, WIDE, emit)
        return context.get_dummy_value()

    return signature, codegen


def _lane_sums(builder, rows):
    """One vector whose lane i is the sum of the lanes of rows[i], pairs added by halves."""
    kind, width = ir.VectorType(_I32, LANES), LANES
    while len(rows) > 1:  # every vector holds LANES / width runs of `width` partial sums, each run of one row
        half, joined = width // 2, []
        for low, high in zip(rows[: len(rows) // 2], rows[len(rows) // 2 :], strict=True):
            runs = [LANES * side + run for run in range(0, LANES, width) for side in (0, 1)]
            parts = (
                builder.shuffle_vector(
                    low, high, ir.Constant(kind, [_I32(at + part * half + i) for at in runs for i in range(half)])
                )
                for part in (0, 1)
            )
            joined.append(builder.fadd(*parts))
        rows, width = joined, half
    return rows[0]


@intrinsic
def column_tile(typingctx, a, ao, lda, b, bo, k, start, so, c, co):
    """c[co + i] = start[so + i] + sum_j a[ao + i lda + j] b[bo + j], i < LANES, j < k, a multiple of LANES."""
    signature = types.void(a, ao, lda, b, bo, k, start, so, c, co)

    def codegen(context, builder, signature, args):
        a, ao, lda, b, bo, k, start, so, c, co = _integers(context, builder, signature, args)
        at_a, at_b, at_start, at_c = (
            _pointer(context, builder, signature.args[p], array, offset)
            for p, array, offset in ((0, a, ao), (3, b, bo), (6, start, so), (8, c, co))
        )
        rows = [row for [row] in _addresses(builder, at_a, lda, LANES, 1)]
        fma, zero, before = _fma(builder), ir.Constant(_VEC, [0.0] * LANES), builder.block
        head, body, done = (builder.append_basic_block(name) for name in ("head", "body", "done"))
        builder.branch(head)
        builder.position_at_end(head)
        step, sums = builder.phi(_I64), [builder.phi(_VEC) for _ in rows]
        builder.cbranch(builder.icmp_signed("<", step, k), body, done)
        builder.position_at_end(body)
        shared = _load(builder, builder.gep(at_b, [step]))
        for row, total in zip(rows, sums, strict=True):
            total.add_incoming(zero, before)
            total.add_incoming(fma(_load(builder, builder.gep(row, [step])), shared, total), body)
        step.add_incoming(_I64(0), before)
        step.add_incoming(builder.add(step, _I64(LANES)), body)
        builder.branch(head)
        builder.position_at_end(done)
        _store(builder, builder.fadd(_load(builder, at_start), _lane_sums(builder, sums)), at_c)
        return context.get_dummy_value()

    return signature, codegen


@leaf
def row_product(a, ao, cs, b, bo, ldb, k, n, start, so, c, co):
    """c[n] = start[n] + a[k] B[k, n]: element k of a is a[ao + k cs], (k, j) of B is b[bo + k ldb + j]."""
    j = 0
    while j < n:
        left = (n - j) // LANES
        tiles = (left + WIDE - 1) // WIDE
        vectors = (left + tiles - 1) // tiles
        row_tile(vectors, a, ao, cs, b, bo + j, ldb, k, start, so + j, c, co + j)
        j += vectors * LANES


@leaf
def column_product(a, ao, lda, b, bo, m, k, start, so, c, co):
    """c[m] = start[m] + A[m, k] b[k], A row-major; m and k multiples of LANES."""
    for i in range(0, m, LANES):
        column_tile(a, ao + i * lda, lda, b, bo, k, start, so + i, c, co + i)
