"""Copies of networks, whatever tensors they hold beside parameters and buffers."""

import copy
from collections.abc import Iterator

import torch
from torch import Tensor, nn
from torch.nn.parameter import is_lazy
from torch.utils._pytree import tree_leaves

from pipeline.errors import UserError


class UncopyableError(UserError):
    """A network holds something that cannot be copied."""


def copied(module: nn.Module) -> nn.Module:
    """A deep copy; results of computations that the network holds (weights of `weight_norm`, maps it keeps) included.

    PyTorch copies no tensor that has a gradient function; such are copied by their values.

    Raises:
        UncopyableError: a part of the network, a lock or an open file, say, has no copy.
    """
    # Values are what they are, so they need no memory of how they came about.
    memo = {id(value): value.detach().clone() for value in _tensors(module) if not value.is_leaf}
    try:
        return copy.deepcopy(module, memo)
    except Exception as error:  # whatever the network's own attributes raise
        raise UncopyableError(
            f"the network ({type(module).__name__}) cannot be copied: {error}; "
            "keep what has no copy (locks, open files, generators) outside of its modules"
        ) from error


def without_inference_tensors(module: nn.Module) -> nn.Module:
    """The network, or a copy if it was made in `torch.inference_mode`: autograd takes no tensors that were."""
    with torch.inference_mode(False):
        return copied(module) if any(value.is_inference() for value in _tensors(module)) else module


def _tensors(module: nn.Module) -> Iterator[Tensor]:
    """All tensors that modules hold: parameters, buffers, attributes, and those in lists and dicts of them."""
    for child in module.modules():
        for value in tree_leaves(list(vars(child).values())):
            if isinstance(value, Tensor) and not is_lazy(value):
                yield value
