"""Which implementation of an op runs. A backend that is named and cannot run raises; nothing falls back."""

import importlib
from types import ModuleType

OPS = {  # op -> the file that holds it, in every backend
    "train_mlp": "mlp",
    "chain_factor": "gram",
    "chain_gram": "gram",
    "chain_kernel": "gram",
    "dual_sgd": "classifier",
}
PACKAGES = {"reference": "wsfast.reference", "numba": "wsfast.kernels.numba"}
DEFAULT = {"cpu": "numba"}


def choose(backend: str | None = None, device: str = "cpu") -> str:
    """The backend's name, the device's default where None; ValueError for one that is not known or cannot run there."""
    if device not in DEFAULT:
        raise ValueError(f"device must be one of {', '.join(DEFAULT)}, got {device!r} (no backend runs there yet)")
    backend = backend or DEFAULT[device]
    if backend not in PACKAGES:
        raise ValueError(f"backend must be one of {', '.join(PACKAGES)}, got {backend!r}")
    return backend


def load(op: str, backend: str | None = None) -> ModuleType:
    """The module that implements an op."""
    return importlib.import_module(f"{PACKAGES[choose(backend)]}.{OPS[op]}")
