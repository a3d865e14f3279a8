"""What Triton's interpreter hides: it runs one program after another, and all threads of one at once.

On a GPU programs run in any order, and a thread may be ahead of the others up to the next barrier. So every access must
lie inside an argument of its launch, no program may touch what another one of the launch writes, and between a write
and another access of the same element there must be a barrier. Allowed are a tile that is loaded, changed and stored in
place (each element by the thread that loaded it), and writing the bits that are there. Not seen: a vector shorter than
the program has threads is loaded by several each, and one of them may come after the store.
"""

import sys
from hashlib import blake2b
from pathlib import Path
from typing import NamedTuple

import numpy as np
from triton.runtime import interpreter

SILENT = str(Path(interpreter.__file__).parents[1]), __file__  # Triton's own frames, and these


class Access(NamedTuple):
    program: int
    phase: int  # counts barriers, through all programs
    order: bytes | None  # tells which elements, in which order; None: in several


class Memory:
    """Of one storage: the accesses (0: none) that wrote each element last, and read it first and last, in a launch."""

    def __init__(self, start, length, size):
        self.start, self.size = start, size
        self.wrote, self.read_first, self.read_last = np.zeros((3, length // size), np.int32)


class Sanitizer:
    """faults: a line each, where and what. Patches the interpreter through pytest's monkeypatch."""

    def __init__(self, monkeypatch):
        self.faults, self.memories, self.accesses = set(), {}, []
        self.program = self.phase = 0
        builder, grid = interpreter.InterpreterBuilder, interpreter.GridExecutor
        load, store, prepare = builder.create_masked_load, builder.create_masked_store, grid._init_args_hst
        begin, barrier = builder.set_grid_idx, builder.create_barrier

        def _load(own, pointers, mask, *rest):
            values = load(own, pointers, mask, *rest)
            self.loaded(pointers.data[mask.data].astype(np.int64), values.data.itemsize)
            return values

        def _store(own, pointers, values, mask, *rest):
            def there():
                return _bits(load(own, pointers, mask, None, None, None, False))[mask.data]

            before = there()
            result = store(own, pointers, values, mask, *rest)
            after = there()
            if (after != _bits(values)[mask.data]).any():
                self.say("writes two values to one element")
            self.stored(pointers.data[mask.data].astype(np.int64), before != after, after.itemsize)
            return result

        def _begin(own, *index):
            self.program += 1
            self.phase += 1
            return begin(own, *index)

        def _barrier(own):
            self.phase += 1
            return barrier(own)

        def _prepare(own, *arguments):
            hosted = prepare(own, *arguments)
            self.launch([t for t in (*hosted[0], *hosted[1].values()) if hasattr(t, "data_ptr") and t.numel()])
            return hosted

        monkeypatch.setattr(builder, "create_masked_load", _load)
        monkeypatch.setattr(builder, "create_masked_store", _store)
        monkeypatch.setattr(builder, "set_grid_idx", _begin)
        monkeypatch.setattr(builder, "create_barrier", _barrier)
        monkeypatch.setattr(grid, "_init_args_hst", _prepare)

    def launch(self, tensors):
        self.memories, self.accesses = {}, [Access(0, 0, None)]
        self.ranges = [(t.data_ptr(), t.data_ptr() + _extent(t)) for t in tensors]
        self.storages = {s.data_ptr(): s.nbytes() for s in (t.untyped_storage() for t in tensors)}

    def loaded(self, at, size):
        if at.size == 0 or (memory := self.memory(at, size)) is None:
            return
        at = (at - memory.start) // size
        for a in self.last(memory.wrote[at]):
            if a.program != self.program:
                self.say("reads what another program of the launch writes")
            elif a.phase == self.phase:
                self.say("reads what was written since the last barrier")
        mine, before = self.note(at), memory.read_last[at]
        known = {a: self.accesses[a] for a in np.unique(before)}
        mixed = [a for a, k in known.items() if k.phase == self.phase and k.order != self.accesses[mine].order]
        memory.read_last[at] = np.where(np.isin(before, mixed), self.note(None), mine)
        memory.read_first[at] = np.where(memory.read_first[at] == 0, mine, memory.read_first[at])

    def stored(self, at, changed, size):
        if at.size == 0 or (memory := self.memory(at, size)) is None:
            return
        at = (at - memory.start) // size
        mine, at_changed = self.note(at), at[changed]
        for a in self.last(memory.wrote[at_changed]) + self.last(memory.read_first[at_changed]):
            if a.program != self.program:
                self.say("writes what another program of the launch reads or writes")
        order = self.accesses[mine].order
        for what, ids in (("written", memory.wrote[at_changed]), ("read", memory.read_last[at_changed])):
            if any(a.phase == self.phase and a.order != order for a in self.last(ids)):
                self.say(f"writes what was {what} since the last barrier")
        memory.wrote[at] = mine

    def note(self, at):
        order = None if at is None else blake2b(at, digest_size=8).digest()
        self.accesses.append(Access(self.program, self.phase, order))
        return len(self.accesses) - 1

    def last(self, ids):
        return [self.accesses[a] for a in np.unique(ids) if a]

    def memory(self, at, size):
        """The storage of these addresses; None, and a fault, where one lies outside of the arguments."""
        low, high = int(at.min()), int(at.max()) + size
        if not any(start <= low and high <= end for start, end in self.ranges):
            return self.say("is outside of the arguments")
        start = max(s for s in self.storages if s <= low)
        if start not in self.memories:
            self.memories[start] = Memory(start, self.storages[start], size)
        memory = self.memories[start]
        return memory if memory.size == size else self.say("sees elements of another size")

    def say(self, what):
        frame, where = sys._getframe(), []
        while frame := frame.f_back:
            file = frame.f_code.co_filename
            if not file.startswith(SILENT):
                where.append(f"{Path(file).name}:{frame.f_lineno}")
        self.faults.add(f"{' < '.join(where[:4])}: {what}")


def _bits(handle):
    return handle.data.view(f"u{handle.data.itemsize}")


def _extent(t):
    return (1 + sum((n - 1) * s for n, s in zip(t.shape, t.stride(), strict=True))) * t.element_size()
