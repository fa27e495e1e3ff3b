"""Held-out models that score visualizations."""
