"""How many visualizations of a batch are optimized at once: as many as memory holds, and half as many when it ran out.

A batch is what is committed whole; how it was cut while it was made changes its visualizations by rounding only. On a
CPU a batch is never cut beforehand, so that runs on any machine give the same bytes.
"""

from collections.abc import Callable, Hashable, Sequence
from typing import Final, Protocol, TypeVar

import torch

T = TypeVar("T")
R = TypeVar("R")

# Of what is free; the rest is for fragmentation and what libraries take on their own.
MEMORY_SHARE: Final = 0.85


class Memory(Protocol):
    """The memory of a device, in bytes."""

    def free(self) -> int:
        """How much this worker may still take."""
        ...

    def peak(self, function: Callable[[], object]) -> int:
        """How much more than now `function` needs while it runs."""
        ...

    def release(self) -> None:
        """Give back what is cached."""
        ...


class CudaMemory:
    """Memory of the current GPU, of which this worker has a share.

    Args:
        share: GPUs of this worker; below 1, others work on the same one.
    """

    def __init__(self, share: float) -> None:
        self._share = min(1.0, share)

    def free(self) -> int:
        """Free on the device and in torch's cache, within the worker's share."""
        free, total = torch.cuda.mem_get_info()
        cached = torch.cuda.memory_reserved() - torch.cuda.memory_allocated()
        return min(free + cached, int(total * self._share) - torch.cuda.memory_allocated())

    def peak(self, function: Callable[[], object]) -> int:
        """See `Memory.peak`."""
        torch.cuda.synchronize()
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        function()
        torch.cuda.synchronize()
        return torch.cuda.max_memory_allocated() - before

    def release(self) -> None:
        """See `Memory.release`."""
        torch.cuda.empty_cache()


class MemoryAwareBatching:
    """Cuts batches to memory; remembers the size that fits for each kind of batch.

    Args:
        memory: of the device; None where batches are cut only after memory ran out.
    """

    def __init__(self, memory: Memory | None) -> None:
        self._memory = memory
        self._sizes: dict[Hashable, int] = {}

    def run(
        self,
        kind: Hashable,
        items: Sequence[T],
        make: Callable[[Sequence[T]], Sequence[R]],
        *,
        probe: Callable[[T], object],
    ) -> list[R]:
        """The results of `make` for all items, in their order, made of as many at once as memory holds.

        Args:
            kind: batches of one kind need equal memory per item (a layer and method).
            items: of the batch, at least one.
            make: makes the results of a subset together.
            probe: needs as much memory for one item as `make` does, in little time.

        Raises:
            Exception: what `make` raised; out-of-memory only if a single item does not fit.
        """
        if kind not in self._sizes and self._memory is not None:
            self._sizes[kind] = fitting(self._memory, lambda: probe(items[0]))
        results: list[R] = []
        while len(results) < len(items):
            subset = items[len(results) : len(results) + self._sizes.get(kind, len(items))]
            made = self._try(make, subset)
            if made is None:
                self._sizes[kind] = len(subset) // 2
            else:
                results.extend(made)
        return results

    def size(self, kind: Hashable) -> int | None:
        """How many items of that kind are done at once; None: all of a batch."""
        return self._sizes.get(kind)

    def _try(self, make: Callable[[Sequence[T]], Sequence[R]], subset: Sequence[T]) -> Sequence[R] | None:
        """What `make` gave, None if memory ran out and a smaller subset may help."""
        try:
            return make(subset)
        except Exception as error:
            if len(subset) == 1 or not is_out_of_memory(error):
                raise
        if self._memory is not None:  # here, where no traceback holds the tensors any more
            self._memory.release()
        return None


def fitting(memory: Memory, probe: Callable[[], object]) -> int:
    """How many items fit, at least one: what is free over what the probe of one item needs."""
    per_item = max(1, memory.peak(probe))
    return max(1, int(MEMORY_SHARE * memory.free()) // per_item)


def is_out_of_memory(error: Exception) -> bool:
    """Whether torch could not allocate; on the CPU it raises a plain RuntimeError."""
    return isinstance(error, torch.OutOfMemoryError) or "DefaultCPUAllocator: can't allocate memory" in str(error)
