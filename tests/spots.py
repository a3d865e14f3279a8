"""python tests/spots.py [target] [walk ...]: a program of every shipped launch at full size, run twice on the same
numbers: from the PTX that a GPU would get, and in Triton's interpreter. Anything but rounding between them is a fault.

What a compiler does wrongly for some shapes alone shows here, without a GPU. Most walks take minutes, chains of many
entries hours.
"""

import argparse
import sys
import time
from types import SimpleNamespace
from typing import Any

import bfloat16
import emulated
import numpy as np
import torch
import triton
from gpu_memory import Fault
from triton.runtime import interpreter
from triton.runtime.jit import JITFunction
from wsfast.kernels.triton import gram, shipped

WORST = {"tf32x3": 1e-5, "ieee": 1e-5, "tf32": 1e-3, "bf16": 1e-3}  # || PTX - interpreter || / || what was written ||
POSITIVE = ("norm", "stat", "parts")  # arguments of which a square root is taken
TRIES = 16  # programs, until one writes something
RNG = np.random.default_rng(0)


class Spots:
    """Stands for a launch: nothing is launched, but the first time a random program of it is compared."""

    def __init__(self) -> None:
        self.seen, self.bad, self.left = set(), 0, 0

    def __call__(self, kernel: JITFunction, *arguments: Any, grid: Any, warmup: bool, **named: Any) -> None:
        compiled = emulated.compile_only(kernel, *arguments, grid=grid, warmup=True, **named)
        if compiled.hash in self.seen:
            return
        self.seen.add(compiled.hash)
        began, grid = time.perf_counter(), (*grid, 1, 1)[:3]
        values = {**dict(zip(kernel.arg_names, arguments, strict=False)), **named}
        precision = values.get("PRECISION", "ieee")
        _fill(values, exact=precision in ("tf32", "bf16"))
        before, ours, theirs = values, _copy(values), _copy(values)
        constants = " ".join(f"{p.name}={values[p.name]}" for p in kernel.params if p.is_constexpr and values[p.name])
        error, written, told = np.nan, 0, ""
        try:
            for at in RNG.choice(np.prod(grid), min(np.prod(grid), TRIES), replace=False):
                place = tuple(int(i) for i in np.unravel_index(at, grid))
                emulated.emulate(compiled, ours, grid, [place])
                interpret(kernel, theirs, grid, place)
                error, written = differs(before, ours, theirs)
                if written:
                    break
        except Fault as fault:
            told = str(fault)
        except NotImplementedError as unknown:  # sm_100's tensor cores
            self.left += 1
            print(f"{'':27} {compiled.name} {constants}   NOT RUN {unknown}", flush=True)
            return
        if not error <= WORST[precision] or not written:
            self.bad += 1
            told = f"   WRONG {told}"
        seconds = time.perf_counter() - began
        print(f"{error:8.1e} {written:8} {seconds:5.0f} s  {compiled.name} {constants}{told}", flush=True)


def _fill(values: dict[str, Any], exact: bool) -> None:
    """Random numbers into all tensors of floats: only some programs of the launches before have written theirs.

    exact: only such as bfloat16 has, so that no product is rounded.
    """
    for name, value in values.items():
        if isinstance(value, torch.Tensor) and value.is_floating_point():
            numbers = torch.from_numpy(RNG.standard_normal(value.shape, np.float32)) / 8
            numbers = numbers.abs() + 0.5 if name.startswith(POSITIVE) else numbers
            value.copy_(numbers.bfloat16() if exact else numbers)


def _copy(values: dict[str, Any]) -> dict[str, Any]:
    """Tensors that share their memory do so in the copy."""
    stores: dict[int, Any] = {}
    found = dict(values)
    for name, value in values.items():
        if isinstance(value, torch.Tensor):
            store = value.untyped_storage()
            if store.data_ptr() not in stores:
                stores[store.data_ptr()] = store.clone()
            copied = stores[store.data_ptr()]
            found[name] = value.new_empty(0).set_(copied, value.storage_offset(), value.shape, value.stride())
    return found


def interpret(kernel: JITFunction, values: dict[str, Any], grid: tuple[int, ...], place: tuple[int, ...]) -> None:
    """One program of a launch: a grid of one that is told another place."""
    builder, patches = interpreter.interpreter_builder, []
    dim, at, call, patch = builder.set_grid_dim, builder.set_grid_idx, JITFunction.__call__, interpreter._patch_lang

    def patched(function: Any) -> Any:
        patches.append(patch(function))
        return SimpleNamespace(restore=lambda: None)

    try:
        interpreter._patch_lang = patched
        builder.set_grid_dim = lambda *one: dim(*grid)
        JITFunction.__call__ = lambda own, *a, **k: interpreter.InterpretedFunction(own.fn)(*a, **k)
        builder.set_grid_idx = lambda *first: at(*place)
        interpreter.InterpretedFunction(kernel.fn).run(grid=(1,), warmup=False, **values)
    finally:
        interpreter._patch_lang = patch
        builder.set_grid_dim, builder.set_grid_idx, JITFunction.__call__ = dim, at, call
        for scope in reversed(patches):  # the interpreter itself leaves those of functions that a kernel calls
            scope.restore()


def differs(before: dict[str, Any], ours: dict[str, Any], theirs: dict[str, Any]) -> tuple[float, int]:
    """(the worst relative error of any argument that was written, how many numbers were); NaN and a wrong integer are
    worse than anything."""
    worst, written = 0.0, 0
    for name, value in before.items():
        if not isinstance(value, torch.Tensor):
            continue
        changed = (ours[name] != value) | (theirs[name] != value)
        own, other, old = (t[changed].double() for t in (ours[name], theirs[name], value))
        if not len(own):
            continue
        error = torch.linalg.norm(own - other) / torch.linalg.norm(other - old)
        if not value.is_floating_point():
            error *= np.inf
        found = float(error.nan_to_num(0 if torch.equal(own, other) else np.inf))
        worst, written = max(worst, found), written + len(own)
    return worst, written


def compared(walk: shipped.Walk, precisions: list[str], spots: Spots) -> None:
    """Every launch of a walk, in each precision."""
    launch, tiles = JITFunction.run, gram._lower_tiles
    try:
        JITFunction.run = lambda *a, **k: spots(*a, **k)
        gram._lower_tiles = lambda D: [(0, 0)]
        for precision in precisions:
            walk(precision)
    finally:
        JITFunction.run, gram._lower_tiles = launch, tiles


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("target", nargs="?", default="sm_90", help="sm_80, sm_90, or sm_100 without its tensor cores")
    parser.add_argument("walks", nargs="*", help=f"of {', '.join(shipped.walks())}; all by default")
    parser.add_argument("--precisions", nargs="+", default=["tf32x3", "tf32", "bf16"])
    options = parser.parse_args()
    emulated.install(options.target)
    bfloat16.install()
    spots, walks = Spots(), shipped.walks()
    print(f"triton {triton.__version__}, {options.target}\n{'error':>8} {'numbers':>8} {'time':>7}  launch")
    for name in options.walks or walks:
        compared(walks[name], options.precisions, spots)
    print(f"{len(spots.seen)} launches, {spots.bad} wrong, {spots.left} not run")
    sys.exit(spots.bad > 0)


if __name__ == "__main__":
    main()
