"""Run compiled calls side by side: they release the GIL, so plain threads use every core."""

import os
from collections.abc import Callable, Iterable, Iterator
from queue import SimpleQueue
from threading import Lock, Semaphore, Thread
from typing import Any

AHEAD = 2  # results a thread may be ahead of the reader


def cores() -> int:
    """Cores the system gives this process."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def available() -> int:
    """Cores this process may use: OMP_NUM_THREADS at most, where it is set, as in a task that shares its machine."""
    told = os.environ.get("OMP_NUM_THREADS", "")
    return min(cores(), int(told)) if told.isdecimal() and int(told) else cores()


def unordered(function: Callable[[Any], Any], items: Iterable[Any], threads: int | None = None) -> Iterator[Any]:
    """(item, function(item)) as each is done, at most AHEAD calls a thread ahead of the reader.

    Leaving the loop early (an exception, Ctrl-C) starts no further call and waits for those that run. The threads fetch
    their own items: a reader that hands them out is late by a thread switch, a tenth of a small network's time.
    """
    threads = threads or available()
    source, turn, room, left = iter(items), Lock(), Semaphore(AHEAD * threads), False
    nothing = object()
    results: SimpleQueue = SimpleQueue()  # (item, result) or an exception; None from a thread that ends

    def work() -> None:
        try:
            while room.acquire() and not left:
                with turn:
                    item = next(source, nothing)
                if item is nothing:
                    break
                results.put((item, function(item)))
        except BaseException as error:  # raised in the reader's thread
            results.put(error)
        finally:
            results.put(None)

    workers = [Thread(target=work, daemon=True) for _ in range(threads)]
    for worker in workers:
        worker.start()
    try:
        running = threads
        while running:
            result = results.get()
            if result is None:
                running -= 1
            elif isinstance(result, BaseException):
                raise result
            else:
                yield result
                room.release()
    finally:
        left = True
        room.release(threads)
        for worker in workers:
            worker.join()


def each(function: Callable[[Any], Any], items: Iterable[Any], threads: int | None = None) -> None:
    """Call function on every item."""
    for _ in unordered(function, items, threads):
        pass
