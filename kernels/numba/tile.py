"""Register tiles: the innermost loops of every matrix product, written as LLVM vector instructions.

A tile holds MR x (NV * LANES) sums in registers and adds one fused multiply-add to each per k, in the order of k. Its
result therefore does not depend on the tile's size or on how the caller blocks the loops around it.
"""

from itertools import product

import llvmlite.binding as llvm
from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.core.errors import TypingError
from numba.extending import intrinsic

_features = llvm.get_host_cpu_features()
LANES = 16 if _features.get("avx512f") else 8 if _features.get("avx2") else 4
ROWS = 6 if LANES == 8 else 12  # two vectors of sums a row: AVX2 has 16 vector registers, AVX-512 and NEON 32

PANEL_ROWS, PANEL_VECTORS = {16: 8, 8: 4, 4: 6}[LANES], 3  # a tile of panels: as many sums, fewer loads
PANEL = PANEL_VECTORS * LANES

_F32, _I32, _I64 = ir.FloatType(), ir.IntType(32), ir.IntType(64)
_VEC = ir.VectorType(_F32, LANES)


def _pointer(context, builder, array_type, array, offset):
    data = context.make_array(array_type)(context, builder, array).data
    return builder.gep(data, [offset])


def _load(builder, pointer):
    load = builder.load(builder.bitcast(pointer, _VEC.as_pointer()))
    load.align = 4
    return load


def _store(builder, value, pointer):
    builder.store(value, builder.bitcast(pointer, _VEC.as_pointer())).align = 4


def _splat(builder, scalar):
    undefined = ir.Constant(ir.VectorType(scalar.type, LANES), ir.Undefined)
    vector = builder.insert_element(undefined, scalar, _I32(0))
    return builder.shuffle_vector(vector, undefined, ir.Constant(ir.VectorType(_I32, LANES), None))


def _fma(builder):
    kind = ir.FunctionType(_VEC, [_VEC] * 3)
    function = cgutils.get_or_insert_function(builder.module, kind, f"llvm.fma.v{LANES}f32")
    return lambda a, b, c: builder.call(function, [a, b, c])


def _addresses(builder, base, stride, mr, nv):
    """Where the tile's vectors lie in a row-major matrix: [mr][nv] pointers."""
    rows = [builder.gep(base, [builder.mul(stride, _I64(i))]) for i in range(mr)]
    return [[builder.gep(row, [_I64(LANES * j)]) for j in range(nv)] for row in rows]


def _sum_over_k(builder, mr, nv, a, row_stride, k_stride, b, ldb, k):
    """acc[i][j] = sum_k a[i, k] b[k, j], one fma a step; k may be 0."""
    fma, zero = _fma(builder), ir.Constant(_VEC, [0.0] * LANES)
    before = builder.block
    head, body, done = (builder.append_basic_block(name) for name in ("head", "body", "done"))
    builder.branch(head)
    builder.position_at_end(head)
    step, pa, pb = builder.phi(_I64), builder.phi(a.type), builder.phi(b.type)
    acc = [[builder.phi(_VEC) for _ in range(nv)] for _ in range(mr)]
    builder.cbranch(builder.icmp_signed("<", step, k), body, done)
    builder.position_at_end(body)
    vectors = [_load(builder, builder.gep(pb, [_I64(LANES * j)])) for j in range(nv)]
    for i in range(mr):
        scalar = builder.load(builder.gep(pa, [builder.mul(row_stride, _I64(i))]))
        scalar.align = 4
        spread = _splat(builder, scalar)
        for j in range(nv):
            acc[i][j].add_incoming(zero, before)
            acc[i][j].add_incoming(fma(spread, vectors[j], acc[i][j]), body)
    for phi, first, then in (
        (step, _I64(0), builder.add(step, _I64(1))),
        (pa, a, builder.gep(pa, [k_stride])),
        (pb, b, builder.gep(pb, [ldb])),
    ):
        phi.add_incoming(first, before)
        phi.add_incoming(then, body)
    builder.branch(head)
    builder.position_at_end(done)
    return acc


