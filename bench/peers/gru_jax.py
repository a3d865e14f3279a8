"""JAX: all steps of all networks as one compiled call."""

import torch

from bench.names import ALPHABET, Names
from bench.peers import xla


class Networks:
    """All networks' parameters, trained on by every run."""

    def __init__(self, problem: Names, networks: torch.Tensor) -> None:
        start = {str(k): p[networks] for k, p in enumerate(problem.parameters)}
        letters = problem.letters.clamp(max=ALPHABET - 1)  # those past a name's end are never read
        self.data = tuple(xla.put(a) for a in (letters, problem.lengths, problem.labels))
        self.names, self.state, self.drawn = list(start), xla.begin(start), xla.put(problem.drawn[networks])
        self.call = xla.trainer(xla.gru_loss, problem.lr, 0.0)

    def run(self) -> None:
        """The problem's steps; the first run also compiles."""
        import jax

        self.state = jax.block_until_ready(self.call(self.state, self.drawn, self.data))

    def parameters(self) -> torch.Tensor:
        return xla.flat(self.state, self.names)


def train(problem: Names, networks: torch.Tensor) -> torch.Tensor:
    trained = Networks(problem, networks)
    trained.run()
    return trained.parameters()
