"""Files that are there whole or not at all."""

import hashlib
import os
from pathlib import Path

CHUNK = 1 << 22  # bytes hashed at a time


def writable_folder(out: str | Path) -> Path:
    """The folder, made if need be; OSError that says so where it cannot be written."""
    folder = Path(out).expanduser()
    try:
        folder.mkdir(parents=True, exist_ok=True)
        probe = folder / f".probe-{os.getpid()}"
        probe.touch()
        probe.unlink()
    except OSError as error:
        raise OSError(f"cannot write into {folder}: {error.strerror} (choose another folder with --out)") from error
    return folder


def sha256(path: Path) -> str:
    """Of a file's content, read piece by piece."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while piece := file.read(CHUNK):
            digest.update(piece)
    return digest.hexdigest()


def write_whole(path: Path, content: str | bytes) -> None:
    """Write a file under another name, flush it, and rename it into place; OSError that names the file."""
    scratch = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        with scratch.open("wb") as file:
            file.write(content.encode() if isinstance(content, str) else content)
            file.flush()
            os.fsync(file.fileno())
        scratch.replace(path)
    except OSError as error:
        said = f"cannot write {path}: {error.strerror}; what was finished before is kept"
        raise OSError(error.errno, said) from error
    finally:
        scratch.unlink(missing_ok=True)
