"""Where samples come from: scikit-learn's digits; CIFAR-100, tiny ImageNet, NameData in public layouts; any arrays."""

import os
import sys
from collections.abc import Callable
from dataclasses import dataclass, field
from operator import index
from pathlib import Path
from typing import Any

import numpy as np

from . import names
from .recipe import DIGITS, NAMES, PAPER, Recipe

PER_GROUP = {"cifar100": 2, "tiny_imagenet": 4, "names": 2, "faker_surnames": 2}  # classes of one task
CIFAR100_MEAN, CIFAR100_STD = (0.5071, 0.4865, 0.4409), (0.2673, 0.2564, 0.2762)  # of the 50,000 training images
IMAGENET_MEAN, IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)  # torchvision's


@dataclass(frozen=True)
class Data:
    """Samples before they are cut into tasks: x [n, d], y int64 [n]; the input is x * scale + shift per channel."""

    name: str
    x: np.ndarray
    y: np.ndarray
    shape: tuple[int, ...]
    scale: Any
    shift: Any
    source: str
    groups: list[np.ndarray] | None = None
    split: np.ndarray | None = None  # True for the published test samples
    class_names: list[str] = field(default_factory=list)
    recipe: Recipe = field(default_factory=Recipe)
    width: int | None = None


def digits(n: int | None, root: Any) -> Data:
    """1,797 8x8 images of handwritten digits, inside scikit-learn."""
    from sklearn.datasets import load_digits

    images, y = load_digits(return_X_y=True)
    _room("digits", n, 45)
    mean, std = images.mean(), images.std()
    return Data(
        "digits",
        images.astype(np.uint8),
        y.astype(np.int64),
        (1, 8, 8),
        [1 / std],
        [-mean / std],
        "scikit-learn load_digits",
        recipe=DIGITS,
        width=100,
        class_names=[str(k) for k in range(10)],
    )


def cifar100(n: int | None, root: Any) -> Data:
    """CIFAR-100 (Krizhevsky 2009) through torchvision, which checks the files' md5; tasks of classes 2i and 2i + 1."""
    folder = _folder(root, "cifar100")
    groups = _groups("cifar100", 100, n)
    published = _torchvision_datasets().CIFAR100
    try:
        parts = [published(str(folder.parent), train=train, download=False) for train in (True, False)]
    except RuntimeError as error:
        raise ValueError(f"cifar100: {folder} is damaged, a file's md5 is not the published one: {error}") from error
    x = np.concatenate([p.data.transpose(0, 3, 1, 2).reshape(len(p.data), -1) for p in parts])
    y = np.concatenate([np.asarray(p.targets, np.int64) for p in parts])
    test = np.repeat([False, True], [len(p.data) for p in parts])
    used = np.isin(y, np.concatenate(groups))
    return Data(
        "cifar100",
        x[used],
        y[used],
        (3, 32, 32),
        *_standardise(CIFAR100_MEAN, CIFAR100_STD),
        str(folder),
        groups,
        test[used],
        list(parts[0].classes),
        PAPER,
    )


def tiny_imagenet(n: int | None, root: Any) -> Data:
    """Tiny ImageNet (Stanford CS231n), resized to 32x32; tasks of four classes in folder order."""
    from PIL import Image

    folder = _folder(root, "tiny_imagenet")
    wnids = sorted(p.name for p in (folder / "train").glob("n*"))
    notes = folder / "val" / "val_annotations.txt"
    if not wnids or not notes.is_file():
        raise ValueError(f"tiny_imagenet: {folder} is damaged: want train/n*/images and val/val_annotations.txt")
    groups = _groups("tiny_imagenet", len(wnids), n)
    files: list[tuple[Path, int, bool]] = []
    for c in np.concatenate(groups):
        files += [(f, c, False) for f in sorted((folder / "train" / wnids[c] / "images").glob("*.JPEG"))]
    for line in notes.read_text().splitlines():
        name, wnid = line.split("\t")[:2]
        c = wnids.index(wnid)
        if any(c in g for g in groups):
            files.append((folder / "val" / "images" / name, c, True))
    x = np.empty((len(files), 3 * 32 * 32), np.uint8)
    for i, (file, _, _) in enumerate(files):
        try:
            with Image.open(file) as image:
                small = image.convert("RGB").resize((32, 32), Image.Resampling.BILINEAR)
        except OSError as error:
            raise ValueError(f"tiny_imagenet: {file} cannot be read: {error}") from error
        x[i] = np.asarray(small).transpose(2, 0, 1).ravel()
    y, test = np.array([f[1] for f in files], np.int64), np.array([f[2] for f in files])
    return Data(
        "tiny_imagenet",
        x,
        y,
        (3, 32, 32),
        *_standardise(IMAGENET_MEAN, IMAGENET_STD),
        str(folder),
        groups,
        test,
        wnids,
        PAPER,
    )


def surnames(n: int | None, root: Any, clean: bool = True, split_seed: int = 0) -> Data:
    """NameData (names/LANGUAGE.txt, 18 languages) where a data root has it, else `faker_surnames`, which say so."""
    folder = _name_folder(root)
    if folder is None:
        return faker_surnames(n, root, clean, split_seed)
    return _by_language("names", names.read(folder, clean), str(folder), n, clean, split_seed)


def faker_surnames(n: int | None, root: Any, clean: bool = True, split_seed: int = 0) -> Data:
    """The surnames inside the Faker package."""
    return _by_language("faker_surnames", *names.embedded(clean), n, clean, split_seed)


