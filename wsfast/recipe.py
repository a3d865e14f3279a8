"""How a network is trained."""

from dataclasses import asdict, dataclass, replace
from operator import index
from typing import Any

import numpy as np

MOST = 2**24  # an epoch's number has so many bits in the streams of `wsfast.reference.philox`
LARGEST = float(np.finfo(np.float32).max)


@dataclass(frozen=True)
class Recipe:
    """SGD with momentum and a step schedule, as torch.optim.SGD with MultiStepLR.

    lr: step size. decay_epochs: after these many epochs the step size is multiplied by `decay`. pad: random crop after
    zero-padding by so many pixels, and random mirroring; None for neither. The last batch of an epoch may be smaller.
    steps: of an epoch of single samples, each drawn by class first (recurrent networks); None for a pass over the data.
    """

    lr: float = 0.1
    momentum: float = 0.9
    weight_decay: float = 0.0
    batch_size: int = 128
    epochs: int = 50
    decay_epochs: tuple[int, ...] = (30,)
    decay: float = 0.1
    pad: int | None = None
    steps: int | None = None

    def __post_init__(self) -> None:
        own: dict[str, Any] = {"decay_epochs": tuple(map(index, self.decay_epochs))}  # Python's numbers: JSON's
        for name in ("lr", "momentum", "weight_decay", "decay"):
            value = getattr(self, name)
            if not (isinstance(value, (int, float, np.number)) and 0 <= value <= LARGEST):
                raise ValueError(f"recipe: {name} must be a number in 0..{LARGEST:.1e}, got {value!r}")
            own[name] = float(value)
        for name, low in (("epochs", 0), ("batch_size", 1), ("pad", 0), ("steps", 1)):
            number, may_be = getattr(self, name), "None or " if name in ("pad", "steps") else ""
            own[name] = number if may_be and number is None else index(number)
            if own[name] is not None and not low <= own[name] < MOST:
                raise ValueError(f"recipe: {name} must be {may_be}{low}..{MOST - 1}, got {number}")
        self.__dict__.update(own)

    def learning_rates(self) -> np.ndarray:
        """The step size of each epoch: float32 [epochs]."""
        steps = np.array([sum(e >= d for d in self.decay_epochs) for e in range(self.epochs)])
        return (self.lr * self.decay**steps).astype(np.float32)

    def with_epochs(self, epochs: int) -> "Recipe":
        """The recipe with another length, its schedule stretched in proportion."""
        ratio = epochs / self.epochs if self.epochs else 0
        return replace(self, epochs=epochs, decay_epochs=tuple(round(d * ratio) for d in self.decay_epochs))

    def to_dict(self) -> dict[str, Any]:
        """Recipe(**recipe.to_dict()) is the same recipe, also after JSON turned its tuple into a list."""
        return asdict(self)


PAPER = Recipe(pad=4)  # CIFAR-100 and tiny ImageNet, arXiv 2208.04369
DIGITS = Recipe(lr=0.05, batch_size=32, epochs=20, decay_epochs=())  # at lr 0.1 about 2 % of networks diverge
# 10,000 names as in the paper's text. Its code's lr of 0.005 throughout leaves 90.7 % of the training names of NameData
# right, this 96.8 % (means of 36 networks of width 128).
NAMES = Recipe(momentum=0.0, batch_size=1, epochs=10, decay_epochs=(7,), steps=1000)
