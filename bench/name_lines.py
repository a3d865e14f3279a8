"""Random recurrent networks in pairs, to be measured on the straight lines between them: what contenders are given."""

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from wsfast.reference import gru

from bench.lines import POINTS
from bench.names import ALPHABET, CLASSES, Names


@dataclass(frozen=True)
class NameCase:
    hidden: int
    samples: int
    pairs: int
    goal: float | None = None

    def __str__(self) -> str:
        return f"GRU {ALPHABET}-{self.hidden}-{self.hidden}-{CLASSES}, {self.samples} names, {self.pairs} pairs"


class NameLines:
    """start, end: [pairs, P], on the host; on the device letters, lengths, labels as in `Names`; points [L]; size: P;
    flop: of one line's products, W of layer 2 once a letter, U of both layers once a letter but a name's first."""

    def __init__(self, case: NameCase, device: str = "cpu") -> None:
        drawn = Names(case.hidden, networks=1, steps=1, samples=case.samples, device=device)
        self.device, self.hidden, self.lengths, self.labels = device, case.hidden, drawn.lengths, drawn.labels
        self.letters, letters = drawn.letters, int(drawn.lengths.sum())
        shapes = gru.shapes(ALPHABET, case.hidden, CLASSES)
        self.size = sum(math.prod(shape) for shape in shapes)
        ends = np.random.default_rng(case.hidden).standard_normal((2, case.pairs, self.size), np.float32)
        self.start, self.end = map(torch.from_numpy, ends / np.float32(np.sqrt(case.hidden)))
        self.points = np.linspace(0, 1, POINTS, dtype=np.float32)
        self.flop = POINTS * 6 * case.hidden**2 * (3 * letters - 2 * case.samples)
        taken = {key: drawn.common[key] for key in ("x", "alphabet", "hidden", "classes")}
        rows = {"rows": drawn.common["train_rows"], "labels": drawn.common["train_labels"]}
        self.common = {**taken, **rows, "points": self.points}

    def call(self, op: Callable, i: int) -> np.ndarray:
        """The loss curve of pair i by our op or the reference's."""
        return op(**self.common, start=self.start[i].numpy(), end=self.end[i].numpy())[0]
