"""What the emulator of PTX must see; run by test_ptx.py where kernels are emulated."""

import pytest
import spots
import torch
import triton
import triton.language as tl
from gpu_memory import Fault
from wsfast.kernels.triton import shipped


@triton.jit
def _turn_kernel(x_ptr, y_ptr, out_ptr, N: tl.constexpr, BARRIER: tl.constexpr):
    n = tl.arange(0, N)
    tl.store(y_ptr + n, tl.load(x_ptr + n))
    if BARRIER:
        tl.debug_barrier()
    tl.store(out_ptr + n, tl.load(y_ptr + (N - 1 - n)))


@triton.jit
def _half_kernel(x_ptr, out_ptr, N: tl.constexpr):
    """Two numbers go to one place."""
    n = tl.arange(0, N)
    tl.store(out_ptr + n // 2, tl.load(x_ptr + n))


@triton.jit
def _copy_kernel(x_ptr, out_ptr, N: tl.constexpr):
    n = tl.arange(0, N)
    tl.store(out_ptr + n, tl.load(x_ptr + n))


@triton.jit
def _product_kernel(a_ptr, b_ptr, out_ptr, PRECISION: tl.constexpr):
    n = tl.arange(0, 32)
    at = n[:, None] * 32 + n[None, :]
    c = tl.zeros((32, 32), tl.float32)
    for first in range(0, 64, 32):
        a = tl.load(a_ptr + n[:, None] * 64 + (first + n)[None, :])
        b = tl.load(b_ptr + first * 32 + at)
        c = tl.dot(a, b, c, input_precision=PRECISION)
    tl.store(out_ptr + at, c)


def numbers(*shape):
    return torch.rand(*shape, generator=torch.Generator().manual_seed(0))


def test_what_was_not_waited_for_is_nan():
    """Units read by other warps than wrote them: right with a barrier between, NaN without."""
    x, y, out = numbers(256), torch.zeros(256), torch.zeros(256)
    _turn_kernel[1,](x, y, out, 256, True)
    assert torch.equal(out, x.flip(0))
    _turn_kernel[1,](x, y.zero_(), out, 256, False)
    assert out.isnan().any()


def test_two_numbers_for_one_place_are_a_fault():
    with pytest.raises(Fault, match=r"_half_kernel.* write different numbers to bytes .* of out_ptr"):
        _half_kernel[1,](numbers(256), torch.zeros(256), 256)
    _half_kernel[1,](torch.ones(256), torch.zeros(256), 256)


@pytest.mark.parametrize("short", ["x_ptr", "out_ptr"])
def test_what_lies_outside_is_a_fault(short):
    x, out = (torch.zeros(255 if name == short else 256) for name in ("x_ptr", "out_ptr"))
    with pytest.raises(Fault, match=f"_copy_kernel.* of {short}, which has 1020"):
        _copy_kernel[1,](x, out, 256)


@pytest.mark.parametrize("precision", ["ieee", "tf32x3", "tf32", "bf16"])
def test_products_are_those_of_the_precision(precision):
    kind = torch.bfloat16 if precision == "bf16" else torch.float32
    a, b, out = numbers(32, 64).to(kind), numbers(64, 32).to(kind), torch.zeros(32, 32)
    _product_kernel[1,](a, b, out, "ieee" if precision == "bf16" else precision, num_warps=4)
    wrong = (out - a.double() @ b.double()).norm() / (a.double() @ b.double()).norm()
    assert wrong < (2e-3 if precision == "tf32" else 1e-6)  # products of bfloat16 are exact
    assert (wrong > 1e-5) == (precision == "tf32")


def test_programs_that_differ_from_the_interpreters_are_told():
    found = spots.Spots()
    for barrier in (True, False):
        _turn_kernel.run(numbers(256), torch.zeros(256), torch.zeros(256), 256, barrier, grid=(1,), warmup=False)
        found(_turn_kernel, numbers(256), torch.zeros(256), torch.zeros(256), 256, barrier, grid=(1,), warmup=False)
        assert found.bad == (not barrier)
    found(_half_kernel, numbers(256), torch.zeros(256), 256, grid=(1,), warmup=False)
    assert found.bad == 2


@pytest.mark.parametrize("walk", ["mlp4-64-128, batch 128", "gru2-128", "units of mlp4-64-100"])
def test_shipped_launches(walk):
    """At full size; `python tests/spots.py` does all others."""
    found = spots.Spots()
    spots.compared(shipped.walks()[walk], ["tf32x3", "tf32"], found)
    assert found.bad == found.left == 0
    assert len(found.seen) > 1
