"""Tokens: which of them lie on the image, where, and that only these count as activation."""

import io

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor, nn

from pipeline.activations.collect import collect
from pipeline.data.shards import ErrorBudget, Sample
from pipeline.evaluation.metrics.activation import measure
from pipeline.models import Model, Preprocessing, load_model
from pipeline.models.capture import unit_activation

SMALL = {"depth": 1, "embed_dim": 24, "num_heads": 3}
GRID = 4
CLASS_TOKEN = 1000.0


class OnePatch(nn.Module):
    """Tokens that are the mean colors of 4 × 4 patches, row by row, behind a prefix of large constants."""

    def __init__(self, num_prefix: int) -> None:
        super().__init__()
        self.patches = nn.Conv2d(3, 3, 2, stride=2, bias=False)
        self.patches.weight.data = torch.eye(3)[..., None, None].repeat(1, 1, 2, 2) / 4
        self.block = nn.Identity()
        self.num_prefix = num_prefix
        self.head = nn.Linear(3, 5)

    def forward(self, x: Tensor) -> Tensor:
        tokens = self.patches(x).flatten(2).transpose(1, 2)
        prefix = tokens.new_full((len(x), self.num_prefix, 3), CLASS_TOKEN)
        return self.head(self.block(torch.cat([prefix, tokens], dim=1)).mean(dim=1))


def small_mixer() -> nn.Module:
    from timm.models.mlp_mixer import MlpMixer

    module = MlpMixer(img_size=48, patch_size=16, num_blocks=1, embed_dim=40)
    module.input_size_px = 48
    return module


def one_patch_model(num_prefix: int) -> Model:
    preprocessing = Preprocessing(
        input_size_px=2 * GRID, crop_fraction=1.0, interpolation="nearest", mean=(0.0,) * 3, std=(1.0,) * 3
    )
    return Model(
        name="python:own:net", module=OnePatch(num_prefix), preprocessing=preprocessing, labels="", device="cpu"
    )


def image_with_patch(y: int, x: int, unit: int) -> np.ndarray:
    pixels = np.full((2 * GRID, 2 * GRID, 3), 60, np.uint8)
    pixels[2 * y : 2 * y + 2, 2 * x : 2 * x + 2, unit] = 255
    return pixels


@pytest.mark.parametrize(
    ("name", "size_px", "grid"),
    [
        ("timm:vit_tiny_patch16_224", 64, (1, 4, 4)),
        ("timm:deit_tiny_distilled_patch16_224", 48, (2, 3, 3)),
        ("timm:vit_small_patch14_reg4_dinov2", 56, (5, 4, 4)),
        ("timm:vit_base_patch16_siglip_224", 48, (0, 3, 3)),
    ],
)
def test_the_grid_of_timm_s_transformers(name: str, size_px: int, grid: tuple[int, int, int]) -> None:
    model = load_model(name, "random", input_size_px=size_px, options=SMALL)
    for layer in ("blocks.0", "blocks.0.mlp.fc1", "blocks.0.attn.heads"):
        assert model.token_grid(layer) == grid
        assert model.feature_shape(layer)[1] == grid[0] + grid[1] * grid[2]
        assert model.map_shape(layer) == grid[1:]
    assert model.map_shape("patch_embed.proj") == grid[1:]
    assert model.token_grid("patch_embed.proj") is None


def test_tokens_that_are_no_places_have_no_grid() -> None:
    siglip = load_model("timm:vit_base_patch16_siglip_224", "random", input_size_px=48, options=SMALL)
    assert siglip.feature_shape("attn_pool.heads") == (24, 1)  # the one latent query
    assert siglip.map_shape("attn_pool.heads") is None
    mixer = load_model(f"python:{__name__}:small_mixer")
    assert mixer.token_grid("blocks.0") == (0, 3, 3)
    assert mixer.token_grid("blocks.0.mlp_tokens.fc2") is None  # its units are tokens, its positions channels
    assert mixer.num_prefix("blocks.0.mlp_tokens.fc2") == 0


def test_the_grid_at_another_input_size() -> None:
    model = load_model(
        "timm:vit_tiny_patch16_224", "random", input_size_px=64, options=SMALL | {"dynamic_img_size": True}
    )
    assert model.token_grid("blocks.0", 96) == (1, 6, 6)
    assert model.map_shape("patch_embed.proj", 96) == (6, 6)
    assert model.token_grid("blocks.0") == (1, 4, 4)


@pytest.mark.parametrize("num_prefix", [0, 1, 5, 16])
def test_a_network_that_says_nothing_of_its_tokens_is_measured(num_prefix: int) -> None:
    model = one_patch_model(num_prefix)
    assert model.token_grid("block") == (num_prefix, GRID, GRID)
    assert model.num_prefix("head") == 0


def test_seventeen_tokens_too_many_are_no_prefix() -> None:
    assert one_patch_model(17).token_grid("block") is None


def test_prefix_tokens_are_no_activation() -> None:
    tokens = torch.tensor([[[9.0, 1.0, 3.0, 2.0]], [[9.0, 4.0, 0.0, 5.0]]])  # [B, C, T]
    assert unit_activation(tokens, [0, 0], num_prefix=1).tolist() == [3.0, 5.0]
    assert unit_activation(tokens, [0, 0], "mean", num_prefix=1).tolist() == [2.0, 3.0]
    model = one_patch_model(2)
    images = torch.rand(3, 3, 2 * GRID, 2 * GRID)
    with model.capture(["block"]) as features:
        model.module(images)
    expected = nn.functional.avg_pool2d(images, 2)[torch.arange(3), [0, 1, 2]].amax(dim=(1, 2))
    torch.testing.assert_close(model.activation(features["block"], "block", [0, 1, 2]), expected)


def test_a_collect_keeps_the_place_of_the_patch() -> None:
    model = one_patch_model(1)
    places = [(0, 3), (2, 1), (3, 0)]
    samples = []
    for index, (y, x) in enumerate(places):
        buffer = io.BytesIO()
        Image.fromarray(image_with_patch(y, x, unit=index)).save(buffer, "PNG")
        samples.append(
            Sample(
                key=f"{index}", image=buffer.getvalue(), label=None, tar_shard="a.tar", offset=0, size=1, index=index
            )
        )
    found = collect(
        model, samples, shard_index=0, layers=["block"], top_k=1, batch_size=2, budget=ErrorBudget(0.0)
    ).layers["block"]
    assert found.topk.position[:, 0].tolist() == [list(place) for place in places]
    assert found.topk.activation[:, 0].tolist() == [1.0, 1.0, 1.0]
    # 16 patches of each of 3 images, and not the class token
    assert found.moments.count == 3 * GRID * GRID
    assert found.moments.maximum.tolist() == [1.0, 1.0, 1.0]
    one_image_mean = (60 * 47 + 255) / 48 / 255
    np.testing.assert_allclose(found.moments.mean, one_image_mean, rtol=1e-6)


def test_the_activation_of_an_image_is_that_of_its_patches() -> None:
    activation, logits = measure(one_patch_model(1), [image_with_patch(1, 2, unit=1)], "block", [1])
    assert activation.tolist() == [1.0]
    assert logits.shape == (1, 5)
