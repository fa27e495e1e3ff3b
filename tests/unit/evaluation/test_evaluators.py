"""Evaluators: their inputs, and which features are their embedding."""

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor, nn

from pipeline.evaluation.evaluators.load import load_evaluator
from pipeline.evaluation.evaluators.network import model_evaluator
from pipeline.models import Model, Preprocessing, load_model
from pipeline.neurons import evaluator_slug
from tests.support.tiny_networks import tiny_model

TINY = "python:tests.support.tiny_networks:TinyResidualNet"


def visualization(seed: int, height: int = 32, width: int = 32) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)


def as_model(module: nn.Module, size_px: int = 64) -> Model:
    return Model(
        name="python:tests:module",
        module=module,
        preprocessing=Preprocessing(
            input_size_px=size_px, crop_fraction=0.5, interpolation="bilinear", mean=(0.5,) * 3, std=(0.25,) * 3
        ),
        labels="imagenet1k",
        device="cpu",
    )


@pytest.mark.parametrize(
    ("name", "slug"),
    [
        ("torchvision:squeezenet1_1", "torchvision_squeezenet1_1"),
        ("open_clip:ViT-B-32", "open_clip_vit_b_32"),
        ("python:my.models:Net!", "python_my_models_net"),
    ],
)
def test_the_slug_is_fit_for_a_column(name: str, slug: str) -> None:
    assert evaluator_slug(name) == slug


def test_the_embedding_is_the_input_of_the_classifier() -> None:
    model = tiny_model()
    evaluator, visualizations = model_evaluator(model), [visualization(0), visualization(1), visualization(2)]
    prediction = evaluator.predict(visualizations)
    inputs = torch.stack([model.preprocessing.to_tensor(shown) for shown in visualizations])
    with model.capture(["stage3"]) as features:
        logits = model.module(inputs)
    np.testing.assert_allclose(prediction.embedding, features["stage3"].mean(dim=(2, 3)), rtol=1e-5, atol=1e-7)
    assert prediction.logits is not None
    np.testing.assert_allclose(prediction.logits, logits, rtol=1e-5, atol=1e-6)
    assert (prediction.embedding.dtype, prediction.logits.dtype) == (np.float32, np.float32)
    assert (evaluator.name, evaluator.slug, evaluator.num_classes) == (
        TINY,
        "python_tests_support_tiny_networks_tinyresidualnet",
        5,
    )


def test_dataset_images_are_cropped_and_visualizations_resized_whole() -> None:
    """Only the middle half of a dataset image is used with this crop fraction; all of a visualization is."""
    model = as_model(TinyConvHead())
    tall = visualization(0, height=96, width=48)
    evaluator = model_evaluator(model)
    as_dataset_image, as_visualization = evaluator.predict([Image.fromarray(tall), tall]).embedding
    cropped = model.module.features(model.preprocess(Image.fromarray(tall))[None]).mean(dim=(2, 3))
    whole = Image.fromarray(tall).resize((64, 64), Image.Resampling.BICUBIC)
    uncropped = model.module.features(model.preprocessing.to_tensor(whole)[None]).mean(dim=(2, 3))
    np.testing.assert_allclose(as_dataset_image, cropped[0], rtol=1e-5, atol=1e-7)
    np.testing.assert_allclose(as_visualization, uncropped[0], rtol=1e-5, atol=1e-7)
    assert not np.allclose(as_dataset_image, as_visualization, rtol=1e-3)


