"""Do networks trained apart learn the same units? Convergent learning, layer by layer, over many pairs of networks."""

import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from threadpoolctl import threadpool_limits

from . import backends, provenance
from .activations import activations, hidden_outputs
from .events import Progress
from .initial import untrained
from .matching import clustered, described, matching, scores_of, semi_matching
from .result import Result
from .seeds import whole_seed
from .taskset import TaskSet
from .weights import WeightSet, usable

SCHEMA = 1
DETAILED = 20  # pairs of a kind whose units are also clustered and predicted
PENALTIES = np.geomspace(0.5, 0.01, 10)
RUN = 256 << 20  # bytes of one score of the pairs in work


@dataclass
class Convergence(Result):
    """A measurement's numbers (to_dict, as in converge.json) and what its figures are drawn from.

    curves: (pairs, layer) -> float64 [2, units], correlations with the best and with the one-to-one partner, each
    sorted and averaged over pairs. map: layer, correlations [U, V] of one pair of a task, its units" clusters.
    """

    FILES = ("converge.json", "converge.html")
    curves: dict[tuple[str, str], np.ndarray]
    map: tuple[str, np.ndarray, np.ndarray, np.ndarray] | None = None

    def table(self) -> str:
        from .converge_report import table

        return table(self.numbers)

    def drawn(self) -> str:
        from .converge_report import converge_html

        return converge_html(self)


