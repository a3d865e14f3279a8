"""The strong peer: forward and backward written by hand with batched products; momentum accumulates in the product."""

import torch

from bench.problem import Problem


@torch.inference_mode()
def train(problem: Problem, networks: torch.Tensor) -> torch.Tensor:
    weights = [w[networks] for w in problem.weights]
    biases = [b[networks][:, None] for b in problem.biases]
    w_velocity, b_velocity = ([torch.zeros_like(p) for p in each] for each in (weights, biases))
    targets = torch.nn.functional.one_hot(problem.labels).float()
    last = len(weights) - 1
    for rows in problem.orders[networks].unbind(1):
        outputs = [problem.images[rows]]
        for k, (w, b) in enumerate(zip(weights, biases, strict=True)):
            z = torch.baddbmm(b, outputs[-1], w)
            outputs.append(z.relu_() if k < last else z)
        gradient = torch.softmax(outputs.pop(), -1).sub_(targets[rows]).div_(rows.shape[1])
        for k in range(last, -1, -1):
            below = torch.bmm(gradient, weights[k].mT).mul_(outputs[k] > 0) if k else gradient
            w_velocity[k].baddbmm_(outputs[k].mT, gradient, beta=problem.momentum)
            b_velocity[k].mul_(problem.momentum).add_(gradient.sum(1, keepdim=True))
            weights[k].add_(w_velocity[k], alpha=-problem.lr)
            biases[k].add_(b_velocity[k], alpha=-problem.lr)
            gradient = below
    return torch.cat([p.flatten(1) for pair in zip(weights, biases, strict=True) for p in pair], 1)
