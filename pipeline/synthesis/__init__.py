"""Synthesis: parameterizations, objectives and the optimization of many neurons' images together."""

from pipeline.synthesis.api import visualize
from pipeline.synthesis.optimize import Visualization, synthesize

__all__ = ["Visualization", "synthesize", "visualize"]