def _each_size(builder, rows, wide, emit):
    """emit(mr, nv) in a branch of its own for every tile size; `rows` and `wide` choose one when the code runs."""
    done = builder.append_basic_block("tile_done")
    fallback = builder.append_basic_block("no_such_tile")
    choose = builder.switch(builder.add(builder.mul(rows, _I64(2)), wide), fallback)
    for mr, nv in product(range(1, ROWS + 1), (1, 2)):
        block = builder.append_basic_block(f"tile_{mr}x{nv}")
        choose.add_case(_I64(2 * mr + nv - 1), block)
        builder.position_at_end(block)
        emit(mr, nv)
        builder.branch(done)
    builder.position_at_end(fallback)
    builder.unreachable()
    builder.position_at_end(done)


def _integers(context, builder, signature, args):
    """The arguments with every integer widened to 64 bits."""
    pairs = zip(args, signature.args, strict=True)
    return [context.cast(builder, v, t, types.int64) if isinstance(t, types.Integer) else v for v, t in pairs]


def _finish(builder, acc, out, first, epilogue):
    """Store epilogue(what is there already, or 0 at `first`, + acc)."""
    with builder.if_else(builder.icmp_signed("!=", first, _I64(0))) as (alone, added):
        for branch in (alone, added):
            with branch:
                for i, row in enumerate(acc):
                    for j, value in enumerate(row):
                        total = value if branch is alone else builder.fadd(_load(builder, out[i][j]), value)
                        _store(builder, epilogue(i, j, total), out[i][j])


def _sloped(builder, sign_of, value, slope):
    """value where sign_of > 0, slope * value elsewhere (a NaN stays one)."""
    positive = builder.fcmp_ordered(">", sign_of, ir.Constant(_VEC, [0.0] * LANES))
    return builder.select(positive, value, builder.fmul(slope, value))


@intrinsic
def product_tile(typingctx, rows, wide, a, ao, rs, cs, b, bo, ldb, c, co, ldc, k, first, slope):
    """C = activation(C + A B) on a tile of `rows` by LANES (wide = 0) or 2 LANES (wide = 1) numbers.

    Element (i, k) of A is a[ao + i rs + k cs], (k, j) of B is b[bo + k ldb + j], (i, j) of C is c[co + i ldc + j]. The
    sum over k may come in parts, one a call: the `first` overwrites C, all but the last have slope 1, no activation.
    """
    signature = types.void(rows, wide, a, ao, rs, cs, b, bo, ldb, c, co, ldc, k, first, slope)

    def codegen(context, builder, signature, args):
        rows, wide, a, ao, rs, cs, b, bo, ldb, c, co, ldc, k, first, slope = _integers(
            context, builder, signature, args
        )
        at_a, at_b, at_c = (
            _pointer(context, builder, signature.args[p], array, offset)
            for p, array, offset in ((2, a, ao), (6, b, bo), (9, c, co))
        )
        slope = _splat(builder, slope)

        def emit(mr, nv):
            acc = _sum_over_k(builder, mr, nv, at_a, rs, cs, at_b, ldb, k)
            out = _addresses(builder, at_c, ldc, mr, nv)
            _finish(builder, acc, out, first, lambda i, j, z: _sloped(builder, z, z, slope))

        _each_size(builder, rows, wide, emit)
        return context.get_dummy_value()

    return signature, codegen


@intrinsic
def backward_tile(typingctx, rows, wide, a, ao, rs, cs, b, bo, ldb, c, co, ldc, k, first, post, po, slope):
    """C = (C + A B) times the activation's slope: 1 where post[po + i ldc + j] > 0, else `slope`; as product_tile."""
    signature = types.void(rows, wide, a, ao, rs, cs, b, bo, ldb, c, co, ldc, k, first, post, po, slope)

    def codegen(context, builder, signature, args):
        rows, wide, a, ao, rs, cs, b, bo, ldb, c, co, ldc, k, first, post, po, slope = _integers(
            context, builder, signature, args
        )
        at_a, at_b, at_c, at_post = (
            _pointer(context, builder, signature.args[p], array, offset)
            for p, array, offset in ((2, a, ao), (6, b, bo), (9, c, co), (14, post, po))
        )
        slope = _splat(builder, slope)

        def emit(mr, nv):
            acc = _sum_over_k(builder, mr, nv, at_a, rs, cs, at_b, ldb, k)
            seen = _addresses(builder, at_post, ldc, mr, nv)

            def mask(i, j, total):
                return _sloped(builder, _load(builder, seen[i][j]), total, slope)

            _finish(builder, acc, _addresses(builder, at_c, ldc, mr, nv), first, mask)

        _each_size(builder, rows, wide, emit)
        return context.get_dummy_value()

    return signature, codegen


