"""A stored set larger than the memory a study may take."""

import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

import wsfast

MEASURE = """
import re, sys, threading
from pathlib import Path
import wsfast

def held():  # without pages of files, which the system takes back when it needs them
    return int(re.search(r"RssAnon:\\s+(\\d+)", Path("/proc/self/status").read_text())[1]) * 1024

def watch():
    global most
    while not done.wait(0.002):
        most = max(most, held())

zoo, memory = wsfast.WeightSet.open(sys.argv[1]), int(sys.argv[2])
few = {"quick": True, "progress": False}
wsfast.study(zoo[::4], memory=memory, **few)  # compiled code and libraries are there
before = most = held()
done = threading.Event()
thread = threading.Thread(target=watch)
thread.start()
wsfast.study(zoo, memory=memory, **few)
done.set()
thread.join()
print("grew by", most - before)
"""


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="the system does not tell a process's memory")
def test_a_study_takes_less_memory_than_the_set(tmp_path):
    network = wsfast.network("mlp4", (98304,), 2, 12)
    rng = np.random.default_rng(0)
    parameters = {p.name: rng.standard_normal((64, *p.shape), np.float32) for p in network.parameters}
    zoo = wsfast.WeightSet(
        network, parameters, np.repeat(np.arange(4), 16), np.tile(np.arange(16), 4), ("a", "b", "c", "d")
    )
    zoo.save(tmp_path)
    limit = zoo.nbytes // 2
    run = subprocess.run([sys.executable, "-c", MEASURE, str(tmp_path), str(limit)], capture_output=True, text=True)
    assert run.returncode == 0, run.stderr
    grew = int(re.search(r"grew by (\d+)", run.stdout)[1])
    assert limit / 2 < grew < zoo.nbytes, (grew, zoo.nbytes)
