"""The C allocator of a process that computes on a CPU: what a step frees stays with the process for the next step.

glibc gives tensors of more than 32 MB back to the system as they are freed, and smaller ones once 64 MB are free at the
end of its heap; the next tensor is new memory, of which the system zeroes each page as it is touched. A step of a batch
frees and asks for the same tensors as the step before, for nothing (benchmarks/step_time.py measures
it). The peak of memory grows by up to a fifth.
"""

import ctypes
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager

# mallopt(3): at how many bytes at its end the heap shrinks, from how many on a block is mapped outside it, and how many
# such blocks there may be.
_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD, _M_MMAP_MAX = -1, -3, -4
_MB = 2**20


@contextmanager
def freed_memory_kept() -> Iterator[bool]:
    """Inside the block glibc keeps what this process frees, and gives it back at the end; yields whether it does.

    Other C libraries are left alone, and so is glibc where the environment configures it (`MALLOC_…`). Not for a whole
    process: blocks of many sizes, none of them mapped, leave holes in a heap.
    """
    is_configured = any(name.startswith("MALLOC_") for name in os.environ)
    libc = ctypes.CDLL(None) if sys.platform == "linux" and not is_configured else None
    mallopt = getattr(libc, "mallopt", None)
    if libc is None or mallopt is None:
        yield False
        return
    is_kept = bool(mallopt(_M_MMAP_MAX, 0) and mallopt(_M_TRIM_THRESHOLD, 2**31 - 1))
    try:
        yield is_kept
    finally:
        # What glibc arrives at by itself in a process that has freed large blocks; once set, it adapts no more.
        mallopt(_M_MMAP_MAX, 65536)
        mallopt(_M_MMAP_THRESHOLD, 32 * _MB)
        mallopt(_M_TRIM_THRESHOLD, 64 * _MB)
        libc.malloc_trim(0)
