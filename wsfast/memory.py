"""How much memory this process can still take."""

import os
from collections.abc import Iterator
from pathlib import Path

ROOT = Path("/")
VERSION_2 = "memory.max", "memory.current", "inactive_file"  # a control group's limit, use, and files it need not keep
VERSION_1 = "memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file"


def free_memory(device: str) -> int:
    """Bytes that nobody uses and no limit of a container or a batch job forbids, on "cpu" or "cuda".

    Where the system does not tell, all of its memory.
    """
    if device == "cuda":
        from .kernels.triton.chunks import free_memory

        return free_memory()
    known = ROOT / "proc/meminfo"
    if not known.exists():
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    lines = dict(line.split(":") for line in known.read_text().splitlines())
    return min([int(lines["MemAvailable"].split()[0]) * 1024, *_left()])


def _left() -> Iterator[int]:
    """What every control group that this process is in leaves."""
    groups = ROOT / "proc/self/cgroup"
    for line in groups.read_text().splitlines() if groups.exists() else ():
        _, controllers, path = line.split(":", 2)
        if not controllers:
            mount, (limit, use, files) = ROOT / "sys/fs/cgroup", VERSION_2
        elif "memory" in controllers.split(","):
            mount, (limit, use, files) = ROOT / "sys/fs/cgroup/memory", VERSION_1
        else:
            continue
        inner = mount / path.strip("/")
        for group in (inner, *inner.parents):
            if (group / limit).exists() and (most := (group / limit).read_text().strip()) != "max":
                stat = group / "memory.stat"  # not every container shows it
                kept = dict(row.split() for row in stat.read_text().splitlines()) if stat.exists() else {}
                yield int(most) - int((group / use).read_text()) + int(kept.get(files, 0))
            if group == mount:
                break
