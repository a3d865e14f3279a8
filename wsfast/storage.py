"""Weight sets on disk: a folder with a manifest and shards of stacked parameters, read only where they are touched.

A shard is a safetensors file: every parameter float32 [n, *shape], and under `record/` one row a network of its labels
and records. The manifest is written last, so a folder without one is not a set.
"""

import hashlib
import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save as to_bytes

from . import manifest
from .declaration import Network
from .files import writable_folder, write_whole
from .lazy import Lazy
from .manifest import Manifest, Shard
from .weights import WeightSet

SHARD = 256 << 20  # bytes of parameters in a shard, at least one network
PARTS = 100  # shards of a generated set, where it has so many networks: what an interrupted run loses at most
RECORD = "record/"
RECORDED = ("F32", "F64", "I64")  # types of records


@dataclass(frozen=True)
class Stacked:
    """Reads parameter `name` across shards. starts: the set's network each shard begins with; parts: its slice of each.

    A copy in another process opens the files there, each when it is read first.
    """

    name: str
    files: Sequence[Path]
    starts: np.ndarray
    shape: tuple[int, ...]
    parts: dict[int, Any]

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "parts": {}}

    def __call__(self, rows: np.ndarray) -> np.ndarray:
        out = np.empty((len(rows), *self.shape), np.float32)
        at = 0
        for shard, first, count in self._runs(rows):
            if shard not in self.parts:
                self.parts[shard] = safe_open(self.files[shard], framework="numpy").get_slice(self.name)
            out[at : at + count] = self.parts[shard][first : first + count]
            at += count
        return out

    def _runs(self, rows: np.ndarray) -> Iterator[tuple[int, int, int]]:
        """(shard, first row in it, rows) of neighbours on disk."""
        shards = np.searchsorted(self.starts, rows, side="right") - 1
        breaks = np.flatnonzero((np.diff(rows) != 1) | (np.diff(shards) != 0)) + 1
        for i, j in zip([0, *breaks], [*breaks, len(rows)], strict=True):
            if i < j:
                yield int(shards[i]), int(rows[i] - self.starts[shards[i]]), int(j - i)


