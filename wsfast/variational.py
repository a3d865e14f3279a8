"""Gaussian mean-field posteriors over the weights of many MLPs at once, as `wsfast.reference.variational`, by torch."""

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from threadpoolctl import threadpool_limits

from .asymmetry import fixed_entries, gate_matrix
from .declaration import Network
from .initial import untrained
from .kernel_arguments import mlp_layers
from .kernels.numba.threads import unordered
from .taskset import TaskSet
from .weights import WeightSet

AT_A_TIME = {"cpu": 1 << 25, "cuda": 1 << 30}  # bytes of a chunk's means, deviations, gradients and Adam's moments
START = 0.1  # a posterior's first deviation, as a share of the prior's


@dataclass(frozen=True)
class Fit:
    """How posteriors are fitted: steps of Adam with step size lr on batches drawn with replacement, prior N(0, (prior /
    sqrt(inputs of a layer))^2), tested by the mean of `samples` draws' probabilities. variational False: no deviations,
    no prior, one draw: the network itself, trained the same way.
    """

    steps: int
    batch_size: int
    lr: float
    prior: float
    samples: int
    variational: bool = True


@dataclass(frozen=True)
class Model:
    """What all networks of a declaration share, as torch tensors. free: of each parameter, None where all of it is."""

    free: list[torch.Tensor | None]
    bends: list[float | torch.Tensor]
    priors: list[float]


def model_of(network: Network, prior: float, device: str, dtype: torch.dtype = torch.float32) -> Model | None:
    """None for what is no chain of linear layers with biases and activations alone."""
    found = mlp_layers(network)
    if found is None or found[2].any() or (found[3] >= 0).any():
        return None
    sizes, slopes, _, _ = found
    bends: list[float | torch.Tensor] = []
    for layer in network.layers:
        if layer.op == "linear":
            bends.append(float(slopes[len(bends)]))
        elif layer.op == "figlu":
            bends[-1] = torch.from_numpy(gate_matrix(**layer.options)).to(device, dtype)
    free: list[torch.Tensor | None] = []
    (at, _), start = fixed_entries(network), 0
    for p in network.parameters:
        own = at[(at >= start) & (at < start + p.size)] - start
        mask = np.ones(p.size, bool)
        mask[own] = False
        free.append(torch.from_numpy(mask.reshape(p.shape)).to(device) if len(own) else None)
        start += p.size
    return Model(free, bends, [prior / math.sqrt(n) for n in sizes[:-1].tolist()])


Tensors = Sequence[torch.Tensor]


def forward(
    model: Model, x: torch.Tensor, means: Tensors, logs: Tensors | None, noise: Callable[..., torch.Tensor]
) -> torch.Tensor:
    """Logits [n, B, C] of one draw; x [n, B, d]; means, logs: W_0 [n, d, n_0], b_0 [n, n_0], ...; noise(n, B, n_k)
    gives N(0, 1). logs None: the networks of the means.
    """
    for k, bend in enumerate(model.bends):
        (w, b), free = means[2 * k : 2 * k + 2], model.free[2 * k]
        z = torch.baddbmm(b[:, None], x, w if free is None else torch.where(free, w, w.detach()))
        if logs is not None:
            v, c = (torch.exp(2 * r) for r in logs[2 * k : 2 * k + 2])
            spread = torch.baddbmm(c[:, None], x * x, v if free is None else v * free).sqrt()
            z = z + spread * noise(*z.shape)
        x = torch.where(z > 0, z, bend * z) if isinstance(bend, float) else torch.sigmoid(z @ bend) * z
    return x


