"""More networks than fit the device: trained chunk by chunk, a finished one copied to the host meanwhile."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from threading import Thread

import numpy as np
import torch

HEADROOM = 0.85  # of the free memory
TOGETHER = (
    2**35
)  # bytes of device memory a chunk of over 256 networks takes at most: the last chunk's copy hides nothing
STAGE = 2**28  # bytes of a pinned buffer
HOST_MEMORY = 2**31  # bytes for a chunk in the interpreter


def free_memory(device: torch.device | None = None) -> int:
    """Bytes of a GPU that nobody uses, those among them that torch keeps for later."""
    kept = torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
    return torch.cuda.mem_get_info(device)[0] + kept


@dataclass
class Done:
    """Networks first .. first + n of the jobs, on the host: parameters [n, P], curves [n, epochs], records [n, 4]."""

    first: int
    parameters: np.ndarray
    curves: np.ndarray
    records: np.ndarray


def fitting(n: int, each: int, device: str) -> int:
    """How many of n networks, `each` bytes of device memory a network, a chunk has: what fits the free memory."""
    free = int(free_memory() * HEADROOM) if device == "cuda" else HOST_MEMORY
    chunk = max(1, min(free // each, max(256, TOGETHER // each)))
    return max(1, -(-n // max(1, -(-n // chunk))))  # chunks of one size


def in_chunks(op: str, train: Callable[[slice], list[torch.Tensor]], n: int, each: int, device: str,
              chunk: int | None = None, into: np.ndarray | None = None) -> Iterator[Done]:  # fmt: skip
    """n networks in order, `each` bytes of device memory a network, as they are done.

    train(some) gives parameters, curves and records of networks some.start .. some.stop on the device. chunk: networks
    at a time, what fits the free memory where None; halved when memory runs out. into: float32 [n, P] to put the
    parameters in. RuntimeError names the networks in work when the device fails, or is too small for one; the chunk
    before comes first, as it does before a KeyboardInterrupt.
    """
    chunk = chunk or fitting(n, each, device)
    first, waiting = 0, None
    while first < n:
        some = slice(first, min(first + chunk, n))
        try:
            done = _Copy(op, first, train(some), into)
        except (RuntimeError, KeyboardInterrupt) as error:
            if isinstance(error, torch.OutOfMemoryError) and chunk > 1:
                chunk //= 2
                torch.cuda.empty_cache()
                continue
            if waiting is not None:
                yield waiting.wait()
            if isinstance(error, RuntimeError):
                raise _failed(op, some.start, some.stop - some.start, error) from error
            raise
        if waiting is not None:
            yield waiting.wait()
        waiting, first = done, some.stop
    if waiting is not None:
        yield waiting.wait()


def _failed(op: str, first: int, n: int, error: RuntimeError) -> RuntimeError:
    return RuntimeError(f"{op}: networks {first}..{first + n - 1}: {error}")


class _Copy:
    """A finished chunk on its way to the host while the device goes on: by a thread, through two pinned buffers."""

    def __init__(self, op: str, first: int, tensors: list[torch.Tensor], into: np.ndarray | None) -> None:
        self.op, self.first, self.tensors = op, first, tensors
        self.error: BaseException | None = None
        n = len(tensors[0])
        parameters = np.empty(tensors[0].shape, np.float32) if into is None else into[first : first + n]
        self.host = [parameters, *(np.empty(t.shape) for t in tensors[1:])]
        self.ready = None
        if tensors[0].is_cuda:
            self.ready = torch.cuda.Event()
            self.ready.record()
        self.thread = Thread(target=self._run, daemon=True)
        self.thread.start()

    def _run(self) -> None:
        try:
            for host, tensor in zip(self.host, self.tensors, strict=True):
                self._fetch(host, tensor)
        except BaseException as error:  # raised by wait, in the caller's thread
            self.error = error

    def _fetch(self, host: np.ndarray, tensor: torch.Tensor) -> None:
        if self.ready is None:
            host[...] = tensor.numpy()
            return
        torch.cuda.set_device(tensor.device)
        rows = min(max(1, STAGE // max(1, tensor[0].nbytes)), len(tensor))
        stream = torch.cuda.Stream(priority=-1)  # of another pool than the one that a graph may be captured on
        stream.wait_event(self.ready)
        stages = [torch.empty(rows, *tensor.shape[1:], dtype=tensor.dtype, pin_memory=True) for _ in range(2)]
        coming: list[tuple[slice, torch.Tensor, torch.cuda.Event]] = []
        with torch.cuda.stream(stream):
            for i, start in enumerate(range(0, len(tensor), rows)):
                part = slice(start, min(start + rows, len(tensor)))
                stage = stages[i % 2][: part.stop - start]
                stage.copy_(tensor[part], non_blocking=True)
                event = torch.cuda.Event()
                event.record()
                coming.append((part, stage, event))
                if len(coming) == 2:
                    self._settle(host, *coming.pop(0))
            for one in coming:
                self._settle(host, *one)

    @staticmethod
    def _settle(host: np.ndarray, part: slice, stage: torch.Tensor, event: torch.cuda.Event) -> None:
        event.synchronize()
        np.copyto(host[part], stage.numpy())

    def wait(self) -> Done:
        self.thread.join()
        self.tensors = []
        if isinstance(self.error, RuntimeError):  # also of a kernel that was still running when the copy was asked for
            raise _failed(self.op, self.first, len(self.host[0]), self.error) from self.error
        if self.error is not None:
            raise self.error
        return Done(self.first, *self.host)
