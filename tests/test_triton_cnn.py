"""Triton's training of convolutional networks against the reference: on a GPU, or in the interpreter."""

import numpy as np
import pytest
import torch
from wsfast.kernels.triton import batchnorm, cnn, figlu, plan
from wsfast.kernels.triton.images import Images
from wsfast.kernels.triton.pooling import _pool_kernel, _unpool_kernel
from wsfast.kernels.triton.population import FREE
from wsfast.reference import batchnorm as exact_batchnorm
from wsfast.reference import cnn as reference
from wsfast.reference import mlp, philox, pooling

import wsfast
from wsfast.asymmetry import gated, gates
from wsfast.families import Unit, convolutional
from wsfast.kernel_arguments import cnn_layers
from wsfast.modules import to_module

JOBS = [(0, 0), (1, 4), (0, 2)]
SEED = 7
NAMES = ("sizes", "slopes", "strides", "norm_last", "pools", "shortcuts")


def declared(name, size, width):
    return wsfast.network(name, (3, *size), 2, width)


NETWORKS = {
    "plainnet5": declared("plainnet5", (16, 16), 3),
    "plainnet5-text": declared("plainnet5-text", (17, 16), 2),
    "plainnet5-leaky": declared("plainnet5-leaky", (16, 19), 2),
    "plainnet6": declared("plainnet6", (32, 32), 1),
    "resnet5": declared("resnet5", (9, 10), 3),
    "tile + 1": convolutional((1, 1, 43), 3, [Unit(65, slope=0.1), Unit(17, stride=2)]),
    "many channels in": convolutional((17, 4, 3), 17, [Unit(33), Unit(2, pool=True), Unit(5, shortcut=True)]),
    "one position": convolutional((2, 2, 2), 2, [Unit(3, stride=2)]),
    "plainnet5-sigma": declared("plainnet5-sigma", (17, 16), 2),
    "small gates": gated(convolutional((2, 4, 4), 2, [Unit(3, pool=True), Unit(17)]), 0),
    "gates": gated(convolutional((2, 5, 7), 3, [Unit(33, pool=True), Unit(17), Unit(5, shortcut=True, pool=True)]), 1),
}
SAMPLES = {"one position": 6}  # else 5: the last batch is a single image
KINDS = {"tile + 1": np.float32}
CROPS = {"plainnet5-leaky": 2, "one position": 0}
SMALL = "many channels in"


def problem(name, batch=4, epochs=1):
    """(network, x, two tasks of different sizes, the rest of the arguments)."""
    net, n = NETWORKS[name], SAMPLES.get(name, 5)
    d = int(np.prod(net.input_shape))
    rng = np.random.default_rng([d, n])
    x, labels = rng.integers(0, 256, (n + 3, d)), rng.integers(0, net.classes, n + 3)
    tasks = [
        (np.arange(n), labels[:n], np.arange(n, n + 3), labels[n:]),
        (np.arange(n - 2)[::-1].copy(), 1 - labels[: n - 2] % 2, np.arange(n, n + 1), labels[n:-2] % 2),
    ]
    rest = {
        **dict(zip(NAMES, cnn_layers(net), strict=True)),
        "scale": np.full(d, 1 / 64, np.float32),
        "shift": np.full(d, -2, np.float32),
        "shape": np.array(net.input_shape),
        "lr": np.array([0.05, 0.02], np.float32)[:epochs],
        "momentum": 0.9,
        "weight_decay": 1e-3,
        "batch_size": batch,
        "pad": CROPS.get(name, -1),
        "seed": SEED,
    }
    return net, x.astype(KINDS.get(name, np.uint8)), tasks, rest


def exact(net, x, problem, rest, **key):
    """The reference's run."""
    return reference.train_cnn(x, *problem, **rest, **dict(zip(("gate_at", "gates"), gates(net), strict=True)), **key)


