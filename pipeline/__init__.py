"""Neuron Atlas: generate, measure and browse atlases of every neuron of a vision model.

The names below are the notebook interface. They are resolved at first use, so `import pipeline` imports neither torch
nor anything else that is heavy.
"""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from pipeline.alignment.losses import sort_matching, sorted_target
    from pipeline.attribution.relevance import relevance
    from pipeline.derived_layers.combinations import add_combination
    from pipeline.derived_layers.concepts import add_concepts
    from pipeline.models import Model, load_model
    from pipeline.synthesis.api import Visualization, visualize

__all__ = [
    "Model",
    "Visualization",
    "add_combination",
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
    "add_combination": "pipeline.derived_layers.combinations",
    "add_concepts": "pipeline.derived_layers.concepts",
    "relevance": "pipeline.attribution.relevance",
    "sort_matching": "pipeline.alignment.losses",
    "sorted_target": "pipeline.alignment.losses",
    "Visualization": "pipeline.synthesis.optimize",
    "visualize": "pipeline.synthesis.api",
}


def __getattr__(name: str) -> Any:
    if name in _HOME_OF:
        return getattr(importlib.import_module(_HOME_OF[name]), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted(__all__)
