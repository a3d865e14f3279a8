"""torch networks as a declaration and its parameters."""

import copy
import operator
from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import fx, nn

from .declaration import Network
from .families import fully_connected, mlp
from .interop_cnn import SKIPPED, read_cnn
from .interop_gru import read_gru
from .modules import to_module
from .reference.batchnorm import EPS
from .stacking import float32_array, from_states

_SUMS = (operator.add, operator.iadd, torch.add)


def from_networks(models: Any) -> tuple[Network, dict[str, np.ndarray]]:
    """(declaration, stacked parameters) of a list of nn.Modules or of a list of state dicts; TypeError for others."""
    if isinstance(models, (Mapping, nn.Module)) and not isinstance(models, nn.ModuleList):
        raise TypeError(f"from_torch: want a list of networks, got one {type(models).__name__} (from_torch([model]))")
    models = list(models)
    dicts = [isinstance(model, Mapping) for model in models]
    for i, model in enumerate(models):
        if not isinstance(model, (Mapping, nn.Module)) or dicts[i] != dicts[0]:
            raise TypeError(
                f"from_torch: want nn.Modules alone or state dicts alone, model 0 is {type(models[0]).__name__}, "
                f"model {i} {type(model).__name__}"
            )
    if models and dicts[0]:
        return from_states(models, [f"model {i}" for i in range(len(models))])
    return from_modules(models)


def from_modules(models: Sequence[nn.Module]) -> tuple[Network, dict[str, np.ndarray]]:
    """(declaration, stacked parameters [N, *shape] float32) of torch networks of one shape.

    A model is read layer by layer in the order of its modules: Flatten, Linear, ReLU, LeakyReLU; Dropout and Identity
    are passed over. One with BatchNorm1d (after the activation) is read from its torch.fx trace instead, which shows
    residual sums: Linear, activation, BatchNorm1d, + an earlier layer's output, in this order. One with convolutions is
    read by `wsfast.interop_cnn`, one with a GRU by `wsfast.interop_gru`. Every model is then rebuilt from what was read
    and both must give the same outputs to 1e-6 in eval mode, so a model whose `forward` does something else is refused.
    ValueError names the layer that cannot be read.
    """
    if not models:
        raise ValueError("from_torch: want at least one model, got none")
    network, _ = _read(models[0], "model 0")
    stacked = {p.name: np.empty((len(models), *p.shape), np.float32) for p in network.parameters}
    probe = torch.from_numpy(np.random.default_rng(0).standard_normal((8, *network.input_shape)).astype(np.float32))
    for i, model in enumerate(models):
        found, sources = _read(model, f"model {i}")
        if found != network:
            raise ValueError(f"from_torch: model {i} has the shape {_shapes(found)}, model 0 {_shapes(network)}")
        for layer, source in zip((x for x in network.layers if x.parameters), sources, strict=True):
            for p in layer.parameters:
                tensor = getattr(source, p.name.rpartition(".")[2])
                if tensor is None:  # no bias, or a BatchNorm without its own scale
                    tensor = np.full(p.torch_shape, p.fill or 0.0)
                stacked[p.name][i] = p.from_torch(float32_array(tensor, f"from_torch: model {i}: {p.name}"))
        _same_outputs(model, to_module(network, {k: v[i] for k, v in stacked.items()}), probe, i)
    return network, stacked


def _read(model: nn.Module, where: str) -> tuple[Network, Sequence[Any]]:
    """The declaration, and what holds the parameters of its layers."""
    found = [m for _, m in model.named_modules(remove_duplicate=False)]
    if any(isinstance(m, nn.Conv2d) for m in found):
        return read_cnn(model, where)
    if any(isinstance(m, nn.RNNBase) for m in found):
        return read_gru(model, where)
    linears = [m for m in found if isinstance(m, nn.Linear)]
    if not linears:
        raise ValueError(f"from_torch: {where} has no Linear layer (want a fully connected network)")
    if any(isinstance(m, nn.BatchNorm1d) for m in found):
        return _read_graph(model, where)
    slopes: list[float] = []
    for name, module in model.named_modules(remove_duplicate=False):
        if isinstance(module, nn.Linear):
            slopes.append(1.0)
        elif isinstance(module, (nn.ReLU, nn.LeakyReLU)):
            if not slopes:
                raise ValueError(f"from_torch: {where}: layer {name!r} is an activation before the first Linear")
            slopes[-1] = module.negative_slope if isinstance(module, nn.LeakyReLU) else 0.0
        elif not isinstance(module, (*SKIPPED, nn.Flatten)) and not list(module.children()):
            raise ValueError(
                f"from_torch: {where}: cannot read layer {name!r} ({type(module).__name__}); "
                "fully connected networks of Linear, ReLU, LeakyReLU, BatchNorm1d, Flatten are read"
            )
    widths = tuple(m.out_features for m in linears)
    if len(set(slopes[:-1])) > 1:
        raise ValueError(f"from_torch: {where}: hidden activations differ: slopes {slopes[:-1]}")
    hidden = slopes[0] if len(slopes) > 1 else 1.0
    network = mlp((linears[0].in_features,), widths[-1], widths[:-1], slope=hidden, last_slope=slopes[-1])
    return network, list(linears)


