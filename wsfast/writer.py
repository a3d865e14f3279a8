"""A weight set on its way to disk: shards as they are finished, and what an earlier run left."""

import json
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from .declaration import Network
from .files import sha256, writable_folder
from .manifest import FILE, Manifest, Shard, read
from .storage import load, locked, networks_per_shard, open_shard, write_shard
from .weights import WeightSet


def begun(folder: Path, network: Network, plan: Mapping[str, Any]) -> Manifest:
    """The manifest of a folder that `generate` has begun to this plan; ValueError with the first difference.

    Networks a shard may differ: another version, or a longer set, may choose another number.
    """
    held = read(folder)
    if held.plan is None:
        raise ValueError(f"generate: {folder} holds a saved set, not one to go on with (choose another out)")
    each = held.plan.get("networks_per_shard")
    if type(each) is not int or each < 1:
        raise ValueError(f"generate: {folder} does not say how many networks a shard has, got {each!r}")
    found, wanted = {"network": held.network, **held.plan}, {"network": network, **json.loads(json.dumps(plan))}
    for key, value in wanted.items():
        if key != "networks_per_shard" and found.get(key) != value:
            said = "" if key in ("network", "tasks_sha256") else f": {found.get(key)!r}, this call has {value!r}"
            raise ValueError(f"generate: {folder} was made with another {key}{said} (choose another out)")
    total = len(held.task_names) * held.plan["repeats"]
    if held.networks != total:
        raise ValueError(f"generate: {folder} is damaged: its manifest has {held.networks} networks, its plan {total}")
    return held


class Writer:
    """Takes finished networks in any order and writes a shard as soon as all of its networks are there.

    plan: what the networks are a function of; a folder made to another plan is refused with the first difference.
    info: of the set; made_by: versions and machine of this run, kept in a list of all runs. done: bool [N], the
    networks on disk; each: networks a shard; started: when training began. `with` frees the folder for other writers.
    """

    def __init__(
        self,
        folder: str | Path,
        network: Network,
        task_names: Sequence[str],
        labels: np.ndarray,
        repeats: np.ndarray,
        plan: Mapping[str, Any],
        info: Mapping[str, Any],
        made_by: Mapping[str, Any],
    ) -> None:
        Manifest(network, tuple(task_names), len(labels), info, plan, ())  # refused now, not after training
        self.folder = writable_folder(folder)
        self.each = networks_per_shard(4 * sum(p.size for p in network.parameters), len(labels))
        self._network, self._task_names = network, task_names
        self._plan = {**json.loads(json.dumps(plan)), "networks_per_shard": self.each}
        self._info, self._made_by, self.started = info, made_by, time.perf_counter()
        self._labels, self._repeats = labels, repeats
        self._waiting: dict[int, dict[int, tuple[np.ndarray, ...]]] = {}  # shard -> network -> its numbers
        self._lock = locked("generate", self.folder)
        self._lock.__enter__()
        self.done = np.zeros(len(labels), bool)
        self._entries: dict[int, Shard] = {}
        self._runs: list[dict[str, Any]] = []
        try:
            for scratch in (*self.folder.glob(".shard-*"), *self.folder.glob(f".{FILE}.*")):
                scratch.unlink()  # half a file of a process that was killed
            if (self.folder / FILE).exists():
                self._go_on()
        except BaseException:
            self.__exit__()
            raise

    def __enter__(self) -> "Writer":
        return self

    def __exit__(self, *_: Any) -> None:
        self._lock.__exit__(None, None, None)

    def _go_on(self) -> None:
        held = begun(self.folder, self._network, self._plan)
        self.each = self._plan["networks_per_shard"] = held.plan["networks_per_shard"]  # type: ignore[index]
        for entry in held.shards:
            path = self.folder / entry.file
            if not path.exists():
                continue  # its networks are trained again
            open_shard(self.folder, self._network, entry)  # refuses a damaged one by name
            if sha256(path) != entry.sha256:
                raise ValueError(
                    f"{path} is damaged: its SHA-256 is not the manifest's (remove it: its networks are trained again)"
                )
            rows = self._rows(entry.number)
            wanted_here = max(0, rows.stop - rows.start)
            if entry.networks != wanted_here:
                raise ValueError(
                    f"generate: {self.folder / entry.file} holds {entry.networks} networks, want {wanted_here} by its "
                    "number (choose another out)"
                )
            self._entries[entry.number] = entry
            self.done[rows] = True
        self._runs = held.info.get("runs", [])

    def _rows(self, shard: int) -> slice:
        return slice(shard * self.each, min((shard + 1) * self.each, len(self._labels)))

    def add(self, networks: np.ndarray, flat: np.ndarray, records: Mapping[str, np.ndarray]) -> None:
        """networks: positions [n]; flat: parameters [n, P] as trained; records: name -> one row a network."""
        self._names = tuple(records)
        for row, i in enumerate(networks.tolist()):
            shard = i // self.each
            waiting = self._waiting.setdefault(shard, {})
            waiting[i] = (flat[row].copy(), *(records[name][row] for name in self._names))
            rows = self._rows(shard)
            if len(waiting) == rows.stop - rows.start:
                self._write(shard, self._waiting.pop(shard))

    def _write(self, shard: int, waiting: dict[int, tuple[np.ndarray, ...]]) -> None:
        rows = self._rows(shard)
        flat, *columns = (np.stack(column) for column in zip(*(waiting[i] for i in sorted(waiting)), strict=True))
        parameters, at = {}, 0
        for p in self._network.parameters:
            parameters[p.name] = flat[:, at : at + p.size].reshape(-1, *p.shape)
            at += p.size
        records = {"label": self._labels[rows], "repeat": self._repeats[rows]}
        records |= dict(zip(self._names, columns, strict=True))
        self._entries[shard] = write_shard(self.folder, shard, parameters, records)
        self.done[rows] = True
        self._note()

    def _note(self) -> None:
        """Write the manifest: what is on disk now, and the runs that made it."""
        seconds = time.perf_counter() - self.started
        networks = int(self.done.sum()) - sum(run["networks"] for run in self._runs)
        runs = [*self._runs, {"networks": networks, "seconds": seconds, **self._made_by}]
        total = sum(run["seconds"] for run in runs)
        times = {"generate_s": total, "networks_per_s": int(self.done.sum()) / total}
        info = {**self._info, **self._made_by, **times, "runs": runs}
        shards = tuple(self._entries[k] for k in sorted(self._entries))
        names = tuple(self._task_names)
        Manifest(self._network, names, len(self._labels), info, self._plan, shards).write(self.folder)

    def weight_set(self, partial: bool = False) -> WeightSet:
        """The set as it lies on disk; ValueError where it is not whole and not asked for in part."""
        if partial and not self._entries:
            nothing = {p.name: np.empty((0, *p.shape), np.float32) for p in self._network.parameters}
            none = np.empty(0, np.int64)
            return WeightSet(self._network, nothing, none, none, tuple(self._task_names))
        return load(self.folder, partial)
