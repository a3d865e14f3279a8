"""The manifest of a stored weight set: read without trusting a word of it, written whole."""

import json
import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from .declaration import Network
from .files import write_whole
from .recipe import Recipe

FILE, SCHEMA = "manifest.json", 1
SHARD_NAME = r"shard-(\d{5,})\.safetensors"  # nothing that could lead out of the folder
PLAN = {"recipe", "seed", "repeats", "backend", "precision", "data", "tasks_sha256"}
LARGEST = 2**40  # of a size or a count


@dataclass(frozen=True)
class Shard:
    """file: its name in the folder; networks, bytes: its size; sha256: hex."""

    file: str
    networks: int
    bytes: int
    sha256: str

    def __post_init__(self) -> None:
        _want(isinstance(self.file, str) and re.fullmatch(SHARD_NAME, self.file), "a shard's file", self.file)
        _count(self.networks, "a shard's networks")
        _count(self.bytes, "a shard's bytes")
        _want(isinstance(self.sha256, str) and re.fullmatch("[0-9a-f]{64}", self.sha256), "a SHA-256", self.sha256)

    @property
    def number(self) -> int:
        return int(re.fullmatch(SHARD_NAME, self.file)[1])  # type: ignore[index]


@dataclass(frozen=True)
class Manifest:
    """networks: of the whole set; info: how it was made; plan: what its networks are a function of, None where they
    were not trained by generate; shards: those that are finished."""

    network: Network
    task_names: tuple[str, ...]
    networks: int
    info: Mapping[str, Any]
    plan: Mapping[str, Any] | None
    shards: tuple[Shard, ...]

    def __post_init__(self) -> None:
        _check(self.network)
        _want(all(isinstance(n, str) for n in self.task_names), "task_names", self.task_names)
        _count(self.networks, "networks")
        _want(isinstance(self.info, Mapping), "info", self.info)
        for run in _list(self.info.get("runs", [])):
            _want(isinstance(run, Mapping) and type(run.get("networks")) is int, "runs with their networks", run)
            _want(type(run.get("seconds")) in (int, float), "runs with their seconds", run)
        _made(self.info)
        if self.plan is not None:
            _want(isinstance(self.plan, Mapping), "plan", self.plan)
            _want(self.plan.keys() >= PLAN, f"a plan with {', '.join(sorted(PLAN))}", list(self.plan))
            _made(self.plan)
            _count(self.plan["repeats"], "repeats")
            _want(isinstance(self.plan["tasks_sha256"], str), "tasks_sha256", self.plan["tasks_sha256"])
        _want(self.held <= self.networks, f"at most {self.networks} networks in all shards", self.held)
        _want(len({s.file for s in self.shards}) == len(self.shards), "every shard once", [s.file for s in self.shards])

    @property
    def held(self) -> int:
        """Networks in finished shards."""
        return sum(shard.networks for shard in self.shards)

    def write(self, folder: Path) -> None:
        values = {
            "schema": SCHEMA,
            "network": self.network.to_dict(),
            "task_names": self.task_names,
            "networks": self.networks,
            "info": self.info,
            "plan": self.plan,
            "shards": [vars(shard) for shard in self.shards],
        }
        write_whole(folder / FILE, json.dumps(values) + "\n")  # one line: all of it is written again with every shard


def read(folder: Path) -> Manifest:
    """ValueError that says what is wrong with a manifest that is missing, damaged, newer or malformed."""
    path = folder / FILE
    if not path.is_file():
        raise ValueError(f"{folder} holds no weight set: it has no {FILE}")
    try:
        values = json.loads(path.read_bytes())
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{path} is damaged: {error}") from error
    schema = values.get("schema") if isinstance(values, dict) else None
    if type(schema) is not int or schema != SCHEMA:
        raise ValueError(f"{path}: this version reads schema {SCHEMA}, the file has {schema!r} (update wsfast)")
    try:
        return Manifest(
            Network.from_dict(values["network"]),
            tuple(values["task_names"]),
            values["networks"],
            values["info"],
            values["plan"],
            tuple(Shard(**entry) for entry in values["shards"]),
        )
    except (KeyError, TypeError, AttributeError, ValueError) as error:
        raise ValueError(f"{path} is damaged: {_said(error)}") from error


