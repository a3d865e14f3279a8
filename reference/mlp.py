"""A fully connected network: forward, loss, gradients, SGD, a whole training run. All arrays float64.

Layer k: z_k = x_{k-1} W_k + b_k, x_k = max(z_k, 0) + slope_k min(z_k, 0): slope 0 is ReLU, 0.01 LeakyReLU, 1 no
activation. Shapes: x_0 [B, d], W_k [n_{k-1}, n_k] (input first), b_k [n_k], logits x_L [B, C], labels int [B].
"""

from itertools import pairwise

import numpy as np

from . import philox


def forward(x, weights, biases, slopes):
    """Every layer's output: [x_0, x_1, ..., x_L]."""
    outputs = [x]
    for w, b, slope in zip(weights, biases, slopes, strict=True):
        z = outputs[-1] @ w + b
        outputs.append(np.where(z > 0, z, slope * z))
    return outputs


def cross_entropy(logits, labels):
    """Softmax cross-entropy of each sample [B], and its gradient for the batch mean [B, C]."""
    shifted = logits - logits.max(axis=1, keepdims=True)
    log_p = shifted - np.log(np.exp(shifted).sum(axis=1, keepdims=True))
    rows = np.arange(len(labels))
    gradient = np.exp(log_p)
    gradient[rows, labels] -= 1
    return -log_p[rows, labels], gradient / len(labels)


def backward(outputs, gradient, weights, slopes):
    """Gradients (dW list, db list) from the loss gradient at the logits [B, C]; `outputs` as `forward` returns."""
    d_weights: list[np.ndarray] = []
    d_biases: list[np.ndarray] = []
    for k in reversed(range(len(weights))):
        gradient = gradient * np.where(outputs[k + 1] > 0, 1.0, slopes[k])
        d_weights.insert(0, outputs[k].T @ gradient)
        d_biases.insert(0, gradient.sum(axis=0))
        gradient = gradient @ weights[k].T
    return d_weights, d_biases


def sgd_step(parameter, gradient, velocity, lr, momentum, weight_decay):
    """One step of SGD in place, as torch.optim.SGD: v <- momentum v + (g + weight_decay p); p <- p - lr v."""
    velocity *= momentum
    velocity += gradient + weight_decay * parameter
    parameter -= lr * velocity


def initial_parameters(sizes, seed, task, repeat):
    """torch's default: weight and bias of layer k ~ U(+-1/sqrt(n_{k-1})); the stream's items are W_1, b_1, W_2, ..."""
    weights, biases = [], []
    for k, (n_in, n_out) in enumerate(pairwise(sizes)):
        bound = 1 / np.sqrt(n_in)
        weights.append(philox.initial_weight((n_in, n_out), bound, 2 * k, seed, task, repeat))
        biases.append(philox.initial_weight((n_out,), bound, 2 * k + 1, seed, task, repeat))
    return weights, biases


def batch(x, rows, scale, shift, shape, crops, pad):
    """The network's input for rows of x, augmented where `crops` [B, 3] is given, then scaled: float64 [B, d]."""
    images = x[rows].astype(np.float64)
    if crops is not None:
        pairs = zip(images.reshape(-1, *shape), crops, strict=True)
        images = np.stack([philox.crop_flip(i, dy, dx, flip, pad).ravel() for i, (dy, dx, flip) in pairs])
    return images * scale + shift


def evaluate(x, rows, labels, weights, biases, slopes, scale, shift):
    """(mean loss, accuracy) over rows of x, nan where there are none."""
    if len(rows) == 0:
        return np.nan, np.nan
    logits = forward(batch(x, rows, scale, shift, None, None, 0), weights, biases, slopes)[-1]
    loss, _ = cross_entropy(logits, labels)
    return loss.mean(), (logits.argmax(axis=1) == labels).mean()


def train_mlp(x, train_rows, train_labels, test_rows, test_labels, sizes, slopes, scale, shift, shape, lr,
              momentum, weight_decay, batch_size, pad, seed, task, repeat):  # fmt: skip
    """One network's whole run.

    x [n, d] uint8 or float32, of which train_rows / test_rows [.] belong to the task (labels int [.]); scale, shift
    [d]: the input is x * scale + shift; shape (c, h, w) of an image; lr [epochs]; batch_size: the last batch of an
    epoch may be smaller; pad: random crop after padding by `pad`, and mirroring, -1 for none.

    Returns (parameters [P]: W_1, b_1, W_2, ... each row-major; loss_curve [epochs]: mean loss of the samples of an
    epoch, each in the step that used it; record [4]: train loss, accuracy, test loss, accuracy, not augmented).
    """
    weights, biases = initial_parameters(sizes, seed, task, repeat)
    velocities = [np.zeros_like(p) for p in (*weights, *biases)]
    loss_curve = np.zeros(len(lr))
    n = len(train_rows)
    for epoch in range(len(lr)):
        order = philox.batch_order(n, epoch, seed, task, repeat)
        crops = philox.augmentation(n, pad, epoch, seed, task, repeat) if pad >= 0 else None
        for start in range(0, n, batch_size):
            chosen = order[start : start + batch_size]
            crop = crops[chosen] if crops is not None else None
            outputs = forward(batch(x, train_rows[chosen], scale, shift, shape, crop, pad), weights, biases, slopes)
            loss, gradient = cross_entropy(outputs[-1], train_labels[chosen])
            loss_curve[epoch] += loss.sum() / n
            d_weights, d_biases = backward(outputs, gradient, weights, slopes)
            for p, g, v in zip((*weights, *biases), (*d_weights, *d_biases), velocities, strict=True):
                sgd_step(p, g, v, lr[epoch], momentum, weight_decay)
    parameters = np.concatenate([p.ravel() for pair in zip(weights, biases, strict=True) for p in pair])
    fixed = weights, biases, slopes, scale, shift
    record = [*evaluate(x, train_rows, train_labels, *fixed), *evaluate(x, test_rows, test_labels, *fixed)]
    return parameters, loss_curve, np.array(record)
