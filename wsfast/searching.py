"""The networks of a set that are closest to one network, by chain."""

from pathlib import Path
from typing import Any

import numpy as np

from . import backends
from .chains import chain_factor, cheaper_form, factor_shape
from .comparing import Chains, chains_of
from .storage import load
from .weights import WeightSet

RUN = 256 << 20  # bytes of chain factors at a time


def search(query: Any, zoo: Any, *, top: int = 10, backend: str | None = None) -> list[dict[str, Any]]:
    """The networks of a set with the most similar chains, whatever the order of their hidden units.

    query: one network, as `compare` takes it. zoo: a WeightSet, or the folder of a stored one, which is then read a run
    of networks at a time. Hidden widths may differ: chain Grams are d x d. For every chain that both have, `top` dicts,
    the most similar first (ties in the set's order): chain, rank (from 1), network (position in the set), task (its
    name, or its label), repeat, cosine of the chain Grams (arXiv 2208.04369, eq. 18; in [0, 1]). Diverged networks are
    left out. ValueError where the chains have another d, or top is below 1.
    """
    if top < 1:
        raise ValueError(f"search: top must be at least 1, got {top}")
    if not isinstance(zoo, WeightSet):
        if not isinstance(zoo, (str, Path)):
            raise TypeError(f"search: zoo must be a WeightSet or its folder, got {type(zoo).__name__}")
        zoo = load(zoo)
    asked = chains_of(query, "query", backend)
    usable = np.flatnonzero(~zoo.diverged)
    if not len(usable):
        raise ValueError(f"search: none of the set's {len(zoo)} networks is usable")
    found = []
    for chain in range(1, min(asked.count, len(zoo.network.chains)) + 1):
        cosine = _cosines(asked, zoo, usable, chain, backend)
        for rank, i in enumerate(np.argsort(-cosine, kind="stable")[:top], 1):
            at = int(usable[i])
            task = int(zoo.labels[at])
            named = 0 <= task < len(zoo.task_names)
            found.append(
                {
                    "chain": chain,
                    "rank": rank,
                    "network": at,
                    "task": zoo.task_names[task] if named else str(task),
                    "repeat": int(zoo.repeats[at]),
                    "cosine": float(cosine[i]),
                }
            )
    return found


def _cosines(asked: Chains, zoo: WeightSet, usable: np.ndarray, chain: int, backend: str | None) -> np.ndarray:
    x = asked.factor(chain)
    d, r = factor_shape(zoo.network, chain)
    if x.shape[1] != d:
        raise ValueError(f"search: chain {chain} has d = {x.shape[1]} in the query and {d} in the set")
    form = cheaper_form(1, len(usable), d, x.shape[2], r)
    kernel = backends.load("chain_kernel", backend).chain_kernel
    run = max(1, RUN // (4 * d * r))
    parts = [
        kernel(x, chain_factor(zoo[usable[i : i + run]], chain, backend=backend), form, True)[0]
        for i in range(0, len(usable), run)
    ]
    return np.concatenate(parts)


def table(rows: list[dict[str, Any]]) -> str:
    """What search found, for people."""
    wide = max(len("task"), *(len(r["task"]) for r in rows))
    head = ("chain", "rank", "network", "task", "repeat", "cosine")
    lines = [
        (*map(str, (r["chain"], r["rank"], r["network"], r["task"], r["repeat"])), f"{r['cosine']:.4f}") for r in rows
    ]
    return "\n".join(f"{a:>5} {b:>5} {c:>8}  {d:<{wide}} {e:>7} {f:>8}" for a, b, c, d, e, f in [head, *lines])
