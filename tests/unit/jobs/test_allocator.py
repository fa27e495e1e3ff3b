"""What a process frees is kept for a while, so that no page is asked for twice, and then given back."""

import os
import subprocess
import sys

import pytest

# Page faults while 20 blocks of 48 MB are made and freed one after the other, once glibc has room for some, and the
# megabytes held at the end.
SCRIPT = """
import contextlib
import resource
import torch
from jobs.engine.allocator import freed_memory_kept

def make():
    torch.empty(12_000_000).fill_(1)

def held_mb():
    with open("/proc/self/statm") as file:
        return int(file.read().split()[1]) * resource.getpagesize() // 10**6

at_first = held_mb()
with freed_memory_kept() if {keep} else contextlib.nullcontext():
    for _ in range(8):
        make()
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    for _ in range(20):
        make()
    print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before, held_mb() - at_first)
print(held_mb() - at_first)
"""


def run(*, keep: bool, **variables: str) -> list[int]:
    """Page faults, megabytes held before the end and after it."""
    environment = {name: value for name, value in os.environ.items() if not name.startswith("MALLOC_")}
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT.format(keep=keep)],
        capture_output=True,
        text=True,
        check=True,
        env=environment | variables,
    )
    return [int(word) for word in done.stdout.split()]


@pytest.mark.skipif(sys.platform != "linux", reason="glibc's allocator")
def test_tensors_that_come_and_go_take_no_new_pages_and_none_stay():
    (faults, held, left), (faults_without, _, _) = run(keep=True), run(keep=False)
    assert faults < faults_without / 10
    assert held > 40
    assert left < 20


@pytest.mark.skipif(sys.platform != "linux", reason="glibc's allocator")
def test_settings_of_the_environment_are_left_alone():
    faults, held, _ = run(keep=True, MALLOC_MMAP_THRESHOLD_="4194304")
    assert faults > 1000
    assert held < 40