def save(zoo: WeightSet, folder: str | Path) -> Path:
    """Write a set into a new or empty folder; returns it. ValueError where the folder already holds one."""
    if not len(zoo):
        raise ValueError("save: the set holds no network")
    try:
        json.dumps(zoo.info)
    except (TypeError, ValueError) as error:
        raise ValueError(f"save: the set's info holds what JSON cannot: {error}") from error
    folder = writable_folder(folder)
    each = networks_per_shard(zoo.nbytes // len(zoo))
    shards: list[Shard] = []
    with locked("save", folder):
        if (folder / manifest.FILE).exists():
            raise ValueError(f"save: {folder} already holds a weight set (choose another folder)")
        for k, first in enumerate(range(0, len(zoo), each)):
            part = zoo[first : first + each]
            records = {"label": part.labels, "repeat": part.repeats, **part.records}
            shards.append(write_shard(folder, k, part.parameters, records))
        Manifest(zoo.network, tuple(zoo.task_names), len(zoo), zoo.info, None, tuple(shards)).write(folder)
    return folder


@contextmanager
def locked(op: str, folder: Path) -> Iterator[None]:
    """One writer at a time has a folder; the operating system frees it when a process dies."""
    try:
        import fcntl
    except ImportError as error:
        raise OSError(f"{op}: weight sets are written under POSIX file locks, which this system lacks") from error
    with (folder / ".lock").open("w") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise OSError(f"{op}: another process is writing into {folder} (choose another folder)") from error
        yield


def networks_per_shard(size: int, networks: int | None = None) -> int:
    """size: bytes of one network's parameters; networks: of the whole set, where it is generated shard by shard."""
    most = max(1, SHARD // size)
    return most if networks is None else min(most, -(-networks // PARTS))


def write_shard(folder: Path, k: int, parameters: Mapping[str, Any], records: Mapping[str, np.ndarray]) -> Shard:
    """Write shard k, whole or not at all; returns its entry in the manifest."""
    arrays = {name: np.ascontiguousarray(array, np.float32) for name, array in parameters.items()}
    arrays |= {RECORD + name: np.ascontiguousarray(array) for name, array in records.items()}
    content, name = to_bytes(arrays), f"shard-{k:05}.safetensors"
    write_whole(folder / name, content)
    return Shard(name, len(records["label"]), len(content), hashlib.sha256(content).hexdigest())


def load(folder: str | Path, partial: bool = False) -> WeightSet:
    """The set in a folder; parameters stay on disk until they are used. ValueError that names what is wrong with it.

    partial: take what an interrupted generate has finished.
    """
    folder = Path(folder).expanduser()
    held = manifest.read(folder)
    network = held.network
    shards = [open_shard(folder, network, entry) for entry in held.shards]
    if not partial and held.held < held.networks:
        raise ValueError(
            f"{folder} holds {held.held} of its {held.networks} networks: generating them was interrupted "
            "(the same generate with the same out goes on with it)"
        )
    if not shards:
        raise ValueError(f"{folder} holds no finished shard yet")
    starts = np.cumsum([0, *(entry.networks for entry in held.shards)])
    rows = np.arange(held.held)
    files = [(folder / entry.file).resolve() for entry in held.shards]
    parameters = {}
    for p in network.parameters:
        parts = dict(enumerate(s.get_slice(p.name) for s in shards))
        parameters[p.name] = Lazy(Stacked(p.name, files, starts[:-1], p.shape, parts), p.shape, rows)
    kinds = [_records(shard) for shard in shards]
    for entry, kind in zip(held.shards, kinds, strict=True):
        if kind != kinds[0]:
            raise ValueError(f"{folder / entry.file} has other records than {held.shards[0].file}: {kind}, {kinds[0]}")
    records = {n: np.concatenate([s.get_tensor(RECORD + n) for s in shards]) for n in kinds[0]}
    labels, repeats = records.pop("label"), records.pop("repeat")
    return WeightSet(
        network,
        parameters,  # type: ignore[arg-type]  # Lazy stands for an array
        labels,
        repeats,
        held.task_names,
        records,
        {**held.info, **(held.plan or {})},
    )


def _records(shard: Any) -> dict[str, tuple[str, tuple[int, ...]]]:
    """Every record's type and shape of one network's."""
    names = sorted(shard.keys())
    parts = {n.removeprefix(RECORD): shard.get_slice(n) for n in names if n.startswith(RECORD)}
    return {name: (part.get_dtype(), tuple(part.get_shape()[1:])) for name, part in parts.items()}


def open_shard(folder: Path, network: Network, entry: Shard) -> Any:
    """An open shard whose size, names, types and shapes are those declared."""
    path = folder / entry.file
    if not path.is_file():
        raise ValueError(f"{folder}: {entry.file} is missing")
    if path.stat().st_size != entry.bytes:
        raise ValueError(f"{path} is damaged: {path.stat().st_size:,} bytes, its manifest says {entry.bytes:,}")
    try:
        shard = safe_open(path, framework="numpy")
    except SafetensorError as error:
        raise ValueError(f"{path} is damaged: {error}") from error
    held = {name: shard.get_slice(name) for name in shard.keys()}  # noqa: SIM118  # no iterator of its own
    wanted = {p.name: ("F32", p.shape) for p in network.parameters}
    wanted |= {RECORD + name: ("I64", ()) for name in ("label", "repeat")}
    for name, (kind, shape) in wanted.items():
        if name not in held:
            raise ValueError(f"{path} has no {name}, which {network.name} declares")
        found = held[name].get_dtype(), tuple(held[name].get_shape())
        if found != (kind, (entry.networks, *shape)):
            raise ValueError(f"{path}: {name} is {found}, its manifest says {(kind, (entry.networks, *shape))}")
    for name in held.keys() - wanted.keys():
        kind, shape = held[name].get_dtype(), held[name].get_shape()
        if not name.startswith(RECORD) or kind not in RECORDED or shape[:1] != [entry.networks]:
            raise ValueError(f"{path} holds {name}, {kind} {shape}: neither a parameter nor a record of its networks")
    return shard
