"""Models: load by name, preprocess, list layers, capture features."""

from pipeline.models.capture import UnsupportedOutputError, capture, features_of, own_maps, unit_activation
from pipeline.models.feature_layers import FeatureLayer
from pipeline.models.load import load_model
from pipeline.models.model import Model
from pipeline.models.precision import Precision
from pipeline.models.preprocessing import Preprocessing
from pipeline.models.tokens import TokenGrid

__all__ = [
    "FeatureLayer",
    "Model",
    "Precision",
    "Preprocessing",
    "TokenGrid",
    "UnsupportedOutputError",
    "capture",
    "features_of",
    "load_model",
    "own_maps",
    "unit_activation",
]
