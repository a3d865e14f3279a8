"""A fully connected network: forward, loss, gradients, SGD, a whole training run. All arrays float64.

Layer k = 0 .. L - 1, y_{-1} the network's input x:

    z_k = y_{k-1} W_k + b_k
    a_k = max(z_k, 0) + slope_k min(z_k, 0)         slope 0 is ReLU, 0.01 LeakyReLU, 1 no activation
    a_k = sigmoid(z_k F_k) * z_k                    where slope_k is a matrix F_k: `wsfast.reference.asymmetric`
    n_k = BatchNorm(a_k) where norms_k is 1, else a_k
    y_k = n_k + y_j where j = adds_k >= 0 (an earlier layer of the same size), else n_k

Shapes: x [B, d], W_k [n_{k-1}, n_k] (input first), b_k [n_k], logits y_{L-1} [B, C], labels int [B].

BatchNorm of one column, EPS = 1e-5: n = gamma (a - m) / sqrt(v + EPS) + beta. In training m and v are the batch's mean
and biased variance, and the running statistics move as torch's: mean <- 0.9 mean + 0.1 m, variance <- 0.9 variance +
0.1 v B / (B - 1). A batch of one sample, which torch refuses, has v = 0: it is normalised to beta, passes no gradient
back and moves the running variance by that v. In evaluation m and v are the running statistics. A normed layer's state
is `norm` float64 [4, n_k]: gamma (from 1), beta (0), running mean (0), running variance (1); None without BatchNorm.
"""

from itertools import pairwise

import numpy as np

from . import philox
from .asymmetric import gate, gate_backward, hold

EPS, MOVE = 1e-5, 0.1  # torch's defaults
NOWHERE = np.empty(0, np.int64)


def forward(x, weights, biases, slopes, norm, adds, training):
    """Every layer's activation (z_k of a gated one) and output: ([a_0, ..., a_{L-1}], [x, y_0, ..., y_{L-1}])."""
    activations, outputs = [], [x]
    for w, b, slope, state, add in zip(weights, biases, slopes, norm, adds, strict=True):
        z = outputs[-1] @ w + b
        a = np.where(z > 0, z, slope * z) if np.ndim(slope) == 0 else z
        y = a if np.ndim(slope) == 0 else gate(z, slope)[0]
        if state is not None:
            gamma, beta, mean, variance = state
            if training:
                mean, variance = a.mean(axis=0), a.var(axis=0)
            y = gamma * (a - mean) / np.sqrt(variance + EPS) + beta
        activations.append(a)
        outputs.append(y + outputs[add + 1] if add >= 0 else y)
    return activations, outputs


def move_statistics(activations, norm):
    """The running statistics after one training step's activations, in place."""
    for a, state in zip(activations, norm, strict=True):
        if state is not None:
            n = len(a)
            state[2] += MOVE * (a.mean(axis=0) - state[2])
            state[3] += MOVE * (a.var(axis=0) * n / max(n - 1, 1) - state[3])


def cross_entropy(logits, labels):
    """Softmax cross-entropy of each sample [B], and its gradient for the batch mean [B, C]."""
    shifted = logits - logits.max(axis=1, keepdims=True)
    log_p = shifted - np.log(np.exp(shifted).sum(axis=1, keepdims=True))
    rows = np.arange(len(labels))
    gradient = np.exp(log_p)
    gradient[rows, labels] -= 1
    return -log_p[rows, labels], gradient / len(labels)


