"""Batches are cut to the memory there is: found by a probe, halved when it ran out, remembered."""

from collections.abc import Callable, Sequence
from typing import Any

import pytest
import torch

from jobs.engine.memory import MEMORY_SHARE, Portions


class Device:
    """A device whose items need 10 bytes each, that lies about its free memory if told so."""

    def __init__(self, total: int, *, says: int | None = None) -> None:
        self.total, self.says = total, total if says is None else says
        self.portions: list[list[int]] = []
        self.probed: list[int] = []
        self.released = 0

    def free(self) -> int:
        return self.says

    def peak(self, function: Callable[[], Any]) -> int:
        function()
        return 10

    def release(self) -> None:
        self.released += 1

    def make(self, items: Sequence[int]) -> list[int]:
        self.portions.append(list(items))
        if 10 * len(items) > self.total:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return [item * item for item in items]


def run(portions: Portions, device: Device, count: int = 8) -> list[int]:
    return portions.run("layer", range(count), device.make, probe=device.probed.append)


def test_a_batch_that_fits_is_made_at_once():
    device = Device(total=1000)
    assert run(Portions(device), device) == [n * n for n in range(8)]
    assert device.portions == [list(range(8))]
    assert device.probed == [0]


def test_a_batch_is_cut_to_what_is_free_and_probed_once_per_kind():
    device = Device(total=int(30 / MEMORY_SHARE) + 1)
    portions = Portions(device)
    for _ in range(2):
        assert run(portions, device) == [n * n for n in range(8)]
    assert device.portions == [[0, 1, 2], [3, 4, 5], [6, 7]] * 2
    assert device.probed == [0]
    assert portions.size("layer") == 3
    portions.run("other layer", [5], device.make, probe=device.probed.append)
    assert device.probed == [0, 5]


def test_a_portion_that_runs_out_of_memory_is_halved_and_nothing_that_was_made_is_made_again():
    device = Device(total=20, says=1000)
    portions = Portions(device)
    assert run(portions, device, 5) == [0, 1, 4, 9, 16]
    assert device.portions == [[0, 1, 2, 3, 4], [0, 1], [2, 3], [4]]
    assert device.released == 1
    assert run(portions, device, 2) == [0, 1]  # the next batch begins with what was learned
    assert portions.size("layer") == 2


def test_without_a_meter_a_batch_is_cut_only_when_memory_ran_out():
    device = Device(total=40)
    portions = Portions(None)
    assert run(portions, device) == [n * n for n in range(8)]
    assert device.portions == [list(range(8)), [0, 1, 2, 3], [4, 5, 6, 7]]
    assert (device.probed, device.released) == ([], 0)


def test_an_item_that_never_fits_is_told():
    device = Device(total=9)
    with pytest.raises(torch.OutOfMemoryError):
        run(Portions(None), device)
    assert device.portions[-1] == [0]


def test_other_errors_pass():
    def fail(items: Sequence[int]) -> list[int]:
        raise RuntimeError("a bug")

    with pytest.raises(RuntimeError, match="a bug"):
        Portions(None).run("layer", [1, 2], fail, probe=print)


def test_the_cpu_runs_out_of_memory_too():
    """What torch says when it cannot allocate is what `is_out_of_memory` looks for."""
    tried = []

    def make(items: Sequence[int]) -> list[int]:
        tried.append(len(items))
        if len(items) > 1:
            torch.empty(1 << 50, dtype=torch.uint8)
        return list(items)

    assert Portions(None).run("layer", [1, 2], make, probe=print) == [1, 2]
    assert tried == [2, 1, 1]