class TinyConvHead(nn.Module):
    """Ends as SqueezeNet does: a 1 × 1 convolution, ReLU in place, and pooling to the logits."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.stem, self.body = nn.Conv2d(3, 4, 3, stride=4), nn.Conv2d(4, 6, 3, stride=2)
        self.head = nn.Sequential(nn.Dropout(), nn.Conv2d(6, 5, 1), nn.ReLU(inplace=True), nn.AdaptiveAvgPool2d(1))

    def features(self, x: Tensor) -> Tensor:
        return torch.relu(self.body(torch.relu(self.stem(x))))

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.features(x)).flatten(1)


def test_of_a_convolutional_head_it_is_the_maps_before_averaged() -> None:
    model = as_model(TinyConvHead())
    assert model.classifier_layer == "head.3"  # the pooling, which has no weights
    prediction = model_evaluator(model).predict([visualization(0, 64, 64)])
    inputs = model.preprocessing.to_tensor(visualization(0, 64, 64))[None]
    assert prediction.embedding.shape == (1, 6)
    np.testing.assert_allclose(prediction.embedding, model.module.features(inputs).mean(dim=(2, 3)), rtol=1e-5)
    np.testing.assert_allclose(prediction.logits, model.module(inputs), rtol=1e-5)


class TinyTokens(nn.Module):
    """A backbone of tokens: a class token and four patches, two blocks, no classifier."""

    num_prefix_tokens = 1

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.stem = nn.Conv2d(3, 6, 32, stride=32)
        self.cls_token = nn.Parameter(9 * torch.ones(1, 1, 6))
        self.blocks = nn.Sequential(nn.Linear(6, 6), nn.Linear(6, 6))

    def forward(self, x: Tensor) -> Tensor:
        patches = self.stem(x).flatten(2).transpose(1, 2)
        return self.blocks(torch.cat([self.cls_token.expand(len(x), -1, -1), patches], dim=1))


def test_of_a_backbone_it_is_the_last_layer_averaged_over_the_image() -> None:
    """Without the class token, which lies nowhere on the image."""
    model = as_model(TinyTokens())
    evaluator = model_evaluator(model)
    prediction = evaluator.predict([visualization(0, 64, 64), visualization(1, 64, 64)])
    assert (evaluator.num_classes, prediction.logits) == (None, None)
    inputs = torch.stack([model.preprocessing.to_tensor(visualization(seed, 64, 64)) for seed in (0, 1)])
    tokens = model.module(inputs)
    assert model.num_prefix("blocks.1") == 1
    np.testing.assert_allclose(prediction.embedding, tokens[:, 1:].mean(dim=1), rtol=1e-5)


@pytest.mark.parametrize(
    ("name", "head"),
    [
        ("timm:vit_tiny_patch16_224", "head"),
        ("timm:convnext_atto", "head.fc"),
        ("torchvision:squeezenet1_1", "classifier.1"),
    ],
)
def test_embeddings_of_libraries_networks_enter_their_last_weights(name: str, head: str) -> None:
    """Of tokens the class token or their pool, of ConvNeXt the normalized pool, of SqueezeNet the last maps."""
    evaluator = load_evaluator(name, "random")
    prediction = evaluator.predict([visualization(0, 224, 224)])
    layer = evaluator.model.module.get_submodule(head)  # type: ignore[attr-defined]
    assert prediction.logits is not None
    if head == "classifier.1":
        assert prediction.embedding.shape == (1, 512)
        return
    applied = prediction.embedding @ layer.weight.numpy().T + layer.bias.numpy()
    np.testing.assert_allclose(applied, prediction.logits, rtol=1e-4, atol=1e-5)


def test_a_prediction_does_not_depend_on_the_batch() -> None:
    evaluator = load_evaluator(TINY, "random")
    visualizations = [visualization(seed) for seed in range(3)]
    together, alone = evaluator.predict(visualizations), evaluator.predict(visualizations[1:2])
    np.testing.assert_allclose(together.embedding[1:2], alone.embedding, rtol=1e-5, atol=1e-7)


def test_a_network_is_left_as_it_was() -> None:
    model = tiny_model()
    evaluator = model_evaluator(model)
    evaluator.predict([visualization(0)])
    assert not model.module.fc._forward_pre_hooks
    assert not model.module.fc._forward_hooks


def test_weights_of_a_file_are_taken(tmp_path: Path) -> None:
    torch.save(tiny_model(seed=3).module.state_dict(), tmp_path / "weights.pth")
    shown = [visualization(0, 224, 224)]
    loaded = load_evaluator(TINY, str(tmp_path / "weights.pth")).predict(shown)
    model = load_model(TINY, "random")
    model.module.load_state_dict(tiny_model(seed=3).module.state_dict())
    np.testing.assert_array_equal(loaded.embedding, model_evaluator(model).predict(shown).embedding)
    assert not np.allclose(loaded.embedding, load_evaluator(TINY, "random").predict(shown).embedding)


@pytest.mark.parametrize(
    ("name", "weights", "message"),
    [
        ("squeezenet1_1", "random", r'evaluator "squeezenet1_1": expected timm:NAME, .* or open_clip:NAME'),
        ("open_clip:", "random", "expected timm:NAME"),
        ("clip:ViT-B-32", "random", "expected timm:NAME"),
        ("timm:resnet19", "random", r'evaluator "timm:resnet19": .*no such model'),
        (TINY, "/nowhere/weights.pth", r"evaluator .*there is no such file"),
    ],
)
def test_an_unknown_evaluator_is_named(name: str, weights: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        load_evaluator(name, weights)


def test_evaluators_come_without_open_clip() -> None:
    """It takes seconds to import, and not every run needs it."""
    modules = "pipeline.evaluation.evaluators.load, pipeline.evaluation.metrics.fid_kid"
    code = f"import sys, {modules}; print('open_clip' in sys.modules)"
    printed = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert printed.stdout.strip() == "False"
