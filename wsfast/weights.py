"""Weight sets: the parameters of many networks of one shape, side by side."""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from .network import Network

DIVERGED = 1e6  # trained weights stay below 100; one step past this and float32 chain products overflow

AT_A_TIME = 1 << 26  # bytes of a parameter that are looked at together: the arrays may be mapped from a file


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
            step = max(1, AT_A_TIME // (4 * p.size))
            for i in range(0, len(self), step):
                part = self.parameters[p.name][i : i + step]
                largest = np.abs(part).reshape(len(part), -1).max(axis=1, initial=0)
                # a NaN fails every comparison
                good[i : i + step] &= (largest <= DIVERGED) if p.trained else np.isfinite(largest)
        return ~good

    @property
    def nbytes(self) -> int:
        return sum(a.nbytes for a in self.parameters.values())

    @classmethod
    def from_torch(cls, models: Sequence[Any], labels: Any = None) -> "WeightSet":
        """A set of fully connected torch networks (nn.Module) of one shape; labels [N] integers, zeros where None.

        Every model must compute what its Linear, ReLU, LeakyReLU and BatchNorm1d layers and sums say; its outputs
        are compared with the rebuilt network's to 1e-6. ValueError names the model and the layer that cannot be read.
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
        from .interop import to_module

        if not -len(self) <= i < len(self):
            raise IndexError(f"to_torch: network must be 0..{len(self) - 1}, got {i}")
        return to_module(self.network, {name: array[i] for name, array in self.parameters.items()})