def _by_language(
    name: str, found: dict[str, list[str]], source: str, n: int | None, clean: bool, split_seed: int
) -> Data:
    """Names by language, two languages a task in the order given; half of each language trains.

    x uint8 [n, longest] letters of `names.ALPHABET`, its size past a name's end.
    """
    groups = _groups(name, len(found), n)
    if split_seed < 0:
        raise ValueError(f"tasks: split_seed must be at least 0, got {split_seed}")
    y = np.repeat(np.arange(len(found)), [len(v) for v in found.values()])
    test = np.zeros(len(y), bool)
    for c in range(len(found)):
        own = np.flatnonzero(y == c)
        test[np.random.default_rng([split_seed, c]).permutation(own)[: len(own) // 2]] = True
    x = names.encode([each for v in found.values() for each in v])
    shape = x.shape[1], len(names.ALPHABET)
    source += "" if clean else ", not cleaned"
    return Data(name, x, y, shape, [1.0], [0.0], source, groups, test, list(found), NAMES)


LOADERS: dict[str, Callable[..., Data]] = {
    "digits": digits,
    "cifar100": cifar100,
    "tiny_imagenet": tiny_imagenet,
    "names": surnames,
    "faker_surnames": faker_surnames,
}
OPTIONS: dict[str, dict[str, Callable[[Any], Any]]] = {  # of single data sets, as JSON can hold them
    "digits": {"test_fraction": float},
    **{name: {"clean": bool, "split_seed": index} for name in ("names", "faker_surnames")},
}


def from_arrays(x: Any, y: Any) -> Data:
    """Anyone's samples, standardised by their own mean and deviation (per channel for images)."""
    x = np.asarray(x)
    if y is None:
        raise ValueError("tasks: arrays need labels, want tasks(x, y)")
    y = np.asarray(y)
    if x.ndim < 2 or y.shape != x.shape[:1]:
        raise ValueError(f"tasks: want x [samples, ...] and y [samples], got {x.shape} and {y.shape}")
    if not np.issubdtype(y.dtype, np.integer):
        raise TypeError(f"tasks: y must hold integers, got {y.dtype}")
    if x.dtype != np.uint8:
        x = x.astype(np.float32)
        if not np.isfinite(x).all():
            bad = int(np.flatnonzero(~np.isfinite(x).reshape(len(x), -1).all(axis=1))[0])
            raise ValueError(f"tasks: x must be finite, sample {bad} is not")
    shape = x.shape[1:] if x.ndim == 4 else (int(np.prod(x.shape[1:])),)
    axes = (0, 2, 3) if x.ndim == 4 else None
    mean, std = np.atleast_1d(x.mean(axis=axes, dtype=np.float64)), np.atleast_1d(x.std(axis=axes, dtype=np.float64))
    std = np.where(std > 0, std, 1)
    return Data("arrays", x.reshape(len(x), -1), y.astype(np.int64), shape, 1 / std, -mean / std, "arrays")


def data_root(root: Any) -> Path | None:
    """The folder that holds the data sets: what was asked for, or the environment's WSFAST_DATA."""
    root = root or os.environ.get("WSFAST_DATA")
    return Path(root).expanduser() if root else None


LAYOUTS = {"cifar100": "cifar-100-python", "tiny_imagenet": "tiny-imagenet-200", "names": "names"}  # in the data root


def found(root: Any = None) -> dict[str, str]:
    """Where each known data set would be read from here, or why it cannot be."""
    said = {"digits": "inside scikit-learn"}
    for name in LAYOUTS:
        try:
            said[name] = str(_folder(root, name))
        except FileNotFoundError as error:
            said[name] = f"not found: {error}"
    if said["names"].startswith("not found"):
        said["names"] += "; faker_surnames stand for it"
    return said | {"faker_surnames": "inside the Faker package"}


def _name_folder(root: Any) -> Path | None:
    """NameData's folder; None where no data root is asked for and the environment's has none."""
    if root is None and not ((base := data_root(None)) and (base / LAYOUTS["names"]).is_dir()):
        return None
    return _folder(root, "names")


def _folder(root: Any, name: str) -> Path:
    layout = LAYOUTS[name]
    base = data_root(root)
    if base is None:
        raise FileNotFoundError(
            f"{name}: no data root (set WSFAST_DATA or --data-root to the folder that holds {layout}/)"
        )
    if not (base / layout).is_dir():
        raise FileNotFoundError(f"{name}: {base / layout} is missing (the data root must hold {layout}/)")
    return base / layout


def _room(name: str, n: int | None, most: int) -> int:
    if n is not None and n > most:
        raise ValueError(f"tasks: {name} has {most} tasks, got n={n}")
    return most if n is None else n


def _groups(name: str, classes: int, n: int | None) -> list[np.ndarray]:
    per = PER_GROUP[name]
    return [np.arange(per * i, per * i + per) for i in range(_room(name, n, classes // per))]


def _standardise(mean: Any, std: Any) -> tuple[np.ndarray, np.ndarray]:
    """(scale, shift) of bytes for (x / 255 - mean) / std."""
    mean, std = np.asarray(mean), np.asarray(std)
    return 1 / (255 * std), -mean / std


def _torchvision_datasets() -> Any:
    """torchvision.datasets, also where torchvision's wheel (built for CUDA) meets a CPU-only torch.

    There its import stops for want of two operators' names, which its data-set classes never call.
    """
    try:
        import torchvision
    except RuntimeError as error:
        if "torchvision::nms" not in str(error):
            raise
        import torch

        for name in [m for m in sys.modules if m.split(".")[0] == "torchvision"]:
            del sys.modules[name]
        library = torch.library.Library("torchvision", "DEF")
        library.define("nms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
        library.define("qnms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
        _LIBRARIES.append(library)
        import torchvision
    return torchvision.datasets


_LIBRARIES: list[Any] = []  # a Library's operators live as long as the object
