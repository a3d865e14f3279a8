"""A contest of ways to train the same networks, for every network that is trained."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import torch
from wsfast.kernels.numba.threads import available, each, unordered

from bench.contest import OURS, Contender, Contest, relative

LIMIT = 1e-3  # of the worst network after a few steps
DRIFT = 0.1  # of the worst network in the timed run: rounding alone reached 0.03, a wrong network 1 and more


@dataclass(frozen=True)
class Suite:
    """op, reference: ours and float64's, called with problem.arguments(i). peers: name -> train(problem, networks).

    slow: peers whose time is proportional to their networks, so that `looped` of them stand for all. checked: networks
    compared with float64. over: the peers that the goal was set against, all where empty.
    """

    name: str
    op: Callable
    reference: Callable
    peers: dict[str, Callable]
    looped: int
    checked: int
    over: tuple[str, ...] = ()
    slow: tuple[str, ...] = ("loop",)

    def ours(self, problem: Any, networks: torch.Tensor) -> np.ndarray:
        """As wsfast.generate does it: one network a thread, each collected as it is done."""
        runs = unordered(lambda i: self.op(**problem.arguments(i)), networks.tolist())
        done = {i: parameters for i, (parameters, _, _) in runs}
        return np.stack([done[i] for i in networks.tolist()])

    def oracle(self, problem: Any) -> tuple[np.ndarray, np.ndarray]:
        """(initial parameters, their change by the float64 reference) of the checked networks, each [n, P]."""
        some = range(min(self.checked, problem.networks))
        starts = np.array([problem.initial(i) for i in some])
        return starts, np.array([self.reference(**problem.arguments(i))[0] for i in some]) - starts

    def contest(self, problem: Any, goal: float, short: Any) -> Contest:
        """Every contender checked against float64, the peers at the faster of their two ways.

        In a long run rounding alone carries single networks over a ReLU's kink and 1e-3 to 3e-2 away, in every float32
        contender (the float64 reference too, with nothing but W stored in float32). So the strict limit is for
        `short`, a few steps, where kinks are rare; the timed run has a loose one, its median and worst errors shown.
        """
        short_oracle, long_oracle = self.oracle(short), self.oracle(problem)

        def contender(name: str, train: Callable, networks: torch.Tensor, how: str) -> Contender:
            early = max(errors(train(short, networks), *short_oracle))
            if not early <= LIMIT:
                raise AssertionError(f"{self.name} {short}: {name} errs {early:.1e} after {short.steps} steps")
            found = errors(train(problem, networks), *long_oracle)
            call = partial(train, problem, networks)
            return Contender(name, call, len(networks) * problem.steps, how, float(np.median(found)), max(found))

        everyone = torch.arange(problem.networks)
        contenders = [contender(OURS, self.ours, everyone, "a network a thread")]
        for name, train in self.peers.items():
            networks = everyone[: self.looped] if name in self.slow else everyone
            ways = {"all threads in each operation": inside, "networks split over threads": split}
            tried = [contender(name, partial(way, train), networks, how) for how, way in ways.items()]
            trial = Contest(self.name, str(problem), problem.step_flop, None, DRIFT, tried)
            contenders.append(trial.faster())
        return Contest(self.name, str(problem), problem.step_flop, goal, DRIFT, contenders, over=self.over)


def errors(got: np.ndarray, starts: np.ndarray, changes: np.ndarray) -> list[float]:
    return [relative(g - s, c) for g, s, c in zip(got[: len(starts)], starts, changes, strict=True)]


def inside(train: Callable, problem: Any, networks: torch.Tensor) -> np.ndarray:
    """All networks in one call, every operation on all cores."""
    torch.set_num_threads(available())
    return train(problem, networks).numpy()


def split(train: Callable, problem: Any, networks: torch.Tensor) -> np.ndarray:
    """The networks shared out over threads, every operation on one core."""
    parts = networks.tensor_split(available())
    done: dict[int, Any] = {}

    def part(i: int) -> None:
        torch.set_num_threads(1)
        done[i] = train(problem, parts[i]).numpy()

    each(part, range(len(parts)))
    return np.concatenate([done[i] for i in range(len(parts))])
