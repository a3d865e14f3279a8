"""The compiler's gate; `make kernels` compiles everything."""

import os
import subprocess
import sys

from wsfast.kernels.triton import configs

RUN = """
from wsfast.kernels.triton import aot
launches = aot.shipped(hip=False, precisions=("tf32x3",))
names = {launch.kernel for launch in launches}
assert names == {"_first_kernel", "_forward_kernel", "_last_kernel", "_gradient_kernel", "_update_kernel",
                 "_train_small_kernel", "_initial_kernel", "_words_kernel", "_norm_kernel", "_unit_kernel",
                 "_product_kernel", "_gram_kernel", "_tile_kernel", "_dots_kernel", "_pair_kernel", "_head_kernel",
                 "_head_gradient_kernel", "_convolve_kernel", "_statistics_kernel", "_mean_kernel", "_spread_kernel",
                 "_affine_kernel", "_normal_kernel", "_normal_gradient_kernel", "_data_kernel", "_weight_kernel",
                 "_standardise_kernel", "_correlation_kernel", "_between_kernel", "_train_gru_kernel",
                 "_show_gru_kernel", "_gate_kernel", "_gate_gradient_kernel"}, names
merged = next(l for l in launches if l.kernel == "_first_kernel" and dict(l.constants)["UPDATE"])
found = aot.measured(merged, "sm_90")
assert found["spilled"] == 0 and found["matrix"] > 0 and 0 < found["registers"] <= 255, found
weight = next(l for l in launches if l.kernel == "_weight_kernel" and not dict(l.constants)["FIRST"])
found = aot.measured(weight, "sm_90")
assert found["spilled"] == 0 and found["matrix"] > 0, found
dots = next(l for l in launches if l.kernel == "_dots_kernel")
found = aot.measured(dots, "sm_90")
assert found["spilled"] == 0 and found["matrix"] > 0, found
tiles = next(l for l in launches if l.kernel == "_train_gru_kernel" and dict(l.constants)["H"] == 128)
found = aot.measured(tiles, "sm_90")   # three tiles of 128 x 128 in registers, and all else beside them
assert found["spilled"] == 0 and found["registers"] > 192, found
from dataclasses import replace
greedy = replace(merged, constants=tuple({**dict(merged.constants), "BK": 64, "BN": 128}.items()), warps=4)
found = aot.measured(greedy, "sm_80")
assert found["spilled"] > 0 and aot.fault(found, "sm_80") == "SPILLS", found
found = aot.measured(replace(dots, stages=16), "sm_90")   # 16 x 2 tiles of 128 x 16 numbers
assert found["shared"] > 232448 and aot.fault(found, "sm_90") == "TOO MUCH SHARED MEMORY", found
"""

ORDER = """
import re
from wsfast.kernels.triton import aot
for precision, sums in (("tf32x3", 1), ("tf32", 0)):
    launch = next(l for l in aot.shipped(hip=False, precisions=(precision,)) if l.kernel == "_dots_kernel")
    text = aot.compile_for(launch, aot.TARGETS["sm_90"]).asm["ttir"]
    begins = re.findall(r"tt\\.dot %\\w+, %\\w+, %(\\w+)", text)
    zero = [name for name in begins if name.startswith("cst")]
    assert len(begins) == 1 + 2 * sums and len(zero) == 1 + sums, text
"""


def test_mixed_products_are_summed_outside_the_matrix_unit():
    """Else an entry (i, j) has other bits than (j, i): the compiler moves a summand into the product where it can."""
    env = {k: v for k, v in os.environ.items() if k != "TRITON_INTERPRET"}
    subprocess.run([sys.executable, "-c", ORDER], env=env, check=True, timeout=300)


def test_the_gate_compiles_what_is_launched_and_sees_spills():
    env = {k: v for k, v in os.environ.items() if k != "TRITON_INTERPRET"}
    subprocess.run([sys.executable, "-c", RUN], env=env, check=True, timeout=300)


def test_widths():
    assert [configs.wide(n) for n in (1, 16, 17, 64, 65, 128, 129, 500)] == [16, 16, 32, 64, 128, 128, 256, 512]
    assert configs.small([9, 64, 50, 10], 32)
    for sizes, batch in (([9, 64, 64, 2], 33), ([9, 200, 200, 2], 16), ([9, 64, 16, 2], 32), ([9, 16, 16, 17], 16)):
        assert not configs.small(sizes, batch)
