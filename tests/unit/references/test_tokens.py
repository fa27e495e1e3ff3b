"""References of token layers: patches lie where the tokens do, and class and register tokens count nowhere."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

from pipeline.activations.store import StatisticsStore
from pipeline.models import FeatureLayer, Model, Preprocessing
from pipeline.references.facets import channel_vectors
from pipeline.references.selection import References, gather_references, measure_references
from pipeline.synthesis.methods.presets import preset
from pipeline.synthesis.methods.vital import AlignmentObjective
from pipeline.synthesis.methods.vital_target import plan_alignment, reference_target
from pipeline.synthesis.step import losses_of
from tests.support.tiny_targets import random_images, targets_recipe, tiny_reader, write_tiny_store

SIDE, PREFIX, CHANNELS, SIZE_PX = 4, 3, 6, 32


class TinyTransformer(nn.Module):
    """16 patches of 8 px and three prefix tokens that are far more active than any patch; 5 classes."""

    num_prefix_tokens = PREFIX

    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Conv2d(3, CHANNELS, SIZE_PX // SIDE, stride=SIZE_PX // SIDE)
        self.prefix = nn.Parameter(torch.full((1, PREFIX, CHANNELS), 100.0))
        self.stage2 = nn.Linear(CHANNELS, CHANNELS)
        self.stage3 = nn.Linear(CHANNELS, CHANNELS)
        self.fc = nn.Linear(CHANNELS, 5)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        patches = self.embed(x).flatten(2).transpose(1, 2)
        tokens = torch.cat([self.prefix.expand(len(x), -1, -1), patches], dim=1)
        return self.fc(self.stage3(torch.relu(self.stage2(tokens)))[:, PREFIX:].mean(dim=1))


@pytest.fixture(scope="module")
def model() -> Model:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(1)
        module = TinyTransformer()
    preprocessing = Preprocessing(
        input_size_px=SIZE_PX, crop_fraction=0.875, interpolation="bilinear", mean=(0.5,) * 3, std=(0.25,) * 3
    )
    return Model(name="python:tiny", module=module, preprocessing=preprocessing, labels="", device="cpu")


@pytest.fixture(scope="module")
def statistics(tmp_path_factory: pytest.TempPathFactory, model: Model) -> StatisticsStore:
    folder: Path = tmp_path_factory.mktemp("tokens")
    return StatisticsStore.open(write_tiny_store(folder, model, random_images({"a": 6, "b": 4})))


def patch_maps(model: Model, images: torch.Tensor, unit: int) -> np.ndarray:
    """The unit's values on the grid of patches, [R, 4, 4], by slicing the tokens ourselves."""
    found: list[torch.Tensor] = []
    hook = model.module.stage2.register_forward_hook(lambda _m, _i, output: found.append(output))
    with torch.no_grad():
        model.module(images)
    hook.remove()
    return found[0][:, PREFIX:, unit].reshape(-1, SIDE, SIDE).numpy()


def test_patches_are_cut_around_the_most_active_token(model: Model, statistics: StatisticsStore) -> None:
    reader = tiny_reader(model)
    settings = targets_recipe(reference_mode="patch", patch_size_px=16, num_references=3).targets
    every_image = reader.images(statistics.top_images("stage2", 0))
    assert len(every_image) == 8  # top_k
    for unit in range(CHANNELS):
        chosen, patches = gather_references(model, statistics, reader, "stage2", unit, settings)
        candidates = statistics.top_images("stage2", unit, 6)
        maps = patch_maps(model, reader.images(candidates), unit)
        enlarged, boxes = [], []
        for top_image, values in zip(candidates, maps, strict=True):
            assert top_image.activation == pytest.approx(values.max(), rel=1e-5)
            y, x = np.unravel_index(values.argmax(), values.shape)
            left, top = (min(max((at + 0.5) * 8 - 8, 0), 16) for at in (x, y))
            boxes.append((left, top, left + 16, top + 16))
            enlarged.append(reader.crop(top_image).resize((32, 32), Image.Resampling.BICUBIC, box=boxes[-1]))
        scores = patch_maps(model, torch.stack([model.preprocessing.to_tensor(e) for e in enlarged]), unit)
        best = sorted(np.argsort(-scores.mean(axis=(1, 2)), kind="stable")[:3])
        assert [e.key for e in chosen.top_images] == [candidates[i].key for i in best]
        np.testing.assert_allclose(np.array(chosen.boxes) * SIZE_PX, [boxes[i] for i in best], atol=1e-4)
        assert torch.equal(patches[0], model.preprocessing.to_tensor(enlarged[best[0]]))


def test_named_references_are_measured_on_the_patches(model: Model, statistics: StatisticsStore) -> None:
    top_images = statistics.top_images("stage2", 1, 3)
    images = tiny_reader(model).images(top_images)
    named = References(top_images=statistics.top_images_of([e.sample for e in top_images]), source="keys", boxes=())
    measured, _ = measure_references(model, "stage2", 1, named, images, reduction="max", box_side=0.25)
    assert [e.activation for e in measured.top_images] == pytest.approx([e.activation for e in top_images], rel=1e-5)
    for (x0, y0, x1, y1), top_image in zip(measured.boxes, top_images, strict=True):
        y, x = top_image.position
        assert (x0, y0, x1, y1) == pytest.approx((x / 4, y / 4, (x + 1) / 4, (y + 1) / 4))


def test_facets_are_clustered_by_the_patches_alone(model: Model, statistics: StatisticsStore) -> None:
    images = tiny_reader(model).images(statistics.top_images("stage2", 0, 4))
    expected = np.stack([patch_maps(model, images, unit).mean(axis=(1, 2)) for unit in range(CHANNELS)], axis=1)
    np.testing.assert_allclose(channel_vectors(model, "stage2", images), expected, rtol=1e-4, atol=1e-6)


def test_the_goal_is_measured_on_the_patches(model: Model, statistics: StatisticsStore) -> None:
    with torch.no_grad():
        of_prefix = model.module.stage2(model.module.prefix)[0, 0]
    unit = int(of_prefix.argmax())
    images = tiny_reader(model).images(statistics.top_images("stage2", unit, 3))
    options = preset("published", activation_goal=2.0)
    plan = plan_alignment(model, "stage2", options, rule="none", feature_layers=[FeatureLayer(layer="stage2")])
    target = reference_target(model, plan, unit, images)
    peaks = patch_maps(model, images, unit).max(axis=(1, 2))
    assert of_prefix[unit] > 10 * peaks.max()  # it would win
    assert target.goal_activation == pytest.approx(peaks.max(), rel=1e-5)
    settings = [replace(options, activation_weight=weight) for weight in (1.0, 0.0)]
    with_goal, without = (
        losses_of(AlignmentObjective(model, "stage2", [unit], [target], setting), images[2:]) for setting in settings
    )
    goal = 2 * peaks.max()
    assert (with_goal - without).item() == pytest.approx(max(0, goal - peaks[2]) / abs(goal), rel=1e-3)
