"""Synthesis: parameterizations, objectives and the optimization of many neurons' images together."""

from pipeline.synthesis.optimize import Visualization, synthesize
from pipeline.synthesis.visualize import visualize

__all__ = ["Visualization", "synthesize", "visualize"]