def backward(activations, outputs, gradient, weights, slopes, norm, adds):
    """Gradients in training (dW list, db list, [d gamma, d beta] or None list) from that at the logits [B, C].

    activations, outputs: as `forward` returns. BatchNorm's are through the batch's own mean and variance.
    """
    layers = len(weights)
    at = [np.zeros_like(y) for y in outputs[1:]]  # the gradient at every y_k, summed over its uses
    at[-1] = gradient
    d_weights: list[np.ndarray] = []
    d_biases: list[np.ndarray] = []
    d_norm: list[np.ndarray | None] = []
    for k in reversed(range(layers)):
        gradient, a, d_state = at[k], activations[k], None
        if adds[k] >= 0:
            at[adds[k]] = at[adds[k]] + gradient
        if norm[k] is not None:
            root = np.sqrt(a.var(axis=0) + EPS)
            unit = (a - a.mean(axis=0)) / root
            d_gamma, d_beta = (gradient * unit).sum(axis=0), gradient.sum(axis=0)
            d_state = np.stack([d_gamma, d_beta])
            gradient = norm[k][0] / root * (gradient - (d_beta + unit * d_gamma) / len(a))
        if np.ndim(slopes[k]) == 0:
            gradient = gradient * np.where(a > 0, 1.0, slopes[k])
        else:
            gradient = gate_backward(a, gate(a, slopes[k])[1], slopes[k], gradient)
        d_weights.insert(0, outputs[k].T @ gradient)
        d_biases.insert(0, gradient.sum(axis=0))
        d_norm.insert(0, d_state)
        if k > 0:
            at[k - 1] = at[k - 1] + gradient @ weights[k].T
    return d_weights, d_biases, d_norm


def sgd_step(parameter, gradient, velocity, lr, momentum, weight_decay):
    """One step of SGD in place, as torch.optim.SGD: v <- momentum v + (g + weight_decay p); p <- p - lr v."""
    velocity *= momentum
    velocity += gradient + weight_decay * parameter
    parameter -= lr * velocity


def initial_parameters(sizes, seed, task, repeat, norms=None):
    """torch's default: weight and bias of layer k ~ U(+-1/sqrt(n_{k-1})): (weights, biases).

    A stream's item is the parameter's position in W_0, b_0, then gamma_0, beta_0, mean_0, variance_0 of a normed layer
    (these draw nothing), W_1, ...
    """
    weights, biases, item = [], [], 0
    for k, (n_in, n_out) in enumerate(pairwise(sizes)):
        bound = 1 / np.sqrt(n_in)
        weights.append(philox.initial_weight((n_in, n_out), bound, item, seed, task, repeat))
        biases.append(philox.initial_weight((n_out,), bound, item + 1, seed, task, repeat))
        item += 6 if norms is not None and norms[k] else 2
    return weights, biases


def initial_norm(sizes, norms):
    """Every layer's BatchNorm state before the first step, None where it has none."""
    start = np.array([[1.0], [0.0], [0.0], [1.0]])
    return [np.repeat(start, n, axis=1) if normed else None for n, normed in zip(sizes[1:], norms, strict=True)]


def bends(sizes, slopes, gate_at, gates):
    """Every layer's slope, or F_k [n_k, n_k] where gate_at [L] says where it starts in `gates` (None: nowhere)."""
    if gate_at is None:
        return list(slopes)
    matrices = (gates[max(at, 0) :][: n * n].astype(float) for at, n in zip(gate_at, sizes[1:], strict=True))
    return [
        slope if at < 0 else f.reshape(n, n)
        for slope, at, f, n in zip(slopes, gate_at, matrices, sizes[1:], strict=True)
    ]


def split(flat, sizes, norms):
    """The parameters [P] of train_mlp: (weights, biases, norm)."""
    weights, biases, norm, at = [], [], [], 0
    for (n_in, n), normed in zip(pairwise(sizes), norms, strict=True):
        w, b, state, _ = np.split(flat[at:], np.cumsum([n_in * n, n, 4 * n * normed]))
        weights.append(w.reshape(n_in, n))
        biases.append(b)
        norm.append(state.reshape(4, n) if normed else None)
        at += n_in * n + n + 4 * n * normed
    return weights, biases, norm


def batch(x, rows, scale, shift, shape, crops, pad):
    """The network's input for rows of x, augmented where `crops` [B, 3] is given, then scaled: float64 [B, d]."""
    images = x[rows].astype(np.float64)
    if crops is not None:
        pairs = zip(images.reshape(-1, *shape), crops, strict=True)
        images = np.stack([philox.crop_flip(i, dy, dx, flip, pad).ravel() for i, (dy, dx, flip) in pairs])
    return images * scale + shift


