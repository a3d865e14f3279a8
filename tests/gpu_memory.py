"""Memory of an emulated GPU, every access watched.

Accesses must be inside an argument of the launch or the shared memory, at a multiple of their size. What a warp reads
that another one writes between the same two barriers is all ones, a NaN; two warps, or two lanes, must not write
different numbers there.
"""

import numpy as np

LANES = 32
MANY, EQUAL = 63, 62  # stand for several warps, and for several that wrote the same
NEAR = 4096  # bytes: an access so far outside is told to be of that memory


class Fault(Exception):
    """What a GPU would not do, or not always in the same way."""


class Memory:
    """A piece of memory. wrote, read: of every `grain` bytes, when it was touched last and by which warp."""

    def __init__(self, name: str, base: int, data: np.ndarray, grain: int) -> None:
        room = -(-len(data) // 16) * 16
        self.name, self.base, self.data, self.size, self.grain = name, base, data, len(data), grain
        self.whole = data if room == len(data) else np.pad(data, (0, room - len(data)))
        self.views = {n: self.whole.view(f"u{n}") for n in (1, 2, 4, 8)}
        self.wrote, self.read = np.full(room // grain, -1), np.full(room // grain, -1)

    def close(self) -> None:
        """What was written goes where it belongs."""
        if self.whole is not self.data:
            self.data[:] = self.whole[: self.size]

    def load(self, at: np.ndarray, size: int, count: int, warp: int, now: int) -> list[np.ndarray]:
        """`count` numbers of `size` bytes from every byte of `at`; now: barriers that the program has passed."""
        places, mine = self._places(at, size * count), now * 64 + warp
        w, r = self.wrote[places], self.read[places]
        others = (w >> 6 == now) & (w != mine) & (w & 63 != EQUAL)
        self.read[places] = np.where((r >> 6 == now) & (r != mine), now * 64 + MANY, mine)
        found = [self.views[size][at // size + k] for k in range(count)]
        if others.any():
            torn = others.reshape(len(at), -1).any(1)
            found = [np.where(torn, np.iinfo(f.dtype).max, f) for f in found]
        return found

    def store(self, at: np.ndarray, values: list[np.ndarray], warp: int, now: int) -> None:
        """One array of numbers for every lane of `at`, one after another."""
        size = values[0].dtype.itemsize
        view, places, mine = self.views[size], self._places(at, size * len(values)), now * 64 + warp
        w = self.wrote[places]
        same = np.all([_alike(view[at // size + k], v) for k, v in enumerate(values)], axis=0)
        twice = (w >> 6 == now) & (w != mine)
        if (twice & ~np.repeat(same, len(places) // len(at))).any():
            raise Fault(f"warps write different numbers to bytes {at.min()}..{at.max()} of {self.name}")
        self.wrote[places] = np.where(twice, now * 64 + EQUAL, mine)
        order = np.argsort(at, kind="stable")
        again = at[order][1:] == at[order][:-1]
        for k, v in enumerate(values):
            if (again & ~_alike(v[order][1:], v[order][:-1])).any():
                raise Fault(f"lanes write different numbers to bytes {at.min()}..{at.max()} of {self.name}")
            view[at // size + k] = v

    def _places(self, at: np.ndarray, size: int) -> np.ndarray:
        return (at[:, None] + np.arange(0, max(size, self.grain), self.grain)).ravel() // self.grain


def _alike(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Equal bits, or NaNs both: which one comes out of a sum is nobody's choice."""
    same = a == b
    if a.dtype == np.uint32 and not same.all():
        same |= np.isnan(a.view(np.float32)) & np.isnan(b.view(np.float32))
    return same


def find(memories: list[Memory], addresses: np.ndarray, size: int) -> tuple[Memory, np.ndarray]:
    """(the memory that holds `size` bytes at every address, the addresses in it)."""
    low, high = int(addresses.min()), int(addresses.max()) + size
    if (addresses % addresses.dtype.type(size)).any():
        raise Fault(f"{size} bytes at an address that is no multiple of it")
    for memory in memories:
        if memory.base <= low and high <= memory.base + memory.size:
            return memory, addresses.astype(np.int64) - memory.base
    away = [max(m.base - low, low - m.base - m.size, 0) for m in memories]
    if not away or min(away) > NEAR:
        raise Fault(f"bytes {low:#x}..{high:#x} are of no argument")
    near = memories[int(np.argmin(away))]
    raise Fault(f"bytes {low - near.base}..{high - near.base} of {near.name}, which has {near.size}")
