"""wsfast's training and chain kernels on the GPU. A step's time is the difference of a long and a short training run,
so that the start and end of a run (initial weights, upload, evaluation, download) do not count; the headline counts all
of it."""

import os
from collections.abc import Callable, Iterable
from importlib import import_module
from typing import Any

import numpy as np
import torch

from bench.gpu.problem import Problem
from bench.lines import Lines
from bench.name_lines import NameLines
from bench.names import Names
from wsfast.backends import OPS, PACKAGES


def missing(device: str, precision: str) -> str | None:
    """Why the op cannot run here; None where it should."""
    if device != "cuda" and precision == "bf16":
        return "the interpreter multiplies bf16 bit patterns as integers"
    if device != "cuda" and os.environ.get("TRITON_INTERPRET") != "1":
        return "TRITON_INTERPRET is unset"
    return None


def call(
    op: str, shared: dict[str, Any], tasks: list[Any], jobs: list[Any], lr: np.ndarray, precision: str, device: str
) -> Any:
    """(parameters, curves, records) of train_mlp or train_cnn; `shared` as Problem.network; lr [epochs]."""
    train = getattr(import_module(f"{PACKAGES['triton']}.{OPS[op]}"), op)
    return train(**shared, tasks=tasks, jobs=jobs, lr=lr, precision=precision, device=device)


def chain(op: str, x: Any, precision: str) -> Any:
    """chain_gram or chain_kernel of factors x [N, d, r] on the device."""
    from wsfast.kernels.triton import gram

    return getattr(gram, op)(x, precision=precision)


def correlation(x: torch.Tensor, pairs: np.ndarray, precision: str) -> np.ndarray:
    from wsfast.kernels.triton import correlation

    return correlation.correlation(x, x, pairs, precision=precision)


def lines(problem: Lines, pairs: np.ndarray, precision: str) -> np.ndarray:
    """Losses on lines of the problem: float64 [pairs, L]."""
    from wsfast.kernels.triton.interpolate import interpolate_mlp

    return _losses(interpolate_mlp, problem, pairs, precision=precision)


def name_lines(problem: NameLines, pairs: np.ndarray) -> np.ndarray:
    """As lines, between recurrent networks."""
    from wsfast.kernels.triton.interpolate import interpolate_gru

    return _losses(interpolate_gru, problem, pairs)


def _losses(op: Callable[..., Any], problem: Lines | NameLines, pairs: np.ndarray, **precision: str) -> np.ndarray:
    given = dict(problem.common)
    rows, labels = given.pop("rows"), given.pop("labels")
    task, none = np.zeros(len(pairs), np.int64), np.empty(0, np.int64)
    ends = {"start": problem.start[pairs].numpy(), "end": problem.end[pairs].numpy()}
    tasks = [(rows, labels, none, none)]
    done = op(tasks=tasks, lines=task, **given, **ends, **precision, device=problem.device)
    return np.concatenate([found[:, 0, 0] for _, found in done])


def recurrent(problem: Names, networks: Iterable[int]) -> np.ndarray:
    """These networks after the problem's steps: parameters [n, P]."""
    from wsfast.kernels.triton.gru import train_gru

    given = dict(problem.common)
    task = [given.pop(name) for name in ("train_rows", "train_labels", "test_rows", "test_labels")]
    number = given.pop("task")
    jobs = [(number, r) for r in networks]
    return train_gru(tasks=[task], jobs=jobs, **given, device=problem.device)[0]


def train(problem: Problem, epochs: int, precision: str) -> np.ndarray:
    """All networks of the problem: parameters [N, P]."""
    none = np.empty(0, np.int64)
    task = np.arange(problem.size.samples), problem.classes, none, none
    jobs = [(0, r) for r in range(problem.size.networks)]
    lr = np.full(epochs, problem.size.lr, np.float32)
    return call(problem.op, problem.network, [task], jobs, lr, precision, problem.device)[0]
