"""What holds inside a worker: fixed threads, deterministic kernels, its allocator."""

import contextlib
import os
from collections.abc import Iterator
from types import ModuleType
from typing import Protocol, TypeVar

import torch

from jobs.engine.allocator import freed_memory_kept
from pipeline.data.sample_errors import TooManyBadSamples
from pipeline.data.tar_members import DamagedShardError
from pipeline.io.root import StorageError

T_co = TypeVar("T_co", covariant=True)


class Shared(Protocol[T_co]):
    """A value that every worker may read; `Engine.share` makes it."""

    def get(self) -> T_co:
        """The value; the same object on every call within one process."""
        ...


def is_fatal(error: Exception) -> bool:
    """Whether an error ends the whole run: storage that cannot be written, or more bad data than the recipe allows."""
    return isinstance(error, (StorageError, TooManyBadSamples))


def is_final(error: Exception) -> bool:
    """Whether another attempt of the task would end in the same way: its data are damaged."""
    return isinstance(error, DamagedShardError)


@contextlib.contextmanager
def deterministic(*, threads: int, device: str) -> Iterator[None]:
    """Run torch with `threads` threads and, on the CPU, with deterministic kernels only; put both back afterwards.

    The number of threads is part of the result: it sets the order of sums. More threads than CPUs would make workers on
    one machine wait for each other. On a GPU the strict mode would refuse kernels that have no deterministic form, so
    there only cuDNN's choice of algorithm is fixed. Strict mode would also fill new memory before it is written, to
    show who reads it too early; that costs time in each step and is left out.
    """
    strict_mode: ModuleType = torch.utils.deterministic  # mypy does not know its attribute
    before = (
        torch.get_num_threads(),
        torch.are_deterministic_algorithms_enabled(),
        strict_mode.fill_uninitialized_memory,
        torch.backends.cudnn.benchmark,
    )
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    if device == "cpu":  # else torch's compiler starts a process per core of the machine, in each worker
        os.environ.setdefault("TORCHINDUCTOR_COMPILE_THREADS", str(threads))
    torch.set_num_threads(threads)
    torch.use_deterministic_algorithms(device == "cpu")
    strict_mode.fill_uninitialized_memory = False  # type: ignore[attr-defined]
    torch.backends.cudnn.benchmark = False
    try:
        yield
    finally:
        torch.set_num_threads(before[0])
        torch.use_deterministic_algorithms(before[1])
        strict_mode.fill_uninitialized_memory = before[2]  # type: ignore[attr-defined]
        torch.backends.cudnn.benchmark = before[3]


def allocator_for_models(device: str) -> contextlib.AbstractContextManager[object]:
    """Around what a task does with a network: on a CPU the memory of its features is kept from batch to batch.

    Without, a forward pass takes up to three times as long, see `jobs.engine.allocator`. Not around tasks that hold
    tables or merge statistics: what they free leaves holes.
    """
    return freed_memory_kept() if device == "cpu" else contextlib.nullcontext()


@contextlib.contextmanager
def threads_beside(device: str) -> Iterator[int]:
    """How many threads may work beside the network on its device: on a GPU as many as the worker has CPUs, else none.

    Meanwhile torch has one thread in each, so that together they keep to the worker's CPUs.
    """
    if device == "cpu":
        yield 0
        return
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield threads
    finally:
        torch.set_num_threads(threads)
