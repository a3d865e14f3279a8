"""Networks leave for ONNX by torch's own exporter: what to_torch gives computes the same in ONNX Runtime."""

import numpy as np
import onnxruntime
import pytest
import torch

import wsfast


@pytest.mark.parametrize(
    ("name", "shape"), [("mlp4", (17,)), ("resnet-mlp12", (17,)), ("resnet5", (3, 8, 8)), ("gru2", (6, 58))]
)
@pytest.mark.filterwarnings("ignore")  # the exporter's, of itself
def test_exported_networks_give_the_same_outputs(name, shape, tmp_path):
    network = wsfast.network(name, shape, 3, 5)
    rng = np.random.default_rng(0)
    parameters = {
        p.name: (rng.uniform(0.5, 1, (2, *p.shape)) * (0.1 if p.fill is None else 1)).astype(np.float32)
        for p in network.parameters
    }
    model = wsfast.WeightSet(network, parameters, np.zeros(2, int), np.arange(2)).to_torch(1)
    file, x = str(tmp_path / "network.onnx"), torch.randn(2, *shape)
    torch.onnx.export(model, (x,), file, dynamic_shapes=({0: torch.export.Dim("batch")},), verbose=False)
    session = onnxruntime.InferenceSession(file)
    other = torch.randn(5, *shape)
    (got,) = session.run(None, {session.get_inputs()[0].name: other.numpy()})
    with torch.no_grad():
        np.testing.assert_allclose(got, model(other).numpy(), rtol=1e-5, atol=1e-5)
