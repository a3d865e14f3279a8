"""Every allocation of the triton training ops is counted, against the formulas that chunks are cut by."""

import weakref

import numpy as np
import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from wsfast.kernels.triton import aot, cnn, gru, mlp

import wsfast
from wsfast.asymmetry import gates
from wsfast.kernel_arguments import cnn_layers, mlp_layers


class Memory(TorchDispatchMode):
    """most: bytes that torch's tensors took together at their peak."""

    def __init__(self):
        super().__init__()
        self.held, self.most = {}, 0

    def __torch_dispatch__(self, op, types, args=(), kwargs=None):
        out = op(*args, **(kwargs or {}))
        for tensor in tree_leaves(out):
            storage = tensor.untyped_storage() if isinstance(tensor, torch.Tensor) else None
            if storage is not None and storage._cdata not in self.held:
                self.held[storage._cdata] = storage.nbytes()
                weakref.finalize(storage, self.held.pop, storage._cdata)
                self.most = max(self.most, sum(self.held.values()))
        return out


def trained(name, shape, width, rows, epochs, pad, batch=16, precision="tf32x3"):
    """(module, train(jobs, chunk)) of networks on images that are all zero."""
    net, d = wsfast.network(name, shape, 2, width), int(np.prod(shape))
    x, one, lr = np.zeros((rows, d), np.uint8), np.ones(d, np.float32), np.ones(epochs, np.float32)
    task = np.arange(rows), np.zeros(rows, np.int64), np.arange(rows), np.zeros(rows, np.int64)
    module, layers = (cnn, cnn_layers(net)) if name.startswith(("plain", "resnet5")) else (mlp, mlp_layers(net))
    rest = one, one, (1, 1, d) if len(shape) == 1 else shape, lr, 0.9, 0.0, batch, pad, 0, precision, "cpu"
    return module, lambda jobs, chunk: module.train_chunks(x, [task], jobs, *layers, *rest, chunk, gates=gates(net))


def recurrent(hidden, longest, steps):
    names, rows, lr = np.zeros((6, longest), np.uint8), np.arange(6), np.ones(2, np.float32)
    task = rows, rows % 2, rows, rows % 2
    return gru, lambda jobs, chunk: gru.train_chunks(names, [task], jobs, 58, hidden, 2, lr, steps, 0, "cpu", chunk)


CASES = {
    "wide": trained("mlp4", (1000,), 300, 50, 1, -1, 64),
    "one program": trained("mlp4", (64,), 32, 300, 20, -1),
    "many samples": trained("mlp4", (9,), 100, 9000, 1, -1),
    "crops": trained("mlp4", (1, 3, 3), 100, 5000, 2, 0),
    "residual": trained("resnet-mlp12", (64,), 70, 99, 1, -1),
    "gates": trained("mlp4-sigma", (64,), 130, 99, 1, -1),
    "images": trained("plainnet5", (3, 16, 16), 8, 99, 1, 2),
    "images, bf16": trained("plainnet5", (3, 16, 16), 8, 99, 1, -1, precision="bf16"),
    "images, gates": trained("plainnet5-sigma", (3, 16, 16), 4, 99, 1, -1),
    "shortcuts, few images": trained("resnet5", (3, 8, 8), 32, 9, 1, -1, 4),
    "recurrent": recurrent(128, 12, 50),
    "recurrent, many steps": recurrent(16, 3, 9000),
}


@pytest.mark.parametrize("case", CASES)
def test_a_networks_memory_is_foretold(case, monkeypatch):
    """Also while its parameters are packed and those of the chunk before are on their way; launches are left out."""
    module, train = CASES[case]
    monkeypatch.setattr(aot._Recorder, "note", lambda *arguments, **named: None)
    original, foretold, most = module.in_chunks, [], []
    monkeypatch.setattr(module, "in_chunks", lambda *a: foretold.append(a[3]) or original(*a))
    for chunk in (2, 4):
        with aot.recorded(False), Memory() as memory:
            assert len(list(train([(0, r) for r in range(2 * chunk)], chunk))) == 2
        most.append(memory.most)
    taken = (most[1] - most[0]) / 2
    assert taken <= foretold[0] <= 2.2 * taken