def _read_graph(model: nn.Module, where: str) -> tuple[Network, list[nn.Module]]:
    """As _read, for a model whose BatchNorm and residual sums only its trace shows."""
    try:
        nodes = fx.symbolic_trace(model).graph.nodes
    except (fx.proxy.TraceError, TypeError) as error:
        raise ValueError(f"from_torch: {where}: torch.fx cannot trace its forward: {error}") from error
    modules = dict(model.named_modules(remove_duplicate=False))
    sources: list[nn.Module] = []
    sizes: list[int] = []
    slopes: list[float] = []
    norms: list[int] = []
    adds: list[int] = []
    outputs: dict[Any, int] = {}  # a layer's output, which a later sum may add -> the layer
    now, reached = None, 0  # the node before; what its layer has: 1 linear, 2 activation, 3 BatchNorm, 4 sum
    for node in nodes:
        module = modules[str(node.target)] if node.op == "call_module" else None
        follows = node.args == (now,)
        if node.op in ("placeholder", "output") or (follows and isinstance(module, (*SKIPPED, nn.Flatten))):
            pass
        elif follows and isinstance(module, nn.Linear):
            if slopes:
                outputs[now] = len(slopes) - 1
            sizes += [module.out_features] if sizes else [module.in_features, module.out_features]
            slopes.append(1.0)
            norms.append(0)
            adds.append(-1)
            reached = 1
        elif follows and isinstance(module, (nn.ReLU, nn.LeakyReLU)) and reached == 1:
            slopes[-1] = module.negative_slope if isinstance(module, nn.LeakyReLU) else 0.0
            reached = 2
        elif follows and isinstance(module, nn.BatchNorm1d) and reached in (1, 2) and _as_ours(module):
            norms[-1] = 1
            reached = 3
        elif node.target in _SUMS and reached in (1, 2, 3) and now in node.args and outputs.keys() & set(node.args):
            adds[-1] = outputs[(outputs.keys() & set(node.args)).pop()]
            reached = 4
        else:
            what = f"layer {str(node.target)!r} ({type(module).__name__})" if module else f"operation {node.name!r}"
            raise ValueError(
                f"from_torch: {where}: cannot read {what}; want Linear, then ReLU or LeakyReLU, BatchNorm1d with "
                f"running statistics and eps {EPS:g}, a sum with the output of an earlier Linear's group, each at most "
                "once, in order"
            )
        if isinstance(module, (nn.Linear, nn.BatchNorm1d)):
            sources.append(module)
        now = node
    return fully_connected((sizes[0],), sizes[-1], tuple(sizes[1:-1]), slopes, norms, adds), sources


def _as_ours(norm: nn.BatchNorm1d) -> bool:
    return norm.track_running_stats and norm.eps == EPS


def _shapes(network: Network) -> str:
    weights = [p.shape[-1] for p in network.parameters if p.name.endswith(".weight") and len(p.shape) > 1]
    return "-".join(map(str, (*network.input_shape, *weights)))


def _same_outputs(model: nn.Module, rebuilt: nn.Module, probe: torch.Tensor, i: int) -> None:
    try:
        twin = copy.deepcopy(model).cpu().double().eval()
        with torch.no_grad():
            want = twin(probe.double())
    except (  # of anyone's own forward
        AssertionError, AttributeError, LookupError, RuntimeError, TypeError, ValueError,
    ) as error:  # fmt: skip
        raise ValueError(f"from_torch: model {i} cannot be copied and run on {list(probe.shape)}: {error}") from error
    if not isinstance(want, torch.Tensor):
        raise ValueError(f"from_torch: model {i} must return its logits alone, got {type(want).__name__}")
    with torch.no_grad():
        got = rebuilt.double()(probe.double())
    largest = float(want[want.isfinite()].abs().max()) if want.isfinite().any() else 0.0  # others must be the same
    alike = partial(torch.allclose, rtol=1e-6, atol=1e-6 * (largest + 1), equal_nan=True)
    if want.shape != got.shape or not alike(want, got):
        raise ValueError(
            f"from_torch: model {i} does not compute what its layers say, taken in order (outputs {tuple(want.shape)}, "
            f"rebuilt {tuple(got.shape)}); linear layers' matrices give chains all the same, by from_arrays"
        )
