"""A pretended GPU: the host's side of device="cuda" on a machine without one, kernels in Triton's interpreter.

A tensor on it is CPU memory that says it lies on cuda:0 and behaves so: no operation mixes it with a CPU tensor, NumPy
cannot read it, a kernel takes no other. While a thread captures a graph its kernels are noted, not run, and it may do
nothing else; replaying runs them. Streams and events keep the order in which they are used: nothing overlaps.
"""

import threading
from contextlib import contextmanager
from types import SimpleNamespace

import torch
from torch.utils._pytree import tree_flatten, tree_map
from triton.runtime import interpreter

CUDA = torch.device("cuda", 0)
FACTORIES = ("empty", "zeros", "ones", "arange", "tensor", "as_tensor")
QUIET = ("__get__", "view")  # compute nothing: allowed while a graph is captured
COPIES = {"copy_", "set_"}  # may cross devices


class _Thread(threading.local):
    graph = None  # that this thread captures


THREAD = _Thread()


def _wants(device):
    return device is not None and torch.device(device).type == "cuda"


class Card(torch.Tensor):
    """A tensor on the pretended GPU."""

    device = property(lambda self: CUDA)
    is_cuda = property(lambda self: True)

    @classmethod
    def __torch_function__(cls, function, types, args=(), kwargs=None):
        kwargs, name = dict(kwargs or {}), function.__name__
        if name not in QUIET:
            _not_captured(name)
        tensors = [t for t in tree_flatten((args, kwargs))[0] if isinstance(t, torch.Tensor)]
        apart = any(_on_host(t) for t in tensors)
        if name == "__getitem__":  # a tensor on the GPU takes indices from the host
            apart = _on_host(args[0])
        elif name == "__setitem__":  # by slices it is a copy
            apart = _on_host(args[2]) and any(isinstance(t, torch.Tensor) for t in tree_flatten(args[1])[0])
        if apart and name not in COPIES:
            raise RuntimeError(f"Expected all tensors to be on the same device, in {name}")
        here = not ("device" in kwargs and not _wants(kwargs["device"]))
        if "device" in kwargs:
            kwargs["device"] = "cpu"
        with torch._C.DisableTorchFunctionSubclass():
            result = function(*args, **kwargs)
        known = {id(t) for t in tensors}
        return tree_map(lambda t: t if id(t) in known or not here else _card(t), result)

    def to(self, *args, **kwargs):
        wanted = [a for a in (*args, *kwargs.values()) if isinstance(a, (str, torch.device))]
        dtypes = [a for a in (*args, *kwargs.values()) if isinstance(a, torch.dtype)]
        result = self if not dtypes else self.type(dtypes[0])
        return result if not wanted or _wants(wanted[0]) else result.cpu()

    def cpu(self):
        _not_captured("a copy to the host")
        with torch._C.DisableTorchFunctionSubclass():
            return self.as_subclass(torch.Tensor).clone()

    def numpy(self, *args, **kwargs):
        raise TypeError("can't convert cuda:0 device type tensor to numpy")

    __array__ = numpy


def _not_captured(what):
    if THREAD.graph is not None:
        raise AssertionError(f"{what} while a graph is captured")


def _on_host(value):
    """Whether it is a tensor that no operation of the GPU reads; single numbers are."""
    return isinstance(value, torch.Tensor) and not isinstance(value, Card) and value.dim() > 0


def _card(value):
    return value.as_subclass(Card) if isinstance(value, torch.Tensor) and not isinstance(value, Card) else value


class Event:
    def __init__(self, **options):
        self.recorded = False

    def record(self, stream=None):
        self.recorded = True

    def synchronize(self):
        assert self.recorded, "an event that was never recorded"


class Stream:
    def __init__(self, **options):
        pass

    def wait_event(self, event):
        event.synchronize()

    def synchronize(self):
        _not_captured("waiting for a stream")


class Graph:
    def __init__(self):
        self.launches = None

    def replay(self):
        for launch in self.launches:
            launch()


@contextmanager
def _capture(graph, capture_error_mode="global"):
    graph.launches, THREAD.graph = [], graph
    try:
        yield
    finally:
        THREAD.graph = None


@contextmanager
def _on(stream):
    yield


def pretend(monkeypatch, free=2**33):
    """From now on there is a GPU with so many free bytes. Returns how many launches and graphs it has seen."""
    seen = SimpleNamespace(launches=0, graphs=0)

    def _wrapped(function):
        def factory(*args, device=None, pin_memory=False, **kwargs):
            if _wants(device):
                return _card(function(*args, **kwargs))
            return function(*args, device=device, **kwargs)

        return factory

    for name in FACTORIES:
        monkeypatch.setattr(torch, name, _wrapped(getattr(torch, name)))
    to = torch.Tensor.to

    def _to(self, *args, **kwargs):
        if not isinstance(self, Card) and any(
            isinstance(a, (str, torch.device)) and _wants(a) for a in (*args, *kwargs.values())
        ):
            rest = [a for a in args if isinstance(a, torch.dtype)]
            return _card((to(self, *rest) if rest else self).clone())
        return to(self, *args, **kwargs)

    monkeypatch.setattr(torch.Tensor, "to", _to)
    launch = interpreter.GridExecutor.__call__

    def _launch(self, *args, **kwargs):
        for value in (*args, *kwargs.values()):
            assert not isinstance(value, torch.Tensor) or isinstance(value, Card), "a kernel is given a CPU tensor"
        seen.launches += 1
        if THREAD.graph is None:
            launch(self, *args, **kwargs)
        else:
            THREAD.graph.launches.append(lambda: launch(self, *args, **kwargs))
            seen.graphs += len(THREAD.graph.launches) == 1

    monkeypatch.setattr(interpreter.GridExecutor, "__call__", _launch)
    fakes = {
        "is_available": lambda: True, "mem_get_info": lambda device=None: (free, free),
        "memory_reserved": lambda device=None: 0, "memory_allocated": lambda device=None: 0,
        "empty_cache": lambda: None, "synchronize": lambda device=None: Stream().synchronize(),
        "current_stream": lambda device=None: Stream(), "set_device": lambda device: None, "stream": _on,
        "get_device_name": lambda device=None: "a pretended GPU", "Stream": Stream, "Event": Event, "CUDAGraph": Graph,
        "graph": _capture,
    }  # fmt: skip
    for name, fake in fakes.items():
        monkeypatch.setattr(torch.cuda, name, fake)
    return seen
