"""Fixtures shared by all tests."""

import os
import sys
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest
import torch

if "WSFAST_EMULATE" not in os.environ and not torch.cuda.is_available():
    os.environ["TRITON_INTERPRET"] = "1"  # before triton is imported: kernels then run in its interpreter
os.environ["NUMBA_NRT_STATS"] = "1"  # numba counts its arrays

import wsfast

INTERPRETED = os.environ.get("TRITON_INTERPRET") == "1"
if INTERPRETED and find_spec("triton"):
    import bfloat16

    bfloat16.install()
if "WSFAST_EMULATE" in os.environ:  # "sm_80": kernels are compiled for it and run from their PTX
    import emulated

    emulated.install(os.environ["WSFAST_EMULATE"])


@pytest.hookimpl(wrapper=True)
def pytest_runtest_call(item):
    """Coverage's tracer doubles the time of Triton's interpreter, and sees nothing of kernels: off meanwhile."""
    tracer = sys.gettrace()
    if item.path.name.startswith(("test_triton_", "test_pretended", "test_gpu_")):
        sys.settrace(None)
    try:
        return (yield)
    finally:
        sys.settrace(tracer)


@pytest.fixture(scope="session")
def as_good_as():
    """assert_as_good_as(name, got, oracle, baseline, factor): got errs at most `factor` times what the baseline errs.

    Errors are ||x - oracle|| / ||oracle|| against a float64 oracle; the floor is one rounding of float32.
    """

    def check(name, got, oracle, baseline, factor=4.0):
        oracle = np.asarray(oracle, np.float64)
        assert np.shape(got) == oracle.shape == np.shape(baseline), name
        scale = np.linalg.norm(oracle) or 1.0
        ours, theirs = (np.linalg.norm(np.asarray(x, np.float64) - oracle) / scale for x in (got, baseline))
        assert ours <= factor * max(theirs, 2.0**-24), f"{name}: error {ours:.2e}, baseline {theirs:.2e}"

    return check


@pytest.fixture(scope="session")
def four_tasks():
    """Four pairs of digits."""
    return wsfast.tasks("digits", n=4)


@pytest.fixture(scope="session")
def zoo(four_tasks):
    """4 tasks x 10 trained networks of width 24."""
    return wsfast.generate("mlp4", four_tasks, repeats=10, width=24, progress=False)


@pytest.fixture(scope="session")
def data_root():
    """The folder of the real data sets."""
    if "WSFAST_DATA" not in os.environ:
        pytest.skip("WSFAST_DATA is not set: no real data sets on this machine")
    return Path(os.environ["WSFAST_DATA"])


@pytest.fixture(scope="session")
def device():
    """Where Triton kernels are tested: a GPU where there is one, else the CPU in the interpreter."""
    return "cuda" if torch.cuda.is_available() else "cpu"


@pytest.fixture(scope="session", autouse=INTERPRETED)
def patched_once():
    """The interpreter patches triton.language in every call of a device function; that the launch has is enough."""
    from triton import language
    from triton.runtime import interpreter

    plain, places = interpreter._patch_lang, (language, language.core)

    def patch(function):
        used = [place for place in places if any(place is value for value in function.__globals__.values())]
        if any(language.core.is_builtin(place.load) for place in used):
            return plain(function)
        return interpreter._LangPatchScope()

    interpreter._patch_lang = patch


@pytest.fixture(autouse=INTERPRETED)
def sanitizer(monkeypatch):
    """Every kernel that a test runs in the interpreter is watched for what would be a race on a GPU."""
    from sanitizer import Sanitizer

    watching = Sanitizer(monkeypatch)
    yield watching
    assert not watching.faults, "\n".join(sorted(watching.faults))
