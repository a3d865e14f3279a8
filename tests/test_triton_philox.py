import numpy as np
import pytest
import torch
from wsfast.kernels.triton import philox as compiled
from wsfast.reference import philox

JOBS = [(0, 0), (3, 5), (49, 99)]


@pytest.mark.parametrize("seed", [0, 7, 2**63 + 11])
def test_streams_are_the_same_bits(seed, device):
    jobs, key = torch.tensor(JOBS, device=device), compiled.key(seed, device)
    words = compiled.words(1001, philox.ORDER, 4, jobs, key).cpu().numpy()
    start = torch.full((3, 48, 64), torch.nan, device=device)  # three programs a network
    compiled.initial_weight(start, 7, 19, float(np.float32(1 / np.sqrt(7))), 3, jobs, key)
    start = start.cpu().double().numpy()
    for i, job in enumerate(JOBS):
        np.testing.assert_array_equal(words[i], philox.words(1001, seed, *job, philox.ORDER, 4))
        np.testing.assert_array_equal(start[i, :7, :19], philox.initial_weight((7, 19), 1 / np.sqrt(7), 3, seed, *job))
    assert (start[:, 7:] == 0).all()
    assert (start[:, :, 19:] == 0).all()


@pytest.mark.parametrize(("rows", "columns", "wide"), [(70, 100, 128), (9, 384, 384), (300, 2, 4), (3, 1500, 2048)])
def test_initial_weights_of_every_width_are_the_same_bits(rows, columns, wide, device):
    """Several programs a network, a row or many in each."""
    jobs, key = torch.tensor(JOBS[:2], device=device), compiled.key(7, device)
    found = torch.full((2, rows + 1, wide), torch.nan, device=device)
    compiled.initial_weight(found, rows, columns, 0.5, 1, jobs, key)
    for own, job in zip(found.cpu().double().numpy(), JOBS, strict=False):
        np.testing.assert_array_equal(own[:rows, :columns], philox.initial_weight((rows, columns), 0.5, 1, 7, *job))
        assert (own[rows:] == 0).all()
        assert (own[:, columns:] == 0).all()


def test_orders_and_crops_are_the_same_bits(device):
    jobs, key, counts = torch.tensor(JOBS, device=device), compiled.key(5, device), [50, 33, 1]
    orders = compiled.batch_order(50, torch.tensor(counts, device=device), 4, jobs, key).cpu().numpy()
    crops = compiled.augmentation(50, 4, 2, jobs, key).cpu().numpy()
    for i, job in enumerate(JOBS):
        np.testing.assert_array_equal(orders[i, : counts[i]], philox.batch_order(counts[i], 4, 5, *job))
        assert (orders[i, counts[i] :] == -1).all()
        dy, dx, flip = philox.augmentation(50, 4, 2, 5, *job).T
        np.testing.assert_array_equal(crops[i], dy + (dx << 8) + (flip << 16))
