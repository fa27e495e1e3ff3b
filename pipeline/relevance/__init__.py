"""Relevance: which parts of the features a neuron depends on (METHOD 3).

`relevance` gives raw maps; `normalize_relevance` and `channel_importance` make weights of them.
"""

from pipeline.relevance.attribution import RULES, relevance, upstream_layers
from pipeline.relevance.mode import UnsupportedOperationError
from pipeline.relevance.normalization import channel_importance, normalize_relevance

__all__ = [
    "RULES",
    "UnsupportedOperationError",
    "channel_importance",
    "normalize_relevance",
    "relevance",
    "upstream_layers",
]
