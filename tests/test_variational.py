import numpy as np
import pytest
import torch
from wsfast.reference import variational as reference
from wsfast.reference.mlp import bends

import wsfast
from wsfast.asymmetry import fixed_entries, gates
from wsfast.families import mlp
from wsfast.kernel_arguments import mlp_layers
from wsfast.variational import AT_A_TIME, Fit, divergence, fitted, forward, losses, model_of

NETWORKS = {
    "mlp4": wsfast.network("mlp4", (11,), 3, width=9),
    "leaky": mlp((7,), 4, (5, 1), slope=0.01, last_slope=0.0),
    "wasym": wsfast.network("mlp4-wasym", (11,), 3, width=9),
    "sigma": wsfast.network("mlp4-sigma", (11,), 3, width=9),
}
PRIOR = 1.5


def problem(net, n=3, batch=5):
    """Random posteriors of n networks, fixed entries in place, and a batch of each: float64."""
    rng = np.random.default_rng([net.size, n, batch])
    at, to = fixed_entries(net)
    flat = rng.standard_normal((n, sum(p.size for p in net.parameters))) / 2
    flat[:, at] = to
    places = np.cumsum([p.size for p in net.parameters])[:-1]
    free = np.ones(flat.shape[1], bool)
    free[at] = False

    def cut(array):
        parts = np.split(array, places, axis=-1)
        return [part.reshape(*array.shape[:-1], *p.shape) for part, p in zip(parts, net.parameters, strict=True)]

    sizes = mlp_layers(net)[0]
    return {
        "means": cut(flat),
        "logs": cut(rng.uniform(-3, 0, flat.shape)),
        "free": cut(free),
        "x": rng.standard_normal((n, batch, sizes[0])),
        "labels": rng.integers(0, net.classes, (n, batch)),
        "noise": [rng.standard_normal((n, batch, m)) for m in sizes[1:]],
    }


def by_torch(net, case, n_samples, dtype):
    """Losses and gradients of all networks at once, by autograd."""
    model = model_of(net, PRIOR, "cpu", dtype)
    means, logs = ([torch.tensor(a, dtype=dtype, requires_grad=True) for a in case[k]] for k in ("means", "logs"))
    noise = iter([torch.tensor(e, dtype=dtype) for e in case["noise"]])
    x, labels = torch.tensor(case["x"], dtype=dtype), torch.tensor(case["labels"])
    loss = losses(model, x, labels, means, logs, lambda *shape: next(noise), n_samples)
    loss.sum().backward()
    return [a.detach().numpy() for a in (loss, *(m.grad for m in means), *(r.grad for r in logs))]


def by_reference(net, case, n_samples):
    sizes, slopes, _, _ = mlp_layers(net)
    found = []
    for i in range(len(case["x"])):
        own = {k: [a[i] for a in case[k]] for k in ("means", "logs", "noise")}
        loss, d_means, d_logs = reference.elbo(
            case["x"][i],
            case["labels"][i],
            own["means"],
            own["logs"],
            case["free"],
            bends(sizes, slopes, *gates(net)),
            PRIOR / np.sqrt(sizes[:-1]),
            own["noise"],
            n_samples,
        )
        found.append([loss, *d_means, *d_logs])
    return [np.stack(parts) for parts in zip(*found, strict=True)]


@pytest.mark.parametrize("name", NETWORKS)
def test_loss_and_gradients_are_the_references(name):
    net = NETWORKS[name]
    case = problem(net)
    want = by_reference(net, case, 37)
    exact, single = (by_torch(net, case, 37, dtype) for dtype in (torch.float64, torch.float32))
    titles = ["loss", *(f"{kind} of {p.name}" for kind in ("mean", "log") for p in net.parameters)]
    for title, oracle, got, rounded in zip(titles, want, exact, single, strict=True):
        np.testing.assert_allclose(got, oracle, rtol=1e-6, atol=1e-7, err_msg=title)  # F and slopes are float32 numbers
        np.testing.assert_allclose(rounded, oracle, rtol=2e-3, atol=2e-4, err_msg=title)
    for gradient, free in zip(want[1:], case["free"] * 2, strict=True):
        assert not gradient[:, ~free].any()


