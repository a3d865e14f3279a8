"""How well does a network do? Its test accuracy predicted from its weights alone, by three metanetworks."""

import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from sklearn.ensemble import HistGradientBoostingRegressor
from threadpoolctl import threadpool_limits

from . import backends, provenance
from .asymmetry import free_weights
from .chains import feature_kernel
from .deep_sets import DeepSetsRegressor, unit_features
from .events import Progress
from .joining import joined
from .layer_statistics import layer_statistics
from .protocols import TRAIN_SHARE
from .regression_scores import scored
from .result import Result
from .ridge import PENALTIES, KernelRidge
from .seeds import whole_seed
from .starts import splits, starts
from .weights import WeightSet

SCHEMA = 1
FEWEST, FEWEST_TASKS = 50, 4  # networks in all; tasks of which some can be left unseen
BASELINES = ("task mean", "training loss")
_UNSEEN = 3  # beside the streams of wsfast.protocols


@dataclass
class Metanetworks(Result):
    """numbers: as in metanetworks.json. predictions: (protocol, predictor) -> float64 [2, n], what the tested networks'
    target is and what was predicted.
    """

    FILES = ("metanetworks.json", "metanetworks.svg")
    predictions: dict[tuple[str, str], np.ndarray]

    def table(self) -> str:
        return table(self.numbers)

    def drawn(self) -> str:
        from .figures import predictions

        return predictions(self)


def metanetworks(
    zoos: WeightSet | str | Path | Sequence[WeightSet | str | Path],
    target: np.ndarray | None = None,
    *,
    seed: int = 0,
    backend: str | None = None,
    device: str = "cpu",
    progress: bool | None = None,
) -> Metanetworks:
    """Predict a number of every network, its test accuracy, from its weights (Unterthiner et al., arXiv 2002.11448; of
    asymmetric networks Lim et al., NeurIPS 2024).

    zoos: one or several WeightSets or their folders, of one declaration and the same tasks; several because learning
    rate and epochs vary from set to set (one `generate` each). target float [N]: of all networks, set after set; their
    records' test_accuracy where None. Predictors:

    - "chain l", every chain: kernel ridge on the cosine-scaled chain kernel, penalty by leave-one-out error;
    - "layer statistics" of every parameter (`wsfast.layer_statistics`), gradient boosting;
    - "deep sets": hidden layers as sets of units (`wsfast.deep_sets`).

    The last two see zeros for fixed entries of asymmetric networks. None depends on the order of hidden units, nor is
    told the task. Beside them what needs no weights: "task mean", the mean of the task's training networks (of all of
    them where it has none), and "training loss", gradient boosting on training loss and accuracy, where recorded.

    Protocols: "seen tasks", 60 % of every task's networks train; "unseen tasks", the networks of 60 % of the tasks do,
    where there are four. Networks that start from the same weights (one seed, task and repeat in several sets) are
    never on both sides. Everything is chosen inside the training part. Scores are R^2 and Kendall's tau with 95 %
    intervals by resampling the tested tasks (networks where there is one task), too narrow where tasks are few. seed:
    of splits, models, resamples. backend, device: of the chain kernels, all else runs on the CPU. Diverged networks are
    left out. Memory: an N x N kernel a chain, and 21 numbers or more for every hidden unit.

    numbers: rows (protocol, predictor, n, r2, r2_95, tau, tau_95; None where undefined). ValueError for sets that do
    not belong together, records that lack the accuracy, a target that is constant or not finite, too few networks.
    """
    start, seed = time.perf_counter(), whole_seed("metanetworks", seed)
    listed = [zoos] if isinstance(zoos, (WeightSet, str, Path)) else list(zoos)
    if not listed:
        raise ValueError("metanetworks: want at least one weight set, got none")
    opened = [zoo if isinstance(zoo, WeightSet) else WeightSet.open(zoo) for zoo in listed]
    whole, source = joined("metanetworks", opened)
    truth = _target(opened, whole) if target is None else np.asarray(target, np.float64)
    if truth.shape != (len(whole),):
        raise ValueError(f"metanetworks: target must be [{len(whole)}], a number a network, got {truth.shape}")
    good = np.flatnonzero(~whole.diverged)
    zoo, truth = whole[good], truth[good]
    if len(zoo) < FEWEST:
        raise ValueError(f"metanetworks: want at least {FEWEST} usable networks, got {len(zoo)} (more repeats or sets)")
    if not np.isfinite(truth).all():
        raise ValueError(f"metanetworks: the target of {np.sum(~np.isfinite(truth))} networks is not finite")
    if np.ptp(truth) == 0:
        raise ValueError(f"metanetworks: the target of all networks is {truth[0]:g} (vary learning rate and epochs)")
    rows, predictions = [], {}
    parts = list(_splits(zoo.labels, np.concatenate(starts(opened))[good], seed))
    with Progress("metanetworks", len(zoo.network.chains) + 3 + _trained(zoo), "predictor", progress) as said:
        for predictor, predict in _predictors(zoo, truth, seed, backend, device):
            for protocol, train, test in parts:
                found = predict(train, test)
                scores = scored(truth[test], found, zoo.labels[test], seed=seed)
                rows.append({"protocol": protocol, "predictor": predictor, "n": len(test), **scores})
                predictions[protocol, predictor] = np.stack([truth[test], found])
            said.advance()
            said.finished(predictor=predictor)
    sets = [
        {
            **{key: each.info.get(key) for key in ("recipe", "seed", "backend", "precision")},
            "networks": int((source == k).sum()),
            "diverged": int((source == k).sum() - (source[good] == k).sum()),
            "target": float(truth[source[good] == k].mean()) if (source[good] == k).any() else None,
        }
        for k, each in enumerate(opened)
    ]
    numbers = {"schema": SCHEMA, "network": zoo.network.name, "data": zoo.info["data"], "networks": len(zoo)}
    numbers |= {"diverged": len(whole) - len(zoo), "tasks": len(np.unique(zoo.labels)), "seed": seed}
    numbers |= {"target": "test accuracy" if target is None else "given", "mean": float(truth.mean())}
    numbers |= {"sd": float(truth.std()), "backend": backends.choose(backend, device), **provenance.record(device)}
    return Metanetworks({**numbers, "sets": sets, "rows": rows, "seconds": time.perf_counter() - start}, predictions)