def by_name(net, flat):
    ends = np.cumsum([p.size for p in net.parameters])
    return dict(zip([p.name for p in net.parameters], np.split(flat, ends[:-1]), strict=True))


def torch_run(net, x, task, rest, start, number, repeat):
    """The same run by torch's modules, autograd and torch.optim.SGD in float32, from `start` [P]: parameters [P]."""
    arrays = {p.name: by_name(net, start)[p.name].reshape(p.shape) for p in net.parameters}
    module = to_module(net, arrays).train()
    optimiser = torch.optim.SGD(module.parameters(), lr=1, momentum=0.9, weight_decay=rest["weight_decay"])
    rows, labels, key = *task[:2], (SEED, number, repeat)
    for epoch, lr in enumerate(rest["lr"]):
        optimiser.param_groups[0]["lr"] = float(lr)
        order = philox.batch_order(len(rows), epoch, *key)
        crops = philox.augmentation(len(rows), rest["pad"], epoch, *key) if rest["pad"] >= 0 else None
        for first in range(0, len(rows), rest["batch_size"]):
            some = order[first : first + rest["batch_size"]]
            crop = None if crops is None else crops[some]
            images = reference.images(x, rows[some], rest["scale"], rest["shift"], rest["shape"], crop, rest["pad"])
            logits = module(torch.tensor(images, dtype=torch.float32))
            optimiser.zero_grad()
            torch.nn.functional.cross_entropy(logits, torch.tensor(labels[some])).backward()
            optimiser.step()
    state = module.state_dict()
    return np.concatenate([p.from_torch(state[p.name].contiguous().numpy()).ravel() for p in net.parameters])


@pytest.mark.parametrize("name", NETWORKS)
def test_a_run_errs_no_more_than_torch(name, device, as_good_as):
    """torch's BatchNorm adds up in float64 on a CPU, our tiles in float32, and matrix units truncate what tf32x3 leaves
    of a factor: hence 16 times."""
    net, x, tasks, rest = problem(name)
    jobs = JOBS[:1] if name.startswith("plain") else JOBS[:2]
    options = {"precision": "tf32x3", "device": device, "gates": gates(net)}
    parameters, curves, records = cnn.train_cnn(x, tasks, jobs, **rest, **options)
    for i, (t, r) in enumerate(jobs):
        start = exact(net, x, tasks[t], rest | {"lr": []}, task=t, repeat=r)[0]
        want, curve, record = exact(net, x, tasks[t], rest, task=t, repeat=r)
        by_torch = torch_run(net, x, tasks[t], rest, start, t, r)
        as_good_as(f"network {i}", parameters[i] - start, want - start, by_torch - start, factor=16)
        near = 1e-4 * np.linalg.norm(want - start) / np.sqrt(len(want))
        for p, change in by_name(net, want - start).items():
            got = by_name(net, parameters[i] - start)[p]
            np.testing.assert_allclose(got, change, rtol=1e-3, atol=max(near, 1e-6), err_msg=p)
        np.testing.assert_allclose(curves[i], curve, rtol=1e-4)
        np.testing.assert_allclose(records[i], record, rtol=1e-4)


def population(name, device):
    """(arguments, one network at its start with its first batch loaded, that batch's images and labels)."""
    net, x, tasks, rest = problem(name)
    matrix = figlu.matrices(gates(net), rest["sizes"][1:-1].tolist(), device)
    units = plan.planned(*(rest[k] for k in NAMES), rest["shape"], 4, matrix)
    images = Images.load(x, rest["scale"], rest["shift"], rest["shape"], rest["pad"], device)
    steps, decay = torch.ones(1, 1, device=device), torch.zeros(1, device=device)
    made = cnn.Population(images, tasks, JOBS[:1], units, net.classes, FREE, steps, decay, 0.0, 4, SEED, "tf32x3")
    made._load(0, 0)
    made.lr_now.fill_(1)
    chosen = philox.batch_order(len(tasks[0][0]), 0, SEED, 0, 0)[:4]
    batch = reference.images(x, tasks[0][0][chosen], rest["scale"], rest["shift"], rest["shape"], None, -1)
    return rest, made, batch, tasks[0][1][chosen]


