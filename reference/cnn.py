"""A convolutional network: forward, gradients, a whole training run. All arrays float64.

Unit k = 0 .. L - 1 on y_{-1}, the images [B, c, h, w]; conv is 3x3, padded by 1, with stride_k:

    n_k = BatchNorm(conv(y_{k-1}))                                  a_k = f(n_k)
    n_k = BatchNorm(conv(y_{k-1})) + BatchNorm'(conv'(y_{k-1}))     a_k = f(n_k)           shortcuts_k: conv' is 1x1
    a_k = BatchNorm(f(conv(y_{k-1})))                                                      norm_last_k
    y_k = 2x2 max pool of a_k where pools_k, else a_k

f(z) = max(z, 0) + slope_k min(z, 0), or sigmoid(z F_k) * z over the channels of every position where slope_k is a
matrix F_k: `wsfast.reference.asymmetric`. Then logits = mean of y_{L-1} over its positions, times W, plus b.

A convolution with its BatchNorm is a branch, (weight [c, size, size, n], bias [n], state [4, n]) as
`wsfast.reference.convolution` and `.batchnorm` define them; a unit is a list of one branch, or two with a shortcut.
"""

import numpy as np

from . import philox
from .asymmetric import gate, gate_backward, hold
from .batchnorm import initial_state, move_statistics, normalise, normalise_backward
from .convolution import convolve, convolve_backward
from .mlp import NOWHERE, batch, bends, cross_entropy, sgd_step
from .pooling import max_pool, max_pool_backward


def activate(z, slope):
    return np.where(z > 0, z, slope * z) if np.ndim(slope) == 0 else gate(z, slope)[0]


def activate_backward(z, slope, gradient):
    if np.ndim(slope) == 0:
        return gradient * np.where(z > 0, 1.0, slope)
    return gate_backward(z, gate(z, slope)[1], slope, gradient)


def unit_forward(x, branches, slope, stride, norm_last, pool, training):
    """(y, what BatchNorm met in each branch, the activation's input where norm_last, what the pool met)."""
    z = [convolve(x, w, b, stride) for w, b, _ in branches]
    if norm_last:
        met = [activate(z[0], slope)]
        bent, a = z[0], normalise(met[0], branches[0][2], training)
    else:
        met = z
        bent = sum(normalise(m, state, training) for m, (_, _, state) in zip(met, branches, strict=True))
        a = activate(bent, slope)
    return max_pool(a) if pool else a, met, bent, a


def unit_backward(x, cache, gradient, branches, slope, stride, norm_last, pool):
    """(dx, [(d weight, d bias, [d gamma, d beta]) of each branch]) in training; cache as unit_forward returns it."""
    _, met, bent, a = cache
    if pool:
        gradient = max_pool_backward(a, gradient)
    if not norm_last:
        gradient = activate_backward(bent, slope, gradient)
    d_branches, dx = [], np.zeros_like(x)
    for m, (w, _, state) in zip(met, branches, strict=True):
        dz, d_state = normalise_backward(m, state, gradient)
        part, dw, db = convolve_backward(x, w, activate_backward(bent, slope, dz) if norm_last else dz, stride)
        d_branches.append((dw, db, d_state))
        dx = dx + part
    return dx, d_branches


def forward(x, training, units, head, slopes, strides, norm_last, pools):
    """(logits [B, C], the input of every unit and of the mean pool, every unit's cache)."""
    inputs, caches = [x], []
    for unit in zip(units, slopes, strides, norm_last, pools, strict=True):
        caches.append(unit_forward(inputs[-1], *unit, training))
        inputs.append(caches[-1][0])
    return inputs[-1].mean(axis=(2, 3)) @ head[0] + head[1], inputs, caches


def backward(inputs, caches, gradient, units, head, slopes, strides, norm_last, pools):
    """([(d weight, d bias, [d gamma, d beta]) of each branch] of every unit, (dW, db)) from that at the logits."""
    y = inputs[-1]
    d_head = y.mean(axis=(2, 3)).T @ gradient, gradient.sum(axis=0)
    at = np.broadcast_to((gradient @ head[0].T / y[0, 0].size)[..., None, None], y.shape)
    d_units: list[list] = []
    for k, unit in reversed(list(enumerate(zip(units, slopes, strides, norm_last, pools, strict=True)))):
        at, d_branches = unit_backward(inputs[k], caches[k], at, *unit)
        d_units.insert(0, d_branches)
    return d_units, d_head


