"""The reference images of each neuron, and the targets of sorted features that are made of them."""
