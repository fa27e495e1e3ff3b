"""Derived layers: layers computed beside a network from the outputs of its own, such as concepts and combinations.

A derived layer is a submodule `KIND.NAME` of the network (`concepts.sae`, `combinations.eye`), run by forward hooks on
the layers it reads. Its output goes only to the hooks on it, so the network computes what it did before, and everything
that works on a layer by its name (capture, activations, relevance, references, synthesis) works on this one.

Hooks and layers pickle and copy together with the network, and move with it between devices and dtypes. A layer that
nobody watches is not computed.
"""

import threading
from collections import Counter
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from pipeline.models.calls import LayerNames
from pipeline.models.model import Model


class DerivedLayer(nn.Module):
    """A layer computed from outputs of other layers.

    Attributes:
        sources: the layers it reads, one per argument of `forward`, in the order in which they complete. The units of
            this layer live in the feature space of the last one.
        conditioned_on: (layer, unit) through which all relevance of this layer passes; None for no condition.
    """

    conditioned_on: tuple[str, int] | None = None

    def __init__(self, sources: Sequence[str]) -> None:
        super().__init__()
        self.sources = tuple(sources)
        self.handles: list[RemovableHandle] = []  # kept, since unpickling them reserves their ids for these hooks
        # By thread, as several may run one network at once: what was taken, and how often each source's module ran.
        self._taken: dict[int, dict[int, Tensor]] = {}
        self._calls: dict[int, Counter[int]] = {}

    def take(self, index: int, output: Tensor) -> Tensor:
        """What `forward` needs of the output of source number `index`."""
        return output

    def unit_label(self, unit: int) -> str:
        """What a unit stands for, in words; nothing if it has no name."""
        return ""

    def attach(self, network: nn.Module) -> None:
        """Run whenever the network runs."""
        self.handles.append(network.register_forward_pre_hook(_Start(self)))
        names = LayerNames(network)
        for index, source in enumerate(self.sources):
            child, number = names.call(source)
            self.handles.append(child.register_forward_hook(_Tap(self, index, number)))

    def start(self) -> None:
        """Forget what a pass that stopped halfway has left."""
        self._taken.pop(threading.get_ident(), None)
        self._calls.pop(threading.get_ident(), None)

    def count(self, index: int) -> int:
        """How often the module of a source has run in this pass, this time included."""
        calls = self._calls.setdefault(threading.get_ident(), Counter())
        calls[index] += 1
        return calls[index]

    def receive(self, index: int, output: Tensor) -> None:
        """Take the output of one source; with the last one that was missing the layer runs."""
        taken = self._taken.setdefault(threading.get_ident(), {})
        taken[index] = self.take(index, output)
        if len(taken) == len(self.sources):
            del self._taken[threading.get_ident()]
            self(*[taken[i] for i in range(len(self.sources))])

    def __getstate__(self) -> dict[str, Any]:
        return self.__dict__ | {"_taken": {}, "_calls": {}}  # may hold parts of a graph, which nothing can copy


class _Tap:
    """The forward hook that hands one source's output, that of one call, to a derived layer."""

    def __init__(self, derived: DerivedLayer, index: int, number: int) -> None:
        self.derived, self.index, self.number = derived, index, number

    def __call__(self, _module: nn.Module, _inputs: object, output: Tensor) -> None:
        if self.derived.count(self.index) == self.number and _is_watched(self.derived):
            self.derived.receive(self.index, output)


class _Start:
    """The pre-hook that tells a derived layer that the network begins a pass."""

    def __init__(self, derived: DerivedLayer) -> None:
        self.derived = derived

    def __call__(self, _module: nn.Module, _inputs: object) -> None:
        self.derived.start()


def _is_watched(module: nn.Module) -> bool:
    """Whether a hook sees the module's output, other than those of derived layers that are not watched themselves."""
    return bool(nn.modules.module._global_forward_hooks) or any(
        not isinstance(hook, _Tap) or _is_watched(hook.derived) for hook in module._forward_hooks.values()
    )


def derived_layers(module: nn.Module) -> dict[str, DerivedLayer]:
    """The derived layers of a network by name, in the order in which they were inserted."""
    return {name: child for name, child in module.named_modules() if isinstance(child, DerivedLayer)}


def feature_space(module: nn.Module, layer: str) -> str:
    """The layer of the network whose features the units of a layer are read from.

    That is the layer itself; for concepts the layer they are directions in, for a combination the last of its units'.
    """
    derived = derived_layers(module)
    while layer in derived:
        layer = derived[layer].sources[-1]
    return layer


def unit_label(model: Model, layer: str, unit: int) -> str:
    """What a unit stands for: the name of its class, its concept or its combination; nothing for other units."""
    if (derived := derived_layers(model.module).get(layer)) is not None:
        return derived.unit_label(unit)
    return model.class_names[unit] if layer == model.classifier_layer else ""


def floating_dtype(module: nn.Module) -> torch.dtype:
    """The type of the network's weights, which that of its features follows; float32 if it has none."""
    return next((value.dtype for value in module.parameters() if value.is_floating_point()), torch.float32)
