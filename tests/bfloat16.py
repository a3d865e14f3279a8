"""bfloat16 in Triton's interpreter, which multiplies its bits as if they were integers and rounds towards zero."""

from typing import Any

import numpy as np
import torch
import triton.language as tl
from triton.runtime.interpreter import InterpreterBuilder, TensorHandle


def install() -> None:
    """From now on the interpreter of this process computes as a GPU does: products exact, rounding to nearest even."""
    dot, cast = InterpreterBuilder.create_dot, InterpreterBuilder.cast_impl

    def whole(handle: TensorHandle) -> TensorHandle:
        if handle.dtype.scalar != tl.bfloat16:
            return handle
        return TensorHandle((handle.data.astype(np.uint32) << 16).view(np.float32), tl.float32)

    def create_dot(own: Any, a: TensorHandle, b: TensorHandle, *rest: Any) -> TensorHandle:
        return dot(own, whole(a), whole(b), *rest)

    def cast_impl(own: Any, src: TensorHandle, to: Any) -> TensorHandle:
        if (src.dtype.scalar, to.scalar) != (tl.float32, tl.bfloat16):
            return cast(own, src, to)
        bits = torch.from_numpy(np.ascontiguousarray(src.data)).bfloat16().view(torch.int16).numpy()
        return TensorHandle(bits.view(np.uint16), tl.bfloat16)

    InterpreterBuilder.create_dot = create_dot
    for name, method in list(vars(InterpreterBuilder).items()):  # all kinds of casts are functions that call cast_impl
        if method is cast:
            setattr(InterpreterBuilder, name, cast_impl)
