"""numba's flags in one place, and where compiled code is kept."""

import hashlib
import os
import sys
from pathlib import Path

import llvmlite
import numba
from numba.core import config

HERE = Path(__file__).parent


def _cache_folder() -> str:
    """A folder named after the sources of all kernels.

    numba checks only the file of the function it caches; a change in a file that it inlines would go unseen.
    """
    sources = b"".join(file.read_bytes() for file in sorted(HERE.glob("*.py")))
    stamp = hashlib.sha256(sources + f"{numba.__version__} {llvmlite.__version__} {sys.version}".encode())
    home = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    return str(home / "wsfast" / f"numba-{stamp.hexdigest()[:16]}")


CACHE = config.CACHE_DIR or _cache_folder()


def jit(function, **options):
    """Compile without the GIL (threads run networks side by side) and keep the machine code on disk.

    No fastmath: it would let the compiler reorder sums. A cache folder that cannot be written costs a compilation in
    every process, nothing else: numba says so itself.
    """
    before, config.CACHE_DIR = config.CACHE_DIR, CACHE
    try:
        return numba.njit(function, nogil=True, cache=True, error_model="numpy", **options)
    except RuntimeError:  # numba's word for "no folder to cache in"
        return numba.njit(function, nogil=True, error_model="numpy", **options)
    finally:
        config.CACHE_DIR = before


def leaf(function):
    """jit without reference counts, atomic additions that took a fifth of a small network's step.

    For functions that create no array, return none, and call none that returns one: such a reference would be lost.
    """
    return jit(function, _nrt=False)
