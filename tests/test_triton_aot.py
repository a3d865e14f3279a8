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
                 "_train_small_kernel", "_initial_kernel", "_words_kernel"}, names
merged = next(l for l in launches if l.kernel == "_first_kernel" and dict(l.constants)["UPDATE"])
found = aot.compile_launch(merged, "sm_90")
assert found["spilled"] == 0 and found["matrix"] > 0 and 0 < found["registers"] <= 255, found
from dataclasses import replace
greedy = replace(merged, constants=tuple({**dict(merged.constants), "BK": 64, "BN": 128}.items()), warps=4)
assert aot.compile_launch(greedy, "sm_80")["spilled"] > 0   # the gate sees a spill
"""


def test_the_gate_compiles_what_is_launched_and_sees_spills():
    env = {k: v for k, v in os.environ.items() if k != "TRITON_INTERPRET"}
    subprocess.run([sys.executable, "-c", RUN], env=env, check=True, timeout=300)


def test_widths():
    assert [configs.wide(n) for n in (1, 16, 17, 64, 65, 128, 129, 500)] == [16, 16, 32, 64, 128, 128, 256, 512]
    assert configs.small([9, 64, 50, 10], 32)
    for sizes, batch in (([9, 64, 64, 2], 33), ([9, 200, 200, 2], 16), ([9, 64, 16, 2], 32), ([9, 16, 16, 17], 16)):
        assert not configs.small(sizes, batch)
