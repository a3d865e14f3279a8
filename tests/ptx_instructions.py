"""What each PTX instruction does to the 32 lanes of a warp. MAKERS: name -> (code, its parts, operands) -> action.

`code` is `ptx.Code`: code.value(operand, dtype) gives what reads it, code.put(operand) what writes it under a mask.
"""

from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np
from gpu_memory import LANES, Fault

LANE = np.arange(LANES, dtype=np.uint32)
TYPES = {f"{k}{n}": np.dtype(f"{'i' if k == 's' else 'u'}{n // 8}") for k in "usb" for n in (8, 16, 32, 64)}
TYPES |= {"f32": np.dtype("f4"), "f64": np.dtype("f8"), "pred": np.dtype(bool)}
U32, U64 = np.uint32, np.uint64
MAKERS: dict[str, Callable] = {}


def _maker(function: Callable) -> Callable:
    MAKERS[function.__name__.strip("_")] = function
    return function


def _plain(code: Any, operands: list[str], dtype: Any, call: Callable) -> Callable:
    put, sources = code.put(operands[0]), [code.value(o, dtype) for o in operands[1:]]
    return lambda w, m: put(w, call(*(source(w) for source in sources)), m)


def _quotient(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Towards zero."""
    if a.dtype.kind == "f":
        return a / b
    b = np.where(b == 0, 1, b)
    return (a - np.fmod(a, b)) // b


ELEMENTWISE: dict[str, Callable] = {
    "add": np.add,
    "sub": np.subtract,
    "min": np.fmin,
    "max": np.fmax,
    "and": np.bitwise_and,
    "or": np.bitwise_or,
    "xor": np.bitwise_xor,
    "not": np.invert,
    "neg": np.negative,
    "abs": np.abs,
    "div": _quotient,
    "rem": lambda a, b: np.fmod(a, np.where(b == 0, 1, b)),
    "ex2": np.exp2,
    "lg2": np.log2,
    "rcp": np.reciprocal,
    "sqrt": np.sqrt,
    "rsqrt": lambda a: np.reciprocal(np.sqrt(a)),
    "fma": lambda a, b, c: (a.astype(np.float64) * b + c).astype(a.dtype),
}


def _elementwise(code: Any, parts: list[str], operands: list[str], call: Callable) -> Callable:
    if parts[-2:] == ["f32", "bf16"]:  # of both, into float32
        put, a, b = code.put(operands[0]), code.value(operands[1], np.uint16), code.value(operands[2], "f4")
        return lambda w, m: put(w, call((a(w).astype(U32) << U32(16)).view("f4"), b(w)), m)
    if not parts[-1].endswith("x2"):
        return _plain(code, operands, TYPES[parts[-1]], call)
    half = TYPES[parts[-1].removesuffix("x2")]  # two numbers in a register
    both = f"u{2 * half.itemsize}"
    return _plain(code, operands, both, lambda *given: call(*(np.copy(g).view(half) for g in given)).view(both))


for _name, _call in ELEMENTWISE.items():
    MAKERS[_name] = partial(_elementwise, call=_call)


def _twice(dtype: np.dtype) -> np.dtype:
    return np.dtype(f"{dtype.kind}{2 * dtype.itemsize}")


@_maker
def mov(code: Any, parts: list[str], operands: list[str]) -> Callable:
    """Also packs and unpacks: {a, b} <-> c."""
    to, source = operands
    if "{" not in to + source:
        return _plain(code, operands, TYPES[parts[1]], np.copy)
    total = TYPES[parts[1]].itemsize
    each = np.dtype(f"u{total // (1 + (to + source).count(','))}")
    if "{" in source:
        put, pieces = code.put(to), code.values(source, each)
        return lambda w, m: put(w, np.stack([piece(w) for piece in pieces], 1).view(f"u{total}")[:, 0], m)
    whole, puts = code.value(source, f"u{total}"), code.puts(to)

    def unpack(w: Any, m: Any) -> None:
        for put, piece in zip(puts, whole(w).copy().view(each).reshape(LANES, -1).T, strict=True):
            put(w, piece.copy(), m)

    return unpack


@_maker
def mul(code: Any, parts: list[str], operands: list[str]) -> Callable:
    if parts[-1].endswith("x2"):
        return _elementwise(code, parts, operands, np.multiply)
    dtype = TYPES[parts[-1]]
    if parts[1] == "hi":
        return _plain(
            code, operands, dtype, lambda a, b: (a.astype(_twice(dtype)) * b >> 8 * dtype.itemsize).astype(dtype)
        )
    if parts[1] == "wide":
        return _plain(code, operands, dtype, lambda a, b: a.astype(_twice(dtype)) * b)
    return _plain(code, operands, dtype, np.multiply)


@_maker
def mad(code: Any, parts: list[str], operands: list[str]) -> Callable:
    dtype = TYPES[parts[-1]]
    if parts[1] == "lo":
        return _plain(code, operands, dtype, lambda a, b, c: a * b + c)
    if parts[1] != "wide":
        raise NotImplementedError(".".join(parts))
    put, a, b = code.put(operands[0]), *(code.value(o, dtype) for o in operands[1:3])
    c = code.value(operands[3], _twice(dtype))
    return lambda w, m: put(w, a(w).astype(_twice(dtype)) * b(w) + c(w), m)


def _shift(code: Any, operands: list[str], dtype: np.dtype, call: Callable) -> Callable:
    put, a, by = code.put(operands[0]), code.value(operands[1], dtype), code.value(operands[2], U32)
    bits = 8 * dtype.itemsize

    def run(w: Any, m: Any) -> None:
        far = by(w) >= bits
        found = call(a(w), np.minimum(by(w), bits - 1).astype(dtype))
        put(w, found if dtype.kind == "i" else np.where(far, 0, found).astype(dtype), m)

    return run


@_maker
def shl(code: Any, parts: list[str], operands: list[str]) -> Callable:
    return _shift(code, operands, np.dtype(f"u{TYPES[parts[1]].itemsize}"), np.left_shift)


@_maker
def shr(code: Any, parts: list[str], operands: list[str]) -> Callable:
    return _shift(code, operands, TYPES[parts[1]], np.right_shift)


@_maker
def bfe(code: Any, parts: list[str], operands: list[str]) -> Callable:
    put, a, first, size = code.put(operands[0]), *(code.value(o, U32) for o in operands[1:])
    signed = parts[1] == "s32"

    def run(w: Any, m: Any) -> None:
        n = size(w).astype(np.int64)
        found = (a(w).astype(np.int64) >> first(w)) & ((1 << n) - 1)
        put(w, (found - ((found >> n - 1 & 1) << n) * signed).astype(np.int32), m)

    return run


@_maker
def bfi(code: Any, parts: list[str], operands: list[str]) -> Callable:
    put, a, b, first, size = code.put(operands[0]), *(code.value(o, U32) for o in operands[1:])

    def run(w: Any, m: Any) -> None:
        field = ((1 << size(w).astype(np.int64)) - 1) << first(w)
        put(w, ((b(w) & ~field) | ((a(w).astype(np.int64) << first(w)) & field)).astype(U32), m)

    return run


@_maker
def prmt(code: Any, parts: list[str], operands: list[str]) -> Callable:
    put, a, b, chosen = code.put(operands[0]), *(code.value(o, U32) for o in operands[1:])

    def run(w: Any, m: Any) -> None:
        both = np.stack([a(w), b(w)], 1).view(np.uint8)  # [32, 8]
        out = np.empty((LANES, 4), np.uint8)
        for k in range(4):
            which = chosen(w) >> U32(4 * k) & U32(15)
            byte = both[LANE, which & 7]
            out[:, k] = np.where(which & 8, np.where(byte & 128, 255, 0), byte)
        put(w, out.view(U32)[:, 0], m)

    return run


COMPARE: dict[str, Callable] = {
    "eq": np.equal,
    "ne": lambda a, b: (a != b) & (a == a) & (b == b),
    "lt": np.less,
    "le": np.less_equal,
    "gt": np.greater,
    "ge": np.greater_equal,
    "num": lambda a, b: (a == a) & (b == b),
    "nan": lambda a, b: (a != a) | (b != b),
}


@_maker
def setp(code: Any, parts: list[str], operands: list[str]) -> Callable:
    how, dtype = parts[1], TYPES[parts[-1]]
    if len(parts) != 3 or "|" in operands[0]:
        raise NotImplementedError(".".join(parts))
    if how in COMPARE:
        return _plain(code, operands, dtype, COMPARE[how])
    ordered = COMPARE[how.removesuffix("u")]  # ..u: true of a NaN as well
    return _plain(code, operands, dtype, lambda a, b: ordered(a, b) | (a != a) | (b != b))


@_maker
def selp(code: Any, parts: list[str], operands: list[str]) -> Callable:
    put, a, b = code.put(operands[0]), *(code.value(o, TYPES[parts[1]]) for o in operands[1:3])
    chosen = code.value(operands[3], bool)
    return lambda w, m: put(w, np.where(chosen(w), a(w), b(w)), m)


ROUNDED = {"rni": np.rint, "rzi": np.trunc, "rmi": np.floor, "rpi": np.ceil}


@_maker
def cvt(code: Any, parts: list[str], operands: list[str]) -> Callable:
    how, to, source = parts[1], parts[-2], parts[-1]
    if to == "bf16x2":
        put, high, low = code.put(operands[0]), *(code.value(o, "f4") for o in operands[1:])
        return lambda w, m: put(w, _bf16(high(w)) << U32(16) | _bf16(low(w)), m)
    if to == "bf16":
        return _plain(code, operands, "f4", lambda a: _bf16(a).astype(np.uint16))
    if source == "bf16":
        return _plain(code, operands, np.uint16, lambda a: a.astype(U32) << U32(16))
    if to == "tf32" and how == "rna":
        return _plain(code, operands, U32, lambda a: a + U32(0x1000) & U32(0xFFFFE000))
    before, after = TYPES[source], TYPES[to]
    if before.kind == "f" and after.kind != "f":
        least, most = np.iinfo(after).min, np.iinfo(after).max
        call = ROUNDED[how]
        return _plain(
            code, operands, before, lambda a: np.clip(np.nan_to_num(call(a.astype("f8"))), least, most).astype(after)
        )
    return _plain(code, operands, before, lambda a: a.astype(after))


def _bf16(a: np.ndarray) -> np.ndarray:
    """Rounded to nearest even: uint32 below 2^16."""
    bits = a.view(U32)
    return np.where(np.isnan(a), U32(0x7FFF), (bits + U32(0x7FFF) + (bits >> U32(16) & U32(1))) >> U32(16))


def _together(m: Any, what: str) -> None:
    if m is not None:
        raise Fault(f"{what} by a part of a warp")


@_maker
def shfl(code: Any, parts: list[str], operands: list[str]) -> Callable:
    put, a, by, clamp = code.put(operands[0]), *(code.value(o, U32) for o in operands[1:4])
    lane = LANE.astype(np.int64)

    def run(w: Any, m: Any) -> None:
        _together(m, "shfl.sync")
        b, c = by(w).astype(np.int64), clamp(w).astype(np.int64)
        segment = c >> 8 & 31
        least = lane & segment
        most = least | (c & 31 & ~segment)
        at = {"bfly": lane ^ b, "idx": least | (b & ~segment), "down": lane + b, "up": lane - b}[parts[2]]
        put(w, a(w)[np.where(at < most if parts[2] == "up" else at > most, lane, at)], None)

    return run


@_maker
def redux(code: Any, parts: list[str], operands: list[str]) -> Callable:
    put, a = code.put(operands[0]), code.value(operands[1], TYPES[parts[-1]])
    call = {"add": np.add, "min": np.minimum, "max": np.maximum}[parts[2]]

    def run(w: Any, m: Any) -> None:
        _together(m, "redux.sync")
        put(w, np.full(LANES, call.reduce(a(w)), TYPES[parts[-1]]), None)

    return run


@_maker
def ld(code: Any, parts: list[str], operands: list[str]) -> Callable:
    space, dtype, puts = parts[1], TYPES[parts[-1]], code.puts(operands[0])
    if space == "param":
        name = operands[1].strip("[] ")
        return lambda w, m: puts[0](w, np.full(LANES, w.program.parameters[name]).astype(dtype), m)
    address = code.address(operands[1])

    def run(w: Any, m: Any) -> None:
        for put, found in zip(puts, w.load(space, address(w), dtype.itemsize, len(puts), m), strict=True):
            put(w, found.view(dtype), m)

    return run


@_maker
def st(code: Any, parts: list[str], operands: list[str]) -> Callable:
    address, sources = code.address(operands[0]), code.values(operands[1], f"u{TYPES[parts[-1]].itemsize}")
    return lambda w, m: w.store(parts[1], address(w), [source(w) for source in sources], m)


@_maker
def cp(code: Any, parts: list[str], operands: list[str]) -> Callable:
    """cp.async: the copy, commit_group and wait_group."""
    if parts[2] == "commit_group":

        def commit(w: Any, m: Any) -> None:
            w.groups.append(w.issued)
            w.issued = []

        return commit
    if parts[2] == "wait_group":

        def wait(w: Any, m: Any) -> None:
            due = w.groups[: len(w.groups) - int(operands[0])]
            del w.groups[: len(due)]
            for copy in (copy for group in due for copy in group):
                copy()

        return wait
    to, source, total = code.address(operands[0]), code.address(operands[1]), int(operands[2], 0)
    size = code.value(operands[3] if len(operands) > 3 else operands[2], U32)

    def issue(w: Any, m: Any) -> None:
        targets, sources, some = to(w), source(w), np.ones(LANES, bool) if m is None else m
        read = some & (size(w) > 0)  # where it is 0, zeros are written
        if (size(w)[read] != total).any():
            raise NotImplementedError("cp.async of a part of its size")

        def copy() -> None:
            words = [np.zeros(LANES, U32)] * (total // 4)
            if read.any():
                words = w.load("global", sources, 4, total // 4, read)
            w.store("shared", targets, words, some)

        if w.program.lazy:
            w.issued.append(copy)
        else:
            copy()

    return issue


@_maker
def ldmatrix(code: Any, parts: list[str], operands: list[str]) -> Callable:
    puts, address, turned = code.puts(operands[0]), code.address(operands[1]), "trans" in parts

    def run(w: Any, m: Any) -> None:
        _together(m, "ldmatrix")
        for k, put in enumerate(puts):
            words = w.load("shared", address(w), 4, 4, k == LANE // 8)
            rows = np.stack([v[8 * k : 8 * k + 8] for v in words], 1).view(np.uint16)  # [8, 8]
            put(w, np.ascontiguousarray(rows.T if turned else rows).view(U32)[LANE >> 2, LANE & 3], None)

    return run


@_maker
def stmatrix(code: Any, parts: list[str], operands: list[str]) -> Callable:
    if "trans" in parts:
        raise NotImplementedError(".".join(parts))
    address, sources = code.address(operands[0]), code.values(operands[1], U32)

    def run(w: Any, m: Any) -> None:
        _together(m, "stmatrix")
        for k, source in enumerate(sources):
            rows, words = k == LANE // 8, np.zeros((LANES, 4), U32)
            words[rows] = source(w).reshape(8, 4)
            w.store("shared", address(w), list(words.T.copy()), rows)

    return run


G, T = (LANE >> 2).astype(int), (LANE & 3).astype(int)


def _numbers(bits: np.ndarray, each: int, i: int) -> np.ndarray:
    """Number i of the `each` in a register: tf32, which is cut, or two of bfloat16."""
    if each == 1:
        return (bits & U32(0xFFFFE000)).view("f4")
    return ((bits if i else bits << U32(16)) & U32(0xFFFF0000)).view("f4")


def _left(registers: list[np.ndarray], each: int) -> np.ndarray:
    """A [16, K] of a warp."""
    A = np.zeros((16, 8 * each))
    for i in range(each):
        for r, bits in enumerate(registers):
            A[G + r % 2 * 8, each * (T + r // 2 * 4) + i] = _numbers(bits, each, i)
    return A


def _places(n: int) -> list[tuple[np.ndarray, np.ndarray]]:
    """Where a warp's registers lie in C and D [16, n]."""
    return [(G + 8 * (r // 2), 8 * j + 2 * T + r % 2) for j in range(n // 8) for r in range(4)]


@_maker
def mma(code: Any, parts: list[str], operands: list[str]) -> Callable:
    """D = A B + C: [16, 8] = [16, K] [K, 8] + [16, 8], bfloat16 with K = 16 and tf32 with K = 8."""
    if (parts[3], parts[-2]) not in (("m16n8k8", "tf32"), ("m16n8k16", "bf16")):
        raise NotImplementedError(".".join(parts))
    puts, a, b, c = code.puts(operands[0]), *(code.values(o, U32) for o in operands[1:])
    each = 1 if parts[-2] == "tf32" else 2

    def run(w: Any, m: Any) -> None:
        _together(m, "mma.sync")
        A, B, C = _left([source(w) for source in a], each), np.zeros((8 * each, 8)), np.zeros((16, 8), "f4")
        for i in range(each):
            for r, source in enumerate(b):
                B[each * (T + 4 * r) + i, G] = _numbers(source(w), each, i)
        for place, source in zip(_places(8), c, strict=True):
            C[place] = source(w).view("f4")
        D = (C + A @ B).astype("f4")
        for place, put in zip(_places(8), puts, strict=True):
            put(w, D[place], None)

    return run


@_maker
def wgmma(code: Any, parts: list[str], operands: list[str]) -> Callable:
    """D [64, n] = A B, or D + A B, of four warps, 16 rows each: B, and A unless in registers, where descriptors say."""
    if parts[1] != "mma_async":  # its own fences and groups: products are made at once here
        return lambda w, m: None
    (names, left, right, add, *ones), n = operands, int(parts[4].split("n")[1].split("k")[0])
    each = {"tf32": 1, "bf16": 2}[parts[-1]]
    in_registers = left.startswith("{")
    turned = [flag == "1" for flag in ["0", "0", *ones[2:]]][-2:]  # A, which registers hold as it is, and B
    if ones[:2] != ["1", "1"]:
        raise NotImplementedError(" ".join([".".join(parts), *operands[1:]]))
    puts, d, more = code.puts(names), code.values(names, U32), code.value(add, bool)
    a, b = code.values(left, U32 if in_registers else U64), code.value(right, U64)

    def run(w: Any, m: Any) -> None:
        _together(m, "wgmma")
        if in_registers:
            A = _left([source(w) for source in a], each)
        else:
            A = _described(w, int(a[0](w)[0]), 16 * (w.number % 4) + np.arange(16), each, turned[0])
        B = _described(w, int(b(w)[0]), np.arange(n), each, turned[1])
        D = (A.astype("f8") @ B.T).astype("f4")
        for place, put, source in zip(_places(n), puts, d, strict=True):
            put(w, D[place] + (source(w).view("f4") if more(w)[0] else np.float32(0)), None)

    return run


def _described(w: Any, descriptor: int, rows: np.ndarray, each: int, turned: bool) -> np.ndarray:
    """A matrix in the shared memory [rows, K], 32 bytes of K, swizzled; turned: its rows lie side by side there."""
    start, leading, stride = (16 * (descriptor >> bit & 0x3FFF) for bit in (0, 16, 32))
    mode, size = descriptor >> 62, 4 // each
    row, k = rows[:, None], np.arange(8 * each)[None, :]
    if turned:
        span = 256 >> mode
        at = start + row * size // span * leading + row * size % span + k // 8 * stride + k % 8 * span
    elif mode == 0:
        at = start + row // 8 * stride + k * size // 16 * leading + row % 8 * 16 + k * size % 16
    else:
        at = start + row // 8 * stride + row % 8 * (256 >> mode) + k * size
    if mode:
        at ^= (at >> 7 & (8 >> mode - 1) - 1) << 4
    memory, places = w.program.memory("shared", at.ravel().astype(U32), size)
    [found] = memory.load(places, size, 1, w.number, w.program.now)
    return _numbers(found.astype(U32), each, 0).reshape(at.shape)


@_maker
def fence(code: Any, parts: list[str], operands: list[str]) -> Callable:
    return lambda w, m: None
