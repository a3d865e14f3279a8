"""What all peers share, and the CUDA graph of an epoch."""

from collections.abc import Callable

import torch

from bench.gpu.problem import Problem


class Peer:
    """notes: what the page should say about this peer's run."""

    def __init__(self, problem: Problem, networks: torch.Tensor, precision: str) -> None:
        self.problem, self.networks, self.precision = problem, networks, precision
        self.orders = problem.orders[:, networks]  # [epochs, n, steps, batch]
        self.done = 0
        self.notes: dict[str, object] = {}

    def run(self, epochs: int) -> None:
        for _ in range(epochs):
            self.epoch(self.done % len(self.orders))
            self.done += 1

    def epoch(self, number: int) -> None:
        raise NotImplementedError

    def parameters(self) -> torch.Tensor:
        raise NotImplementedError


def captured(
    steps: Callable[[torch.Tensor], None], rows: torch.Tensor, reset: Callable[[], None]
) -> Callable[[torch.Tensor], None]:
    """`steps` of one epoch's rows [..., steps, batch] as one CUDA graph to replay; on a CPU, `steps` itself.

    The steps taken to warm up are undone by `reset`.
    """
    if rows.device.type != "cuda":
        return steps
    own = rows.clone()
    side = torch.cuda.Stream()
    side.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(side):
        for _ in range(3):
            steps(own[..., :1, :])
    torch.cuda.current_stream().wait_stream(side)
    torch.cuda.synchronize()
    reset()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        steps(own)

    def replay(rows: torch.Tensor) -> None:
        own.copy_(rows)
        graph.replay()

    return replay


EAGER = {"graph": "on a CPU there are no CUDA graphs: the same steps, eagerly"}
