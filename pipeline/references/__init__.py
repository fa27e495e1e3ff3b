"""Targets: the reference images of each neuron, and the sorted features made of them."""
