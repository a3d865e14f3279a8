"""Triton's launches without a GPU: compiled for one as always, then the PTX is run by `ptx`.

What a GPU gets is run: Triton's layouts, LLVM's code, tensor cores, shared memory and barriers. The interpreter has
none of these. For any test of a kernel: WSFAST_EMULATE=sm_90 python -m pytest tests/test_triton_gru.py
"""

import ctypes
from types import SimpleNamespace
from typing import Any

import numpy as np
import ptx
import torch
from gpu_memory import Fault, Memory
from triton.backends.compiler import GPUTarget
from triton.runtime import driver
from triton.runtime.jit import JITFunction

from wsfast import backends

CODES: dict[str, ptx.Code] = {}
RNG = np.random.default_rng(0)
NOW = [0]
compile_only = JITFunction.run


def install(target: str) -> None:
    """From now on every launch of this process is compiled for `target` and emulated, on tensors of the CPU."""
    gpu = GPUTarget("cuda", int(target.removeprefix("sm_")), 32)
    driver.set_active(
        SimpleNamespace(
            get_current_device=lambda: gpu, get_current_stream=lambda device: 0, get_current_target=lambda: gpu
        )
    )
    JITFunction.run = launch
    backends.interpreting = lambda: True  # Triton's kernels run on the CPU's memory


def launch(kernel: JITFunction, *arguments: Any, grid: Any, warmup: bool, **named: Any) -> Any:
    compiled = compile_only(kernel, *arguments, grid=grid, warmup=True, **named)
    if warmup:
        return compiled
    emulate(compiled, {**dict(zip(kernel.arg_names, arguments, strict=False)), **named}, grid)
    return compiled


def emulate(compiled: Any, values: dict[str, Any], grid: Any, places: list[Any] | None = None) -> None:
    """The programs at these places, or all; values: of every parameter by its name, tensors to be read and written."""
    if compiled.hash not in CODES:
        CODES[compiled.hash] = ptx.Code(compiled.asm["ptx"])
    given: list[Any] = []
    memories: dict[int, Memory] = {}
    for name, kind in compiled.src.signature.items():
        value = values.get(name)
        if kind == "constexpr":
            continue
        if isinstance(value, torch.Tensor):
            given.append(np.uint64(value.data_ptr()))
            start, size = value.untyped_storage().data_ptr(), value.untyped_storage().nbytes()
            if size and start not in memories:
                data = np.frombuffer((ctypes.c_uint8 * size).from_address(start), np.uint8)
                memories[start] = Memory(name, start, data, min(4, value.element_size()))
        else:
            given.append(np.float32(value).view(np.uint32) if kind == "fp32" else np.int64(value))
    here = list(memories.values())
    shared = compiled.metadata.shared
    try:
        NOW[0] = ptx.run(CODES[compiled.hash], grid, given, here, shared, RNG, NOW[0], places)
    except Fault as fault:
        constants = {k: v for k, v in values.items() if not isinstance(v, torch.Tensor)}
        raise Fault(f"{compiled.name} {constants}: {fault}") from None
    for memory in here:
        memory.close()
