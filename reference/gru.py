"""Two GRU layers and a linear layer on the last step: forward, gradients through time, a whole run. Arrays float64.

A layer at step t (torch's and cuDNN's variant: the reset gate comes after the matrix product), s the logistic function:

    r = s(x_t W_r + b_r + h_{t-1} U_r + c_r)
    z = s(x_t W_z + b_z + h_{t-1} U_z + c_z)
    n = tanh(x_t W_n + b_n + r (h_{t-1} U_n + c_n))
    h_t = (1 - z) n + z h_{t-1},  h_{-1} = 0

Shapes: a name's letters int [T], x_t of layer 1 their one-hot vectors [V], of layer 2 the first layer's h_t [H];
W [n_in, 3, H] and U [H, 3, H] with the gates r, z, n in the middle (input first; torch's weight_ih, weight_hh), b and
c [3, H] (bias_ih, bias_hh); the logits are h_{T-1} of layer 2 times W_fc [H, C] plus b_fc [C]. A network is its ten
parameters in this order: W, U, b, c of layer 1, those of layer 2, W_fc, b_fc.
"""

import numpy as np

from . import philox
from .mlp import cross_entropy


def shapes(alphabet, hidden, classes):
    """Of the ten parameters."""
    gates, layers = (3, hidden), []
    for n_in in (alphabet, hidden):
        layers += [(n_in, *gates), (hidden, *gates), gates, gates]
    return [*layers, (hidden, classes), (classes,)]


def initial_parameters(alphabet, hidden, classes, seed, task, repeat):
    """torch's default: everything ~ U(+-1/sqrt(H)), a stream's item the parameter's position."""
    bound = 1 / np.sqrt(hidden)
    listed = enumerate(shapes(alphabet, hidden, classes))
    return [philox.initial_weight(shape, bound, item, seed, task, repeat) for item, shape in listed]


def layer_forward(x, w, u, b, c):
    """(h [T + 1, H] from h_{-1} = 0, gates [T, 4, H]: r, z, n and h_{t-1} U_n + c_n) of inputs x [T, n_in]."""
    steps, hidden = len(x), u.shape[0]
    h, gates = np.zeros((steps + 1, hidden)), np.zeros((steps, 4, hidden))
    for t in range(steps):
        from_input = np.tensordot(x[t], w, 1) + b
        from_before = np.tensordot(h[t], u, 1) + c
        r, z = (1 + np.tanh((from_input[:2] + from_before[:2]) / 2)) / 2
        n = np.tanh(from_input[2] + r * from_before[2])
        h[t + 1] = (1 - z) * n + z * h[t]
        gates[t] = r, z, n, from_before[2]
    return h, gates


def layer_backward(x, h, gates, d_h, w, u):
    """Gradients [dW, dU, db, dc] and that at the inputs [T, n_in], from the loss's own at every h_t, d_h [T, H]."""
    d_input, d_before = np.zeros((2, len(x), *u.shape[1:]))
    carried = np.zeros(u.shape[0])
    for t in reversed(range(len(x))):
        r, z, n, m = gates[t]
        d = d_h[t] + carried
        d_n = d * (1 - z) * (1 - n**2)
        d_z = d * (h[t] - n) * z * (1 - z)
        d_r = d_n * m * r * (1 - r)
        d_input[t] = d_r, d_z, d_n
        d_before[t] = d_r, d_z, d_n * r
        carried = d * z + np.tensordot(u, d_before[t], 2)
    gradients = [np.tensordot(x.T, d_input, 1), np.tensordot(h[:-1].T, d_before, 1), d_input.sum(0), d_before.sum(0)]
    return gradients, np.tensordot(d_input, w, ((1, 2), (1, 2)))


def forward(letters, parameters):
    """(logits [C], what `backward` needs) of one name."""
    one_hot = np.eye(len(parameters[0]))[letters]
    h1, gates1 = layer_forward(one_hot, *parameters[:4])
    h2, gates2 = layer_forward(h1[1:], *parameters[4:8])
    return h2[-1] @ parameters[8] + parameters[9], (one_hot, h1, gates1, h2, gates2)


def backward(kept, gradient, parameters):
    """The ten gradients from that at the logits [C]."""
    one_hot, h1, gates1, h2, gates2 = kept
    d_h2 = np.zeros_like(h2[1:])
    d_h2[-1] = parameters[8] @ gradient
    second, d_h1 = layer_backward(h1[1:], h2, gates2, d_h2, parameters[4], parameters[5])
    first, _ = layer_backward(one_hot, h1, gates1, d_h1, parameters[0], parameters[1])
    return [*first, *second, np.outer(h2[-1], gradient), gradient]


def evaluate(names, labels, parameters):
    """(mean loss, accuracy) over names; nan where there are none."""
    if len(names) == 0:
        return np.nan, np.nan
    logits = np.array([forward(letters, parameters)[0] for letters in names])
    return cross_entropy(logits, labels)[0].mean(), (logits.argmax(axis=1) == labels).mean()


def train_gru(x, train_rows, train_labels, test_rows, test_labels, alphabet, hidden, classes, lr, steps, seed, task,
              repeat):  # fmt: skip
    """One network's whole run: plain SGD on single names, one a step, its class drawn first, then the name.

    x uint8 [n, longest]: letters 0 .. V - 1 (V = alphabet), V past a name's end, of which train_rows / test_rows [.]
    belong to the task (labels int [.], every class among the training ones); lr [epochs]: an epoch is `steps` steps,
    drawn by philox.sample.

    Returns (parameters [P], in the order above, each row-major; loss_curve [epochs]: mean loss of an epoch's steps;
    record [4]: train loss, accuracy, test loss, accuracy).
    """
    parameters = initial_parameters(alphabet, hidden, classes, seed, task, repeat)
    train, test = ([x[row][x[row] < alphabet] for row in rows] for rows in (train_rows, test_rows))
    members = [np.flatnonzero(train_labels == c) for c in range(classes)]
    loss_curve = np.zeros(len(lr))
    for epoch in range(len(lr)):
        drawn = philox.sample([len(m) for m in members], steps, epoch, seed, task, repeat)
        for c, place in drawn:
            logits, kept = forward(train[members[c][place]], parameters)
            loss, gradient = cross_entropy(logits[None], np.array([c]))
            loss_curve[epoch] += loss[0] / steps
            for p, g in zip(parameters, backward(kept, gradient[0], parameters), strict=True):
                p -= lr[epoch] * g
    record = [*evaluate(train, train_labels, parameters), *evaluate(test, test_labels, parameters)]
    return np.concatenate([p.ravel() for p in parameters]), loss_curve, np.array(record)
