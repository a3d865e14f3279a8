"""The strong peer: all networks side by side, written by hand with batched products, names padded at their start.

A state stays zero until its name begins, so the last step is the same for all; padding past the longest name of a step
is not computed. Updates accumulate in the products.
"""

import torch

from bench.names import ALPHABET, Names


class Networks:
    """All networks' parameters, changed step by step."""

    def __init__(self, problem: Names, networks: torch.Tensor) -> None:
        self.problem, self.held = problem, [q[networks].clone() for q in problem.parameters]
        self.first_row = torch.arange(len(networks), device=problem.device)[:, None] * ALPHABET
        self.targets = torch.nn.functional.one_hot(problem.labels).float()[:, None]

    def parameters(self) -> torch.Tensor:
        return torch.cat([q.flatten(1) for q in self.held], 1)

    def step(self, drawn: torch.Tensor, steps: int) -> None:
        """drawn [N], a name each; steps: of the longest, or more."""
        p, problem = self.held, self.problem
        n, hidden, lr = len(drawn), problem.hidden, problem.lr
        w1, u1, w2, u2 = (q.flatten(2) for q in (p[0], p[1], p[4], p[5]))  # [N, n_in, 3 H], the parameters' own memory
        b1, c1, b2, c2 = (q.view(n, 1, -1) for q in (p[2], p[3], p[6], p[7]))
        rows_of_w1 = w1.view(-1, 3 * hidden)
        place = torch.arange(steps, device=drawn.device) - (steps - problem.lengths[drawn])[:, None]
        inside = (place >= 0).float()[:, :, None]
        at = self.first_row + problem.letters[drawn].gather(1, place.clamp(min=0))
        x1 = rows_of_w1[at] + b1
        h1, gates1, m1 = forward(x1, inside, u1, c1)
        h2, gates2, m2 = forward(torch.baddbmm(b2, h1[:, 1:], w2), inside, u2, c2)
        gradient = torch.softmax(torch.baddbmm(p[9][:, None], h2[:, -1:], p[8]), -1).sub_(self.targets[drawn])
        d = torch.zeros_like(h2[:, 1:])
        d[:, -1:] = torch.bmm(gradient, p[8].mT)
        p[8].baddbmm_(h2[:, -1:].mT, gradient, alpha=-lr)
        p[9].add_(gradient[:, 0], alpha=-lr)
        d_x, d_s = backward(d, inside, h2, gates2, m2, u2)
        d = torch.bmm(d_x, w2.mT)
        step(w2, h1[:, 1:], d_x, b2, lr)
        step(u2, h2[:, :-1], d_s, c2, lr)
        d_x, d_s = backward(d, inside, h1, gates1, m1, u1)
        rows_of_w1.index_add_(0, at.flatten(), d_x.flatten(0, 1), alpha=-lr)
        b1.sub_(d_x.sum(1, keepdim=True), alpha=lr)
        step(u1, h1[:, :-1], d_s, c1, lr)


@torch.inference_mode()
def train(problem: Names, networks: torch.Tensor) -> torch.Tensor:
    state = Networks(problem, networks)
    for drawn in problem.drawn[networks].unbind(1):
        state.step(drawn, int(problem.lengths[drawn].max()))
    return state.parameters()


def forward(x: torch.Tensor, inside: torch.Tensor, u: torch.Tensor, c: torch.Tensor) -> tuple[torch.Tensor, ...]:
    """h [N, T + 1, H], gates r, z, n [N, T, 3 H] and h_{t-1} U_n + c_n [N, T, H] of x_t W + b [N, T, 3 H]."""
    n, steps, hidden = len(x), x.shape[1], u.shape[1]
    h, gates, m = x.new_zeros(n, steps + 1, hidden), torch.empty_like(x), x.new_empty(n, steps, hidden)
    for t in range(steps):
        s = torch.baddbmm(c, h[:, t : t + 1], u)[:, 0]
        m[:, t] = s[:, 2 * hidden :]
        rz = torch.sigmoid(x[:, t, : 2 * hidden] + s[:, : 2 * hidden])
        new = torch.tanh(torch.addcmul(x[:, t, 2 * hidden :], rz[:, :hidden], m[:, t]))
        gates[:, t, : 2 * hidden], gates[:, t, 2 * hidden :] = rz, new
        h[:, t + 1] = torch.lerp(new, h[:, t], rz[:, hidden:]).mul_(inside[:, t])
    return h, gates, m


def backward(
    d_h: torch.Tensor, inside: torch.Tensor, h: torch.Tensor, gates: torch.Tensor, m: torch.Tensor, u: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor]:
    """Gradients at x_t W + b and at h_{t-1} U + c [N, T, 3 H]; d_h [N, T, H] is added to."""
    hidden = u.shape[1]
    r, z, new = gates.split(hidden, -1)
    to_new = (1 - z) * (1 - new * new) * inside  # all that does not wait for the gradient, for all steps at once
    to_update = (h[:, :-1] - new) * z * (1 - z) * inside
    to_reset = m * r * (1 - r)
    kept = z * inside
    d_x, d_s = torch.empty_like(gates), torch.empty_like(gates)
    for t in range(gates.shape[1] - 1, -1, -1):
        d = d_h[:, t]
        d_new = d * to_new[:, t]
        torch.cat([d_new * to_reset[:, t], d * to_update[:, t], d_new], 1, out=d_x[:, t])
        torch.cat([d_x[:, t, : 2 * hidden], d_new * r[:, t]], 1, out=d_s[:, t])
        if t:
            d_h[:, t - 1] += torch.bmm(d_s[:, t : t + 1], u.mT)[:, 0].addcmul_(d, kept[:, t])
    return d_x, d_s


def step(w: torch.Tensor, x: torch.Tensor, d: torch.Tensor, bias: torch.Tensor, lr: float) -> None:
    w.baddbmm_(x.mT, d, alpha=-lr)
    bias.sub_(d.sum(1, keepdim=True), alpha=lr)
