"""Neuron Atlas: generate, measure and browse atlases of every neuron of a vision model.

The names below are the notebook interface. They are resolved at first use, so `import pipeline` imports
neither torch nor anything else that is heavy.

`relevance` is a function of this interface and also the subpackage that holds it. Python binds a subpackage
to its parent's attribute of that name whenever anybody imports it, so a plain re-export would be the function
or the module, depending on what was imported before. Here it is always the subpackage, made callable:
`from pipeline import relevance; relevance(module, images, ...)` and `pipeline.attribution.rules` both work.
"""

import importlib
import inspect
import sys
from types import ModuleType
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from pipeline.alignment.losses import sort_matching, sorted_target
    from pipeline.attribution import relevance
    from pipeline.derived_layers.combinations import add_circuit
    from pipeline.derived_layers.concepts import add_concepts
    from pipeline.models import Model, load_model
    from pipeline.synthesis.api import Visualization, visualize

__all__ = [
    "Model",
    "Visualization",
    "add_circuit",
    "add_concepts",
    "load_model",
    "relevance",
    "sort_matching",
    "sorted_target",
    "visualize",
]

_HOME_OF = {
    "Model": "pipeline.models",
    "load_model": "pipeline.models",
    "add_circuit": "pipeline.derived_layers.combinations",
    "add_concepts": "pipeline.derived_layers.concepts",
    "sort_matching": "pipeline.alignment.losses",
    "sorted_target": "pipeline.alignment.losses",
    "Visualization": "pipeline.synthesis",
    "visualize": "pipeline.synthesis",
}
_CALLABLE_SUBPACKAGES = ("relevance",)


class _CallableModule(ModuleType):
    """A subpackage that can be called like the function of its own name."""

    def _function(self) -> Any:
        return vars(self)[self.__name__.rpartition(".")[2]]

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        return self._function()(*args, **kwargs)

    @property
    def __signature__(self) -> inspect.Signature:
        return inspect.signature(self._function())


class _Package(ModuleType):
    """This package: makes the subpackages that double as functions callable when the importer binds them."""

    def __setattr__(self, name: str, value: Any) -> None:
        if name in _CALLABLE_SUBPACKAGES and isinstance(value, ModuleType):
            value.__class__ = _CallableModule
        super().__setattr__(name, value)


sys.modules[__name__].__class__ = _Package


def __getattr__(name: str) -> Any:
    if name in _CALLABLE_SUBPACKAGES:
        return importlib.import_module(f"{__name__}.{name}")
    if name in _HOME_OF:
        return getattr(importlib.import_module(_HOME_OF[name]), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted(__all__)
