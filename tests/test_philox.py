import numpy as np
import pytest
from scipy import stats
from wsfast.kernels.numba import philox as compiled
from wsfast.reference import philox

VECTORS = [  # Random123's kat_vectors, philox4x32 with 10 rounds
    ((0, 0, 0, 0), (0, 0), (0x6627E8D5, 0xE169C58D, 0xBC57AC4C, 0x9B00DBD8)),
    ((0xFFFFFFFF,) * 4, (0xFFFFFFFF,) * 2, (0x408F276D, 0x41C83B0E, 0xA20BC7C6, 0x6D5451FD)),
    (
        (0x243F6A88, 0x85A308D3, 0x13198A2E, 0x03707344),
        (0xA4093822, 0x299F31D0),
        (0xD16CFE09, 0x94FDCCEB, 0x5001E420, 0x24126EA1),
    ),
]
STREAMS = [(0, 0, 0), (7, 3, 5), (2**63 + 11, 49, 99)]


@pytest.mark.parametrize(("counter", "key", "want"), VECTORS)
def test_published_vectors(counter, key, want):
    assert tuple(philox.philox4x32(counter, key).tolist()) == want
    words = compiled.philox4x32(*(np.full(2, w, np.uint32) for w in counter), *(np.uint32(w) for w in key))
    assert tuple(words.tolist()) == 2 * want


@pytest.mark.parametrize("n", [1, 3, 4, 5, 1001])
@pytest.mark.parametrize("stream", STREAMS)
def test_streams_are_the_same_bits_in_both(n, stream):
    seed, task, repeat = np.uint64(stream[0]), *stream[1:]
    for purpose, item in ((philox.INIT, 2), (philox.ORDER, 19)):
        np.testing.assert_array_equal(
            compiled.words(n, seed, task, repeat, purpose, item), philox.words(n, *stream, purpose, item)
        )
    want = philox.uniform(n, 1 / np.sqrt(7), *stream, philox.INIT, 1)
    got = compiled.uniform(n, 1 / np.sqrt(7), seed, task, repeat, philox.INIT, 1)
    assert got.dtype == np.float32
    np.testing.assert_array_equal(got.astype(np.float64), want)
    np.testing.assert_array_equal(compiled.batch_order(n, 4, seed, task, repeat), philox.batch_order(n, 4, *stream))
    np.testing.assert_array_equal(
        compiled.augmentation(n, 4, 4, seed, task, repeat), philox.augmentation(n, 4, 4, *stream)
    )
    sizes = np.array([5, 1, 1000])
    np.testing.assert_array_equal(compiled.sample(sizes, n, 4, seed, task, repeat), philox.sample(sizes, n, 4, *stream))


def test_streams_differ_in_every_coordinate():
    base = {"seed": 1, "task": 2, "repeat": 3, "purpose": philox.INIT, "item": 4}
    first = philox.words(64, **base)
    for change in ({"seed": 2}, {"seed": 1 + 2**32}, {"task": 3}, {"repeat": 4}, {"purpose": 1}, {"item": 5}):
        assert not np.isin(philox.words(64, **{**base, **change}), first).any(), change


def test_uniform_is_uniform():
    draw = philox.uniform(20_000, 0.5, 0, 0, 0, philox.INIT, 0)
    assert -0.5 <= draw.min() < draw.max() < 0.5
    assert stats.kstest(draw, stats.uniform(-0.5, 1).cdf).pvalue > 1e-3


def test_batch_order_visits_every_sample_once_and_anew_each_epoch():
    orders = [philox.batch_order(101, epoch, 0, 1, 2) for epoch in range(3)]
    for order in orders:
        np.testing.assert_array_equal(np.sort(order), np.arange(101))
    assert (orders[0] != orders[1]).mean() > 0.9
    first = [philox.batch_order(5, 0, 0, 0, repeat)[0] for repeat in range(2000)]
    assert stats.chisquare(np.bincount(first)).pvalue > 1e-3


def test_augmentation_covers_all_crops_and_both_mirrors():
    draw = philox.augmentation(5000, 4, 0, 3, 1, 2)
    for column, values in zip(draw.T, (9, 9, 2), strict=True):
        assert stats.chisquare(np.bincount(column, minlength=values)).pvalue > 1e-3


def test_sample_draws_classes_then_their_members_uniformly():
    draw = philox.sample([3, 7], 5000, 1, 2, 3, 4)
    assert stats.chisquare(np.bincount(draw[:, 0], minlength=2)).pvalue > 1e-3
    for c, size in enumerate((3, 7)):
        members = draw[draw[:, 0] == c, 1]
        assert stats.chisquare(np.bincount(members, minlength=size)).pvalue > 1e-3


def test_crop_flip_by_hand():
    image = np.arange(1, 7).reshape(1, 2, 3)
    np.testing.assert_array_equal(philox.crop_flip(image, 1, 1, 0, 1), image)
    np.testing.assert_array_equal(philox.crop_flip(image, 1, 1, 1, 1), image[:, :, ::-1])
    np.testing.assert_array_equal(philox.crop_flip(image, 0, 2, 0, 1), [[[0, 0, 0], [2, 3, 0]]])
