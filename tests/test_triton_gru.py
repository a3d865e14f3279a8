"""Triton's recurrent networks against the reference: on a GPU where there is one, in the interpreter elsewhere."""

from dataclasses import replace

import numpy as np
import pytest
import torch
import triton
import triton.language as tl
from wsfast.kernels.triton import gru, philox, recurrent
from wsfast.reference import gru as reference

import wsfast

KEY = "alphabet", "hidden", "classes", "lr", "steps", "seed"
JOBS = [(0, 5), (1, 0), (0, 2)]


def problem(alphabet, hidden, classes, longest, names=7, tests=3, steps=2, lr=(0.5, 0.2)):
    """(x, two tasks of different sizes, the rest of the arguments), drawn from the sizes; a name has one letter."""
    rng = np.random.default_rng([alphabet, hidden, classes, longest])
    n = names + tests
    lengths = rng.integers(1, longest + 1, n)
    lengths[:2] = 1, longest
    x = rng.integers(0, alphabet, (n, longest)).astype(np.uint8)
    x[np.arange(longest) >= lengths[:, None]] = alphabet
    rows, labels = rng.permutation(n), np.arange(n) % classes
    tasks = [
        (rows[:names], labels[:names], rows[names:], labels[names:]),
        (rows[-classes:], labels[:classes][::-1].copy(), rows[:0], labels[:0]),
    ]
    values = alphabet, hidden, classes, np.array(lr, np.float32), steps, 7
    return x, tasks, dict(zip(KEY, values, strict=True))


CASES = {
    "smallest": problem(1, 1, 2, 1, names=2, tests=1),
    "odd": problem(11, 5, 3, 4, steps=3),
    "single letters": problem(9, 16, 2, 1),
    "tile + 1": problem(58, 17, 2, 5),
    "long names": problem(30, 6, 2, 15, names=2, tests=1),
    "many classes": problem(20, 7, 6, 3, names=13),
    "the paper's": problem(58, 128, 2, 3, names=3, tests=1, lr=(0.5,)),
}


def torch_run(x, task, rest, number, repeat):
    """The same run by torch's GRU, autograd and float32 SGD: parameters [P]."""
    key, hidden = (rest["seed"], number, repeat), rest["hidden"]
    sizes = rest["alphabet"], hidden, rest["classes"]
    starts = [torch.tensor(p, dtype=torch.float32) for p in reference.initial_parameters(*sizes, *key)]
    rnn, fc = torch.nn.GRU(sizes[0], hidden, num_layers=2), torch.nn.Linear(*sizes[1:])
    held = [*rnn.parameters(), *fc.parameters()]
    for p, start in zip(held, starts, strict=True):
        turned = start.ravel() if p.dim() == 1 else start.movedim(0, -1).reshape(p.shape)
        p.data = turned.clone()
    members = [np.flatnonzero(task[1] == c) for c in range(sizes[2])]
    for epoch, lr in enumerate(rest["lr"]):
        optimiser = torch.optim.SGD(held, lr=float(lr))
        drawn = reference.philox.sample([len(m) for m in members], rest["steps"], epoch, *key)
        for c, place in drawn:
            letters = x[task[0][members[c][place]]]
            letters = torch.from_numpy(letters[letters < sizes[0]].astype(np.int64))
            h = rnn(torch.nn.functional.one_hot(letters, sizes[0]).float())[0]
            optimiser.zero_grad()
            torch.nn.functional.cross_entropy(fc(h[-1]), torch.tensor(c)).backward()
            optimiser.step()
    back = [p.detach() if p.dim() == 1 else p.detach().reshape(*start.shape[1:], -1).movedim(-1, 0)
            for p, start in zip(held, starts, strict=True)]  # fmt: skip
    return torch.cat([p.reshape(-1) for p in back]).numpy()


@pytest.mark.parametrize("case", CASES)
def test_a_run_errs_no_more_than_torch(case, device, as_good_as):
    x, tasks, rest = CASES[case]
    jobs = JOBS[:2] if rest["hidden"] < 100 else JOBS[:1]
    parameters, curves, records = gru.train_gru(x, tasks, jobs, **rest, device=device)
    for i, (t, r) in enumerate(jobs):
        want, curve, record = reference.train_gru(x, *tasks[t], **rest, task=t, repeat=r)
        start = reference.train_gru(x, *tasks[t], **{**rest, "lr": rest["lr"][:0]}, task=t, repeat=r)[0]
        theirs = torch_run(x, tasks[t], rest, t, r)
        as_good_as(f"weight change of network {i}", parameters[i] - start, want - start, theirs - start)
        np.testing.assert_allclose(curves[i], curve, rtol=1e-5)
        np.testing.assert_allclose(records[i], record, rtol=1e-5)


def same(got, want):
    for a, b in zip(got, want, strict=True):
        np.testing.assert_array_equal(a, b)


def test_a_network_is_the_same_bits_alone_and_among_others(device):
    x, tasks, rest = CASES["odd"]
    together = gru.train_gru(x, tasks, JOBS, **rest, device=device)
    backwards = gru.train_gru(x, tasks, JOBS[::-1], **rest, device=device, chunk=2)
    same(together, [a[::-1] for a in backwards])
    same([a[1:2] for a in together], gru.train_gru(x, tasks, JOBS[1:2], **rest, device=device))


def test_more_launches_are_the_same_bits(device, monkeypatch):
    x, tasks, rest = CASES["odd"]
    whole, launches = gru.train_gru(x, tasks, JOBS[:1], **rest, device=device), []
    original = gru.Population._launch

    def counted(self, kernel, *arguments, **constants):
        launches.append(kernel)
        original(self, kernel, *arguments, **constants)

    monkeypatch.setattr(gru.Population, "_launch", counted)
    monkeypatch.setattr(gru, "STEPS", 2)
    monkeypatch.setattr(gru, "TOGETHER", 3)  # names shown at once; their losses are added up one by one
    same(whole, gru.train_gru(x, tasks, JOBS[:1], **rest, device=device))
    assert launches.count(recurrent._train_gru_kernel) == 2 * 2  # three steps of each epoch


