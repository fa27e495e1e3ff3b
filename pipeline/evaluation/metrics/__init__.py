"""Metrics: what a visualization is worth, measured on the visualization as it is published."""