@pytest.mark.parametrize("name", ["mlp4", "wasym"])
def test_divergence_is_torchs(name):
    net = NETWORKS[name]
    case = problem(net)
    means, logs = ([torch.tensor(a) for a in case[k]] for k in ("means", "logs"))
    found = divergence(model_of(net, PRIOR, "cpu", torch.float64), means, logs)
    want = torch.zeros(3, dtype=torch.float64)
    for j, p in enumerate(net.parameters):
        deviation = torch.tensor(PRIOR / np.sqrt(mlp_layers(net)[0][j // 2]), dtype=torch.float64)
        prior = torch.distributions.Normal(torch.zeros_like(deviation), deviation)
        each = torch.distributions.kl_divergence(torch.distributions.Normal(means[j], logs[j].exp()), prior)
        want += (each * torch.tensor(case["free"][j])).sum(dim=tuple(range(1, len(p.shape) + 1)))
    np.testing.assert_allclose(found, want, rtol=1e-12)


@pytest.mark.parametrize("name", ["mlp4", "wasym", "sigma"])
def test_drawing_units_is_drawing_weights(name):
    """For one sample of each network, the logits' means and deviations over many draws."""
    net, draws = NETWORKS[name], 20_000
    case = problem(net, n=1, batch=1)
    model = model_of(net, PRIOR, "cpu", torch.float64)
    generator = torch.Generator().manual_seed(0)

    def noise(*shape):
        return torch.randn(shape, generator=generator, dtype=torch.float64)

    means, logs = ([torch.tensor(a) for a in case[k]] for k in ("means", "logs"))
    x = torch.tensor(case["x"])
    many = forward(model, x.expand(1, draws, -1), means, logs, noise)[0]
    free = [torch.tensor(f, dtype=torch.float64) for f in case["free"]]
    weights = [
        m + (r.exp() * f) * noise(draws, *m.shape[1:]) for m, r, f in zip(means, logs, free, strict=True)
    ]  # [draws, ...]
    brute = forward(model, x.expand(draws, 1, -1), weights, None, noise)[:, 0]
    for moment in (lambda z: z.mean(0), lambda z: z.std(0), lambda z: z.softmax(1).mean(0)):
        spread = float(brute.std()) / np.sqrt(draws)
        np.testing.assert_allclose(moment(many), moment(brute), atol=8 * spread)
    assert float(brute.std(0).min()) > 0.05


def fit(**more):
    return Fit(**{"steps": 5, "batch_size": 4, "lr": 1e-2, "prior": 2.0, "samples": 3, **more})


def test_the_same_call_gives_the_same_bits_and_chunks_follow_each_other(monkeypatch):
    tasks = wsfast.tasks("digits", n=2)
    net = wsfast.network("mlp4-wasym", tasks.shape, 2, width=6)
    labels, repeats = np.repeat([0, 1], 2), np.tile([0, 1], 2)

    def run(**more):
        parts = sorted(fitted(net, tasks, labels, repeats, 3, fit(**more), "cpu"), key=lambda part: part[0].start)
        return [part for part, _ in parts], [p for _, found in parts for p in found]

    chosen, found = run()
    assert [p.shape for p in found] == [(len(tasks[t].test_rows), 2) for t in labels]
    for p, q in zip(found, run()[1], strict=True):
        np.testing.assert_array_equal(p, q)
        np.testing.assert_allclose(p.sum(axis=1), 1, rtol=1e-12)
    assert len(chosen) == 1
    assert (run(lr=2e-2)[1][0] != found[0]).any()
    monkeypatch.setitem(AT_A_TIME, "cpu", 32 * sum(p.size for p in net.parameters) * 3)
    chosen, again = run()
    assert [len(labels[part]) for part in chosen] == [3, 1]
    assert [p.shape for p in again] == [p.shape for p in found]
    for p, q in zip(again, run()[1], strict=True):  # whichever chunk is done first
        np.testing.assert_array_equal(p, q)


def test_fixed_entries_stay_and_means_start_as_generates(monkeypatch):
    tasks = wsfast.tasks("digits", n=1)
    net = wsfast.network("mlp4-wasym", tasks.shape, 2, width=6)
    kept = []

    class Adam(torch.optim.Adam):
        def __init__(self, params, lr):
            params = list(params)
            kept.extend(([p.detach().clone() for p in params], params))
            super().__init__(params, lr)

    monkeypatch.setattr(torch.optim, "Adam", Adam)
    list(fitted(net, tasks, np.zeros(2, np.int64), np.arange(2), 3, fit(), "cpu"))
    before, after = ([p.detach().flatten(1).numpy() for p in part[: len(net.parameters)]] for part in kept)
    start = wsfast.generate(net, tasks, repeats=2, seed=3, recipe=tasks.recipe.with_epochs(0), progress=False)
    at, to = fixed_entries(net)
    flat = np.concatenate(after, axis=1)
    np.testing.assert_array_equal(np.concatenate(before, axis=1), start.to_matrix()[0])
    np.testing.assert_array_equal(flat[:, at], np.broadcast_to(to, (2, len(to))))
    moved = flat != start.to_matrix()[0]
    moved[:, at] = True
    assert moved.mean() > 0.99  # pixels that are always white still have a prior


@pytest.mark.parametrize("name", ["plainnet5", "resnet-mlp12", "gru2"])
def test_other_networks_have_no_model(name):
    shape = {"plainnet5": (3, 16, 16), "gru2": (9, 7)}.get(name, (10,))
    assert model_of(wsfast.network(name, shape, 2, width=4), 1.0, "cpu") is None