@intrinsic
def sgd_tile(typingctx, rows, wide, a, ao, rs, cs, b, bo, ldb, w, v, co, ldc, k, lr, momentum, decay):
    """The gradient G = A B of a weight tile and its SGD step; the gradient never leaves the registers.

    V <- momentum V + (G + decay W);  W <- W - lr V, W and V at co + i ldc + j of two arrays of one layout; the other
    arguments as product_tile. W stays as it is where V is NaN, and V then stays NaN: so weights are fixed.
    """
    signature = types.void(rows, wide, a, ao, rs, cs, b, bo, ldb, w, v, co, ldc, k, lr, momentum, decay)

    def codegen(context, builder, signature, args):
        rows, wide, a, ao, rs, cs, b, bo, ldb, w, v, co, ldc, k, *scalars = _integers(context, builder, signature, args)
        at_a, at_b, at_w, at_v = (
            _pointer(context, builder, signature.args[p], array, offset)
            for p, array, offset in ((2, a, ao), (6, b, bo), (9, w, co), (10, v, co))
        )
        rate, momentum, decay = (_splat(builder, x) for x in scalars)
        fma, minus_rate = _fma(builder), builder.fneg(rate)

        def emit(mr, nv):
            gradient = _sum_over_k(builder, mr, nv, at_a, rs, cs, at_b, ldb, k)
            weights, velocities = (_addresses(builder, p, ldc, mr, nv) for p in (at_w, at_v))
            for i in range(mr):
                for j in range(nv):
                    w_old, v_old = _load(builder, weights[i][j]), _load(builder, velocities[i][j])
                    v_new = fma(momentum, v_old, fma(decay, w_old, gradient[i][j]))
                    _store(builder, v_new, velocities[i][j])
                    moves = builder.fcmp_ordered("ord", v_new, v_new)
                    w_new = builder.select(moves, fma(minus_rate, v_new, w_old), w_old)
                    _store(builder, w_new, weights[i][j])

        _each_size(builder, rows, wide, emit)
        return context.get_dummy_value()

    return signature, codegen


def _each_width(builder, vectors, most, emit):
    """emit(nv) in a branch of its own for every nv of 1 .. most; `vectors` chooses one when the code runs."""
    done, fallback = (builder.append_basic_block(name) for name in ("tile_done", "no_such_tile"))
    choose = builder.switch(vectors, fallback)
    for nv in range(1, most + 1):
        block = builder.append_basic_block(f"tile_{nv}")
        choose.add_case(_I64(nv), block)
        builder.position_at_end(block)
        emit(nv)
        builder.branch(done)
    builder.position_at_end(fallback)
    builder.unreachable()
    builder.position_at_end(done)


