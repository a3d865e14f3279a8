"""Files that hold one network each: their state dicts in the order of the layers, and where they lie in a folder."""

import re
import struct
import zipfile
import zlib
from collections import defaultdict
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

SUFFIXES = (".safetensors", ".npz", ".pt", ".pth", ".ckpt")
ORDERS = 1_000  # beginnings of an order that are followed at a time
SHOWN = 8  # names in a message


def read_state(path: str | Path, caller: str) -> dict[str, Any]:
    """A file's state dict in the order of its layers: .safetensors, .npz, or torch's .pt, .pth, .ckpt.

    The last four keep the order they were saved in, .safetensors does not: there numbers in the names tell it (fc2
    before fc10), and where names differ in more than a number (fc1, head), the one order in which every layer takes
    what the layer before it gives. Nothing is unpickled but what torch's weights_only admits. ValueError where the file
    cannot be read so, or more than one order fits or none.
    """
    path = Path(path)
    if not path.is_file():
        raise ValueError(f"{caller}: {path} is not a file")
    suffix = path.suffix.lower()
    if suffix not in SUFFIXES:
        raise ValueError(f"{caller}: {path} must be one of {', '.join(SUFFIXES)}")
    return {".safetensors": _safetensors, ".npz": _npz}.get(suffix, _torch)(path, caller)


def is_link(shape: tuple[int, ...]) -> bool:
    """Whether an entry of this shape is a link of a chain: the weight of a linear layer or of a 3x3 convolution."""
    return len(shape) == 2 or (len(shape) == 4 and shape[2:] == (3, 3))


def _safetensors(path: Path, caller: str) -> dict[str, Any]:
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    try:
        state = load_file(path)
    except SafetensorError as error:
        raise ValueError(f"{caller}: {path} cannot be read as safetensors: {error}") from error
    shapes = {name: tuple(state[name].shape) for name in sorted(state, key=_natural)}
    links = _in_order({name: shape for name, shape in shapes.items() if is_link(shape)}, f"{caller}: {path}")
    return {name: state[name] for name in [*links, *(name for name in shapes if name not in links)]}


def _npz(path: Path, caller: str) -> dict[str, Any]:
    try:
        held = np.load(path, allow_pickle=False)
        if isinstance(held, np.ndarray):
            raise ValueError("it is an .npy file, one array without a name")
        with held:
            return {name: held[name] for name in held.files}
    except (ValueError, OSError, EOFError, NotImplementedError, RuntimeError, zipfile.BadZipFile, zlib.error) as error:
        raise ValueError(f"{caller}: {path} cannot be read as npz: {error}") from error


def _torch(path: Path, caller: str) -> dict[str, Any]:
    import pickle

    import torch

    try:
        held = torch.load(path, map_location="cpu", weights_only=True)
    except (  # what unpickling raises on bytes that are no pickle depends on the bytes
        pickle.UnpicklingError, RuntimeError, EOFError, ValueError, LookupError, AssertionError, AttributeError,
        TypeError, struct.error,
    ) as error:  # fmt: skip
        raise ValueError(f"{caller}: {path} cannot be read with torch's weights_only: {error!r}") from error
    if isinstance(held, Mapping) and isinstance(held.get("state_dict"), Mapping):
        held = held["state_dict"]
    if not isinstance(held, Mapping):
        raise ValueError(f"{caller}: {path} holds {type(held).__name__}, want a state dict of tensors")
    for name, value in held.items():
        if not isinstance(value, torch.Tensor):
            raise ValueError(f"{caller}: {path}: {name} is {type(value).__name__}, want a state dict of tensors alone")
    return {str(name): tensor for name, tensor in held.items()}


def _natural(name: str) -> list[tuple[bool, Any]]:
    return [(t.isdecimal(), int(t) if t.isdecimal() else t) for t in re.split(r"(\d+)", name)]


def _in_order(shapes: dict[str, tuple[int, ...]], where: str) -> list[str]:
    """The names of links, given in natural order, in the order of their layers."""
    alike: dict[str, list[str]] = defaultdict(list)
    for name in shapes:
        alike[re.sub(r"\d+", "#", name)].append(name)
    found = [list(shapes)] if len(alike) < 2 else _merged(list(alike.values()), shapes)
    if len(found) != 1:
        names = [f"{name} {list(shape)}" for name, shape in shapes.items()]
        names[SHOWN:] = ["..."] if len(names) > SHOWN else []
        raise ValueError(
            f"{where}: the order of {', '.join(names)} is told neither by numbers in their names nor by their sizes, "
            "and safetensors keeps none (hand over the nn.Module, use WeightSet.from_arrays, or save a .pt)"
        )
    return found[0]


def _merged(groups: list[list[str]], shapes: dict[str, tuple[int, ...]]) -> list[list[str]]:
    """Orders that keep every group's own and in which each layer takes what the one before gives: two are enough."""

    def follows(name: str, last: str) -> bool:
        (given, _, *before), (_, taken, *after) = shapes[last], shapes[name]
        if before and not after:  # a linear layer takes every channel, or every pixel of them
            return given > 0 and taken % given == 0
        return taken == given and len(before) == len(after)

    begun: dict[tuple[tuple[int, ...], str], list[list[str]]] = {((0,) * len(groups), ""): [[]]}
    for _ in shapes:
        longer: dict[tuple[tuple[int, ...], str], list[list[str]]] = defaultdict(list)
        for (at, last), orders in begun.items():
            for k, group in enumerate(groups):
                if at[k] < len(group) and (not last or follows(group[at[k]], last)):
                    now = (*at[:k], at[k] + 1, *at[k + 1 :])
                    longer[now, group[at[k]]] += [[*order, group[at[k]]] for order in orders]
        if len(longer) > ORDERS:
            return []
        begun = {key: orders[:2] for key, orders in longer.items()}
    return [order for orders in begun.values() for order in orders]


def find_files(folder: str | Path) -> tuple[list[Path], np.ndarray, tuple[str, ...]]:
    """(files, labels, names): networks of a folder, labelled by the subfolder that holds them where there are any.

    Files in the natural order of their names, subfolder after subfolder. ValueError where networks lie beside the
    subfolders or below them: what labels those is not known.
    """
    folder = Path(folder).expanduser()
    if not folder.is_dir():
        raise ValueError(f"from_files: {folder} is not a folder")
    beside, inside, below = (_networks(folder.glob(pattern)) for pattern in ("*", "*/*", "*/*/**/*"))
    if not (beside or inside or below):
        raise ValueError(f"from_files: {folder} holds no {', '.join(SUFFIXES)} file")
    if below or (beside and inside):
        raise ValueError(
            f"from_files: {folder} holds {(below or beside)[0].relative_to(folder)}; want networks in the folder alone "
            "or in its subfolders alone, not beside or below them (or pass a list of files and labels)"
        )
    if beside:
        return beside, np.zeros(len(beside), np.int64), ()
    names, labels = np.unique([file.parent.name for file in inside], return_inverse=True)
    return inside, labels, tuple(names.tolist())


def _networks(found: Iterable[Path]) -> list[Path]:
    files = (path for path in found if path.suffix.lower() in SUFFIXES and path.is_file())
    return sorted(files, key=lambda path: (path.parent.name, _natural(path.name)))
