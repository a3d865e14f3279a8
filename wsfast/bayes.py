"""Are networks with a posterior over their weights better calibrated? Bayesian MLPs against standard ones."""

import time
from bisect import bisect_left
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

import numpy as np

from . import provenance
from .declaration import Network
from .events import Progress
from .families import mlp
from .inference import bootstrap_by_task
from .kernel_arguments import mlp_layers
from .reference.calibration import calibration_error, reliability
from .result import Result
from .seeds import whole_seed
from .taskset import TaskSet
from .training import declared
from .variational import Fit, fitted, model_of

SCHEMA = 1
BINS = 15
MEASURES = {"nll": "NLL", "accuracy": "accuracy", "ece": "ECE"}


@dataclass
class BayesianResult(Result):
    """numbers: as in bayesian.json. measured: model -> float64 [3, N], NLL, accuracy and ECE of every network."""

    FILES = ("bayesian.json", "bayesian.svg")
    measured: dict[str, np.ndarray]

    def table(self) -> str:
        return table(self.numbers)

    def drawn(self) -> str:
        from .figures import reliability

        return reliability(self.numbers)


def bayesian(
    network: str | Network,
    tasks: TaskSet,
    *,
    repeats: int,
    seed: int = 0,
    width: int | None = None,
    steps: int = 1000,
    batch_size: int = 32,
    lr: float = 1e-3,
    prior: float = 2.0,
    samples: int = 32,
    device: str = "cpu",
    progress: bool | None = None,
) -> BayesianResult:
    """Fit mean-field Gaussian posteriors over an MLP's weights, `repeats` on every task, and compare what they predict.

    Lim et al. (NeurIPS 2024) ask whether a posterior of one mode fits networks without symmetries better.

    network: a name or a declaration, fully connected without BatchNorm and sums: "mlp4", "mlp4-wasym" (fixed entries
    stay fixed), "mlp4-sigma". seed: of initial means (those of `generate`), batches and noise. steps: of Adam with step
    size lr, on batches drawn with replacement, on the negative evidence lower bound, by local reparameterisation
    (Kingma et al., NeurIPS 2015; `wsfast.reference.variational`). prior: of every weight and bias N(0, prior^2 / inputs
    of its layer); 2 is about He's initialisation. samples: posterior draws whose probabilities are averaged in testing.

    Models: "variational", the posterior; "point", the same declaration without one, trained the same way on the cross-
    entropy alone; "point, matched", a standard ReLU MLP, widened so that its trained numbers are as many as the
    posterior's means and deviations together; of a declaration that is not such an MLP also "variational, matched", the
    posterior of one with as many weights as the declaration trains. So one sees what the posterior adds at equal
    architecture and at equal numbers, and what the asymmetry adds. Hidden widths keep their proportions.

    Measured on the test samples of each network's task: mean negative log likelihood (nats), accuracy, and expected
    calibration error of 15 bins (Guo et al., ICML 2017), which is biased upwards where test samples are few. 95 %
    intervals of means over networks, and of the variational model's difference from each other one, resample tasks
    (networks where there is one task; None for a single network).
    device: "cpu" or "cuda". One call gives the same bits again on one machine.

    numbers: rows (model, network, widths, trained, nll, nll_95, ..., reliability: samples, confidence and accuracy of
    the bins), differences (against, nll, nll_95, ...). ValueError for other networks, settings out of range, tasks
    without test samples, and where a model's predictions are not finite.
    """
    start = time.perf_counter()
    network, seed = declared("bayesian", network, tasks, width), whole_seed("bayesian", seed)
    for name, value in (("repeats", repeats), ("steps", steps), ("batch_size", batch_size), ("samples", samples)):
        if value < 1:
            raise ValueError(f"bayesian: {name} must be at least 1, got {value}")
    for name, size in (("lr", lr), ("prior", prior)):
        if not 0 < size < np.inf:
            raise ValueError(f"bayesian: {name} must be above 0, got {size}")
    if device not in ("cpu", "cuda"):
        raise ValueError(f"bayesian: device must be cpu or cuda, got {device!r}")
    if model_of(network, prior, "cpu") is None or not _hidden(network):
        raise ValueError(
            f"bayesian: want linear layers and activations, one hidden layer or more, got {network.name} "
            "(mlp4, mlp4-wasym, mlp4-sigma)"
        )
    if any(not len(t.test_rows) for t in tasks.tasks):
        raise ValueError(f"bayesian: a task of {tasks.name} has no test samples")
    fit = Fit(steps, batch_size, lr, prior, samples)
    labels, numbers = np.repeat(np.arange(len(tasks)), repeats), np.tile(np.arange(repeats), len(tasks))
    rows, measured = [], {}
    models = _models(network)
    with Progress("bayesian", len(models) * len(labels), "net", progress) as said:
        for model, (net, variational) in models.items():
            found, bins = np.empty((len(MEASURES), len(labels))), np.empty((len(labels), 3, BINS))
            how = replace(fit, variational=variational)
            for chosen, probabilities in fitted(net, tasks, labels, numbers, seed, how, device):
                for i, p in zip(range(len(labels))[chosen], probabilities, strict=True):
                    if not np.isfinite(p).all():
                        raise ValueError(f"bayesian: a {model} network's predictions are not finite (a smaller lr)")
                    answers = tasks[int(labels[i])].test_labels
                    found[:, i], bins[i] = _measured(p, answers), reliability(p, answers, BINS)
                said.advance(len(probabilities))
                said.finished(len(probabilities), model=model)
            measured[model] = found
            rows.append(
                {
                    "model": model,
                    "network": net.name,
                    "widths": _hidden(net),
                    "trained": net.size * (1 + variational),
                    **_means(found, labels, seed),
                    "reliability": _reliability(bins.sum(axis=0)),
                }
            )
    differences = [
        {"against": model, **_means(measured["variational"] - found, labels, seed)}
        for model, found in measured.items()
        if model != "variational"
    ]
    result = {"schema": SCHEMA, "network": network.name, "data": tasks.name, "tasks": len(tasks), "repeats": repeats}
    result |= {"seed": seed, **{k: v for k, v in asdict(fit).items() if k != "variational"}, "bins": BINS}
    result |= {**provenance.record(device), "rows": rows, "differences": differences}
    return BayesianResult({**result, "seconds": time.perf_counter() - start}, measured)


