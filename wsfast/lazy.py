"""Arrays of many networks whose numbers are made when NumPy asks for them."""

from collections.abc import Callable
from typing import Any

import numpy as np


class Lazy:
    """One parameter of N networks: float32 [N, *shape], for sets that are larger than memory.

    read(rows) gives the numbers of some networks, [len(rows), *shape]. Indexing with an array, a mask or a slice gives
    another Lazy and reads nothing; with an integer, that network's array.
    """

    dtype = np.dtype(np.float32)

    def __init__(self, read: Callable[[np.ndarray], np.ndarray], shape: tuple[int, ...], rows: np.ndarray) -> None:
        self._read, self._rows = read, rows
        self.shape = (len(rows), *shape)

    @property
    def ndim(self) -> int:
        return len(self.shape)

    @property
    def nbytes(self) -> int:
        return int(np.prod(self.shape, dtype=np.int64)) * self.dtype.itemsize

    def __len__(self) -> int:
        return len(self._rows)

    def __getitem__(self, key: Any) -> Any:
        rows = self._rows[key]
        if np.ndim(rows) == 0:
            return self._read(rows[None])[0]
        return Lazy(self._read, self.shape[1:], rows)

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> np.ndarray:
        if copy is False:
            raise ValueError("these numbers are read into a new array: copy=False cannot be met")
        out = self._read(self._rows)
        return out if dtype is None else out.astype(dtype, copy=False)
