"""Evaluators: held-out models that score visualizations."""
