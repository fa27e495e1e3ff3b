"""What a process frees is kept: no page is asked for twice."""

import subprocess
import sys

import pytest

# Page faults while 20 blocks of 48 MB are made and freed one after the other, once the heap has room for some.
SCRIPT = """
import resource
import torch
from pipeline.heap import keep_freed_memory

if {keep}:
    assert keep_freed_memory()
def make():
    torch.empty(12_000_000).fill_(1)
for _ in range(8):
    make()
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
for _ in range(20):
    make()
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


def page_faults(*, keep: bool) -> int:
    run = subprocess.run([sys.executable, "-c", SCRIPT.format(keep=keep)], capture_output=True, text=True, check=True)
    return int(run.stdout)


@pytest.mark.skipif(sys.platform != "linux", reason="glibc's heap")
def test_tensors_that_come_and_go_take_no_new_pages():
    assert page_faults(keep=True) < page_faults(keep=False) / 10
