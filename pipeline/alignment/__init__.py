"""Distances between feature distributions: sort matching, KL divergence, moments."""
