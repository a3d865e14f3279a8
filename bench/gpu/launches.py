"""What the cases launch, compiled for this card on all cores before anything is timed: Triton finds it in its cache."""

import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import partial
from typing import Any

import numpy as np
import torch
from triton.runtime import driver
from wsfast.kernels.triton import aot, population

from bench.gpu import cases, chains, headline, ours, pairs, recurrent
from bench.names import Names


def calls(smoke: bool) -> Iterator[Callable[[], Any]]:
    """Every case's calls of ours, of as few networks as there can be, on the CPU."""
    for scale in (headline.SMOKE if smoke else headline.SCALES).values():
        x, tasks = headline.images(replace(scale, tasks=1))
        op, given, lr = headline.CALLS[scale.network][0], headline.shared(scale, x), np.ones(1, np.float32)
        yield partial(ours.call, op, given, tasks, [(0, 0)], lr, scale.precision, "cpu")
    for case in (cases.SMOKE if smoke else cases.CONTEST).values():
        problem = case.problem(replace(case.size, networks=1), "cpu")
        yield from (partial(ours.train, problem, 1, precision) for precision in case.ours)
    for given in chains.SMOKE if smoke else chains.CASES:
        x = torch.ones(1, given.d, given.r)
        yield from (partial(ours.chain, given.op, x, precision) for precision in ("tf32x3", "tf32"))
    for made in pairs.SMOKE if smoke else pairs.CASES:
        own, some = made("cpu").ways[pairs.OURS], torch.tensor([0])
        yield from (partial(own, some, precision) for precision in ("tf32x3", "tf32"))
    names = recurrent.SMOKE if smoke else recurrent.CASE
    yield partial(ours.recurrent, Names(names.hidden, 1, 1, names.samples), [0])


def needed(smoke: bool) -> list[aot.Launch]:
    with aot.recorded(population.hip()) as found:
        for call in calls(smoke):
            call()
    return list(found)


def compile_all(smoke: bool) -> dict[str, Any]:
    """How many were compiled, and in what time; RuntimeError tells the first that cannot be."""
    began = time.perf_counter()
    launches = needed(smoke)
    jobs = [(launch, driver.active.get_current_target()) for launch in launches]
    wrong = [told for told in aot.each(aot.fill_cache, jobs) if told]
    if wrong:
        raise RuntimeError(f"{len(wrong)} of {len(launches)} launches do not compile; the first: {wrong[0]}")
    return {"launches": len(launches), "seconds": time.perf_counter() - began}