def convergence(
    zoo: WeightSet,
    inputs: np.ndarray | Sequence[np.ndarray],
    *,
    pairs: int = 200,
    clusters: int | None = None,
    seed: int = 0,
    backend: str | None = None,
    device: str = "cpu",
    progress: bool | None = None,
) -> Convergence:
    """Do hidden units of one network have counterparts in another? (Li et al., "Convergent Learning", ICLR 2016)

    inputs: [samples, *input_shape] as a network takes them, or a list of arrays (names of one length each); every
    network answers the same ones (`sample_inputs` takes them from tasks). For each layer and kind of pairs, means and
    standard deviations over pairs of: a unit's correlation, averaged over units, with its best partner (semi_r, repeats
    allowed), its one-to-one partner (match_r, the matching of largest sum) and all units (random_r, what shuffled units
    would give); r_agreement, the share of units for which both partners are the same; the same with mutual information
    of 8 bins in nats (semi_mi, match_mi, random_mi, mi_agreement). A unit that answers the same to every input (dead:
    their share) is left out of these means, but may be a partner, with 0.

    For the first 20 pairs of a kind also: path, predicting each unit of one network from all of the other with an L1
    penalty, the unexplained share of variance on the second half of the inputs, the weights being fitted to the first,
    and the weights that are not zero; clusters, spectral many-to-many groups of both networks' units, so many of them
    (a fourth of the units where None), fewer where fewer units are alive.

    Kinds: "same task"; "other task" where there are two; and controls on the first kind's pairs: "shuffled inputs", one
    network answers them in another order (of names those of one length), so what matching finds by chance, and by what
    a unit answers at a place of an image whatever is there; "untrained", before the first step. pairs: of each kind,
    drawn with `seed`, as many as there are at most. backend, device: of the correlations; all else runs on the CPU.
    Diverged networks are left out. The activations of the networks of all pairs are held in memory, those of three
    kinds at once. ValueError for sets without two networks of a task, or inputs of another shape.
    """
    start = time.perf_counter()
    if pairs < 1:
        raise ValueError(f"convergence: pairs must be at least 1, got {pairs}")
    if clusters is not None and clusters < 2:
        raise ValueError(f"convergence: clusters must be at least 2, got {clusters}")
    good, seed = usable("convergence", zoo), whole_seed("convergence", seed)
    rng = np.random.default_rng([seed, pairs])
    same, other = (_drawn(good.labels, alike, pairs, rng) for alike in (True, False))
    if not len(same):
        raise ValueError("convergence: want a task with two usable networks (generate more repeats)")
    ops = {
        "r": backends.load("correlation", backend, device).correlation,
        "mi": backends.load("mutual_information").mutual_information,
    }
    path = backends.load("lasso_path").lasso_path
    rows, curves, drawn = [], {}, None
    layers = list(hidden_outputs(zoo.network))
    middle = layers[len(layers) // 2]
    said = Progress("converge", (3 + bool(len(other))) * len(layers), "layer", progress)
    with said, threadpool_limits(1, "blas"):  # its threads beside the kernels' wait for each other
        for name, first, second, chosen in _kinds(good, inputs, same, other, rng):
            for layer in layers:
                x, y = first[layer], second[layer]
                row, curves[name, layer] = _matched(ops, x, y, chosen)
                few = chosen[:DETAILED]
                r = ops["r"](x[few[:, 0]], y[few[:, 1]], np.repeat(np.arange(len(few))[:, None], 2, axis=1))
                groups = [_clustered(one, clusters, seed) for one in r]
                row |= _path(ops["r"], path, x, y, few) | _summed([listed for listed, _ in groups if listed])
                if (name, layer) == ("same task", middle) and groups[0][1] is not None:
                    drawn = (layer, r[0], *groups[0][1])
                rows.append({"pairs": name, "layer": layer, "units": x.shape[1], "inputs": x.shape[2], **row})
                said.advance()
                said.finished(pairs=name, layer=layer)
    numbers = {
        "schema": SCHEMA,
        "network": zoo.network.name,
        "data": zoo.info.get("data", "unknown"),
        "networks": len(zoo),
        "diverged": len(zoo) - len(good),
        "seed": seed,
        "penalties": PENALTIES.tolist(),
        "backend": backends.choose(backend, device),
        **provenance.record(device),
        "seconds": time.perf_counter() - start,
        "rows": rows,
    }
    return Convergence(numbers, curves, drawn)


def sample_inputs(tasks: TaskSet, samples: int = 512, seed: int = 0) -> list[np.ndarray]:
    """What networks see of test samples of all tasks (of training samples where there are none), drawn with `seed`.

    One array [samples, *shape]; of names, one for each length, of a random half of the names and then of the others:
    sparse prediction is fitted to the one and tested on the other, and short names are not like long ones. ValueError
    for less than two: nothing correlates.
    """
    if samples < 2:
        raise ValueError(f"convergence: samples must be at least 2, got {samples}")
    rows = np.unique(np.concatenate([t.test_rows for t in tasks.tasks]))
    if not len(rows):
        rows = np.unique(np.concatenate([t.train_rows for t in tasks.tasks]))
    rng = np.random.default_rng([seed, samples])
    rows = rng.permutation(rows)[:samples]
    if len(tasks.shape) == 3 or len(tasks.shape) == 1:
        return [tasks.inputs(rows)]
    batches = []
    for half in np.array_split(rows, 2):
        lengths = (tasks.x[half] < tasks.shape[1]).sum(axis=1)
        batches += [tasks.inputs(half[lengths == n])[:, :n] for n in np.unique(lengths)]
    return batches


def _drawn(labels: np.ndarray, alike: bool, most: int, rng: np.random.Generator) -> np.ndarray:
    """Up to `most` pairs i < j of networks of one task, or of two: int64 [P, 2]."""
    order = np.argsort(labels, kind="stable")
    past = np.searchsorted(labels[order], labels[order], side="right")  # the end of each one's task
    first, last = (np.arange(len(order)) + 1, past) if alike else (past, np.full(len(order), len(order)))
    ends = np.cumsum(last - first)  # of the pairs that begin with each one: too many to be listed
    chosen = rng.choice(ends[-1], min(most, ends[-1]), replace=False)
    i = np.searchsorted(ends, chosen, side="right")
    j = last[i] - (ends[i] - chosen)
    return np.sort(order[np.stack([i, j], axis=1)], axis=1)


def _kinds(
    zoo: WeightSet,
    inputs: np.ndarray | Sequence[np.ndarray],
    same: np.ndarray,
    other: np.ndarray,
    rng: np.random.Generator,
) -> Iterator[tuple[str, dict[str, np.ndarray], dict[str, np.ndarray], np.ndarray]]:
    """(kind, the activations of first and of second networks, its pairs as places in them)."""
    used, place = np.unique(np.concatenate([same, other]), return_inverse=True)
    place = place.reshape(-1, 2)
    found = activations(zoo[used], inputs)
    yield "same task", found, found, place[: len(same)]
    if len(other):
        yield "other task", found, found, place[len(same) :]
    batches = [inputs] if isinstance(inputs, np.ndarray) else inputs
    shuffled = activations(zoo[used], [batch[rng.permutation(len(batch))] for batch in batches])
    yield "shuffled inputs", found, shuffled, place[: len(same)]
    start = activations(untrained(zoo[used]), inputs)
    yield "untrained", start, start, place[: len(same)]


def _matched(ops: dict[str, Any], x: np.ndarray, y: np.ndarray, pairs: np.ndarray) -> tuple[dict[str, Any], np.ndarray]:
    """Both scores' matches of all pairs, and the curves of r."""
    alive = x.max(axis=2) > x.min(axis=2)
    found: dict[str, list[float]] = {}
    curves = []
    step = max(1, RUN // (4 * x.shape[1] * y.shape[1]))
    for first in range(0, len(pairs), step):
        run = pairs[first : first + step]
        living = alive[run[:, 0]]
        for score, op in ops.items():
            s = op(x, y, run)
            best, partner = semi_matching(s), matching(s)
            semi, match = scores_of(s, best), scores_of(s, partner)
            if score == "r":
                curves += [-np.sort(-z, axis=1) for z in (semi, match)]
            measured = {
                f"semi_{score}": semi,
                f"match_{score}": match,
                f"random_{score}": s.mean(axis=2),
                f"{score}_agreement": best == partner,
            }
            for key, value in measured.items():
                found.setdefault(key, []).extend(_mean_of(value, living))
    numbers = {key: _moments(values) for key, values in found.items()}
    shape = np.array([np.concatenate(curves[k::2]).mean(axis=0, dtype=np.float64) for k in range(2)])
    return {"n": len(pairs), "dead": float(1 - alive[pairs].mean()), **numbers}, shape


def _mean_of(values: np.ndarray, living: np.ndarray) -> list[float]:
    """Each pair's mean over the living units; pairs without one are left out."""
    some = living.any(axis=1)
    return [float(v[alive].mean(dtype=np.float64)) for v, alive in zip(values[some], living[some], strict=True)]


def _moments(values: Sequence[float]) -> dict[str, float] | None:
    return {"mean": float(np.mean(values)), "sd": float(np.std(values))} if len(values) else None


def _path(correlation: Any, lasso_path: Any, x: np.ndarray, y: np.ndarray, pairs: np.ndarray) -> dict[str, Any]:
    """Loss on the inputs' second half of weights fitted to the first, and non-zero weights, for every penalty."""
    half = x.shape[2] // 2
    if half < 2:
        return {}
    losses, nonzeros = [], []
    for i, j in pairs:
        g, c = (
            correlation(x[i : i + 1, :, :half], z[k : k + 1, :, :half], [(0, 0)])[0].astype(np.float64)
            for z, k in ((x, i), (y, j))
        )
        w = lasso_path(g, c, PENALTIES)  # [L, V, U]
        seen, wanted = (_second_half(z, half) for z in (x[i], y[j]))
        alive = (np.ptp(y[j, :, :half], axis=1) > 0) & (np.ptp(y[j, :, half:], axis=1) > 0)
        if alive.any():
            left = ((wanted[alive] - w[:, alive] @ seen) ** 2).mean(axis=2)
            losses.append((left / wanted[alive].var(axis=1)).mean(axis=1))
            nonzeros.append((w != 0).sum(axis=2)[:, alive].mean(axis=1))
    if not losses:
        return {}
    return {"path": {"loss": np.mean(losses, axis=0).tolist(), "nonzeros": np.mean(nonzeros, axis=0).tolist()}}


def _second_half(x: np.ndarray, half: int) -> np.ndarray:
    """Activations [U, M] from `half` on, in the first half's means and deviations: what was fitted knows no others."""
    fitted, unseen = np.split(x.astype(np.float64), [half], axis=1)
    deviation = np.where(np.ptp(fitted, axis=1) > 0, fitted.std(axis=1), 1)
    return (unseen - fitted.mean(axis=1)[:, None]) / deviation[:, None]


def _clustered(
    r: np.ndarray, count: int | None, seed: int
) -> tuple[list[dict[str, float]], tuple[np.ndarray, np.ndarray] | None]:
    """(every cluster's description, both networks' labels); nothing where too few units are alive."""
    alive = min(int((r > 0).any(axis=axis).sum()) for axis in (0, 1))
    wanted = min(max(2, len(r) // 4) if count is None else count, alive)
    if wanted < 2:
        return [], None
    labels = clustered(r, wanted, seed)
    return described(r, *labels), labels


def _summed(found: list[list[dict[str, float]]]) -> dict[str, Any]:
    """Means over the clusters of all pairs; r over those of both networks."""
    if not found:
        return {}
    rows = [row for pair in found for row in pair]
    both = [row["r"] for row in rows if np.isfinite(row["r"])]
    return {
        "clusters": {
            "count": len(rows) / len(found),
            "units": _moments([row["units"] for row in rows]),
            "balance": _moments([row["balance"] for row in rows]),
            "one_sided": 1 - len(both) / len(rows),
            "r": _moments(both),
        }
    }
