"""Runs a kernel's PTX on the CPU, warp by warp as a GPU may: what our kernels compile to for sm_80 and sm_90,
tensor cores included, and for sm_100 without them.

A warp goes on to its next barrier before another one starts, in an order drawn anew at every barrier; lanes that part
wait for one another where they meet again. An asynchronous copy is made when it is issued, or only when it is waited
for; wgmma multiplies at once. Shared memory and registers begin as NaN. Semantics: NVIDIA, "Parallel Thread Execution
ISA", version 8.7.
"""

import re
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from gpu_memory import LANES, Fault, Memory, find
from ptx_instructions import LANE, MAKERS

KINDS = {"pred": np.bool_, "b16": np.uint16, "b32": np.uint32, "b64": np.uint64}
Value = Callable[["Warp"], np.ndarray]


class Registers(dict):
    """What was never written is all ones."""

    def __init__(self, kind: Callable[[str], str]) -> None:
        self.kind = kind

    def __missing__(self, name: str) -> np.ndarray:
        dtype = np.dtype(KINDS[self.kind(name)])
        return np.full(LANES, True if dtype.kind == "b" else np.iinfo(dtype).max, dtype)


@dataclass
class Program:
    """One program of the grid; lazy: its asynchronous copies are made when they are waited for."""

    parameters: dict[str, Any]
    grid: tuple[int, ...]
    place: tuple[int, ...]
    memories: list[Memory]
    shared: Memory
    lazy: bool
    now: int

    def memory(self, space: str, addresses: np.ndarray, size: int) -> tuple[Memory, np.ndarray]:
        return find([self.shared] if space == "shared" else self.memories, addresses, size)


@dataclass
class Warp:
    """parts: lanes that are together, each where they are and which they are."""

    program: Program
    number: int
    registers: Registers
    parts: list[list[Any]] = field(default_factory=lambda: [[0, None]])
    issued: list[Callable[[], None]] = field(default_factory=list)
    groups: list[list[Callable[[], None]]] = field(default_factory=list)

    def load(self, space: str, addresses: np.ndarray, size: int, count: int, mask: Any) -> list[np.ndarray]:
        some = addresses if mask is None else addresses[mask]
        memory, at = self.program.memory(space, some, size * count)
        found = memory.load(at, size, count, self.number, self.program.now)
        if mask is None:
            return found
        whole = [np.zeros(LANES, f.dtype) for f in found]
        for target, values in zip(whole, found, strict=True):
            target[mask] = values
        return whole

    def store(self, space: str, addresses: np.ndarray, values: list[np.ndarray], mask: Any) -> None:
        if mask is not None:
            addresses, values = addresses[mask], [v[mask] for v in values]
        memory, at = self.program.memory(space, addresses, values[0].dtype.itemsize * len(values))
        memory.store(at, values, self.number, self.program.now)


