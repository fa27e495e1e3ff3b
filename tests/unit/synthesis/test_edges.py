"""Edges: the differences of a visualization's pixels, against explicit loops, and what aligning them changes."""

import dataclasses

import numpy as np
import pytest
import torch

from pipeline.alignment.losses import INPUT_EDGES, NeuronTarget, sort_matching
from pipeline.models import FeatureLayer
from pipeline.synthesis.methods.edges import edges
from pipeline.synthesis.methods.presets import preset
from pipeline.synthesis.methods.vital_target import plan_alignment, reference_target
from pipeline.synthesis.optimize import synthesize
from tests.support.tiny_networks import tiny_model


@pytest.mark.parametrize("size_px", [1, 2, 4])
def test_edges_are_the_differences_of_means_of_blocks(size_px: int) -> None:
    image = np.random.default_rng(0).normal(size=(3, 16, 16))
    red, green, blue = image
    axes = [(red + green + blue) / 3, (red - blue) / 2, (2 * green - red - blue) / 4]

    def mean(plane: np.ndarray, row: int, column: int) -> float:
        top, left = row * size_px, column * size_px
        return plane[top : top + size_px, left : left + size_px].mean()

    # From where to where, in blocks, and the blocks that have all their neighbors.
    directions = [((0, 0), (0, 1)), ((0, 0), (1, 0)), ((0, 0), (1, 1)), ((1, 0), (0, 1))]
    places = range(0, 16 // size_px - 1, 2 if size_px == 1 else 1)
    expected = [
        [[mean(plane, r + b[0], c + b[1]) - mean(plane, r + a[0], c + a[1]) for c in places] for r in places]
        for a, b in directions
        for plane in axes
    ]
    np.testing.assert_allclose(edges(torch.from_numpy(image)[None], size_px)[0].numpy(), expected, atol=1e-6)


@pytest.mark.parametrize("num_channels", [1, 2, 3, 4])
def test_every_channel_has_edges_and_a_plain_visualization_none(num_channels: int) -> None:
    plain = torch.rand(1, num_channels, 1, 1).expand(1, num_channels, 12, 12)
    for channel in range(num_channels):
        image = plain.clone()
        assert edges(image, 2).shape == (1, 4 * num_channels, 5, 5)
        assert edges(image, 2).abs().max() < 1e-6
        image[:, channel, 6:] += 1
        assert edges(image, 2).abs().max() > 0.2


def test_alignment_brings_the_edges_of_the_references() -> None:
    model = tiny_model()
    # Plain ground with a few borders.
    references = torch.full((3, 3, 32, 32), -1.0)
    for index, reference in enumerate(references):
        reference[:, 8 + index : 16 + index, 4:20] = 1.0
    quick = preset("best", steps=40, warmup_steps=2, jitter_px=2, grid=1)

    def target_with(weight: float) -> NeuronTarget:
        options = dataclasses.replace(quick, edge_weight=weight)
        plan = plan_alignment(model, "fc", options, feature_layers=[FeatureLayer(layer="stem")])
        return reference_target(model, plan, 0, references)

    requested = target_with(1.0).layers
    assert {key: requested[key].quantile.shape[0] for key in INPUT_EDGES} == dict.fromkeys(INPUT_EDGES, 12)
    assert not INPUT_EDGES.keys() & target_with(0.0).layers.keys()

    def distance(weight: float) -> float:
        """Of the visualization's finest differences from the references'."""
        options = dataclasses.replace(quick, edge_weight=weight)
        (made,) = synthesize(model, [("fc", 0)], [target_with(weight)], options=options, image_size_px=32, seeds=[0])
        shown = edges(model.preprocessing.to_tensor(made.image)[None], 1)
        return float(sort_matching(shown.flatten(2), requested["input-edges-1"].quantile))

    assert distance(1.0) < 0.3 * distance(0.0)
