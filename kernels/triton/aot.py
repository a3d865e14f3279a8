"""python -m wsfast.kernels.triton.aot: compile every shipped launch for four kinds of GPU, without having one.

The launches are recorded from the launcher itself and compiled by Triton's own launch, so what is compiled is what
runs, and is found in Triton's cache when it does. More shared memory than a program of the target can have fails, and
on the CUDA targets any spill or access to local memory.
"""

import argparse
import re
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from multiprocessing import get_context
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch
import triton
from triton.backends.compiler import GPUTarget
from triton.runtime import driver

from . import (
    batchnorm,
    cnn,
    convolution,
    correlation,
    figlu,
    gram,
    grams,
    gru,
    heads,
    interpolate,
    layers,
    meanpool,
    mlp,
    philox,
    pooling,
    population,
    products,
    recurrent,
    small,
)
from .shipped import walks

MODULES = (
    batchnorm,
    convolution,
    correlation,
    figlu,
    grams,
    heads,
    interpolate,
    layers,
    meanpool,
    mlp,
    philox,
    pooling,
    products,
    recurrent,
    small,
)
TARGETS = {
    "sm_80": GPUTarget("cuda", 80, 32),
    "sm_90": GPUTarget("cuda", 90, 32),
    "sm_100": GPUTarget("cuda", 100, 32),
    "gfx942": GPUTarget("hip", "gfx942", 64),
}
SHARED = {"sm_80": 166912, "sm_90": 232448, "sm_100": 232448, "gfx942": 65536}  # bytes that a program has at most
COLUMNS = ("registers", "shared", "spilled", "matrix")


@dataclass(frozen=True)
class Launch:
    """One compilation: the kernel's module and name, its arguments and constants as hashable pairs, its options.

    arguments: of a tensor the dtype, of a number whose value changes nothing its type's zero.
    """

    module: str
    kernel: str
    arguments: tuple[tuple[str, Any], ...]
    constants: tuple[tuple[str, Any], ...]
    warps: int
    stages: int

    def __str__(self) -> str:
        return f"{self.kernel.strip('_').removesuffix('_kernel'):12} " + " ".join(
            f"{k}={v}" for k, v in self.constants if v is not False
        )


class _Recorder:
    """Stands for a kernel: notes a launch instead of making it."""

    def __init__(self, kernel: Any, found: dict[Launch, None]) -> None:
        self.kernel, self.found = kernel, found

    def __getitem__(self, grid: Any) -> Any:
        return self.note

    def note(self, *arguments: Any, num_warps: int = 4, num_stages: int = 3, **named: Any) -> None:
        values = {**dict(zip(self.kernel.arg_names, arguments, strict=False)), **named}
        pairs: tuple[list[tuple[str, Any]], list[tuple[str, Any]]] = [], []
        for p in self.kernel.params:
            value = values[p.name]
            if isinstance(value, torch.Tensor):
                if value.data_ptr() % 16:
                    raise ValueError(f"{self.kernel.fn.__name__}: {p.name} does not begin at a multiple of 16 bytes")
                value = value.dtype
            elif not p.is_constexpr and (p.do_not_specialize or isinstance(value, float)):
                value = type(value)()
            pairs[p.is_constexpr].append((p.name, value))
        where = self.kernel.fn.__module__, self.kernel.fn.__name__
        self.found[Launch(*where, tuple(pairs[0]), tuple(pairs[1]), num_warps, num_stages)] = None


@contextmanager
def recorded(hip: bool) -> Iterator[dict[Launch, None]]:
    """Meanwhile launches are not made, but noted here, and what is launched for each tile is for one only."""
    found: dict[Launch, None] = {}
    modules = (correlation, interpolate, mlp, cnn, gru, philox, gram, population)
    replaced = {"hip": lambda: hip, "_lower_tiles": lambda D: [(0, 0)]}
    originals = [
        (m, {k: v for k, v in vars(m).items() if re.fullmatch(r"_\w+_kernel|hip|_lower_tiles", k)}) for m in modules
    ]
    try:
        for module, own in originals:
            for k, value in own.items():
                setattr(module, k, replaced.get(k) or _Recorder(value, found))
        yield found
    finally:
        for module, own in originals:
            for k, value in own.items():
                setattr(module, k, value)


def shipped(hip: bool, precisions: tuple[str, ...]) -> list[Launch]:
    """Every launch that the walks make."""
    with recorded(hip) as found:
        for walk in walks().values():
            for precision in precisions:
                walk(precision)
    return list(found)


