"""Layers that we add to a network: concept directions and combinations of units."""
