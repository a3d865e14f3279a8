"""Which implementation of an op runs, and where. A backend that is named and cannot run raises; nothing falls back."""

import importlib
import os
from types import ModuleType

OPS = {  # op -> the file that holds it, in every backend
    "train_mlp": "mlp",
    "train_cnn": "cnn",
    "train_gru": "gru",
    "interpolate_mlp": "interpolate",
    "interpolate_cnn": "interpolate",
    "interpolate_gru": "interpolate",
    "chain_factor": "gram",
    "chain_gram": "gram",
    "chain_kernel": "gram",
    "head": "gram",
    "head_gradient": "gram",
    "dual_sgd": "classifier",
    "correlation": "correlation",
    "mutual_information": "information",
    "lasso_path": "lasso",
}
PACKAGES = {
    "reference": "wsfast.reference",
    "numba": "wsfast.kernels.numba",
    "triton": "wsfast.kernels.triton",
}
LACKS = {  # the ops that a backend does not have
    "triton": ("dual_sgd", "mutual_information", "lasso_path"),
}
DEFAULT = {"cpu": "numba", "cuda": "triton"}


def choose(backend: str | None = None, device: str | None = None) -> str:
    """The backend's name, the device's default where None; ValueError for one that is not known or cannot run there.

    device: `home` of the backend where None.
    """
    device = device or home(backend)
    if device not in DEFAULT:
        raise ValueError(f"device must be one of {', '.join(DEFAULT)}, got {device!r}")
    backend = backend or DEFAULT[device]
    if backend not in PACKAGES:
        raise ValueError(f"backend must be one of {', '.join(PACKAGES)}, got {backend!r}")
    if (backend == "triton") != (device == "cuda") and not (backend == "triton" and interpreting()):
        raise ValueError(f"backend {backend} runs on {runs_on(backend)}, not on {device} (device={runs_on(backend)!r})")
    reason = missing(backend, device)
    if reason:
        raise ValueError(f"backend {backend} cannot run here: {reason}")
    return backend


def home(backend: str | None) -> str:
    """The device that a backend runs on here, the CPU where None."""
    return "cpu" if backend is None or interpreting() else runs_on(backend)


def runs_on(backend: str) -> str:
    return "cuda" if backend == "triton" else "cpu"


def interpreting() -> bool:
    """Whether Triton's interpreter was asked for: kernels on the CPU, for tests, a thousand times slower."""
    return os.environ.get("TRITON_INTERPRET") == "1"


def missing(backend: str, device: str | None = None) -> str | None:
    """Why a backend cannot run on this machine; None where it can."""
    if backend != "triton":
        return None
    try:
        importlib.import_module("triton")
    except ImportError as error:
        return f"triton cannot be imported ({error})"
    if interpreting() and device != "cuda":
        return None
    torch = importlib.import_module("torch")
    if torch.cuda.is_available():
        return None
    built = torch.version.cuda or torch.version.hip
    return f"torch {torch.__version__} " + (
        "finds no GPU" if built else "is built for CPUs only (install its CUDA build)"
    )


def load(op: str, backend: str | None = None, device: str | None = None) -> ModuleType:
    """The module that implements an op; backend and device as choose."""
    backend = choose(backend, device)
    if op in LACKS.get(backend, ()):
        raise ValueError(f"{op}: backend {backend} does not have it (backend=None runs it on the CPU)")
    return importlib.import_module(f"{PACKAGES[backend]}.{OPS[op]}")
