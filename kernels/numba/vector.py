"""Vectors of LANES float32 numbers as values in compiled code, for loops that the compiler would not vectorise."""

from numba import types
from numba.extending import intrinsic, models, register_model

from .tile import _VEC, LANES, _fma, _integers, _load, _pointer, _splat, _store


class _Vector(types.Type):
    def __init__(self):
        super().__init__(f"vector of {LANES} float32")


VECTOR = _Vector()


@register_model(_Vector)
class _Model(models.PrimitiveModel):
    def __init__(self, manager, kind):
        super().__init__(manager, kind, _VEC)


@intrinsic
def load(typingctx, x, at):
    """x[at : at + LANES]."""

    def codegen(context, builder, signature, args):
        x, at = _integers(context, builder, signature, args)
        return _load(builder, _pointer(context, builder, signature.args[0], x, at))

    return VECTOR(x, at), codegen


@intrinsic
def store(typingctx, value, x, at):
    """x[at : at + LANES] = value."""

    def codegen(context, builder, signature, args):
        value, x, at = _integers(context, builder, signature, args)
        _store(builder, value, _pointer(context, builder, signature.args[1], x, at))
        return context.get_dummy_value()

    return types.void(value, x, at), codegen


@intrinsic
def spread(typingctx, scalar):
    """A float32 in every lane."""

    def codegen(context, builder, signature, args):
        return _splat(builder, context.cast(builder, args[0], signature.args[0], types.float32))

    return VECTOR(scalar), codegen


def _operation(build, count):
    """An intrinsic of `count` vectors, build(builder, *values) its result."""
    kinds = (VECTOR,) * count

    def codegen(context, builder, signature, args):
        return build(builder, *args)

    def two(typingctx, a, b):
        return VECTOR(*kinds), codegen

    def three(typingctx, a, b, c):
        return VECTOR(*kinds), codegen

    def four(typingctx, a, b, c, d):
        return VECTOR(*kinds), codegen

    return intrinsic({2: two, 3: three, 4: four}[count])


def _greater(builder, a, b, x, y):
    return builder.select(builder.fcmp_ordered(">", a, b), x, y)


add = _operation(lambda builder, a, b: builder.fadd(a, b), 2)
sub = _operation(lambda builder, a, b: builder.fsub(a, b), 2)
mul = _operation(lambda builder, a, b: builder.fmul(a, b), 2)
fma = _operation(lambda builder, a, b, c: _fma(builder)(a, b, c), 3)  # a b + c
where_greater = _operation(_greater, 4)  # lane by lane, a > b ? c : d