@pytest.mark.parametrize("name", ["plainnet5-text", "tile + 1", "many channels in", "gates"])
def test_gradients_with_any_gamma(name, device):
    """A step of size 1 from gammas of both signs, where the smallest z of a window may win."""
    rest, made, batch, labels = population(name, device)
    units, head = reference.initial_parameters(rest["sizes"], rest["shortcuts"], SEED, 0, 0)
    rng = np.random.default_rng(3)
    for unit, net in zip(units, made.nets, strict=True):
        for (_, _, state), branch in zip(unit, net, strict=True):
            state[:2] = rng.standard_normal(state[:2].shape).astype(np.float32)
            branch.norm[0, :2, : state.shape[1]] = torch.tensor(state[:2])
    bends = mlp.bends(rest["sizes"][:-1], rest["slopes"], *gates(NETWORKS[name]))
    net = units, head, bends, *(rest[k] for k in NAMES[2:5])
    before = made.parameters()[0].double().cpu().numpy()
    made._learn(0, made.splits[0][2])
    got = before - made.parameters()[0].double().cpu().numpy()
    logits, inputs, caches = reference.forward(batch, True, *net)
    d_units, d_head = reference.backward(inputs, caches, mlp.cross_entropy(logits, labels)[1], *net)
    at = 0
    for k, d_unit in enumerate(d_units):
        for i, (dw, db, d_state) in enumerate(d_unit):
            for part, want in (("weight", dw), ("bias", db), ("gamma, beta", d_state)):
                found = got[at : at + want.size].reshape(want.shape)
                np.testing.assert_allclose(found, want, rtol=1e-3, atol=3e-6, err_msg=f"unit {k}, branch {i}, {part}")
                at += want.size
            at += d_state.size  # the running statistics
    for want in d_head:
        np.testing.assert_allclose(got[at : at + want.size].reshape(want.shape), want, rtol=1e-3, atol=1e-6)
        at += want.size
    assert at == len(got)


