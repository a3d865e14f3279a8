"""Weight sets on disk: a folder with a manifest and shards of stacked parameters, read only where they are touched.

A shard is a safetensors file: every parameter float32 [n, *shape], and under `record/` one row a network of its labels
and records. The manifest is written last, so a folder without one is not a set.
"""

import hashlib
import json
import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save as to_bytes

from .files import writable_folder, write_whole
from .network import Network
from .weights import WeightSet

MANIFEST, SCHEMA = "manifest.json", 1
SHARD = 256 << 20  # bytes of parameters in a shard, at least one network
RECORD = "record/"
TYPES = {"F32": np.float32, "F64": np.float64, "I64": np.int64}


class Stacked:
    """One parameter of many networks across shards: float32 [N, ...], read when NumPy asks for the numbers.

    Indexing with an array or a slice gives another Stacked and reads nothing; with an integer, that network's array.
    """

    def __init__(self, parts: Sequence[Any], starts: np.ndarray, shape: tuple[int, ...], rows: np.ndarray):
        self._parts, self._starts, self._rows = parts, starts, rows
        self.shape = (len(rows), *shape)

    dtype = np.dtype(np.float32)

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
            return np.asarray(Stacked(self._parts, self._starts, self.shape[1:], rows[None]))[0]
        return Stacked(self._parts, self._starts, self.shape[1:], rows)

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> np.ndarray:
        if copy is False:
            raise ValueError("a stored parameter is read into a new array: copy=False cannot be met")
        out = np.empty(self.shape, np.float32)
        at = 0
        for shard, first, count in self._runs():
            out[at : at + count] = self._parts[shard][first : first + count]
            at += count
        return out if dtype is None else out.astype(dtype, copy=False)

    def _runs(self) -> Iterator[tuple[int, int, int]]:
        """(shard, first row in it, rows) of neighbours on disk."""
        shards = np.searchsorted(self._starts, self._rows, side="right") - 1
        breaks = np.flatnonzero((np.diff(self._rows) != 1) | (np.diff(shards) != 0)) + 1
        for i, j in zip([0, *breaks], [*breaks, len(self._rows)], strict=True):
            if i < j:
                yield int(shards[i]), int(self._rows[i] - self._starts[shards[i]]), int(j - i)


