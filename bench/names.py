"""What every contender of the recurrent benchmark is given, drawn before any clock starts."""

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from wsfast.reference import gru, philox

SEED, TASK, ALPHABET, CLASSES = 0, 0, 58, 2


@dataclass
class Names:
    """N networks on random names of 3 to 11 letters, one task, repeats 0 .. N - 1, a name a step.

    Drawn: letters [samples, 11], ALPHABET past a name's end; lengths, labels [samples]; parameters: ten tensors
    [N, ...] in the order of `wsfast.reference.gru`; drawn int64 [N, steps], the name of every step.
    """

    hidden: int
    networks: int
    steps: int
    samples: int = 64
    lr: float = 0.1

    def __post_init__(self) -> None:
        rng = np.random.default_rng(self.hidden)
        lengths, longest = rng.integers(3, 12, self.samples), 11
        x = rng.integers(0, ALPHABET, (self.samples, longest)).astype(np.uint8)
        x[np.arange(longest) >= lengths[:, None]] = ALPHABET
        y = np.arange(self.samples) % CLASSES
        self.letters, self.lengths, self.labels = torch.from_numpy(x.astype(np.int64)), lengths, torch.from_numpy(y)
        key = [(SEED, TASK, r) for r in range(self.networks)]
        starts = [gru.initial_parameters(ALPHABET, self.hidden, CLASSES, *k) for k in key]
        self.parameters = [torch.tensor(np.array(p, np.float32)) for p in zip(*starts, strict=True)]
        members = [np.flatnonzero(y == c) for c in range(CLASSES)]
        sizes = [len(m) for m in members]
        draws = [[members[c][i] for c, i in philox.sample(sizes, self.steps, 0, *k)] for k in key]
        self.drawn = torch.tensor(np.array(draws)).reshape(self.networks, self.steps)
        none = np.empty(0, np.int64)
        self.common = {"x": x, "train_rows": np.arange(self.samples), "train_labels": y, "test_rows": none}
        self.common |= {"test_labels": none, "alphabet": ALPHABET, "hidden": self.hidden, "classes": CLASSES}
        self.common |= {
            "lr": np.array([self.lr], np.float32),
            "steps": self.steps,
            "seed": np.uint64(SEED),
            "task": TASK,
        }

    def __str__(self) -> str:
        return f"GRU {ALPHABET}-{self.hidden}-{self.hidden}-{CLASSES}, batch 1"

    @property
    def step_flop(self) -> float:
        """Operations of a mean step: three products a use of a square matrix, W of layer 2 once a letter, U of both
        layers once a letter but the first; the one-hot product is none."""
        letters = self.lengths[self.drawn.numpy()].mean()
        return 18 * self.hidden**2 * (3 * letters - 2)

    def initial(self, i: int) -> np.ndarray:
        """Network i's parameters before its first step [P]."""
        return np.concatenate([p[i].numpy().ravel() for p in self.parameters])

    def arguments(self, repeat: int) -> dict[str, Any]:
        """The call of train_gru, ours or the reference's, for one network."""
        return {**self.common, "repeat": repeat}
