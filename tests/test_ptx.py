"""Kernels as a GPU gets them: their own tests, compiled for sm_80 or sm_90 and run from PTX, in separate processes.

Triton 3.7.1 compiled a kernel of ours wrongly, which neither its interpreter nor the compiler's report can show.
"""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
import torch

pytestmark = pytest.mark.skipif(torch.cuda.is_available(), reason="all tests of kernels run compiled here, on the GPU")

TESTS = Path(__file__).parent
ERRS = "test_a_run_errs_no_more_than_torch"
RUNS = {  # name: the target, the tests
    "the emulator, shipped launches": ("sm_80", ["emulator_checks.py"]),
    "shipped launches, sm_90": ("sm_90", ["emulator_checks.py::test_shipped_launches"]),
    "random streams": ("sm_80", ["test_triton_philox.py"]),
    "random streams, sm_90": ("sm_90", ["test_triton_philox.py"]),
    "recurrent networks": ("sm_90", [f"test_triton_gru.py::{ERRS}"]),
    "small networks": ("sm_80", [f"test_triton_mlp.py::{ERRS}[ReLU on the logits]"]),
    "small networks, sm_90": ("sm_90", [f"test_triton_mlp.py::{ERRS}[one program]"]),
    "residual layers": ("sm_90", [f"test_triton_mlp.py::{ERRS}[residual]"]),
    "layers, lower precision": ("sm_90", ["test_triton_mlp.py::test_lower_precisions_stay_near[bf16]"]),
    "convolutions": ("sm_80", [f"test_triton_cnn.py::{ERRS}[gates]"]),
    "convolutions, lower precision": ("sm_90", ["test_triton_cnn.py::test_lower_precisions_stay_near"]),
    "lines": (
        "sm_90",
        [
            f"test_triton_interpolate.py::{name}"
            for name in ("test_against_the_reference[sums]", "test_names_against_the_reference[odd]")
        ],
    ),
    "features": (
        "sm_90",
        [
            "test_triton_correlation.py::test_against_the_reference[odd]",
            *(f"test_triton_gram.py::{name}" for name in ("test_chain_factor[odd]", "test_chain_gram[odd]")),
            *(f"test_triton_gram.py::test_chain_kernel[odd-{form}]" for form in ("factorised", "packed")),
            "test_triton_gram.py::test_head_and_its_gradient[odd-3]",
        ],
    ),
}


@pytest.mark.parametrize("name", RUNS)
def test_what_is_compiled_passes_the_kernels_tests(name):
    target, tests = RUNS[name]
    environment = {k: v for k, v in os.environ.items() if k != "TRITON_INTERPRET"} | {"WSFAST_EMULATE": target}
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", *(str(TESTS / test) for test in tests)]
    done = subprocess.run(command, env=environment, cwd=TESTS.parent, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout[-4000:] + done.stderr[-1000:]
    assert re.search(r"^\d+ passed in ", done.stdout, re.M), done.stdout[-500:]  # none is skipped