@intrinsic
def panel_tile(typingctx, vectors, a, ao, b, bo, k, first, c, co, ldc):
    """C = C + A^T B on a tile of PANEL_ROWS by `vectors` (1 .. PANEL_VECTORS) x LANES numbers; `first` overwrites C.

    A and B are panels: element (k, i) of A is a[ao + k PANEL + i], (k, j) of B is b[bo + k PANEL + j], (i, j) of C is
    c[co + i ldc + j]. Strides known to the compiler make it a third faster than product_tile.
    """
    signature = types.void(vectors, a, ao, b, bo, k, first, c, co, ldc)

    def codegen(context, builder, signature, args):
        vectors, a, ao, b, bo, k, first, c, co, ldc = _integers(context, builder, signature, args)
        at_a, at_b, at_c = (
            _pointer(context, builder, signature.args[p], array, offset)
            for p, array, offset in ((1, a, ao), (3, b, bo), (7, c, co))
        )

        def emit(nv):
            acc = _sum_over_k(builder, PANEL_ROWS, nv, at_a, _I64(1), _I64(PANEL), at_b, _I64(PANEL), k)
            _finish(builder, acc, _addresses(builder, at_c, ldc, PANEL_ROWS, nv), first, lambda i, j, total: total)

        _each_width(builder, vectors, PANEL_VECTORS, emit)
        return context.get_dummy_value()

    return signature, codegen


@intrinsic
def dots_tile(typingctx, vectors, a, ao, b, bo, k, weight, c, co, ldc):
    """C = C + weight A^T B in float64, weight 1 or 2, the sum over k in float32; arguments as panel_tile."""
    signature = types.void(vectors, a, ao, b, bo, k, weight, c, co, ldc)

    def codegen(context, builder, signature, args):
        vectors, a, ao, b, bo, k, weight, c, co, ldc = _integers(context, builder, signature, args)
        at_a, at_b, at_c = (
            _pointer(context, builder, signature.args[p], array, offset)
            for p, array, offset in ((1, a, ao), (3, b, bo), (7, c, co))
        )
        double, byte = ir.VectorType(ir.DoubleType(), LANES), ir.IntType(8).as_pointer()
        kind = ir.FunctionType(double, [double] * 3)
        fma = cgutils.get_or_insert_function(builder.module, kind, f"llvm.fma.v{LANES}f64")
        kind = ir.FunctionType(ir.VoidType(), [byte, _I32, _I32, _I32])
        prefetch = cgutils.get_or_insert_function(builder.module, kind, "llvm.prefetch.p0i8")
        weight = _splat(builder, weight)

        def emit(nv):
            out = [pointer for row in _addresses(builder, at_c, ldc, PANEL_ROWS, nv) for pointer in row]
            for pointer in out:  # C comes from a farther cache than A and B, and is needed last
                for line in range(0, LANES, 8):
                    address = builder.bitcast(builder.gep(pointer, [_I64(line)]), byte)
                    builder.call(prefetch, [address, _I32(1), _I32(3), _I32(1)])
            acc = _sum_over_k(builder, PANEL_ROWS, nv, at_a, _I64(1), _I64(PANEL), at_b, _I64(PANEL), k)
            for value, pointer in zip((v for row in acc for v in row), out, strict=True):
                pointer = builder.bitcast(pointer, double.as_pointer())
                before = builder.load(pointer)
                before.align = 8
                builder.store(builder.call(fma, [weight, builder.fpext(value, double), before]), pointer).align = 8

        _each_width(builder, vectors, PANEL_VECTORS, emit)
        return context.get_dummy_value()

    return signature, codegen


@intrinsic
def dot(typingctx, a, ao, b, bo, k):
    """sum_j a[ao + j] b[bo + j] over j < k, a multiple of LANES: a sum in each lane, then the lanes in pairs."""
    signature = types.float32(a, ao, b, bo, k)

    def codegen(context, builder, signature, args):
        a, ao, b, bo, k = _integers(context, builder, signature, args)
        at_a, at_b = (
            _pointer(context, builder, signature.args[0], a, ao),
            _pointer(context, builder, signature.args[2], b, bo),
        )
        fma, before = _fma(builder), builder.block
        head, body, done = (builder.append_basic_block(name) for name in ("head", "body", "done"))
        builder.branch(head)
        builder.position_at_end(head)
        step, total = builder.phi(_I64), builder.phi(_VEC)
        builder.cbranch(builder.icmp_signed("<", step, k), body, done)
        builder.position_at_end(body)
        more = fma(_load(builder, builder.gep(at_a, [step])), _load(builder, builder.gep(at_b, [step])), total)
        for phi, first, then in (
            (step, _I64(0), builder.add(step, _I64(LANES))),
            (total, ir.Constant(_VEC, [0.0] * LANES), more),
        ):
            phi.add_incoming(first, before)
            phi.add_incoming(then, body)
        builder.branch(head)
        builder.position_at_end(done)
        lanes, half = total, LANES // 2
        while half:
            order = [(i + half) % LANES for i in range(LANES)]
            mask = ir.Constant(ir.VectorType(_I32, LANES), [_I32(i) for i in order])
            lanes = builder.fadd(lanes, builder.shuffle_vector(lanes, lanes, mask))
            half //= 2
        return builder.extract_element(lanes, _I32(0))

    return signature, codegen