def initial_parameters(sizes, shortcuts, seed, task, repeat):
    """torch's default, U(+-1/sqrt(fan_in)) for weights and biases: (units, head).

    A stream's item is the parameter's position, weight, bias, gamma, beta, running mean and variance of every branch
    (all but the first two draw nothing), then the last layer's weight and bias.
    """
    item = 0

    def drawn(shape, n):
        nonlocal item
        bound = 1 / np.sqrt(np.prod(shape[:-1]))
        pair = [philox.initial_weight(s, bound, item + i, seed, task, repeat) for i, s in enumerate((shape, (n,)))]
        item += 6
        return pair

    units = []
    for k, shortcut in enumerate(shortcuts):
        kernels = (3, 1) if shortcut else (3,)
        c, n = sizes[k], sizes[k + 1]
        units.append([(*drawn((c, size, size, n), n), initial_state(n)) for size in kernels])
    return units, drawn((sizes[-2], sizes[-1]), sizes[-1])


def split(flat, sizes, shortcuts):
    """The parameters [P] of train_cnn: (units, head)."""
    units, at = [], 0
    for c, n, shortcut in zip(sizes[:-2], sizes[1:-1], shortcuts, strict=True):
        unit = []
        for size in (3, 1) if shortcut else (3,):
            w, b, state, _ = np.split(flat[at:], np.cumsum([c * size * size * n, n, 4 * n]))
            unit.append((w.reshape(c, size, size, n), b, state.reshape(4, n)))
            at += (c * size * size + 5) * n
        units.append(unit)
    return units, (flat[at : -sizes[-1]].reshape(sizes[-2], sizes[-1]), flat[-sizes[-1] :])


def images(x, rows, scale, shift, shape, crops, pad):
    """The network's input [B, c, h, w] for rows of x, as `wsfast.reference.mlp.batch` scales and augments them."""
    return batch(x, rows, scale, shift, shape, crops, pad).reshape(-1, *shape)


def evaluate(x, rows, labels, shape, scale, shift, net):
    """(mean loss, accuracy) over rows of x, by the running statistics; nan where there are none."""
    if len(rows) == 0:
        return np.nan, np.nan
    logits = forward(images(x, rows, scale, shift, shape, None, 0), False, *net)[0]
    return cross_entropy(logits, labels)[0].mean(), (logits.argmax(axis=1) == labels).mean()


def train_cnn(x, train_rows, train_labels, test_rows, test_labels, sizes, slopes, strides, norm_last, pools, shortcuts,
              scale, shift, shape, lr, momentum, weight_decay, batch_size, pad, seed, task, repeat, fixed_at=NOWHERE,
              fixed_to=NOWHERE, gate_at=None, gates=None):  # fmt: skip
    """One network's whole run.

    sizes [L + 2]: channels of the images and of every unit, classes; slopes, strides, norm_last, pools, shortcuts [L]:
    as above, the last three 0 or 1; gate_at [L]: where F_k starts in `gates`, as the other arguments of
    `wsfast.reference.mlp.train_mlp`.

    Returns (parameters [P]: weight, bias, gamma, beta, running mean and variance of every branch, then W and b, each
    row-major; loss_curve [epochs]; record [4]) as train_mlp does.
    """
    units, head = initial_parameters(sizes, shortcuts, seed, task, repeat)
    net = units, head, bends(sizes[:-1], slopes, gate_at, gates), strides, norm_last, pools
    branches = [branch for unit in units for branch in unit]
    trained = [p for w, b, state in branches for p in (w, b, state[:2])] + list(head)
    declared = [p for branch in branches for p in branch] + list(head)
    hold(declared, fixed_at, fixed_to)
    velocities = [np.zeros_like(p) for p in trained]
    loss_curve = np.zeros(len(lr))
    n = len(train_rows)
    for epoch in range(len(lr)):
        order = philox.batch_order(n, epoch, seed, task, repeat)
        crops = philox.augmentation(n, pad, epoch, seed, task, repeat) if pad >= 0 else None
        for start in range(0, n, batch_size):
            chosen = order[start : start + batch_size]
            crop = crops[chosen] if crops is not None else None
            batch_images = images(x, train_rows[chosen], scale, shift, shape, crop, pad)
            logits, inputs, caches = forward(batch_images, True, *net)
            loss, gradient = cross_entropy(logits, train_labels[chosen])
            loss_curve[epoch] += loss.sum() / n
            d_units, d_head = backward(inputs, caches, gradient, *net)
            for unit, (_, met, _, _) in zip(units, caches, strict=True):
                for (_, _, state), m in zip(unit, met, strict=True):
                    move_statistics(m, state)
            gradients = [g for unit in d_units for branch in unit for g in branch] + list(d_head)
            for p, g, v in zip(trained, gradients, velocities, strict=True):
                sgd_step(p, g, v, lr[epoch], momentum, weight_decay)
            hold(declared, fixed_at, fixed_to)
    record = [
        *evaluate(x, train_rows, train_labels, shape, scale, shift, net),
        *evaluate(x, test_rows, test_labels, shape, scale, shift, net),
    ]
    return np.concatenate([p.ravel() for p in declared]), loss_curve, np.array(record)