def _target(opened: Sequence[WeightSet], whole: WeightSet) -> np.ndarray:
    if "test_accuracy" not in whole.records:
        lacking = next(k for k, zoo in enumerate(opened) if "test_accuracy" not in zoo.records)
        raise ValueError(f"metanetworks: set {lacking} has no record of test accuracies (target=, a number a network)")
    return whole.records["test_accuracy"]


def _splits(labels: np.ndarray, own: np.ndarray, seed: int) -> Iterator[tuple[str, np.ndarray, np.ndarray]]:
    """(protocol, train, test) positions; own: the networks' starts."""
    yield "seen tasks", *splits([labels], [own], seed)[0]
    tasks = np.random.default_rng([_UNSEEN, seed]).permutation(np.unique(labels))
    if len(tasks) >= FEWEST_TASKS:
        seen = np.isin(labels, tasks[: round(TRAIN_SHARE * len(tasks))])
        yield "unseen tasks", np.flatnonzero(seen), np.flatnonzero(~seen)


def _predictors(
    zoo: WeightSet, truth: np.ndarray, seed: int, backend: str | None, device: str
) -> Iterator[tuple[str, Any]]:
    """(name, predict(train, test) -> [len(test)]); one's features are dropped before the next one's are made."""

    def task_mean(train: np.ndarray, test: np.ndarray) -> np.ndarray:
        means = {t: truth[train[zoo.labels[train] == t]].mean() for t in np.unique(zoo.labels[train])}
        return np.array([means.get(t, truth[train].mean()) for t in zoo.labels[test]])

    yield BASELINES[0], task_mean
    if _trained(zoo):
        yield (
            BASELINES[1],
            _boosted(np.stack([zoo.records[k] for k in ("train_loss", "train_accuracy")], 1), truth, seed),
        )
    for chain in range(1, len(zoo.network.chains) + 1):
        yield f"chain {chain}", _ridge(feature_kernel("chain", zoo, chain=chain, backend=backend, device=device), truth)
    free = free_weights(zoo)
    yield "layer statistics", _boosted(layer_statistics(free).reshape(len(zoo), -1), truth, seed)
    features = unit_features(free)
    yield (
        "deep sets",
        lambda train, test: DeepSetsRegressor(seed).fit(features[train], truth[train]).predict(features[test]),
    )


def _trained(zoo: WeightSet) -> bool:
    return {"train_loss", "train_accuracy"} <= zoo.records.keys()


def _boosted(x: np.ndarray, truth: np.ndarray, seed: int) -> Any:
    def predict(train: np.ndarray, test: np.ndarray) -> np.ndarray:
        model = HistGradientBoostingRegressor(random_state=seed % 2**32)
        with threadpool_limits(1, "openmp"):  # on several cores trees of so few rows wait more than they work
            return model.fit(x[train], truth[train]).predict(x[test])

    return predict


def _ridge(kernel: np.ndarray, truth: np.ndarray) -> Any:
    def predict(train: np.ndarray, test: np.ndarray) -> np.ndarray:
        model = KernelRidge(kernel[np.ix_(train, train)], (*PENALTIES, 10.0, 100.0))
        coef, intercept, _ = model.regress(truth[train])
        return model.decision(kernel[np.ix_(test, train)], coef, intercept)[:, 0]

    return predict


def table(n: dict[str, Any]) -> str:
    """metanetworks.json as text: a row for every predictor."""
    protocols = list(dict.fromkeys(row["protocol"] for row in n["rows"]))
    lines = [
        f"{n['networks']} x {n['network']} on {n['data']}: {n['tasks']} tasks, {len(n['sets'])} sets, {n['diverged']} "
        f"diverged and left out; target ({n['target']}) {n['mean']:.3f}, standard deviation {n['sd']:.3f}",
        "",
        f"{'predictor':<18}" + "".join(f"{f'{p}: R2':>26}{'tau':>24}" for p in protocols),
    ]
    for predictor in dict.fromkeys(row["predictor"] for row in n["rows"]):
        own = [row for row in n["rows"] if row["predictor"] == predictor]
        lines.append(f"{predictor:<18}" + "".join(f"{_said(r, 'r2'):>26}{_said(r, 'tau'):>24}" for r in own))
    tested = ", ".join(f"{row['n']} of {row['protocol']}" for row in n["rows"][: len(protocols)])
    drawn = "tasks" if n["tasks"] > 1 else "networks"
    return "\n".join([*lines, "", f"tested networks: {tested}; [95 % intervals, {drawn} resampled]"])


def _said(row: dict[str, Any], score: str) -> str:
    if row[score] is None:
        return "-"
    low, high = row[f"{score}_95"]
    return f"{row[score]:z.2f} [{low:z.2f}, {high:z.2f}]"