def _made(values: Mapping[str, Any]) -> None:
    """What info and a plan say in the same words, where they say it."""
    if "recipe" in values:
        Recipe(**values["recipe"])
    seed = values.get("seed", 0)
    _want(type(seed) is int and 0 <= seed < 2**64, "seed", seed)
    for key in ("backend", "precision", "data"):
        _want(isinstance(values.get(key, ""), str), key, values.get(key))
    for key in ("generate_s", "networks_per_s"):
        number = values.get(key, 0)
        _want(type(number) in (int, float) and number >= 0, key, number)


def _said(error: Exception) -> str:
    return f"{error} is missing" if isinstance(error, KeyError) else str(error)


def _want(holds: Any, what: str, got: Any) -> None:
    if not holds:
        raise ValueError(f"wanted {what}, got {repr(got)[:80]}")


def _list(value: Any) -> list[Any]:
    _want(isinstance(value, list), "a list", value)
    return value


def _count(value: Any, what: str) -> None:
    _want(type(value) is int and 1 <= value <= LARGEST, f"{what} as a number in 1..2^40", value)


def _check(network: Network) -> None:
    """A declaration whose parts fit together."""
    _want(isinstance(network.name, str), "a network's name", network.name)
    for size in (*network.input_shape, network.classes):
        _count(size, "a network's sizes")
    for layer in network.layers:
        _want(isinstance(layer.name, str) and isinstance(layer.op, str), "a layer's name and op", layer.name)
        _want(isinstance(layer.options, Mapping), "a layer's options", layer.options)
        _want(all(isinstance(name, str) for name in layer.inputs), "a layer's inputs", layer.inputs)
    names = [p.name for p in network.parameters]
    _want(all(isinstance(name, str) for name in names), "parameters' names", names)
    _want(len(set(names)) == len(names) > 0, "parameters of different names", names)
    for p in network.parameters:
        _want(isinstance(p.shape, tuple) and p.shape, f"{p.name}'s shape", p.shape)
        for size in p.shape:
            _count(size, f"{p.name}'s shape")
        _count(math.prod(p.shape), f"{p.name}'s size")
        _want(isinstance(p.axes, tuple) and len(p.axes) == len(p.shape), f"an axis for each of {p.shape}", p.axes)
        _want(all(a is None or isinstance(a, str) for a in p.axes), f"{p.name}'s axes", p.axes)
        _want(type(p.rows) is int and 1 <= p.rows <= len(p.shape), f"{p.name}'s rows", p.rows)
        _want(isinstance(p.trained, bool), f"{p.name}'s trained", p.trained)
        for number in (p.bound, 0 if p.fill is None else p.fill, p.kappa):
            _want(type(number) in (int, float) and math.isfinite(number), f"{p.name}'s initial values", number)
        inputs = math.prod(p.shape) // p.shape[-1]
        _want(type(p.fixed) is int and 0 <= p.fixed <= inputs, f"{p.name}'s fixed entries", p.fixed)
        _want(type(p.seed) is int and 0 <= p.seed < 2**64, f"{p.name}'s seed", p.seed)
        orders = isinstance(p.torch, tuple) and sorted(map(str, p.torch)) == sorted(map(str, range(len(p.shape))))
        _want(orders, f"the order of {p.name}'s axes in torch", p.torch)
        _want(isinstance(p.torch_shape, tuple), f"{p.name}'s shape in torch", p.torch_shape)
        for size in p.torch_shape:
            _count(size, f"{p.name}'s shape in torch")
    units = 0
    for layer in network.layers:
        if layer.op in ("linear", "conv") and layer.parameters:
            units = layer.parameters[0].shape[-1]
        if layer.op == "figlu":  # its matrix is made from them
            _want(layer.options.keys() == {"units", "scale", "seed", "item"}, "a gate's options", layer.options)
            sizes, scale = [layer.options[key] for key in ("units", "seed", "item")], layer.options["scale"]
            _want(all(type(n) is int and 0 <= n < 2**64 for n in sizes), "a gate's numbers", layer.options)
            _want(sizes[0] == units, f"a gate of {units} units", layer.options)
            _want(type(scale) in (int, float) and math.isfinite(scale), "a gate's scale", scale)
    for chain in network.chains:
        _want(chain and set(chain) <= set(names), "chains of the network's parameters", chain)