def _hidden(network: Network) -> list[int]:
    layers = mlp_layers(network)
    assert layers is not None
    return layers[0][1:-1].tolist()


def _models(network: Network) -> dict[str, tuple[Network, bool]]:
    """What is compared: name -> (declaration, whether it has a posterior)."""
    found = {"variational": (network, True), "point": (network, False)}
    standard = matched(network, network.size)
    if standard.layers != network.layers:
        found["variational, matched"] = (standard, True)
    found["point, matched"] = (matched(network, 2 * network.size), False)
    return found


def matched(network: Network, trained: int) -> Network:
    """The ReLU MLP with hidden widths in the network's proportions whose trained numbers are nearest to `trained`."""
    hidden = _hidden(network)

    def standard(first: int) -> Network:
        widths = tuple(max(1, round(n * first / hidden[0])) for n in hidden)
        return mlp(network.input_shape, network.classes, widths)

    reached = bisect_left(range(trained + 1), trained, lo=1, key=lambda first: standard(first).size)
    return min((standard(w) for w in (reached, max(1, reached - 1))), key=lambda net: abs(net.size - trained))


def _measured(p: np.ndarray, labels: np.ndarray) -> tuple[float, float, float]:
    """NLL, accuracy and ECE of probabilities [M, C]."""
    likelihood = np.maximum(p[np.arange(len(labels)), labels], np.finfo(np.float64).tiny)
    return float(-np.log(likelihood).mean()), float((p.argmax(1) == labels).mean()), calibration_error(p, labels, BINS)


def _means(values: np.ndarray, tasks: np.ndarray, seed: int) -> dict[str, Any]:
    """Means and intervals, None for a single network; tasks are resampled, of a single one its networks."""
    out: dict[str, Any] = {}
    drawn = tasks if np.ptp(tasks) else np.arange(len(tasks))
    for name, row in zip(MEASURES, values, strict=True):
        interval = list(bootstrap_by_task(row, drawn, seed=seed)) if len(row) > 1 else None
        out |= {name: float(row.mean()), f"{name}_95": interval}
    return out


def _reliability(bins: np.ndarray) -> dict[str, list[float | None]]:
    """Of all networks' test samples: how many a bin has, their mean confidence, their accuracy."""
    n, confidence, right = bins
    shares = [
        [float(v) if m else None for v, m in zip(x / np.maximum(n, 1), n, strict=True)] for x in (confidence, right)
    ]
    return {"samples": n.tolist(), "confidence": shares[0], "accuracy": shares[1]}


def table(n: dict[str, Any]) -> str:
    """bayesian.json as text: a row for every model, then the variational one's differences."""
    lines = [
        f"{n['tasks']} tasks of {n['data']} x {n['repeats']} networks, {n['steps']} steps, {n['samples']} draws",
        "",
        _row("model", "hidden widths", "trained", list(MEASURES.values())),
    ]
    for row in n["rows"]:
        widths = "-".join(map(str, row["widths"]))
        lines.append(_row(row["model"], widths, f"{row['trained']:,}", _said(row)))
    lines += ["", _row("variational less", "", "", list(MEASURES.values()))]
    lines += [_row(row["against"], "", "", _said(row)) for row in n["differences"]]
    drawn = "tasks" if n["tasks"] > 1 else "networks"
    return "\n".join([*lines, "", f"means over networks [95 % intervals, {drawn} resampled]; NLL in nats"])


def _row(model: str, widths: str, trained: str, values: Sequence[str]) -> str:
    return f"{model:<21} {widths:<15} {trained:>10}" + "".join(f"{v:>27}" for v in values)


def _said(row: dict[str, Any]) -> list[str]:
    intervals = {name: row[f"{name}_95"] for name in MEASURES}
    return [
        f"{row[name]:z.4f}" + (" [{:z.4f}, {:z.4f}]".format(*pair) if pair else "") for name, pair in intervals.items()
    ]
