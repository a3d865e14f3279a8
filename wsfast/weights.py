"""Weight sets: the parameters of many networks of one shape, side by side."""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np

from .network import Network

DIVERGED = 1e6  # trained weights stay below 100; one step past this and float32 chain products overflow


@dataclass(frozen=True)
class WeightSet:
    """N networks of one declaration.

    parameters: name -> float32 [N, *shape], input first. labels: int64 [N], each network's task. repeats: int64 [N].
    records: name -> array with one row a network: train_loss, train_accuracy, test_loss, test_accuracy [N], loss_curve
    [N, epochs]. info: how the set was made (recipe, seed, backend, precision, timing, provenance).

    len(zoo), zoo[i:j], zoo[mask] and zoo[[3, 1]] work as on an array; zoo[i] is a set of one.
    """

    network: Network
    parameters: dict[str, np.ndarray]
    labels: np.ndarray
    repeats: np.ndarray
    task_names: tuple[str, ...] = ()
    records: dict[str, np.ndarray] = field(default_factory=dict)
    info: dict[str, Any] = field(default_factory=dict)

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, key: Any) -> "WeightSet":
        index = np.arange(len(self))[key]
        index = np.atleast_1d(index)

        def cut(arrays: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
            return {name: array[index] for name, array in arrays.items()}

        return replace(
            self,
            parameters=cut(self.parameters),
            records=cut(self.records),
            labels=self.labels[index],
            repeats=self.repeats[index],
        )

    def __repr__(self) -> str:
        tasks = len(np.unique(self.labels))
        return f"WeightSet({len(self)} x {self.network.name}, {tasks} tasks, {int(self.diverged.sum())} diverged)"

    @property
    def diverged(self) -> np.ndarray:
        """Networks with a number that is not finite or a trained one beyond 10^6: bool [N]; protocols leave them out.

        Running statistics of BatchNorm may be large in a network that works: its activations' variance.
        """
        good = np.ones(len(self), bool)
        for p in self.network.parameters:
            largest = np.abs(self.parameters[p.name]).reshape(len(self), -1).max(axis=1, initial=0)
            good &= (largest <= DIVERGED) if p.trained else np.isfinite(largest)  # a NaN fails every comparison
        return ~good

    @property
    def nbytes(self) -> int:
        return sum(a.nbytes for a in self.parameters.values())

    def save(self, folder: str | Path) -> Path:
        """Write the set into a new or empty folder, as a manifest and safetensors shards; returns the folder.

        OSError where it cannot be written; ValueError where it already holds a set.
        """
        from .storage import save

        return save(self, folder)

    @classmethod
    def open(cls, folder: str | Path) -> "WeightSet":
        """The set that `save` wrote. Parameters stay on disk: zoo[i:j] reads nothing, np.asarray of a parameter does.

        ValueError that names the file where one is missing, truncated or not what the manifest says.
        """
        from .storage import load

        return load(folder)

    @classmethod
    def from_torch(cls, models: Sequence[Any], labels: Any = None) -> "WeightSet":
        """A set of torch networks (nn.Module) of one shape; labels [N] integers, zeros where None.

        Fully connected ones of Linear, ReLU, LeakyReLU, BatchNorm1d and sums, convolutional ones of units like
        plainnet5's, a global mean pool and a Linear. Every model must compute what its layers say: its outputs are
        compared with the rebuilt network's to 1e-6. ValueError names the model and the layer that cannot be read.
        """
        from .interop import from_modules

        network, parameters = from_modules(list(models))
        n = len(models)
        labels = np.zeros(n, np.int64) if labels is None else np.asarray(labels)
        if labels.shape != (n,):
            raise ValueError(f"from_torch: want one label a model, got {n} models and labels of shape {labels.shape}")
        if not np.issubdtype(labels.dtype, np.integer):
            raise TypeError(f"from_torch: labels must be integers, got {labels.dtype}")
        labels = labels.astype(np.int64)
        repeats = np.array([(labels[:i] == label).sum() for i, label in enumerate(labels)], np.int64)
        names = tuple(str(t) for t in range(int(labels.max()) + 1)) if (labels >= 0).all() else ()
        return cls(network, parameters, labels, repeats, names, info={"data": "imported", "backend": "torch"})

    def to_torch(self, i: int) -> Any:
        """Network i as an nn.Sequential in eval mode with torch's parameter names; input [B, *input_shape]."""
        from .modules import to_module

        if not -len(self) <= i < len(self):
            raise IndexError(f"to_torch: network must be 0..{len(self) - 1}, got {i}")
        return to_module(self.network, {name: array[i] for name, array in self.parameters.items()})
