import pytest

from bench.gpu import model

MLP4 = [3072, 500, 500, 500, 2]
LARGE = [12288, 500, 500, 500, 2]


@pytest.mark.parametrize(
    ("sizes", "variant", "seconds"),
    [
        (MLP4, "merged", 12.8),
        (LARGE, "merged", 38.5),
        (MLP4, "one kernel", 14.9),
        (LARGE, "one kernel", 47),
        (MLP4, "bmm", 17.8),
        (LARGE, "bmm", 56),
        (MLP4, "fused", 20.6),
        (LARGE, "fused", 66),
        (MLP4, "foreach", 29.1),
        (LARGE, "foreach", 93),
    ],
)
def test_memory_floors_of_5000_networks(sizes, variant, seconds):
    """The project's table: 300 steps, 4.3 TB/s."""
    assert model.run_seconds(sizes, variant, 5000, 300, model.ASSUMED) == pytest.approx(seconds, rel=0.05)


def test_float32_grade_products_hide_under_memory():
    """Three tf32 products at 400 TFLOP/s: 10.3 s for batches of 100, under 12.8 s of memory."""
    floor = model.floor(MLP4, 100, "merged", "tf32x3", model.ASSUMED, 5000)
    assert floor.compute * 5000 * 300 == pytest.approx(10.3, rel=0.05)
    assert (floor.bound, floor.seconds) == ("memory", floor.memory)


def test_flop_by_hand():
    assert model.step_flop([4, 3, 2], 5) == 2 * 5 * (2 * 4 * 3 + 3 * 3 * 2)


def test_one_network_stays_in_the_cache_and_waits_for_its_launches():
    many = model.floor(MLP4, 128, "fused", "fp32", model.ASSUMED, 256, eager=True)
    one = model.floor(MLP4, 128, "fused", "fp32", model.ASSUMED, 256, eager=True, alone=True)
    assert one.memory < many.memory
    assert one.bound == "launch"
    assert many.bound == "compute"


def test_bounds_scale_with_the_ceilings():
    slow = {name: rate / 2 for name, rate in model.ASSUMED.items()}
    a, b = (model.floor(MLP4, 128, "merged", "bf16", c, 256) for c in (model.ASSUMED, slow))
    assert (b.memory, b.compute) == (pytest.approx(2 * a.memory), pytest.approx(2 * a.compute))


def test_small_networks_move_only_their_images():
    assert model.ours([64, 32, 32, 32, 2], 128) == "whole"
    assert model.ours([3072, 500, 500, 500, 2], 128) == "merged"
    assert model.step_bytes([64, 32, 32, 32, 2], "whole", 128) == 128 * 64


def test_pairs_by_hand():
    top = {**model.ASSUMED, "copy": 1.0, "fp32": 1e-3}  # seconds a gigabyte, seconds a gigaflop
    floor = model.correlation_floor(3, 2, 5, 7, "fp32", top)
    assert (floor.bytes, floor.flop) == (4 * (3 * 3 * 5 * 7 + 2 * 5 * 5), 2 * 2 * 5 * 5 * 7)
    ours = model.lines_floor([4, 3, 2], 5, 7, 11, "fp32", top, blended=False)
    assert (ours.bytes, ours.flop) == (11 * 18 * 8, 2 * 11 * 5 * (2 * 12 + 7 * 6))
    peers = model.lines_floor([4, 3, 2], 5, 7, 11, "fp32", top, blended=True)
    assert (peers.bytes, peers.flop) == (11 * 18 * 7 * 16, 2 * 11 * 5 * 7 * 18)
    assert peers.seconds == peers.memory == pytest.approx(peers.bytes / 1e9)
    names = model.name_lines_floor(10, 1000, 7, 11, "fp32", top, blended=False)
    assert (names.bytes, names.flop) == (11 * 10 * 8, 11 * 1000)
    assert model.name_lines_floor(10, 1000, 7, 11, "fp32", top, blended=True).bytes == 11 * 10 * 7 * 16


def test_chain_kernels_by_hand():
    """The project's figures: 1.4e14 operations for 5,000 networks at d = 3072 and r = 500, 2.1 s of plain float32."""
    floor = model.chain_floor("chain_kernel", 5000, 3072, 500, "fp32", model.ASSUMED, triangle=True)
    assert floor.flop == pytest.approx(1.4e14, rel=0.02)
    assert floor.seconds == pytest.approx(2.1, rel=0.02)
    thrice = model.chain_floor("chain_kernel", 5000, 3072, 500, "tf32x3", model.ASSUMED, triangle=True)
    assert thrice.seconds == pytest.approx(3 * floor.flop / 400e12)
    whole = model.chain_floor("chain_gram", 3, 4, 5, "fp32", model.ASSUMED, triangle=False)
    half = model.chain_floor("chain_gram", 3, 4, 5, "fp32", model.ASSUMED, triangle=True)
    assert (whole.flop, half.flop) == (2 * 3 * 5 * 16, 2 * 3 * 5 * 10)
    assert whole.bytes == half.bytes == 4 * 3 * (20 + 16)


def test_convolutional_networks_by_hand():
    """The project's figures for plainnet5: compute alone takes 16.8 s in bf16 and 33 s in tf32, batches of 100."""
    units = [(3, 32, 32), (32, 64, 16), (64, 128, 8), (128, 256, 4)]
    for precision, seconds in (("bf16", 16.8), ("tf32", 33)):
        floor = model.cnn_floor(units, 100, "units", precision, model.ASSUMED, 5000)
        assert floor.compute * 5000 * 300 == pytest.approx(seconds, rel=0.05)
    tiny = model.cnn_floor([(3, 4, 2), (4, 8, 1)], 5, "units", "tf32", model.ASSUMED, 1)
    assert tiny.flop == 2 * 5 * 9 * (2 * 3 * 4 * 4 + 3 * 4 * 8)
    assert tiny.bytes == 4 * 5 * (6 * 4 * 4 + 7 * 8) + 24 * 9 * (3 * 4 + 4 * 8)


def test_recurrent_networks_of_the_paper():
    """The project's figures for 900 networks x 10,000 names: 3.5 s of traffic, 0.96 s of arithmetic."""
    floor = model.gru_floor(128, 7, model.ASSUMED)
    assert floor.memory * 9e6 == pytest.approx(3.5, rel=0.05)
    assert floor.compute * 9e6 == pytest.approx(0.96, rel=0.25)
    assert floor.bound == "memory"
