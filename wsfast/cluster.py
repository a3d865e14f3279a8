"""More than one machine: an existing engine, Ray, runs the calls of a list as tasks.

The same functions run there as here, so results have the same bits, as far as a processor of another kind rounds alike.
"""

import logging
import os
import platform
import socket
from collections.abc import Callable, Generator, Iterable
from typing import Any

from .events import emit
from .kernels.numba.threads import AHEAD

ENGINES = ("local", "ray")
RETRIES = 5  # of a task whose worker was lost
SHARES = 4  # tasks a processor, where there is enough to share: the slowest one then keeps few waiting

_address: str | None = None  # of the cluster that this process has connected itself to


def checked(what: str, engine: str, address: str | None) -> bool:
    """Whether it is Ray's work; ValueError for an engine that is not known or an address that has no use."""
    if engine not in ENGINES:
        raise ValueError(f"{what}: engine must be {' or '.join(ENGINES)}, got {engine!r}")
    if address is not None and engine != "ray":
        raise ValueError(f"{what}: address {address!r} belongs to engine 'ray', got engine {engine!r}")
    return engine == "ray"


def connected(address: str | None) -> Any:
    """Ray, connected to the cluster at `address`; where None to the caller's own, else to one started on this machine.

    The connection is kept for later calls and ends with the process, a cluster that was started here too. What workers
    print comes to this process's stderr. ImportError without Ray; ConnectionError where nothing answers; ValueError
    where this process is connected to another cluster.
    """
    global _address
    try:
        import ray
    except ImportError as error:
        raise ImportError("engine 'ray' needs Ray, which is not installed (pip install 'wsfast[ray]')") from error
    if not ray.is_initialized():
        if address is None:
            os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")  # else it would tell its makers about this machine
        else:
            _answers(address)
        ray.init(address or "local", include_dashboard=None if address else False, logging_level=logging.WARNING)
        _address = address
        held = ray.cluster_resources()
        emit("cluster", address=address, nodes=len(ray.nodes()), cpus=held.get("CPU", 0), gpus=held.get("GPU", 0))
    elif address not in (None, _address):
        raise ValueError(f"this process is connected to a Ray cluster already, not to {address} (leave address out)")
    return ray


def _answers(address: str) -> None:
    """ConnectionError where nobody listens at host:port; Ray would try for minutes."""
    host, _, port = address.removeprefix("ray://").rpartition(":")
    if port.isdecimal():
        try:
            socket.create_connection((host, int(port)), timeout=10).close()
        except OSError as error:
            raise ConnectionError(f"no Ray cluster answers at {address}: {error} (start one: ray start)") from error


def processors(address: str | None, device: str = "cpu") -> int:
    """How many tasks the cluster runs side by side: one a processor or GPU. ValueError where it has none."""
    kind = "GPU" if device == "cuda" else "CPU"
    count = int(connected(address).cluster_resources().get(kind, 0))
    if not count:
        raise ValueError(f"the Ray cluster has no {kind} (choose another device, or start a node that has one)")
    return count


def share(address: str | None, thing: Any) -> Any:
    """A reference to pass to tasks in place of a thing: it travels to a machine once, however many tasks take it."""
    return connected(address).put(thing)


def run(
    function: Callable[..., Any],
    calls: Iterable[tuple[Any, tuple[Any, ...]]],
    address: str | None = None,
    device: str = "cpu",
    told: Callable[[Any], str] = str,
) -> Generator[tuple[Any, Any]]:
    """(key, function(*arguments)) of each call (key, arguments), in the order in which they end.

    A task has one processor and one thread, with device "cuda" one GPU; a few a processor are waiting or unread, the
    rest are not begun. A task whose worker is lost is given to another. Leaving the loop early (an exception, Ctrl-C)
    stops those that run. An error of the function is raised as it is; RuntimeError that names the call by told(key)
    where its workers are lost again and again, and where a machine has no wsfast or another version.
    """
    from . import __version__

    ray = connected(address)
    task = ray.remote(num_cpus=1, num_gpus=int(device == "cuda"), max_retries=RETRIES)(_in_task)
    room, calls = AHEAD * processors(address, device), iter(calls)
    running: dict[Any, Any] = {}  # reference -> key
    try:
        while True:
            while len(running) < room and (call := next(calls, None)):
                running[task.remote(__version__, function, *call[1])] = call[0]
            if not running:
                return
            reference = ray.wait(list(running), num_returns=1, fetch_local=False)[0][0]
            key = running.pop(reference)
            try:
                result = ray.get(reference)
            except ray.exceptions.RayTaskError as error:
                raise error.cause from error
            except ray.exceptions.RayError as error:
                lost = type(error).__name__
                raise RuntimeError(f"{told(key)}: given up, workers were lost {RETRIES + 1} times ({lost})") from error
            del reference  # its memory on the cluster is free as soon as the reader lets go of the result
            yield key, result
    finally:
        for reference in running:
            ray.cancel(reference, force=True)


def _in_task(version: str, function: Callable[..., Any], *arguments: Any) -> Any:
    from . import __version__

    if version != __version__:
        raise RuntimeError(f"{platform.node()} has wsfast {__version__}, want {version} as here (install it there)")
    return function(*arguments)


def place(engine: str, address: str | None, device: str) -> Callable[..., Any]:
    """call(function, *arguments): the function's result on a machine that will do the work."""

    def here(function: Callable[..., Any], *arguments: Any) -> Any:
        return function(*arguments)

    def there(function: Callable[..., Any], *arguments: Any) -> Any:
        return next(run(function, [(function.__name__, arguments)], address, device))[1]

    return there if engine == "ray" else here
