"""Vectors of LANES float32 numbers as values in compiled code, for loops that the compiler would not vectorise."""

from typing import Any

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


def _at(typingctx, x, at):
    """x[at : at + LANES]."""

    def codegen(context, builder, signature, args):
        x, at = _integers(context, builder, signature, args)
        return _load(builder, _pointer(context, builder, signature.args[0], x, at))

    return VECTOR(x, at), codegen


load: Any = intrinsic(_at)


@intrinsic
def store(typingctx, value, x, at):
    """x[at : at + LANES] = value."""

    def codegen(context, builder, signature, args):
        value, x, at = _integers(context, builder, signature, args)
        _store(builder, value, _pointer(context, builder, signature.args[1], x, at))
        return context.get_dummy_value()

    return types.void(value, x, at), codegen


def _operation(build, *kinds):
    """An intrinsic of arguments of these kinds, build(builder, *arguments) its result, a vector."""

    def codegen(context, builder, signature, args):
        return build(builder, *args)

    def one(typingctx, a):
        return VECTOR(*kinds), codegen

    def two(typingctx, a, b):
        return VECTOR(*kinds), codegen

    def three(typingctx, a, b, c):
        return VECTOR(*kinds), codegen

    def four(typingctx, a, b, c, d):
        return VECTOR(*kinds), codegen

    return intrinsic((one, two, three, four)[len(kinds) - 1])


def _greater(builder, a, b, x, y):
    return builder.select(builder.fcmp_ordered(">", a, b), x, y)


spread = _operation(_splat, types.float32)  # a number in every lane
add = _operation(lambda builder, a, b: builder.fadd(a, b), VECTOR, VECTOR)
sub = _operation(lambda builder, a, b: builder.fsub(a, b), VECTOR, VECTOR)
mul = _operation(lambda builder, a, b: builder.fmul(a, b), VECTOR, VECTOR)
fma = _operation(lambda builder, a, b, c: _fma(builder)(a, b, c), VECTOR, VECTOR, VECTOR)  # a b + c
where_greater = _operation(_greater, VECTOR, VECTOR, VECTOR, VECTOR)  # lane by lane a > b ? x : y
