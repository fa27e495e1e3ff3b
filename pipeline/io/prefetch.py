"""Prefetch: work on items in threads before their turn; the results come in order, and few of them are held.

Reading files ahead hides the latency of object stores. Hashing, scaling, packing and most of unpacking images release
Python's lock, so that they use several cores.
"""

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from itertools import islice
from typing import Final, TypeVar

READERS: Final = 8  # files read at once
FILES_AHEAD: Final = 32  # read and not yet asked for, at most

T = TypeVar("T")
R = TypeVar("R")


def ahead(work: Callable[[T], R], items: Iterable[T], *, threads: int, most: int) -> Iterator[tuple[T, R]]:
    """(item, what `work` gives for it) in order; what it raises is raised when its item has its turn.

    Args:
        work: runs in one of the threads.
        items: taken in the caller's thread.
        threads: how many work at once.
        most: how many items may be begun before their turn.
    """
    left = iter(items)
    with ThreadPoolExecutor(threads) as pool:
        begun: deque[tuple[T, Future[R]]] = deque()
        try:
            begun.extend((item, pool.submit(work, item)) for item in islice(left, most))
            while begun:
                item, future = begun.popleft()
                result = future.result()
                begun.extend((item, pool.submit(work, item)) for item in islice(left, 1))
                yield item, result
        finally:
            for _, future in begun:
                future.cancel()


def read_ahead(read: Callable[[T], R], files: Iterable[T]) -> Iterator[tuple[T, R]]:
    """(file, what `read` gives for it) in order."""
    return ahead(read, files, threads=READERS, most=FILES_AHEAD)
