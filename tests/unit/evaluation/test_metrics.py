"""Metrics of a visualization: rank of its class, activation of its unit as published."""

import numpy as np
import pytest
import torch
from PIL import Image

from pipeline.evaluation.metrics.accuracy import class_rank
from pipeline.evaluation.metrics.activation import measure, visualization_inputs
from pipeline.models import Model
from tests.support.tiny_networks import tiny_model


@pytest.fixture(scope="module")
def model() -> Model:
    return tiny_model()


def visualization(seed: int, size_px: int = 32) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (size_px, size_px, 3), dtype=np.uint8)


def test_rank_counts_the_classes_ahead() -> None:
    logits = np.array([0.1, 3.0, 2.0, -1.0])
    assert [class_rank(logits, index) for index in range(4)] == [2, 0, 1, 3]


def test_a_tie_counts_against_the_class() -> None:
    assert class_rank(np.array([1.0, 1.0, 0.0]), 0) == 1
    assert class_rank(np.zeros(5), 3) == 4  # a constant network predicts nothing


@pytest.mark.parametrize("reduction", ["max", "mean"])
def test_each_visualization_is_measured_on_its_own_unit(model: Model, reduction: str) -> None:
    visualizations, units = [visualization(0), visualization(1), visualization(2)], [3, 0, 7]
    activation, logits = measure(model, visualizations, "stage2", units, reduction=reduction)
    for row, (shown, unit) in enumerate(zip(visualizations, units, strict=True)):
        with model.capture(["stage2"]) as features, torch.no_grad():
            expected_logits = model.module(model.preprocessing.to_tensor(shown)[None])
        own = features["stage2"][0, unit]
        expected = own.max() if reduction == "max" else own.mean()
        assert activation[row] == pytest.approx(float(expected), rel=1e-5)
        np.testing.assert_allclose(logits[row], expected_logits[0], rtol=1e-4, atol=1e-6)


def test_a_class_is_measured_by_its_logit(model: Model) -> None:
    activation, logits = measure(model, [visualization(0), visualization(1)], "fc", [4, 2])
    assert activation.tolist() == [logits[0, 4], logits[1, 2]]


def test_a_visualization_of_another_size_is_resized_whole(model: Model) -> None:
    large = visualization(0, size_px=64)
    (shown,) = visualization_inputs(model, [large])
    resized = Image.fromarray(large).resize((32, 32), Image.Resampling.BICUBIC)
    assert torch.equal(shown, model.preprocessing.to_tensor(resized))
