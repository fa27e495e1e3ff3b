"""Weights: reading checkpoint files, finding a network's tensors in them by its names, loading and hashing."""
