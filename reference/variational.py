"""The loss of a Gaussian mean-field posterior over an MLP's weights, and its gradients. All arrays float64.

Every free parameter w of layer k has the posterior N(m, s^2), s = exp(r), and the prior N(0, p_k^2); fixed ones
(`wsfast.reference.asymmetric`) have s = 0 and no prior. Local reparameterisation: instead of weights the inputs of the
units are drawn, each sample's on its own (Kingma, Salimans, Welling, "Variational Dropout and the Local
Reparameterization Trick", NeurIPS 2015, eq. 6):

    z = y M + m_b + sqrt(y^2 S^2 + s_b^2) * e       e ~ N(0, 1), [B, n_k]; squares entry by entry

The loss is the negative evidence lower bound of a minibatch, per sample of n (eq. 2 and 3):

    mean over the batch of -log p(label | x)  +  KL / n
    KL = sum over free w of  log(p_k / s) + (s^2 + m^2) / (2 p_k^2) - 1/2

Shapes: x [B, d], labels int [B]; means and logs, the m and r, [W_0 [d, n_0], b_0 [n_0], W_1, ...]; free, bool, one for
each of them; bends: every layer's slope, or F_k of a gated one, as `wsfast.reference.mlp.forward`; priors [L], noise
[e_0 [B, n_0], ...].
"""

import numpy as np

from .asymmetric import gate, gate_backward
from .mlp import cross_entropy


def elbo(x, labels, means, logs, free, bends, priors, noise, n):
    """(loss, gradients of the means, gradients of the logs); gradients are 0 where a parameter is fixed."""
    variances = [np.exp(2 * r) * f for r, f in zip(logs, free, strict=True)]
    outputs, inputs = [x], []
    for k, (bend, e) in enumerate(zip(bends, noise, strict=True)):
        y = outputs[-1]
        spread = np.sqrt(y**2 @ variances[2 * k] + variances[2 * k + 1])
        z = y @ means[2 * k] + means[2 * k + 1] + spread * e
        inputs.append((z, spread))
        outputs.append(np.where(z > 0, z, bend * z) if np.ndim(bend) == 0 else gate(z, bend)[0])
    losses, gradient = cross_entropy(outputs[-1], labels)
    d_means, d_variances = [np.zeros_like(m) for m in means], [np.zeros_like(m) for m in means]
    for k in reversed(range(len(bends))):
        (z, spread), y, bend = inputs[k], outputs[k], bends[k]
        if np.ndim(bend) == 0:
            gradient = gradient * np.where(z > 0, 1.0, bend)
        else:
            gradient = gate_backward(z, gate(z, bend)[1], bend, gradient)
        d_spread = gradient * noise[k] / (2 * spread)
        d_means[2 * k], d_means[2 * k + 1] = y.T @ gradient, gradient.sum(axis=0)
        d_variances[2 * k], d_variances[2 * k + 1] = (y**2).T @ d_spread, d_spread.sum(axis=0)
        gradient = gradient @ means[2 * k].T + 2 * y * (d_spread @ variances[2 * k].T)
    divergence = 0.0
    d_logs = []
    for j, (m, r, f, v) in enumerate(zip(means, logs, free, variances, strict=True)):
        p = priors[j // 2]
        divergence += ((np.log(p) - r + (np.exp(2 * r) + m**2) / (2 * p**2) - 0.5) * f).sum()
        d_means[j] = (d_means[j] + m / p**2 / n) * f
        d_logs.append((d_variances[j] * 2 * v + (v / p**2 - 1) / n) * f)
    return losses.mean() + divergence / n, d_means, d_logs
