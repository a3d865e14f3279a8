"""Where a result comes from: versions, machine, commit, time."""

import platform
import subprocess
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

PACKAGES = ("wsfast", "torch", "numpy", "numba", "scipy", "scikit-learn", "triton")


def versions() -> dict[str, str]:
    """Installed version of everything that can change a number; packages that are absent are left out."""
    found = {"python": platform.python_version()}
    for name in PACKAGES:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            continue
    return found


def processor() -> str:
    """The processor's name, as the system tells it."""
    try:
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                return line.split(":", 1)[1].strip()
    except OSError:
        pass
    return platform.processor() or platform.machine()


def commit() -> str | None:
    """The checkout's commit, with + where it has changes; None outside a checkout."""
    root = Path(__file__).parent.parent
    if not (root / ".git").exists():
        return None
    try:
        said = subprocess.run(
            ["git", "describe", "--always", "--dirty=+", "--abbrev=12", "--exclude=*"],
            cwd=root,
            capture_output=True,
            text=True,
            timeout=10,
            check=True,
        )
    except (OSError, subprocess.SubprocessError):
        return None
    return said.stdout.strip()


def peak_memory() -> float | None:
    """The most memory this process has held, in bytes; None where the system does not tell."""
    try:
        import resource
    except ImportError:  # not on Windows
        return None
    unit = 1 if platform.system() == "Darwin" else 1024
    return float(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit)


def machine(device: str = "cpu") -> str:
    """The name of what computes."""
    from .kernels.numba.threads import cores

    if device != "cpu":
        import torch

        return torch.cuda.get_device_name(device)
    return f"{processor()}, {cores()} cores"


def record(device: str = "cpu") -> dict[str, Any]:
    return {
        "versions": versions(),
        "device": machine(device),
        "commit": commit(),
        "time": datetime.now(UTC).isoformat(timespec="seconds"),
    }