class Code:
    """The instructions of a kernel. threads: of a program."""

    def __init__(self, text: str) -> None:
        self.parameters = re.findall(r"\.param\s+[^,)]*?(\w+_param_\d+)", text)
        self.threads = int(re.findall(r"\.reqntid\s+(\d+)", text)[0])
        self.kinds: dict[str, str] = {}  # %r, or a whole name -> its kind
        self.labels: dict[str, int] = {}
        self.lines: list[str] = []
        body = re.sub(r"//[^\n]*", "", text[text.index("{", text.index(".reqntid")) :])
        for line in (part.strip() for part in re.split(r"[;\n]", body)):
            if found := re.fullmatch(r"([$\w]+):", line):
                self.labels[found[1]] = len(self.lines)
            elif found := re.match(r"\.reg\s+\.(\w+)\s+(.*)", line):
                kind = found[1].replace("f", "b")
                self.kinds |= {name.split("<")[0].strip(): kind for name in found[2].split(",")}
            elif line not in ("", "{", "}") and not line.startswith("."):
                self.lines.append(line)
        self.steps = [self._step(line) for line in self.lines]

    def _step(self, line: str) -> tuple[str, Value | None, Any]:
        """("run", None, action), or a branch, barrier or end: what it is, its guard, the rest."""
        guard: Value | None = None
        if found := re.match(r"@(!?)([%\w]+)\s+(.*)", line):
            line, own = found[3], self.value(found[2], bool)
            guard = (lambda w: ~own(w)) if found[1] else own
        operation, rest = re.match(r"(\S+)\s*(.*)", line).groups()
        parts = operation.split(".")
        if operation == "bar.warp.sync":
            return "run", None, lambda w, m: None
        if parts[0] in ("bra", "ret") or (operation, rest) == ("bar.sync", "0"):
            return parts[0], guard, rest
        operands = [o.strip() for o in re.split(r",(?![^{]*\})", rest)] if rest else []
        make = MAKERS.get(parts[0])
        if make is None:
            raise NotImplementedError(line)
        action = make(self, parts, operands)
        if guard is None:
            return "run", None, action

        def guarded(w: Warp, m: Any) -> None:
            on = guard(w) if m is None else guard(w) & m
            if on.any():
                action(w, None if on.all() else on)

        return "run", None, guarded

    def kind(self, name: str) -> str:
        return self.kinds[name] if name in self.kinds else self.kinds[re.match(r"%[a-z]+", name)[0]]

    def value(self, text: str, dtype: Any) -> Value:
        """What an operand is, as 32 numbers of this type."""
        text, dtype = text.strip(), np.dtype(dtype)
        if found := re.fullmatch(r"%(tid|ctaid|nctaid)\.([xyz])", text):
            axis = "xyz".index(found[2])
            if found[1] == "ctaid":
                return lambda w: np.full(LANES, w.program.place[axis], dtype)
            if found[1] == "nctaid":
                return lambda w: np.full(LANES, w.program.grid[axis], dtype)
            return lambda w: (w.number * LANES + LANE if axis == 0 else 0 * LANE).astype(dtype)
        if text[0] == "%" or text in self.kinds:
            own = np.dtype(KINDS[self.kind(text)])
            if own == dtype:
                return lambda w: w.registers[text]
            if own.itemsize == dtype.itemsize:
                return lambda w: w.registers[text].view(dtype)
            return lambda w: w.registers[text].astype(f"u{dtype.itemsize}").view(dtype)
        if text == "global_smem":
            constant = np.zeros(LANES, dtype)
        elif dtype.kind == "b":
            constant = np.full(LANES, bool(int(text)))
        elif found := re.fullmatch(r"0[fFdD]([0-9A-Fa-f]+)", text):
            constant = np.full(LANES, int(found[1], 16), f"u{len(found[1]) // 2}").view(dtype)
        else:
            number = int(text.rstrip("U"), 0) % (1 << 8 * dtype.itemsize)
            constant = np.full(LANES, number, f"u{dtype.itemsize}").view(dtype)
        return lambda w: constant

    def values(self, text: str, dtype: Any) -> list[Value]:
        """Of a list in braces, or of one operand."""
        return [self.value(t, dtype) for t in text.strip("{} ").split(",")]

    def address(self, text: str) -> Value:
        base, _, more = (part.strip() for part in text.strip("[] ").partition("+"))
        dtype = np.dtype(KINDS[self.kind(base)]) if base[0] == "%" else np.dtype(np.uint32)
        start, offset = self.value(base, dtype), dtype.type(int(more or "0", 0) % (1 << 8 * dtype.itemsize))
        return lambda w: start(w) + offset

    def put(self, name: str) -> Callable[[Warp, np.ndarray, Any], None]:
        """Into a register, by its bits, or as a number where it is of another size."""
        name = name.strip()
        if name == "_":
            return lambda w, v, m: None
        own = np.dtype(KINDS[self.kind(name)])

        def put(w: Warp, v: np.ndarray, m: Any) -> None:
            if v.dtype != own:
                v = v.view(own) if v.dtype.itemsize == own.itemsize else v.astype(own)
            w.registers[name] = v if m is None else np.where(m, v, w.registers[name])

        return put

    def puts(self, text: str) -> list[Callable[[Warp, np.ndarray, Any], None]]:
        return [self.put(name) for name in text.strip("{} ").split(",")]


def run(code: Code, grid: Any, values: list[Any], memories: list[Memory], shared: int, rng: np.random.Generator,
        now: int, places: list[Any] | None = None) -> int:  # fmt: skip
    """One launch, program by program; values: of the parameters; shared: bytes. Gives the time after it.

    places: the programs to run, (x, y, z) each; all of the grid where None.
    """
    parameters = dict(zip(code.parameters, [*values, *[0] * len(code.parameters)], strict=False))
    grid = (*grid, 1, 1)[:3]
    with np.errstate(all="ignore"):
        for place in places or [at[::-1] for at in np.ndindex(*grid[::-1])]:
            own = Memory("the shared memory", 0, np.full(max(shared, 16), 255, np.uint8), 1)
            program = Program(parameters, grid, place, memories, own, bool(rng.integers(2)), now + 1)
            warps = [Warp(program, i, Registers(code.kind)) for i in range(code.threads // LANES)]
            while warps:
                waiting = [warps[i] for i in rng.permutation(len(warps)) if _advance(code, warps[i])]
                if 0 < len(waiting) < len(warps):
                    raise Fault("a barrier that not all warps reach")
                warps = waiting
                program.now += 1
            now = program.now
    return now


def _advance(code: Code, w: Warp) -> bool:
    """To the next barrier, or to the end: False. Lanes that are behind go first."""
    while w.parts:
        w.parts.sort(key=lambda part: part[0])
        while len(w.parts) > 1 and w.parts[0][0] == w.parts[1][0]:
            met = w.parts[0][1] | w.parts.pop(1)[1]
            w.parts[0][1] = None if met.all() else met
        part, until = w.parts[0], w.parts[1][0] if len(w.parts) > 1 else -1
        pc, mask = part
        while code.steps[pc][0] == "run":
            try:
                code.steps[pc][2](w, mask)
            except Fault as fault:
                raise Fault(f"{fault} ({code.lines[pc]})") from None
            pc += 1
            if pc == until:
                break
        part[0] = pc
        if pc == until:
            continue
        what, guard, label = code.steps[pc]
        here = np.ones(LANES, bool) if mask is None else mask
        on = here if guard is None else guard(w) & here
        if what == "bar":
            if not on.all():
                raise Fault("a barrier that not all lanes of a warp reach")
            part[0] = pc + 1
            return True
        w.parts.pop(0)
        w.parts += [[pc + 1, None if off.all() else off] for off in [here & ~on] if off.any()]
        if what == "bra" and on.any():
            w.parts.append([code.labels[label], None if on.all() else on])
    return False