def _store_transposed(builder, rows, pointer, stride):
    """Store LANES vectors as columns, by log2(LANES) rounds of shuffles."""
    half = LANES // 2
    while half:  # swap the off-diagonal half x half blocks of every 2 half x 2 half block
        for i in range(LANES):
            if i & half:
                continue
            top, bottom = rows[i], rows[i + half]
            upper = [j if not j & half else LANES + j - half for j in range(LANES)]
            lower = [j + half if not j & half else LANES + j for j in range(LANES)]
            mask = ir.VectorType(_I32, LANES)
            rows[i] = builder.shuffle_vector(top, bottom, ir.Constant(mask, [_I32(j) for j in upper]))
            rows[i + half] = builder.shuffle_vector(top, bottom, ir.Constant(mask, [_I32(j) for j in lower]))
        half //= 2
    for row, out in zip(rows, _addresses(builder, pointer, stride, LANES, 1), strict=True):
        _store(builder, row, out[0])


@intrinsic
def transpose_tile(typingctx, source, so, lds, target, to, ldt):
    """target[to + j ldt + i] = source[so + i lds + j] for a LANES x LANES tile."""
    signature = types.void(source, so, lds, target, to, ldt)

    def codegen(context, builder, signature, args):
        args = _integers(context, builder, signature, args)
        base = _pointer(context, builder, signature.args[0], args[0], args[1])
        rows = [_load(builder, row[0]) for row in _addresses(builder, base, args[2], LANES, 1)]
        _store_transposed(builder, rows, _pointer(context, builder, signature.args[3], args[3], args[4]), args[5])
        return context.get_dummy_value()

    return signature, codegen


@intrinsic
def gather_tile(typingctx, source, lds, rows, ro, so, scale, shift, target, to, ldt):
    """target[to + j ldt + i] = source[rows[ro + i] lds + so + j] scale[so + j] + shift[so + j], LANES x LANES numbers.

    source: uint8 or float32, C-contiguous; rows int64.
    """
    if source.layout != "C" or source.dtype not in (types.uint8, types.float32):
        raise TypingError(f"wanted C-contiguous uint8 or float32, received {source}")
    signature = types.void(source, lds, rows, ro, so, scale, shift, target, to, ldt)

    def codegen(context, builder, signature, args):
        source, lds, rows, ro, so, scale, shift, target, to, ldt = _integers(context, builder, signature, args)
        base = _pointer(context, builder, signature.args[0], source, so)
        chosen = _pointer(context, builder, signature.args[2], rows, ro)
        factor, term = (
            _load(builder, _pointer(context, builder, signature.args[p], array, so))
            for p, array in ((5, scale), (6, shift))
        )
        vectors = []
        for i in range(LANES):
            row = builder.gep(base, [builder.mul(builder.load(builder.gep(chosen, [_I64(i)])), lds)])
            if signature.args[0].dtype == types.uint8:
                pixels = builder.load(builder.bitcast(row, ir.VectorType(ir.IntType(8), LANES).as_pointer()))
                pixels.align = 1
                pixels = builder.sitofp(builder.zext(pixels, ir.VectorType(_I32, LANES)), _VEC)
            else:
                pixels = _load(builder, row)
            vectors.append(builder.fadd(builder.fmul(pixels, factor), term))
        _store_transposed(builder, vectors, _pointer(context, builder, signature.args[7], target, to), ldt)
        return context.get_dummy_value()

    return signature, codegen
