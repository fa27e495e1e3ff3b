"""Work on one thing after the other, some of it begun ahead in threads: the results in order, never many of them held.

Reading files ahead hides the latency of object stores. Hashing, scaling, packing and most of unpacking visualizations
leave Python's lock, so that they use several cores.
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


def ahead(work: Callable[[T], R], things: Iterable[T], *, threads: int, most: int) -> Iterator[tuple[T, R]]:
    """(thing, what `work` gives for it) in order; what it raises is raised when its thing has its turn.

    Args:
        work: runs in one of the threads.
        things: asked for in the caller's thread.
        threads: work at once.
        most: things begun whose turn has not come.
    """
    left = iter(things)
    with ThreadPoolExecutor(threads) as pool:
        begun: deque[tuple[T, Future[R]]] = deque()
        try:
            begun.extend((thing, pool.submit(work, thing)) for thing in islice(left, most))
            while begun:
                thing, future = begun.popleft()
                result = future.result()
                begun.extend((thing, pool.submit(work, thing)) for thing in islice(left, 1))
                yield thing, result
        finally:
            for _, future in begun:
                future.cancel()


def read_ahead(read: Callable[[T], R], files: Iterable[T]) -> Iterator[tuple[T, R]]:
    """(file, what `read` gives for it) in order."""
    return ahead(read, files, threads=READERS, most=FILES_AHEAD)