def compile_for(launch: Launch, target: GPUTarget) -> Any:
    """Triton's compiled kernel, as a launch on such a card compiles it or finds it in the cache.

    From now on this process' launches are compiled for that card.
    """
    kernel = vars({m.__name__: m for m in MODULES}[launch.module])[launch.kernel]
    driver.set_active(
        SimpleNamespace(
            get_current_device=lambda: target, get_current_stream=lambda device: 0, get_current_target=lambda: target
        )
    )
    values = {**dict(launch.arguments), **dict(launch.constants)}
    arguments = [values[name] for name in kernel.arg_names]
    return kernel.warmup(*arguments, grid=(1,), num_warps=launch.warps, num_stages=launch.stages)


def fill_cache(launch: Launch, target: GPUTarget) -> None:
    """For another process to find."""
    compile_for(launch, target)


def measured(launch: Launch, target: str) -> dict[str, Any]:
    """Registers, shared memory (bytes), spilled (bytes) and matrix instructions of one launch on one target."""
    kernel = compile_for(launch, TARGETS[target])
    if target.startswith("sm"):
        return {"shared": kernel.metadata.shared, **_cuda(kernel.asm)}
    text = kernel.asm["amdgcn"]

    def field(name: str) -> int:
        return int(re.findall(rf"\.{name}:\s+(\d+)", text)[0])

    return {"registers": field("vgpr_count"), "shared": kernel.metadata.shared,
            "spilled": field("private_segment_fixed_size"), "matrix": len(re.findall("v_mfma", text))}  # fmt: skip


def fault(found: dict[str, Any], target: str) -> str:
    """What of `measured` must not be; "" where all is well."""
    if found["spilled"] and target.startswith("sm"):
        return "SPILLS"
    return "TOO MUCH SHARED MEMORY" if found["shared"] > SHARED[target] else ""


def _cuda(asm: dict[str, Any]) -> dict[str, int]:
    """Local memory is always a part of the kernel's stack frame (or LOCAL), so its size tells of every access."""
    tool = Path(triton.__file__).parent / "backends/nvidia/bin/cuobjdump"
    with tempfile.NamedTemporaryFile(suffix=".cubin") as file:
        file.write(asm["cubin"])
        file.flush()
        usage = subprocess.run([tool, "--dump-resource-usage", file.name], capture_output=True, text=True, check=True)
    found = re.search(r"REG:(\d+) STACK:(\d+) SHARED:\d+ LOCAL:(\d+)", usage.stdout)
    if found is None:
        raise RuntimeError(f"aot: cannot read cuobjdump's answer: {usage.stdout[:200]}")
    registers, stack, local = (int(n) for n in found.groups())
    matrix = len(re.findall(r"\b(?:mma\.sync|wgmma\.mma_async|tcgen05\.mma)\b", asm["ptx"]))
    return {"registers": registers, "spilled": stack + local, "matrix": matrix}


def _told(call: Callable[..., Any], job: tuple[Launch, Any]) -> Any:
    try:
        return call(*job)
    except Exception as error:  # reported by the caller, as a failure
        return f"{type(error).__name__}: {str(error)[-300:]}"


def each(call: Callable[..., Any], jobs: list[tuple[Launch, Any]]) -> Iterator[Any]:
    """call(launch, target) of every job on all cores, in order; a string where it failed."""
    with ProcessPoolExecutor(mp_context=get_context("spawn")) as pool:  # no threads, no CUDA of this process
        yield from pool.map(partial(_told, call), jobs)


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m wsfast.kernels.triton.aot", description=__doc__)
    parser.add_argument("targets", nargs="*", default=list(TARGETS), help=f"of {', '.join(TARGETS)}; all by default")
    options = parser.parse_args()
    jobs = []
    for target in options.targets:
        hip = target.startswith("gfx")
        jobs += [(launch, target) for launch in shipped(hip, ("ieee", "bf16") if hip else ("tf32x3", "tf32", "bf16"))]
    print(
        f"triton {triton.__version__}\n{'target':7} {'registers':>9} {'shared':>7} {'spilled':>7} {'matrix':>6}  kernel"
    )
    bad = 0
    for (launch, target), found in zip(jobs, each(measured, jobs), strict=True):
        if isinstance(found, str):
            bad += 1
            print(f"{target:7} FAILED {launch}: {found}")
            continue
        wrong = fault(found, target)
        bad += bool(wrong)
        numbers = " ".join(f"{found[c]:>{max(len(c), w)}}" for c, w in zip(COLUMNS, (9, 7, 7, 6), strict=True))
        print(f"{target:7} {numbers}  {launch}{'   ' + wrong if wrong else ''}", flush=True)
    print(f"{len(jobs)} compilations, {bad} bad")
    sys.exit(bad > 0)


if __name__ == "__main__":
    main()