def save(zoo: WeightSet, folder: str | Path) -> Path:
    """Write a set into a new or empty folder; returns it. ValueError where the folder already holds one."""
    if not len(zoo):
        raise ValueError("save: the set holds no network")
    folder = writable_folder(folder)
    if (folder / MANIFEST).exists():
        raise ValueError(f"save: {folder} already holds a weight set (choose another folder)")
    each = networks_per_shard(zoo.nbytes // len(zoo))
    shards = []
    for k, first in enumerate(range(0, len(zoo), each)):
        part = zoo[first : first + each]
        records = {"label": part.labels, "repeat": part.repeats, **part.records}
        shards.append(write_shard(folder, k, part.parameters, records))
    write_manifest(folder, zoo.network, zoo.task_names, len(zoo), zoo.info, shards)
    return folder


def networks_per_shard(size: int) -> int:
    """size: bytes of one network's parameters."""
    return max(1, SHARD // size)


def write_shard(
    folder: Path, k: int, parameters: Mapping[str, Any], records: Mapping[str, np.ndarray]
) -> dict[str, Any]:
    """Write shard k, whole or not at all; returns its entry in the manifest."""
    arrays = {name: np.ascontiguousarray(array, np.float32) for name, array in parameters.items()}
    arrays |= {RECORD + name: np.ascontiguousarray(array) for name, array in records.items()}
    content, name = to_bytes(arrays), f"shard-{k:05}.safetensors"
    write_whole(folder / name, content)
    networks, sha256 = len(records["label"]), hashlib.sha256(content).hexdigest()
    return {"file": name, "networks": networks, "bytes": len(content), "sha256": sha256}


def write_manifest(
    folder: Path,
    network: Network,
    task_names: Sequence[str],
    networks: int,
    info: Mapping[str, Any],
    shards: Sequence[dict[str, Any]],
    plan: Mapping[str, Any] | None = None,
) -> None:
    """networks: how many the whole set has; plan: what they are made from, where they are being made."""
    manifest = {
        "schema": SCHEMA,
        "network": network.to_dict(),
        "task_names": list(task_names),
        "networks": networks,
        "info": info,
        "plan": plan,
        "shards": shards,
    }
    write_whole(folder / MANIFEST, json.dumps(manifest, indent=1) + "\n")


def load(folder: str | Path, partial: bool = False) -> WeightSet:
    """The set in a folder; parameters stay on disk until they are used. ValueError that names what is wrong with it.

    partial: take what an interrupted generate has finished.
    """
    folder = Path(folder).expanduser()
    manifest = read_manifest(folder)
    network, entries = Network.from_dict(manifest["network"]), manifest["shards"]
    count = sum(entry["networks"] for entry in entries)
    shards = [open_shard(folder, network, entry) for entry in entries]
    if not partial and count < manifest["networks"]:
        raise ValueError(
            f"{folder} holds {count} of its {manifest['networks']} networks: generating them was interrupted "
            "(the same generate with the same out goes on with it)"
        )
    if not entries:
        raise ValueError(f"{folder} holds no finished shard yet")
    starts = np.cumsum([0, *(entry["networks"] for entry in entries)])
    rows = np.arange(count)
    parameters = {
        p.name: Stacked([s.get_slice(p.name) for s in shards], starts[:-1], p.shape, rows) for p in network.parameters
    }
    names = [n.removeprefix(RECORD) for n in sorted(shards[0].keys()) if n.startswith(RECORD)]
    records = {n: np.concatenate([s.get_tensor(RECORD + n) for s in shards]) for n in names}
    labels, repeats = records.pop("label"), records.pop("repeat")
    return WeightSet(
        network,
        parameters,  # type: ignore[arg-type]  # Stacked stands for an array
        labels,
        repeats,
        tuple(manifest["task_names"]),
        records,
        manifest["info"],
    )


def read_manifest(folder: Path) -> dict[str, Any]:
    path = folder / MANIFEST
    if not path.is_file():
        raise ValueError(f"{folder} holds no weight set: it has no {MANIFEST}")
    try:
        manifest = json.loads(path.read_text())
    except ValueError as error:
        raise ValueError(f"{path} is damaged: {error}") from error
    schema = manifest.get("schema") if isinstance(manifest, dict) else None
    if schema != SCHEMA:
        raise ValueError(f"{path}: this version reads schema {SCHEMA}, the file has {schema!r} (update wsfast)")
    return manifest


def open_shard(folder: Path, network: Network, entry: dict[str, Any]) -> Any:
    """An open shard whose size, names, types and shapes are those declared."""
    name, count = entry["file"], entry["networks"]
    if not re.fullmatch(r"shard-\d{5}\.safetensors", name):
        raise ValueError(f"{folder / MANIFEST} names a shard {name!r}, want shard-00000.safetensors and so on")
    path = folder / name
    if not path.is_file():
        raise ValueError(f"{folder}: {name} is missing")
    if path.stat().st_size != entry["bytes"]:
        raise ValueError(f"{path} is damaged: {path.stat().st_size:,} bytes, its manifest says {entry['bytes']:,}")
    try:
        shard = safe_open(path, framework="numpy")
    except SafetensorError as error:
        raise ValueError(f"{path} is damaged: {error}") from error
    held = set(shard.keys())
    for p in network.parameters:
        if p.name not in held:
            raise ValueError(f"{path} has no {p.name}, which {network.name} declares")
        part = shard.get_slice(p.name)
        shape, kind = tuple(part.get_shape()), TYPES.get(part.get_dtype())
        if shape != (count, *p.shape) or kind is not np.float32:
            raise ValueError(
                f"{path}: {p.name} is {part.get_dtype()} {shape}, its manifest says F32 {(count, *p.shape)}"
            )
    for n in ("label", "repeat"):
        if RECORD + n not in held or tuple(shard.get_slice(RECORD + n).get_shape()) != (count,):
            raise ValueError(f"{path} has no {n} for each of its {count} networks")
    return shard
