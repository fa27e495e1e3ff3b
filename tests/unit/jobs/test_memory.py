"""Batches are cut to the memory there is: found by a probe, halved when it ran out, remembered."""

from collections.abc import Callable, Sequence

import pytest
import torch

from jobs.engine.memory import MEMORY_SHARE, MemoryAwareBatching


class Device:
    """A device whose items need 10 bytes each, that may report more free memory than it has."""

    def __init__(self, total: int, *, reported: int | None = None) -> None:
        self.total, self.reported = total, total if reported is None else reported
        self.made: list[list[int]] = []
        self.probed: list[int] = []
        self.released = 0

    def free(self) -> int:
        return self.reported

    def peak(self, function: Callable[[], object]) -> int:
        function()
        return 10

    def release(self) -> None:
        self.released += 1

    def make(self, items: Sequence[int]) -> list[int]:
        self.made.append(list(items))
        if 10 * len(items) > self.total:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return [item * item for item in items]


def run(batching: MemoryAwareBatching, device: Device, count: int = 8) -> list[int]:
    return batching.run("layer", range(count), device.make, probe=device.probed.append)


def test_a_batch_that_fits_is_made_at_once():
    device = Device(total=1000)
    assert run(MemoryAwareBatching(device), device) == [n * n for n in range(8)]
    assert device.made == [list(range(8))]
    assert device.probed == [0]


def test_a_batch_is_cut_to_what_is_free_and_probed_once_per_kind():
    device = Device(total=int(30 / MEMORY_SHARE) + 1)
    batching = MemoryAwareBatching(device)
    for _ in range(2):
        assert run(batching, device) == [n * n for n in range(8)]
    assert device.made == [[0, 1, 2], [3, 4, 5], [6, 7]] * 2
    assert device.probed == [0]
    assert batching.size("layer") == 3
    batching.run("other layer", [5], device.make, probe=device.probed.append)
    assert device.probed == [0, 5]


def test_a_subset_that_runs_out_of_memory_is_halved_and_nothing_that_was_made_is_made_again():
    device = Device(total=20, reported=1000)
    batching = MemoryAwareBatching(device)
    assert run(batching, device, 5) == [0, 1, 4, 9, 16]
    assert device.made == [[0, 1, 2, 3, 4], [0, 1], [2, 3], [4]]
    assert device.released == 1
    assert run(batching, device, 2) == [0, 1]  # the next batch begins with what was learned
    assert batching.size("layer") == 2


def test_without_a_meter_a_batch_is_cut_only_when_memory_ran_out():
    device = Device(total=40)
    batching = MemoryAwareBatching(None)
    assert run(batching, device) == [n * n for n in range(8)]
    assert device.made == [list(range(8)), [0, 1, 2, 3], [4, 5, 6, 7]]
    assert (device.probed, device.released) == ([], 0)


def test_an_item_that_never_fits_is_an_error():
    device = Device(total=9)
    with pytest.raises(torch.OutOfMemoryError):
        run(MemoryAwareBatching(None), device)
    assert device.made[-1] == [0]


def test_other_errors_pass():
    def fail(items: Sequence[int]) -> list[int]:
        raise RuntimeError("a bug")

    with pytest.raises(RuntimeError, match="a bug"):
        MemoryAwareBatching(None).run("layer", [1, 2], fail, probe=print)


def test_the_cpu_runs_out_of_memory_too():
    """The error that torch raises when it cannot allocate is the one `is_out_of_memory` recognizes."""
    attempted = []

    def make(items: Sequence[int]) -> list[int]:
        attempted.append(len(items))
        if len(items) > 1:
            torch.empty(1 << 50, dtype=torch.uint8)
        return list(items)

    assert MemoryAwareBatching(None).run("layer", [1, 2], make, probe=print) == [1, 2]
    assert attempted == [2, 1, 1]