def divergence(model: Model, means: Tensors, logs: Tensors) -> torch.Tensor:
    """KL of the posteriors from the prior, over free parameters: [n]."""
    total = means[0].new_zeros(len(means[0]))
    for j, (m, r, free) in enumerate(zip(means, logs, model.free, strict=True)):
        p = model.priors[j // 2]
        each = math.log(p) - r + (torch.exp(2 * r) + m * m) / (2 * p * p) - 0.5
        total = total + (each if free is None else each * free).flatten(1).sum(dim=1)
    return total


def losses(
    model: Model,
    x: torch.Tensor,
    labels: torch.Tensor,
    means: Tensors,
    logs: Tensors | None,
    noise: Callable[..., torch.Tensor],
    count: torch.Tensor | float,
) -> torch.Tensor:
    """Each network's negative evidence lower bound per sample of `count` [n], on a batch: [n]; labels int [n, B].

    The cross-entropy alone where logs is None.
    """
    logits = forward(model, x, means, logs, noise)
    nll = torch.nn.functional.cross_entropy(logits.movedim(2, 1), labels, reduction="none").mean(dim=1)
    return nll if logs is None else nll + divergence(model, means, logs) / count


def fitted(
    network: Network, tasks: TaskSet, labels: np.ndarray, repeats: np.ndarray, seed: int, fit: Fit, device: str
) -> Iterator[tuple[slice, list[np.ndarray]]]:
    """Fit a network for each (label, repeat), many at once: (which, the mean probabilities of each one's test samples,
    float64 [M, C]), in any order.

    Means start from the initial weights that `generate` would give the network. A chunk's batches and noise are drawn
    from (seed, its first network). On a CPU a chunk has one core.
    """
    size = sum(p.size for p in network.parameters)
    step = max(1, AT_A_TIME[device] // (32 * size))
    x = torch.from_numpy(tasks.inputs(np.arange(len(tasks.x))).reshape(len(tasks.x), -1)).to(device)

    def one(first: int) -> list[np.ndarray]:
        chosen = slice(first, first + step)
        start = untrained(WeightSet(network, {}, labels[chosen], repeats[chosen], info={"seed": seed}))
        with threadpool_limits(1):  # OpenMP's limit is a thread's own
            return _chunk(start, tasks, x, fit, device, seed, first)

    with threadpool_limits(1):
        for first, found in unordered(one, range(0, len(labels), step), 1 if device == "cuda" else None):
            yield slice(first, first + step), found


def _chunk(
    start: WeightSet, tasks: TaskSet, x: torch.Tensor, fit: Fit, device: str, seed: int, first: int
) -> list[np.ndarray]:
    network, n = start.network, len(start)
    model = model_of(network, fit.prior, device)
    assert model is not None
    state = np.random.SeedSequence([seed, first]).generate_state(1, np.uint64)[0]
    generator = torch.Generator(device).manual_seed(int(state >> np.uint64(1)))

    def noise(*shape: int) -> torch.Tensor:
        return torch.randn(shape, generator=generator, device=device)

    means = [
        torch.from_numpy(np.array(start.parameters[p.name])).to(device).requires_grad_() for p in network.parameters
    ]
    logs = None
    if fit.variational:
        widest = [math.log(START * model.priors[j // 2]) for j in range(len(means))]
        logs = [torch.full_like(m, r).requires_grad_() for m, r in zip(means, widest, strict=True)]
    own = [tasks[int(label)] for label in start.labels]
    rows, answers, count = _padded([t.train_rows for t in own], [t.train_labels for t in own], device)
    optimizer = torch.optim.Adam([*means, *(logs or [])], lr=fit.lr)
    for _ in range(fit.steps):
        draw = torch.rand(n, fit.batch_size, generator=generator, device=device)
        drawn = torch.minimum(draw * count[:, None], count[:, None] - 1).long()  # a product may round up to the count
        loss = losses(model, x[rows.gather(1, drawn)], answers.gather(1, drawn), means, logs, noise, count)
        optimizer.zero_grad()
        loss.sum().backward()
        optimizer.step()
    rows, _, count = _padded([t.test_rows for t in own], [t.test_labels for t in own], device)
    with torch.no_grad():
        total = torch.zeros((), dtype=torch.float64, device=device)
        draws = fit.samples if logs is not None else 1
        for _ in range(draws):
            total = total + forward(model, x[rows], means, logs, noise).double().softmax(dim=2) / draws
    return [p[: int(c)] for p, c in zip(total.cpu().numpy(), count, strict=True)]


def _padded(
    rows: Sequence[np.ndarray], labels: Sequence[np.ndarray], device: str
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Lists of many lengths as (rows [n, M], labels [n, M], both with zeros past an end; lengths float32 [n])."""
    count = [len(r) for r in rows]
    both = np.zeros((2, len(rows), max(count)), np.int64)
    for k, pair in enumerate(zip(rows, labels, strict=True)):
        both[:, k, : count[k]] = pair
    return *torch.from_numpy(both).to(device), torch.tensor(count, dtype=torch.float32, device=device)