def test_untrained_networks_are_the_references_bits(device):
    for case in ("smallest", "tile + 1"):
        x, tasks, rest = CASES[case]
        rest = {**rest, "lr": rest["lr"][:0]}
        parameters, curves, _ = gru.train_gru(x, tasks, JOBS[:1], **rest, device=device)
        want = reference.train_gru(x, *tasks[0], **rest, task=0, repeat=5)[0]
        np.testing.assert_array_equal(parameters[0], want.astype(np.float32))
        assert curves.shape == (1, 0)


def test_nothing_is_read_before_it_is_written(device, monkeypatch):
    """Memory starts as NaN here."""
    x, tasks, rest = CASES["odd"]
    clean, original = gru.train_gru(x, tasks, JOBS[:1], **rest, device=device), torch.empty

    def poisoned(*shape, **options):
        found = original(*shape, **options)
        return found.fill_(torch.nan) if found.is_floating_point() else found

    monkeypatch.setattr(torch, "empty", poisoned)
    same(clean, gru.train_gru(x, tasks, JOBS[:1], **rest, device=device))


def test_draws_are_the_references(device):
    jobs, sizes = [(0, 0), (3, 5)], [[4, 1, 9], [2, 3, 70]]
    put = torch.tensor(jobs, device=device), philox.key(2**63 + 11, device)
    classes, members = philox.sample(torch.tensor(sizes, device=device), 50, 3, *put)
    for i, job in enumerate(jobs):
        want = reference.philox.sample(sizes[i], 50, 3, 2**63 + 11, *job)
        np.testing.assert_array_equal(classes[i].cpu().numpy(), want[:, 0])
        np.testing.assert_array_equal(members[i].cpu().numpy(), want[:, 1])


@triton.jit
def _activation_kernel(x_ptr, out_ptr, TANH: tl.constexpr):
    at = tl.arange(0, 8192)
    x = tl.load(x_ptr + at)
    tl.store(out_ptr + at, recurrent._tanh(x) if TANH else recurrent._logistic(x))


@pytest.mark.parametrize("name", ["_logistic", "_tanh"])
def test_activations_err_no_more_than_their_instructions(name, device):
    x = np.concatenate([np.linspace(-12, 12, 4001), np.geomspace(1e-30, 1e3, 601), -np.geomspace(1e-30, 1e3, 601)])
    x = np.resize(x.astype(np.float32), 8192)
    away = np.abs(x.astype(np.float64)) * (1 + (name == "_tanh"))
    # CUDA's guide, intrinsic functions: e^-a errs at most 2 + 1.173 a units in the last place, a quotient 2
    e, half = np.exp(-away), 2.0**-24
    e_wrong = e * (2 + 1.173 * away) * 2 * half
    if name == "_tanh":
        exact = np.tanh(x.astype(np.float64))
        far = exact * ((e_wrong + half) / (1 - e + half) + (e_wrong + half) / (1 + e) + 4 * half)
        allowed = np.where(np.abs(x) < 0.625, 6.5 * half * exact, far)
    else:
        exact = np.where(x >= 0, 1, e) / (1 + e)
        allowed = e_wrong / (1 + e) ** 2 + 5 * half * exact
    out = torch.empty(8192, device=device)
    _activation_kernel[1,](torch.tensor(x, device=device), out, TANH=name == "_tanh")
    assert (np.abs(out.cpu().numpy() - exact) <= np.abs(allowed) + np.finfo(np.float32).tiny).all()


def test_a_network_blows_up_visibly(device):
    x, tasks, rest = CASES["odd"]
    found = gru.train_gru(x, tasks, JOBS[:1], **{**rest, "lr": np.array([1e4, 1e30], np.float32)}, device=device)
    assert not (np.abs(found[0]) < 1e6).all()
    assert found[2].shape == (1, 4)


def test_generate_agrees_with_the_cpu(device):
    pytest.importorskip("faker")
    tasks = wsfast.tasks("names", n=2)
    few = tuple(
        replace(t, train_rows=t.train_rows[[0, -1]], train_labels=t.train_labels[[0, -1]], test_rows=t.test_rows[:2],
                test_labels=t.test_labels[:2])
        for t in tasks.tasks
    )  # fmt: skip
    recipe = wsfast.Recipe(lr=0.5, momentum=0, batch_size=1, epochs=1, decay_epochs=(), steps=3)
    tasks = replace(tasks, tasks=few, recipe=recipe)
    options = {"repeats": 1, "width": 9, "progress": False}
    ours = wsfast.generate("gru2", tasks, **options, backend="triton", device=device)
    theirs = wsfast.generate("gru2", tasks, **options)
    for name, want in theirs.parameters.items():
        np.testing.assert_allclose(ours.parameters[name], want, rtol=1e-4, atol=1e-5, err_msg=name)
    np.testing.assert_array_equal(ours.records["test_accuracy"], theirs.records["test_accuracy"])
    assert (ours.info["backend"], ours.info["precision"]) == ("triton", "ieee")
    with pytest.raises(ValueError, match="precision of triton must be ieee, got 'tf32'"):
        wsfast.generate("gru2", tasks, **options, backend="triton", device=device, precision="tf32")


def test_bad_input(device):
    x, tasks, rest = CASES["odd"]
    with pytest.raises(ValueError, match="at most 128 hidden units, got 129"):
        gru.train_gru(x, tasks, JOBS, **{**rest, "hidden": 129}, device=device)