def evaluate(x, rows, labels, weights, biases, slopes, norm, adds, scale, shift):
    """(mean loss, accuracy) over rows of x, by the running statistics; nan where there are none."""
    if len(rows) == 0:
        return np.nan, np.nan
    inputs = batch(x, rows, scale, shift, None, None, 0)
    logits = forward(inputs, weights, biases, slopes, norm, adds, training=False)[1][-1]
    loss, _ = cross_entropy(logits, labels)
    return loss.mean(), (logits.argmax(axis=1) == labels).mean()


def train_mlp(x, train_rows, train_labels, test_rows, test_labels, sizes, slopes, norms, adds, scale, shift, shape, lr,
              momentum, weight_decay, batch_size, pad, seed, task, repeat, fixed_at=NOWHERE, fixed_to=NOWHERE,
              gate_at=None, gates=None):  # fmt: skip
    """One network's whole run.

    x [n, d] uint8 or float32, of which train_rows / test_rows [.] belong to the task (labels int [.]); sizes [L + 1];
    slopes, norms, adds [L]: as above, norms 1 for a layer with BatchNorm, adds -1 for one that adds nothing; scale,
    shift [d]: the input is x * scale + shift; shape (c, h, w) of an image; lr [epochs]; batch_size: the last batch of
    an epoch may be smaller; pad: random crop after padding by `pad`, and mirroring, -1 for none. gamma and beta are
    trained as every other parameter, weight decay included. fixed_at int [F]: entries of the result that stay fixed_to
    [F] from first to last, whatever their gradients; gate_at int [L]: where in `gates` F_k [n_k, n_k] starts, -1 for a
    layer without (None: all), which then has neither norm nor sum.

    Returns (parameters [P]: W_0, b_0, then gamma_0, beta_0, running mean and variance of a normed layer, W_1, ... each
    row-major; loss_curve [epochs]: mean loss of the samples of an epoch, each in the step that used it; record [4]:
    train loss, accuracy, test loss, accuracy, not augmented, BatchNorm by its running statistics).
    """
    weights, biases = initial_parameters(sizes, seed, task, repeat, norms)
    norm = initial_norm(sizes, norms)
    declared = [p for layer in zip(weights, biases, norm, strict=True) for p in layer if p is not None]
    hold(declared, fixed_at, fixed_to)
    slopes = bends(sizes, slopes, gate_at, gates)
    trained = [*weights, *biases, *(state[:2] for state in norm if state is not None)]
    velocities = [np.zeros_like(p) for p in trained]
    loss_curve = np.zeros(len(lr))
    n = len(train_rows)
    for epoch in range(len(lr)):
        order = philox.batch_order(n, epoch, seed, task, repeat)
        crops = philox.augmentation(n, pad, epoch, seed, task, repeat) if pad >= 0 else None
        for start in range(0, n, batch_size):
            chosen = order[start : start + batch_size]
            crop = crops[chosen] if crops is not None else None
            inputs = batch(x, train_rows[chosen], scale, shift, shape, crop, pad)
            activations, outputs = forward(inputs, weights, biases, slopes, norm, adds, training=True)
            loss, gradient = cross_entropy(outputs[-1], train_labels[chosen])
            loss_curve[epoch] += loss.sum() / n
            d_weights, d_biases, d_norm = backward(activations, outputs, gradient, weights, slopes, norm, adds)
            move_statistics(activations, norm)
            gradients = [*d_weights, *d_biases, *(g for g in d_norm if g is not None)]
            for p, g, v in zip(trained, gradients, velocities, strict=True):
                sgd_step(p, g, v, lr[epoch], momentum, weight_decay)
            hold(declared, fixed_at, fixed_to)
    fixed = weights, biases, slopes, norm, adds, scale, shift
    record = [*evaluate(x, train_rows, train_labels, *fixed), *evaluate(x, test_rows, test_labels, *fixed)]
    return np.concatenate([p.ravel() for p in declared]), loss_curve, np.array(record)
