from pathlib import Path

import pytest

from wsfast import memory

GIB = 1 << 30


def group(folder: Path, names: tuple[str, str, str], limit: str, use: int, files: int) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for name, text in zip((*names[:2], "memory.stat"), (limit, str(use), f"anon 7\n{names[2]} {files}"), strict=True):
        (folder / name).write_text(text + "\n")


@pytest.fixture
def system(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A system of 64 GiB free, its process in no group."""
    monkeypatch.setattr(memory, "ROOT", tmp_path)
    (tmp_path / "proc/self").mkdir(parents=True)
    (tmp_path / "proc/meminfo").write_text(f"MemTotal: 9 kB\nMemAvailable: {64 << 20} kB\nHugePages_Total: 0\n")
    return tmp_path


def test_without_groups_all_that_is_available_is_free(system: Path) -> None:
    assert memory.free_memory("cpu") == 64 * GIB


@pytest.mark.parametrize(
    ("line", "mount", "names"),
    [
        ("0::/jobs/7/step", "sys/fs/cgroup", memory.VERSION_2),
        ("4:cpu,memory:/jobs/7/step", "sys/fs/cgroup/memory", memory.VERSION_1),
    ],
)
def test_the_tightest_of_nested_limits_counts(system: Path, line: str, mount: str, names: tuple[str, str, str]) -> None:
    (system / "proc/self/cgroup").write_text(f"9:pids:/elsewhere\n{line}\n")
    jobs = system / mount / "jobs"
    group(jobs / "7/step", names, "max" if names is memory.VERSION_2 else str(2**63 - 4096), 5 * GIB, 0)
    assert memory.free_memory("cpu") == 64 * GIB
    group(jobs / "7", names, str(16 * GIB), 6 * GIB, GIB)  # of what is used, files are given back when it is needed
    assert memory.free_memory("cpu") == 11 * GIB
    group(jobs, names, str(8 * GIB), 7 * GIB, 0)
    assert memory.free_memory("cpu") == GIB


def test_a_group_seen_from_within_a_container(system: Path) -> None:
    """Its path is the host's and not there; the mount itself is the container's."""
    (system / "proc/self/cgroup").write_text("0::/docker/abc\n")
    group(system / "sys/fs/cgroup", memory.VERSION_2, str(3 * GIB), 2 * GIB, 0)
    assert memory.free_memory("cpu") == GIB
    (system / "sys/fs/cgroup/memory.stat").unlink()
    assert memory.free_memory("cpu") == GIB


def test_a_system_that_does_not_tell_has_all_its_memory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(memory, "ROOT", tmp_path)
    assert memory.free_memory("cpu") > GIB / 4


def test_this_process_is_read() -> None:
    assert memory.free_memory("cpu") > 0
