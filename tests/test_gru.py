import numpy as np
import pytest
import torch
from wsfast.reference import gru, philox


def problem(alphabet, hidden, classes, longest, n=23, n_test=9, epochs=2, steps=20, **changes):
    """A whole run's arguments, by name, drawn from the sizes."""
    rng = np.random.default_rng([alphabet, hidden, classes, longest])
    lengths = rng.integers(1, longest + 1, n + n_test)
    lengths[:2] = 1, longest
    x = rng.integers(0, alphabet, (n + n_test, longest)).astype(np.uint8)
    x[np.arange(longest) >= lengths[:, None]] = alphabet
    rows = rng.permutation(n + n_test)
    labels = np.arange(n + n_test) % classes
    fixed = {
        "x": x,
        "train_rows": rows[:n],
        "train_labels": labels[:n],
        "test_rows": rows[n:],
        "test_labels": labels[n:],
        "alphabet": alphabet,
        "hidden": hidden,
        "classes": classes,
        "lr": np.array([0.3, 0.1], np.float32)[:epochs],
        "steps": steps,
        "seed": 7,
        "task": 3,
        "repeat": 5,
    }
    return {**fixed, **changes}


CASES = {
    "smallest": problem(1, 1, 2, 1, n=2, n_test=1),
    "single letters": problem(9, 5, 2, 1),
    "odd": problem(11, 7, 3, 6),
    "exact tiles": problem(58, 32, 2, 8),
    "tile + 1": problem(58, 33, 2, 17),
    "long names": problem(30, 20, 4, 40, steps=6),
    "the paper's": problem(58, 128, 2, 12, steps=15),
    "wider than all accumulators": problem(58, 150, 2, 9, steps=6),
    "no test names": problem(6, 4, 2, 5, n_test=0),
}


def torch_run(case, dtype):
    """The same run by torch's GRU, autograd and torch.optim.SGD: parameters [P]."""
    key = case["seed"], case["task"], case["repeat"]
    sizes = case["alphabet"], case["hidden"], case["classes"]
    starts = [torch.tensor(p, dtype=dtype) for p in gru.initial_parameters(*sizes, *key)]
    layers = [torch.nn.GRU(n, case["hidden"], dtype=dtype) for n in sizes[:2]]
    fc = torch.nn.Linear(*sizes[1:], dtype=dtype)
    held = [p for layer in layers for p in layer.parameters()] + [fc.weight, fc.bias]
    for p, start in zip(held, starts, strict=True):
        p.data = start.movedim(0, -1).reshape(p.shape).clone() if start.dim() != 2 or p is fc.weight else start.ravel()
    optimiser = torch.optim.SGD(held, lr=1)
    members = [np.flatnonzero(case["train_labels"] == c) for c in range(case["classes"])]
    for epoch, lr in enumerate(case["lr"]):
        optimiser.param_groups[0]["lr"] = float(lr)
        for c, place in philox.sample([len(m) for m in members], case["steps"], epoch, *key):
            letters = case["x"][case["train_rows"][members[c][place]]]
            letters = torch.from_numpy(letters[letters < case["alphabet"]].astype(np.int64))
            h = torch.nn.functional.one_hot(letters, case["alphabet"]).to(dtype)
            for layer in layers:
                h = layer(h)[0]
            loss = torch.nn.functional.cross_entropy(fc(h[-1]), torch.tensor(c))
            optimiser.zero_grad()
            loss.backward()
            optimiser.step()
    back = []
    for p, start in zip(held, starts, strict=True):
        kept = p.detach().reshape(*start.shape[1:], start.shape[0]).movedim(-1, 0) if p.dim() > 1 else p.detach()
        back.append(kept.numpy().ravel())
    return np.concatenate(back)


@pytest.mark.parametrize("name", CASES)
def test_reference_run_is_torchs(name):
    parameters, _, _ = gru.train_gru(**CASES[name])
    np.testing.assert_allclose(parameters, torch_run(CASES[name], torch.float64), rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("name", ["W1", "U1", "b1", "c1", "W2", "U2", "b2", "c2", "W_fc", "b_fc"])
def test_reference_gradients_by_differences(name):
    k = ["W1", "U1", "b1", "c1", "W2", "U2", "b2", "c2", "W_fc", "b_fc"].index(name)
    parameters = gru.initial_parameters(6, 5, 3, 1, 2, 3)
    letters, label = np.array([3, 0, 3, 5]), np.array([1])

    def loss():
        return gru.cross_entropy(gru.forward(letters, parameters)[0][None], label)[0][0]

    logits, kept = gru.forward(letters, parameters)
    _, gradient = gru.cross_entropy(logits[None], label)
    found = gru.backward(kept, gradient[0], parameters)[k]
    flat, step = parameters[k].reshape(-1), 1e-6
    for i in np.random.default_rng(k).permutation(len(flat))[:12]:
        before = flat[i]
        flat[i] = before + step
        up = loss()
        flat[i] = before - step
        down = loss()
        flat[i] = before
        assert found.ravel()[i] == pytest.approx((up - down) / (2 * step), rel=1e-5, abs=1e-9)
