"""Networks that compute parts of themselves again in the backward pass (`torch.utils.checkpoint`), run without it.

A part that is computed again is computed by other operations than those a relevance rule has seen, and a reentrant one
hides its layers from autograd. The values do not depend on it, only memory does.
"""

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from torch.utils import checkpoint

_lock = threading.Lock()
_num_inside = 0


class _RunOnce:
    """In place of `CheckpointFunction`, which reentrant checkpoints apply."""

    @staticmethod
    def apply(function: Callable[..., Any], _preserve_rng_state: bool, *args: Any) -> Any:
        return function(*args)


def _record_nothing(*_args: Any, **_kwargs: Any) -> Iterator[None]:
    """In place of the generator around the forward pass of other checkpoints, which makes autograd compute again."""
    yield


_PLAIN = {"CheckpointFunction": _RunOnce, "_checkpoint_without_reentrant_generator": _record_nothing}
_ORIGINAL = {name: getattr(checkpoint, name) for name in _PLAIN}


@contextmanager
def without_checkpoints() -> Iterator[None]:
    """Inside the block checkpointed parts of any network run like all others, in all threads.

    Both ways of `checkpoint` are replaced, not the function itself, which networks import by its name.
    """
    _enter(1)
    try:
        yield
    finally:
        _enter(-1)


def _enter(step: int) -> None:
    global _num_inside
    with _lock:
        _num_inside += step
        for name, value in (_PLAIN if _num_inside else _ORIGINAL).items():
            setattr(checkpoint, name, value)
