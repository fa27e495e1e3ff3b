"""Relevance: which parts of the features a neuron depends on (METHOD 3).

`relevance` gives raw maps; `normalize_relevance` and `channel_importance` make weights of them.
"""

from pipeline.attribution.mode import UnsupportedOperationError
from pipeline.attribution.normalization import channel_importance, normalize_relevance
from pipeline.attribution.relevance import RULES, relevance, upstream_layers

__all__ = [
    "RULES",
    "UnsupportedOperationError",
    "channel_importance",
    "normalize_relevance",
    "relevance",
    "upstream_layers",
]
