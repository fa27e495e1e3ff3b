"""Layers derived from those of a network: concept directions and combinations of units."""
