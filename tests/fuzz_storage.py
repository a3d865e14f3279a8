"""make fuzz: random bytes as manifests and shards, steered by coverage; anything but our own error fails."""

import shutil
import sys
import tempfile
from pathlib import Path

import atheris
import numpy as np

with atheris.instrument_imports(include=["wsfast.manifest", "wsfast.storage", "wsfast.declaration"]):
    import wsfast

WHOLE = Path(tempfile.mkdtemp()) / "whole"
FUZZED = WHOLE.with_name("fuzzed")
LIMIT = 1 << 20  # bytes that so small a set may take


def whole() -> None:
    rng = np.random.default_rng(0)
    weights = [rng.standard_normal((4, *s)).astype(np.float32) for s in ((3, 5), (5, 2))]
    wsfast.WeightSet.from_arrays(weights, labels=[0, 0, 1, 1]).save(WHOLE)


def one(data: bytes) -> None:
    """The first byte chooses the file, the second what happens to it: replaced, or its middle overwritten."""
    if len(data) < 4:
        return
    name = ("manifest.json", "shard-00000.safetensors")[data[0] % 2]
    shutil.copytree(WHOLE, FUZZED, dirs_exist_ok=True)
    content, piece = bytearray((WHOLE / name).read_bytes()), data[4:]
    if data[1] % 4 == 0:
        content = bytearray(piece)
    else:
        at = int.from_bytes(data[2:4], "little") % len(content)
        content[at : at + len(piece)] = piece
    (FUZZED / name).write_bytes(content)
    try:
        zoo = wsfast.WeightSet.open(FUZZED, partial=True)
    except ValueError as error:
        if str(FUZZED) not in str(error):
            raise
        return
    if zoo.nbytes > LIMIT:
        raise AssertionError(f"{zoo.nbytes} bytes out of a folder of {len(content)}")
    for array in zoo.parameters.values():
        np.asarray(array)


if __name__ == "__main__":
    whole()
    atheris.Setup(sys.argv, one)
    atheris.Fuzz()
