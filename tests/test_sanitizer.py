"""The sanitizer sees what the interpreter's results do not show."""

import pytest
import torch
import triton
import triton.language as tl

pytestmark = pytest.mark.skipif(torch.cuda.is_available(), reason="kernels run on the GPU here, not in the interpreter")


@triton.jit
def _neighbour_kernel(x_ptr):
    n = tl.program_id(0)
    tl.store(x_ptr + n, tl.load(x_ptr + n + 1))


@triton.jit
def _total_kernel(x_ptr, total_ptr):
    tl.store(total_ptr, tl.program_id(0))


@triton.jit
def _flip_kernel(x_ptr, N: tl.constexpr, BARRIER: tl.constexpr):
    n = tl.arange(0, N)
    x = tl.load(x_ptr + n)
    if BARRIER:
        tl.debug_barrier()
    tl.store(x_ptr + (N - 1 - n), x)


@triton.jit
def _relay_kernel(x_ptr, y_ptr, N: tl.constexpr, BARRIER: tl.constexpr):
    n = tl.arange(0, N)
    tl.store(y_ptr + n, tl.load(x_ptr + n))
    if BARRIER:
        tl.debug_barrier()
    tl.store(x_ptr + n, tl.load(y_ptr + (N - 1 - n)))


@triton.jit
def _twice_kernel(x_ptr, y_ptr, N: tl.constexpr):
    n = tl.arange(0, N)
    tl.store(y_ptr + n // 2, tl.load(x_ptr + n))


@triton.jit
def _in_place_kernel(x_ptr, N: tl.constexpr, READ: tl.constexpr):
    n = tl.arange(0, N)
    turned = tl.load(x_ptr + (N - 1 - n)) if READ else 0.0
    tl.store(x_ptr + n, tl.load(x_ptr + n) + 1 + turned)


def x(n=16):
    return torch.arange(n, dtype=torch.float32)


RACES = {
    "another program writes what is read": (lambda: _neighbour_kernel[8,](x()), "another program"),
    "programs write different values": (lambda: _total_kernel[2,](x(), torch.zeros(1)), "another program"),
    "read, then written by other threads": (lambda: _flip_kernel[1,](x(), 16, False), "what was read since"),
    "in place, but read in another order before": (lambda: _in_place_kernel[1,](x(), 16, True), "what was read since"),
    "written, then read": (lambda: _relay_kernel[1,](x(), x(), 16, False), "reads what was written since"),
    "two values for one element": (lambda: _twice_kernel[1,](x(), x(), 16), "two values"),
    "past the end of an argument": (lambda: _flip_kernel[1,](x(15)[1:], 16, True), "outside of the arguments"),
    "past the end of a view": (lambda: _in_place_kernel[1,](x()[:8], 16, False), "outside of the arguments"),
}  # fmt: skip


@pytest.mark.parametrize("name", RACES)
def test_a_race_is_found(name, sanitizer):
    launch, what = RACES[name]
    launch()
    found, sanitizer.faults = sanitizer.faults, set()
    assert any(what in fault and "test_sanitizer.py" in fault for fault in found), found


def test_barriers_and_equal_values_are_no_race(sanitizer):
    _flip_kernel[1,](x(), 16, True)
    _relay_kernel[1,](x(), x(), 16, True)
    _in_place_kernel[1,](x(), 16, False)
    _total_kernel[1,](x(), torch.ones(1))
    _twice_kernel[1,](torch.ones(16), x(), 16)
    assert not sanitizer.faults
