import pytest
import torch

from wsfast import backends


@pytest.fixture
def no_interpreter(monkeypatch):
    monkeypatch.delenv("TRITON_INTERPRET", raising=False)


def test_each_device_has_its_backend(no_interpreter, monkeypatch):
    assert backends.choose() == "numba"
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    assert backends.choose(device="cuda") == "triton"
    with pytest.raises(ValueError, match=r"backend triton runs on cuda, not on cpu \(device='cuda'\)"):
        backends.choose("triton", "cpu")
    assert backends.choose("triton") == "triton"
    assert backends.load("head", "triton").__name__ == "wsfast.kernels.triton.gram"


def test_a_missing_gpu_is_said(no_interpreter, monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    for built, reason in ((None, "is built for CPUs only"), ("13.0", "finds no GPU")):
        monkeypatch.setattr(torch.version, "cuda", built)
        monkeypatch.setattr(torch.version, "hip", None)
        with pytest.raises(ValueError, match=f"backend triton cannot run here: torch .* {reason}"):
            backends.choose(device="cuda")
        assert reason in backends.missing("triton")


def test_the_interpreter_stands_for_a_gpu(monkeypatch):
    monkeypatch.setenv("TRITON_INTERPRET", "1")
    assert backends.choose("triton") == "triton"
    assert backends.missing("triton") is None


def test_an_op_that_a_backend_lacks(monkeypatch):
    monkeypatch.setenv("TRITON_INTERPRET", "1")
    with pytest.raises(ValueError, match="dual_sgd: backend triton does not have it"):
        backends.load("dual_sgd", "triton")
    assert hasattr(backends.load("train_mlp", "triton"), "train_chunks")
