"""What every contender of the recurrent benchmark is given, drawn before any clock starts."""

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from wsfast.reference import gru, philox

from bench.gpu import draws

SEED, TASK, ALPHABET, CLASSES = 0, 0, 58, 2
LENGTHS = 3, 11  # letters of a name, from, to


@dataclass
class Names:
    """N networks on random names of 3 to 11 letters, one task, repeats 0 .. N - 1, a name a step.

    Tensors on the device: letters [samples, 11], ALPHABET past a name's end; lengths, labels [samples]; parameters: ten
    [N, ...] in the order of `wsfast.reference.gru`; drawn int64 [N, steps], the name of every step.
    """

    hidden: int
    networks: int
    steps: int
    samples: int = 64
    lr: float = 0.1
    device: str = "cpu"

    def __post_init__(self) -> None:
        rng = np.random.default_rng(self.hidden)
        lengths, longest = rng.integers(LENGTHS[0], LENGTHS[1] + 1, self.samples), LENGTHS[1]
        x = rng.integers(0, ALPHABET, (self.samples, longest)).astype(np.uint8)
        x[np.arange(longest) >= lengths[:, None]] = ALPHABET
        y = np.arange(self.samples) % CLASSES
        members = np.stack([np.flatnonzero(y == c) for c in range(CLASSES)])
        key = [(SEED, TASK, r) for r in range(self.networks)]
        found = [philox.sample([members.shape[1]] * CLASSES, self.steps, 0, *k) for k in key]
        drawn = np.array([members[tuple(f.T)] for f in found]).reshape(self.networks, self.steps)
        given = x.astype(np.int64), lengths, y, drawn
        self.letters, self.lengths, self.labels, self.drawn = (torch.from_numpy(a).to(self.device) for a in given)
        repeats, bound = torch.arange(self.networks, device=self.device), 1 / np.sqrt(self.hidden)
        shapes = gru.shapes(ALPHABET, self.hidden, CLASSES)
        self.parameters = [draws.parameter(shape, bound, item, repeats) for item, shape in enumerate(shapes)]
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
        return 18 * self.hidden**2 * (3 * self.mean_length - 2)

    @property
    def mean_length(self) -> float:
        """Letters of a step."""
        return float(self.lengths[self.drawn].double().mean())

    def initial(self, i: int) -> np.ndarray:
        """Network i's parameters before its first step [P]."""
        return np.concatenate([p[i].cpu().numpy().ravel() for p in self.parameters])

    def arguments(self, repeat: int) -> dict[str, Any]:
        """The call of train_gru, ours or the reference's, for one network."""
        return {**self.common, "repeat": repeat}
