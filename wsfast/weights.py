"""Weight sets: the parameters of many networks of one shape, side by side."""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np

from .declaration import Network, Parameter

LABELS = 1 << 16  # of imported networks: each below the largest gets a task's name
DIVERGED = 1e6  # trained weights stay below 100; one step past this and float32 chain products overflow

AT_A_TIME = 1 << 26  # bytes of a parameter that are looked at together: the arrays may be mapped from a file


@dataclass(frozen=True)
class WeightSet:
    """N networks of one declaration.

    parameters: name -> float32 [N, *shape], input first. labels: int64 [N], each network's task. repeats: int64 [N].
    records: name -> array with one row a network: train_loss, train_accuracy, test_loss, test_accuracy [N], loss_curve
    [N, epochs], diverged [N], 1 where it did. info: how the set was made (recipe, seed, backend, precision, timing,
    provenance).

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
        index = np.atleast_1d(np.arange(len(self))[key])
        if index.ndim > 1:
            raise IndexError(f"a set has one axis of networks, got an index of shape {index.shape}")

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
        return f"WeightSet({len(self)} x {self.network.name}, {len(np.unique(self.labels))} tasks)"

    @property
    def diverged(self) -> np.ndarray:
        """Networks with a number that is not finite or a trained one beyond 10^6: bool [N]; protocols leave them out.

        Running statistics of BatchNorm may be large in a network that works: its activations' variance.
        """
        bad = np.zeros(len(self), bool)
        for p in self.network.parameters:
            step = max(1, AT_A_TIME // (4 * p.size))
            for i in range(0, len(self), step):
                bad[i : i + step] |= _wild(p, self.parameters[p.name][i : i + step])
        return bad

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
    def open(cls, folder: str | Path, *, partial: bool = False) -> "WeightSet":
        """The set that `save` or `generate` wrote. Parameters stay on disk until NumPy asks for their numbers.

        partial: take what an interrupted generate has finished, else that is refused. ValueError that names the file
        where one is missing, truncated or not what the manifest says.
        """
        from .storage import load

        return load(folder, partial)

    @classmethod
    def from_torch(cls, models: Sequence[Any], labels: Any = None) -> "WeightSet":
        """A set of torch networks of one shape, in float32; labels [N] integers from 0 to 65,535, zeros where None.

        models: a list of nn.Modules or of state dicts. nn.Modules: fully connected ones of Linear, ReLU, LeakyReLU,
        BatchNorm1d and sums, convolutional ones of units like plainnet5's, a global mean pool and a Linear, recurrent
        ones of two GRU layers and a Linear. Each must compute what its layers say: its outputs are compared with the
        rebuilt network's, to 1e-6 where they are finite. A state dict must hold linear layers alone, in their order;
        its activations are not known and taken for ReLU (chains do not depend on them), and hidden widths may differ.
        ValueError names the model and the layer that cannot be read; TypeError for what is no list of networks.
        """
        from .interop import from_networks

        return cls._imported(*from_networks(models), labels, "torch")

    @classmethod
    def from_arrays(
        cls, weights: Sequence[Any], labels: Any = None, *, biases: Sequence[Any] | None = None
    ) -> "WeightSet":
        """A set of plain MLPs from their matrices W_1 .. W_L, each [N, n_in, n_out] (input first), the last one the
        classifier's; biases: b_1 .. b_L, each [N, n_out], if there are any. labels as from_torch. All are copied.

        Activations are not known and taken for ReLU; chains do not depend on them. ValueError where shapes do not fit.
        """
        from .stacking import from_matrices

        return cls._imported(*from_matrices(weights, biases), labels, "NumPy")

    @classmethod
    def from_files(cls, files: str | Path | Sequence[str | Path], labels: Any = None) -> "WeightSet":
        """A set of MLPs from one state dict a file: .safetensors, .npz, or torch's .pt, .pth and .ckpt (weights only).

        files: their paths, or a folder, read in the natural order of its names; where its networks lie in subfolders,
        those are the labels unless `labels` are given. Nothing is unpickled beyond tensors. ValueError names the file,
        and the entry in it, that cannot be read, or whose layers' order is not known: .safetensors keeps none, so
        names must tell it by their numbers or sizes must leave one order only.
        """
        from .importing import find_files, read_state
        from .stacking import from_states

        task_names: tuple[str, ...] = ()
        if isinstance(files, (str, Path)):
            files, found, names = find_files(files)
            labels, task_names = (found, names) if labels is None else (labels, ())
        states = [read_state(file, "from_files") for file in files]
        zoo = cls._imported(*from_states(states, [str(file) for file in files]), labels, "files")
        return replace(zoo, task_names=task_names or zoo.task_names)

    @classmethod
    def _imported(cls, network: Network, parameters: dict[str, np.ndarray], labels: Any, source: str) -> "WeightSet":
        n = len(next(iter(parameters.values())))
        labels = np.zeros(n, np.int64) if labels is None else np.asarray(labels)
        if labels.shape != (n,):
            raise ValueError(f"labels: want one a network, got {n} networks and labels of shape {labels.shape}")
        if not np.issubdtype(labels.dtype, np.integer):
            raise TypeError(f"labels must be integers, got {labels.dtype}")
        if labels.min() < 0 or labels.max() >= LABELS:
            raise ValueError(
                f"labels must be 0..{LABELS - 1}, positions in a list of tasks, got {labels.min()}..{labels.max()} "
                "(number them: np.unique(labels, return_inverse=True)[1])"
            )
        labels = labels.astype(np.int64)
        order = np.argsort(labels, kind="stable")
        _, first, counts = np.unique(labels[order], return_index=True, return_counts=True)
        repeats = np.empty(n, np.int64)
        repeats[order] = np.arange(n) - np.repeat(first, counts)
        names = tuple(str(t) for t in range(int(labels.max()) + 1))
        return cls(network, parameters, labels, repeats, names, info={"data": "imported", "backend": source})

    def to_matrix(self) -> tuple[np.ndarray, list[dict[str, Any]]]:
        """Every network as one row, float32 [N, P], as model zoos are published, and the layout of its columns.

        layout: a dict a parameter: name, start, stop (columns), shape (input first; C order).
        """
        layout: list[dict[str, Any]] = []
        at = 0
        for p in self.network.parameters:
            layout.append({"name": p.name, "start": at, "stop": at + p.size, "shape": p.shape})
            at += p.size
        out = np.empty((len(self), at), np.float32)
        for entry in layout:
            columns = out[:, entry["start"] : entry["stop"]]
            columns[:] = np.reshape(self.parameters[entry["name"]], columns.shape)
        return out, layout

    def to_torch(self, i: int) -> Any:
        """Network i as an nn.Sequential in eval mode with torch's parameter names; input [B, *input_shape].

        For ONNX, `torch.onnx.export(zoo.to_torch(i), (x,), file)`, which needs the package onnxscript.
        """
        from .modules import to_module

        if not -len(self) <= i < len(self):
            raise IndexError(f"to_torch: network must be 0..{len(self) - 1}, got {i}")
        return to_module(self.network, {name: array[i] for name, array in self.parameters.items()})


def diverged(network: Network, flat: np.ndarray) -> np.ndarray:
    """`WeightSet.diverged` of parameters side by side: flat [n, P] in the declaration's order -> bool [n]."""
    bad, at = np.zeros(len(flat), bool), 0
    for p in network.parameters:
        bad |= _wild(p, flat[:, at : at + p.size])
        at += p.size
    return bad


def _wild(p: Parameter, array: np.ndarray) -> np.ndarray:
    largest = np.abs(array).reshape(len(array), -1).max(axis=1, initial=0)
    return ~((largest <= DIVERGED) if p.trained else np.isfinite(largest))  # a NaN fails every comparison


def usable(what: str, zoo: WeightSet) -> WeightSet:
    """The set without its diverged networks; TypeError for anything else, ValueError where no network is left."""
    if not isinstance(zoo, WeightSet):
        raise TypeError(f"{what}: want a WeightSet, got {type(zoo).__name__}")
    if not len(zoo):
        raise ValueError(f"{what}: want one network or more, got an empty set")
    bad = zoo.diverged
    if bad.all():
        raise ValueError(f"{what}: all {len(zoo)} networks diverged (a smaller learning rate?)")
    return zoo[~bad] if bad.any() else zoo