@pytest.mark.parametrize("last", [False, True])
@pytest.mark.parametrize(("h", "w"), [(4, 6), (5, 3)])
def test_the_first_of_equals_gets_a_windows_gradient(h, w, last, device):
    """z of few values, gammas of both signs: ties everywhere."""
    rng = np.random.default_rng([h, w, last])
    B, N, slope = 3, 16, 0.25
    z = rng.integers(-2, 3, (B, N, h, w)).astype(np.float64)
    state = np.stack([rng.choice([-1.0, 0.5, 2.0], N), *np.zeros((3, N))])
    d = rng.standard_normal((B, N, h // 2, w // 2))
    spread = pooling.max_pool_backward(exact_batchnorm.normalise(z, state, True), d)
    want = exact_batchnorm.normalise_backward(z, state, spread)[0] * (np.where(z > 0, 1, slope) if last else 1)

    mean, inverse = z.mean((0, 2, 3)), 1 / np.sqrt(z.var((0, 2, 3)) + 1e-5)
    scale, centred = state[0] * inverse, z - mean[:, None, None]
    offset = scale * d.sum((0, 2, 3)) / (B * h * w)
    tilt = scale * inverse**2 * (spread * centred).sum((0, 2, 3)) / (B * h * w)
    stat = torch.tensor(np.stack([mean, scale, state[1], inverse, offset, tilt]), dtype=torch.float32, device=device)
    above = torch.full((1, 4, h, w, N), torch.nan, device=device)  # one image more than the batch has
    above[0, :B] = torch.tensor(z).permute(0, 2, 3, 1)
    pooled = torch.tensor(d, dtype=torch.float32, device=device).permute(0, 2, 3, 1)[None].contiguous()
    counts = torch.tensor([B], dtype=torch.int32, device=device)
    batchnorm._normal_gradient_kernel[1, -(-4 * -(-h // 2) * -(-w // 2) // 16), 1](
        above, torch.cat([pooled, torch.full_like(pooled[:, :1], torch.nan)], 1), stat, counts, slope, 0, 4, B=4, H=h,
        W=w, N=N, BM=16, BN=16, POOL=True, LAST=last, PRECISION="ieee")  # fmt: skip
    got = above[0].permute(0, 3, 1, 2).cpu().numpy()
    np.testing.assert_allclose(got[:B], want, rtol=1e-4, atol=1e-5)
    assert np.isnan(got[B:]).all()


@pytest.mark.parametrize("name", ["resnet5", "many channels in"])
def test_fixed_weights_keep_their_bits(name, device):
    net, x, tasks, rest = problem(name)
    rng, at, start = np.random.default_rng(net.size), [], 0
    for p in net.parameters:
        if len(p.shape) > 1:
            at.append(start + rng.permutation(p.size)[: -(-p.size // 5)])
        start += p.size
    fixed = np.sort(np.concatenate(at)), rng.standard_normal(sum(map(len, at))).astype(np.float32) / 4
    job = task, repeat = JOBS[1]
    got = cnn.train_cnn(x, tasks, [job], **rest, precision="tf32x3", device=device, fixed=fixed)[0][0]
    key = {"task": task, "repeat": repeat, "fixed_at": fixed[0], "fixed_to": fixed[1]}
    want = reference.train_cnn(x, *tasks[task], **rest, **key)[0]
    np.testing.assert_array_equal(got[fixed[0]], fixed[1])
    np.testing.assert_allclose(got, want, rtol=1e-3, atol=1e-4 * np.abs(want).max())


def test_a_network_blows_up_visibly(device):
    _, x, tasks, rest = problem("one position")
    with np.errstate(all="ignore"):
        got = cnn.train_cnn(x, tasks, JOBS[:1], **rest | {"lr": np.full(1, 1e30, np.float32)}, device=device)
    assert not (np.abs(got[0]) < 1e6).all()


@pytest.mark.parametrize(("h", "w"), [(2, 2), (5, 4), (3, 7)])
def test_max_pool_is_the_references_with_ties_too(h, w, device):
    rng, B, N = np.random.default_rng([h, w]), 3, 16
    x, d = rng.integers(-2, 3, (B, N, h, w)).astype(float), rng.standard_normal((B, N, h // 2, w // 2))

    def laid(array):  # as the kernels lay images, and one image more than the batch has
        own = torch.tensor(array, dtype=torch.float32, device=device).permute(0, 2, 3, 1)[None]
        return torch.cat([own, torch.full_like(own[:, :1], torch.nan)], 1).contiguous()

    images, y, g = laid(x), laid(np.full_like(d, np.nan)), laid(np.full_like(x, np.nan))
    counts, windows = torch.tensor([B], dtype=torch.int32, device=device), -(-h // 2) * -(-w // 2)
    sizes = {"now": 0, "size": 4, "B": 4, "H": h, "W": w, "N": N, "BM": 16, "BN": 16}
    _pool_kernel[1, -(-4 * windows // 16), 1](images, y, counts, **sizes)
    _unpool_kernel[1, -(-4 * windows // 16), 1](images, laid(d), g, counts, **sizes)
    for got, want in ((y, pooling.max_pool(x)), (g, pooling.max_pool_backward(x, d))):
        np.testing.assert_array_equal(got[0, :B].permute(0, 3, 1, 2).cpu().numpy(), want.astype(np.float32))
        assert got[0, B:].isnan().all()


def test_a_single_number_has_no_deviation(device):
    """Batches of one image at one position, which torch refuses."""
    _, x, tasks, rest = problem("one position", batch=1)
    got = cnn.train_cnn(x, tasks, JOBS[:1], **rest, precision="tf32x3", device=device)[0][0]
    want = reference.train_cnn(x, *tasks[0], **rest, task=0, repeat=0)[0]
    np.testing.assert_allclose(got, want, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("name", [SMALL, "small gates"])
def test_a_network_is_the_same_bits_alone_and_among_others(name, device):
    net, x, tasks, rest = problem(name)
    rest |= {"precision": "tf32x3", "gates": gates(net)}
    together = cnn.train_cnn(x, tasks, JOBS, **rest, device=device)
    apart = cnn.train_cnn(x, tasks, JOBS[::-1], **rest, device=device, chunk=2)
    for a, b in zip(together, apart, strict=True):
        np.testing.assert_array_equal(a, b[::-1])


def test_every_network_has_its_own_step_size_and_decay(device):
    _, x, tasks, rest = problem("one position", epochs=2)
    rates = np.array([[0.05, 0.05], [0.02, 0.01], [0.1, 0.03]], np.float32)
    decays = np.array([0.0, 1e-2, 1e-3], np.float32)
    got = cnn.train_cnn(x, tasks, JOBS, **rest | {"lr": rates, "weight_decay": decays}, device=device)[0]
    for i, (job, lr, decay) in enumerate(zip(JOBS, rates, decays, strict=True)):
        alone = cnn.train_cnn(x, tasks, [job], **rest | {"lr": lr, "weight_decay": float(decay)}, device=device)[0]
        np.testing.assert_array_equal(got[i], alone[0])


@pytest.mark.parametrize("name", [SMALL, "gates"])
def test_nothing_is_read_before_it_is_written(name, device, monkeypatch):
    """Buffers that a step fills before it reads them start as NaN here."""
    net, x, tasks, rest = problem(name)
    options = {"precision": "tf32x3", "device": device, "gates": gates(net)}
    clean = cnn.train_cnn(x, tasks, JOBS[:1], **rest, **options)
    original = cnn.Population.__init__

    def poisoned(self, *arguments):
        original(self, *arguments)
        branches = [branch for net in self.nets for branch in net]
        for buffer in (*self.tops, *self.outputs, self.d, self.parts, self.features, self.d_features, self.dz):
            buffer.fill_(torch.nan)
        for buffer in (self.met, self.taken, *(b for gate in self.gates if gate for b in (gate.y, gate.s))):
            buffer.fill_(torch.nan)
        for branch in branches:
            branch.z.fill_(torch.nan)
            branch.stat.fill_(torch.nan)

    monkeypatch.setattr(cnn.Population, "__init__", poisoned)
    again = cnn.train_cnn(x, tasks, JOBS[:1], **rest, **options)
    for a, b in zip(clean, again, strict=True):
        np.testing.assert_array_equal(a, b)


@pytest.mark.parametrize("precision", ["tf32", "bf16"])
def test_lower_precisions_stay_near(precision, device):
    _, x, tasks, rest = problem(SMALL)
    rest["lr"] = rest["lr"] / np.float32(100)  # larger steps of 4 images multiply an error a thousandfold
    start = reference.train_cnn(x, *tasks[0], **rest | {"lr": []}, task=0, repeat=0)[0]
    change = reference.train_cnn(x, *tasks[0], **rest, task=0, repeat=0)[0] - start
    got = cnn.train_cnn(x, tasks, JOBS[:1], **rest, device=device, precision=precision)[0][0]
    error = np.linalg.norm(got - start - change) / np.linalg.norm(change)
    assert 1e-6 < error < {"tf32": 1e-3, "bf16": 1e-2}[precision]


def test_memory_that_runs_out_halves_the_chunk(device, monkeypatch):
    _, x, tasks, rest = problem("one position")
    whole, original = cnn.train_cnn(x, tasks, JOBS, **rest, device=device), cnn.Population.train

    def small_card(self, tick):
        if self.n > 1:
            raise torch.OutOfMemoryError("no room for two")
        return original(self, tick)

    monkeypatch.setattr(cnn.Population, "train", small_card)
    for a, b in zip(whole, cnn.train_cnn(x, tasks, JOBS, **rest, device=device), strict=True):
        np.testing.assert_array_equal(a, b)


def test_generate_agrees_with_the_cpu(device):
    rng = np.random.default_rng(5)
    y = np.arange(12) % 2
    x = (rng.integers(0, 128, (12, 3, 6, 6)) + 100 * y[:, None, None, None]).astype(np.uint8)
    tasks = wsfast.tasks(x, y, groups=[(0, 1)])
    recipe = wsfast.Recipe(lr=0.01, batch_size=16, epochs=1, pad=1)
    options = {"repeats": 1, "recipe": recipe, "progress": False}
    net = convolutional((3, 6, 6), 2, [Unit(4, pool=True), Unit(5)])
    ours = wsfast.generate(net, tasks, **options, backend="triton", device=device, precision="tf32x3")
    theirs = wsfast.generate(net, tasks, **options)
    for name, want in theirs.parameters.items():
        np.testing.assert_allclose(ours.parameters[name], want, rtol=1e-3, atol=1e-4, err_msg=name)
    np.testing.assert_array_equal(ours.records["test_accuracy"], theirs.records["test_accuracy"])
    assert ours.info["backend"] == "triton"


def test_the_default_precision_is_tf32(device):
    tasks = wsfast.tasks(np.zeros((8, 1, 1, 1), np.uint8), np.arange(8) % 2, groups=[(0, 1)])
    net = convolutional((1, 1, 1), 2, [Unit(2)])
    options = {"repeats": 1, "recipe": wsfast.Recipe(epochs=0), "backend": "triton", "device": device}
    assert wsfast.generate(net, tasks, **options, progress=False).info["precision"] == "tf32"


def test_bad_input(device):
    _, x, tasks, rest = problem("one position")
    many = [(np.zeros(300, np.int64), np.zeros(300, np.int64), *tasks[0][2:])]
    with pytest.raises(ValueError, match="train_cnn: the triton kernels take batches of at most 128 samples, got 200"):
        cnn.train_cnn(x, many, JOBS[:1], **rest | {"batch_size": 200}, device=device)
    with pytest.raises(ValueError, match="train_cnn: precision must be one of tf32x3"):
        cnn.train_cnn(x, tasks, JOBS, **rest, device=device, precision="fp8")
    with pytest.raises(ValueError, match="no pool behind a shortcut"):
        cnn.train_cnn(x, tasks, JOBS, **rest | {"pools": [1], "shortcuts": [1]}, device=device)
    with pytest.raises(ValueError, match=r"4,194,304,000 numbers, the triton kernels take less than 2\^31"):
        plan.planned([3, 128, 2], [0.0], [1], [0], [0], [0], (3, 512, 500), 128, [None])
    images = [3, 16, 2], [0.0], [1], [0]  # unpooled: 32 positions a program, 65,535 programs along a grid's second axis
    with pytest.raises(ValueError, match=r"2,097,152 positions .*, the triton kernels take at most 2,097,120 \("):
        plan.planned(*images, [0], [0], (3, 128, 128), 128, [None])
    assert plan.planned(*images, [0], [0], (3, 128, 127), 128, [None])
    assert plan.planned(*images, [1], [0], (3, 254, 255), 128, [None])
    with pytest.raises(ValueError, match="2,113,536 positions"):
        plan.planned(*images, [1], [0], (3, 256, 257), 128, [None])
    with pytest.raises(ValueError, match="no gate before BatchNorm"):
        plan.planned([3, 16, 2], [1.0], [1], [1], [0], [0], (3, 5, 5), 8, [torch.ones(16, 16)])
