"""Run compiled calls side by side: they release the GIL, so plain threads use every core."""

import os
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from typing import Any


def available() -> int:
    """Cores this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def unordered(function: Callable[[Any], Any], items: Iterable[Any], threads: int | None = None) -> Iterator[Any]:
    """(item, function(item)) as each is done, at most two calls a thread ahead of the reader.

    Leaving the loop early (an exception, Ctrl-C) starts no further call and waits for those that run.
    """
    threads = threads or available()
    source = iter(items)
    running: dict[Future, Any] = {}
    with ThreadPoolExecutor(threads) as pool:
        try:
            while True:
                while len(running) < 2 * threads:
                    try:
                        item = next(source)
                    except StopIteration:
                        break
                    running[pool.submit(function, item)] = item
                if not running:
                    return
                for done in wait(running, return_when=FIRST_COMPLETED).done:
                    yield running.pop(done), done.result()
        finally:
            for future in running:
                future.cancel()


def each(function: Callable[[Any], Any], items: Iterable[Any], threads: int | None = None) -> None:
    """Call function on every item."""
    for _ in unordered(function, items, threads):
        pass
