"""JAX, where it is installed: the steps of one network as a scan, mapped over all networks and compiled once.

A network is its parameters by name, `trained` and `kept` (running statistics), each [N, ...] in the reference's
layouts.
"""

import os
from collections.abc import Callable
from functools import cache
from typing import Any

import numpy as np
import torch

Arrays = dict[str, Any]


def missing(device: str) -> str | None:
    """Why JAX cannot run on this device; None where it can."""
    os.environ.setdefault("XLA_PYTHON_CLIENT_PREALLOCATE", "false")  # the card is shared with torch
    os.environ.setdefault("XLA_PYTHON_CLIENT_MEM_FRACTION", "0.3")
    try:
        import jax

        jax.devices("gpu" if device == "cuda" else "cpu")
    except (ImportError, RuntimeError) as error:
        return f"{type(error).__name__}: {error}"
    return None


def put(tensor: torch.Tensor) -> Any:
    """The tensor on JAX's side of its device; int64 as int32."""
    import jax

    place = jax.devices("gpu" if tensor.device.type == "cuda" else "cpu")[0]
    return jax.device_put(tensor.to(torch.int32 if tensor.dtype == torch.int64 else tensor.dtype).cpu().numpy(), place)


def begin(start: dict[str, torch.Tensor]) -> Any:
    """(trained, velocities, kept) before the first step."""
    import jax
    import jax.numpy as jnp

    trained = {name: put(p) for name, p in start.items() if "running" not in name}
    kept = {name: put(p) for name, p in start.items() if "running" in name}
    return trained, jax.tree.map(jnp.zeros_like, trained), kept


def flat(state: Any, names: list[str]) -> torch.Tensor:
    """Parameters [N, P], in the order of the names."""
    trained, _, kept = state
    return torch.from_numpy(np.concatenate([np.asarray(p).reshape(len(p), -1)
                                            for p in ({**trained, **kept}[name] for name in names)], 1))  # fmt: skip


@cache
def trainer(loss: Callable[..., Any], lr: float, momentum: float) -> Any:
    """train(state, samples [N, steps, ...], data) -> state; loss(trained, kept, sample, data) -> (loss, kept)."""
    import jax

    def train_step(state: Any, sample: Any, data: Any) -> Any:
        trained, velocity, kept = state
        gradient, kept = jax.grad(loss, has_aux=True)(trained, kept, sample, data)
        if momentum:
            gradient = velocity = jax.tree.map(lambda v, g: momentum * v + g, velocity, gradient)
        return jax.tree.map(lambda p, g: p - lr * g, trained, gradient), velocity, kept

    def steps(state: Any, samples: Any, data: Any) -> Any:
        return jax.lax.scan(lambda s, sample: (train_step(s, sample, data), None), state, samples)[0]

    return jax.jit(jax.vmap(steps, in_axes=(0, 0, None)), donate_argnums=0)


def cross_entropy(logits: Any, labels: Any) -> Any:
    """Mean over [B, C] and [B]."""
    import jax

    return -jax.nn.log_softmax(logits)[np.arange(len(logits)), labels].mean()


def mlp_start(problem: Any, networks: torch.Tensor) -> dict[str, torch.Tensor]:
    pairs = enumerate(zip(problem.weights, problem.biases, strict=True))
    return {f"{name}{k}": p[networks] for k, pair in pairs for name, p in zip(("weight", "bias"), pair, strict=True)}


def mlp_loss(p: Arrays, kept: Arrays, rows: Any, data: Any) -> Any:
    """data: images [samples, d], labels."""
    import jax

    images, labels = data
    x, layers = images[rows], len(p) // 2
    for k in range(layers):
        x = x @ p[f"weight{k}"] + p[f"bias{k}"]
        x = jax.nn.relu(x) if k < layers - 1 else x
    return cross_entropy(x, labels[rows]), kept


def cnn_loss(p: Arrays, kept: Arrays, rows: Any, data: Any) -> Any:
    """plainnet5; data: images [samples, height, width, 3], labels."""
    import jax

    images, labels = data
    x, moved = images[rows], {}
    for k in range(1, 5):
        sides = ("NHWC", "IHWO", "NHWC")
        x = jax.lax.conv_general_dilated(x, p[f"conv{k}.weight"], (1, 1), "SAME", dimension_numbers=sides)
        x = x + p[f"conv{k}.bias"]
        mean, variance = x.mean((0, 1, 2)), x.var((0, 1, 2))
        m = x[..., 0].size
        for name, now in (("mean", mean), ("var", variance * (m / (m - 1)))):
            key = f"bn{k}.running_{name}"
            moved[key] = kept[key] + 0.1 * (jax.lax.stop_gradient(now) - kept[key])
        x = (x - mean) * jax.lax.rsqrt(variance + 1e-5) * p[f"bn{k}.weight"] + p[f"bn{k}.bias"]
        b, h, w, c = x.shape
        x = jax.nn.relu(x)[:, : h // 2 * 2, : w // 2 * 2].reshape(b, h // 2, 2, w // 2, 2, c).max((2, 4))
    return cross_entropy(x.mean((1, 2)) @ p["fc.weight"] + p["fc.bias"], labels[rows]), moved


def gru_loss(p: Arrays, kept: Arrays, row: Any, data: Any) -> Any:
    """Two layers; data: letters [samples, T], lengths, labels. Names are padded at their start, as in gru_bmm."""
    import jax
    import jax.numpy as jnp

    letters, lengths, labels = data
    longest = letters.shape[1]
    place = jnp.arange(longest) - (longest - lengths[row])
    x = p["0"][letters[row, jnp.maximum(place, 0)]] + p["2"]  # [T, 3, H]

    def layer(x: Any, u: Any, c: Any) -> Any:
        def step(h: Any, now: Any) -> Any:
            x, inside = now
            s = jnp.tensordot(h, u, 1) + c
            r, z = jax.nn.sigmoid(x[:2] + s[:2])
            n = jnp.tanh(x[2] + r * s[2])
            h = jnp.where(inside, (1 - z) * n + z * h, 0)
            return h, h

        return jax.lax.scan(step, jnp.zeros(u.shape[0]), (x, place >= 0))[1]

    h = layer(x, p["1"], p["3"])
    h = layer(jnp.tensordot(h, p["4"], 1) + p["6"], p["5"], p["7"])
    return cross_entropy((h[-1] @ p["8"] + p["9"])[None], labels[row][None]), kept


def installed(train: Callable[..., Any]) -> dict[str, Callable[..., Any]]:
    """A benchmark's entry for this peer, with its version; none where JAX is not installed."""
    if missing("cpu"):
        return {}
    import jax

    return {f"jax {jax.__version__}": train}
