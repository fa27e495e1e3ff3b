"""Neuron Atlas: generate, measure and browse atlases of every neuron of a vision model.

The names below are the notebook interface. They are imported at first use, so that `import pipeline` stays light.
"""

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


def _interface() -> dict[str, Any]:
    from pipeline.alignment.losses import sort_matching, sorted_target
    from pipeline.attribution.relevance import relevance
    from pipeline.derived_layers.combinations import add_combination
    from pipeline.derived_layers.concepts import add_concepts
    from pipeline.models import Model, load_model
    from pipeline.synthesis.api import Visualization, visualize

    return {
        item.__name__: item
        for item in (
            Model, Visualization, add_combination, add_concepts, load_model, relevance, sort_matching, sorted_target,
            visualize,
        )
    }  # fmt: skip


def __getattr__(name: str) -> Any:
    if name in __all__:
        return _interface()[name]
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted(__all__)
