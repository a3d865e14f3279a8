import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
INSTALLED = {"wsfast": "wsfast", "kernels": "wsfast/kernels", "reference": "wsfast/reference"}


def test_the_wheel_holds_every_module(tmp_path):
    run = subprocess.run(
        [sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", tmp_path, ROOT],
        capture_output=True,
        text=True,
    )
    assert run.returncode == 0, run.stdout + run.stderr
    names = set(zipfile.ZipFile(next(tmp_path.glob("*.whl"))).namelist())
    wanted = {
        f"{target}/{file.relative_to(ROOT / folder).as_posix()}"
        for folder, target in INSTALLED.items()
        for file in (ROOT / folder).rglob("*.py")
    }
    assert wanted <= names
    assert not {n for n in names if n.startswith(("tests/", "bench/", "kernels/", "reference/"))}


def test_a_checkout_works_without_being_installed():
    code = "import wsfast, wsfast.reference.mlp, wsfast.kernels.numba.mlp; print(wsfast.__file__)"
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=ROOT)
    assert Path(run.stdout.strip()).is_relative_to(ROOT)


@pytest.mark.parametrize("file", sorted((ROOT / "reference").glob("*.py")), ids=lambda f: f.name)
def test_the_reference_needs_numpy_and_the_standard_library(file):
    imports = [line.split()[1] for line in file.read_text().splitlines() if line.startswith(("import ", "from "))]
    assert {name.split(".")[0] for name in imports} <= {"numpy", "", *sys.stdlib_module_names}


def test_what_the_contract_names_is_there():
    import wsfast

    for name in (
        "tasks",
        "generate",
        "chain_factor",
        "chain_gram",
        "chain_kernel",
        "study",
        "WeightClassifier",
        "WeightSet",
    ):
        assert callable(getattr(wsfast, name))
        assert getattr(wsfast, name).__doc__
