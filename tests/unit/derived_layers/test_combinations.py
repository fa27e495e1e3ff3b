"""Combinations: the geometric mean of units as one unit, jointly or given one upstream, through the whole pipeline."""

import copy
import io
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from torch import nn

from jobs.run.resolved import resolve
from jobs.runner import run_stages
from pipeline import add_combination, add_concepts
from pipeline.atlas.validation.validate import validate
from pipeline.attribution.relevance import relevance, upstream_layers
from pipeline.derived_layers.combinations import geometric_mean
from pipeline.derived_layers.layer import derived_layers, unit_label
from pipeline.io.parquet import read_rows
from pipeline.io.root import Root
from pipeline.models import Model, Preprocessing, features_of
from pipeline.recipe.recipe import STAGES, Recipe, RecipeError
from tests.support.tiny_networks import tiny_model
from tests.support.tiny_run import dataset_image, recipe_toml, write_data

NUM_IMAGES = 16
VALUES = st.floats(0, 100, width=32, allow_subnormal=False)
STAGE1, STAGE2, STAGE3 = ("stage1", 2), ("stage2", 3), ("stage3", 4)  # [8, 8, 8], [12, 4, 4], [16, 2, 2]


def images(count: int = 3) -> torch.Tensor:
    return torch.randn(count, 3, 32, 32, generator=torch.Generator().manual_seed(0))


def model_around(module: nn.Module) -> Model:
    preprocessing = Preprocessing(
        input_size_px=32, crop_fraction=1.0, interpolation="bilinear", mean=(0.5,) * 3, std=(0.25,) * 3
    )
    return Model(name="python:x:y", module=module, preprocessing=preprocessing, labels="imagenet1k", device="cpu")


@torch.no_grad()
def features(model: Model, *layers: str, x: torch.Tensor | None = None) -> list[np.ndarray]:
    found = features_of(model.module, images() if x is None else x, layers)
    return [found[layer].double().numpy() for layer in layers]


def block_mean(maps: np.ndarray, size: int) -> np.ndarray:
    """[B, H, H] → [B, size, size]: the mean of each block of pixels."""
    block = maps.shape[1] // size
    return maps.reshape(len(maps), size, block, size, block).mean(axis=(2, 4))


def independent(model: Model, units, size: int, x: torch.Tensor | None = None) -> np.ndarray:
    """The combination's map [B, size, size] by the product and the root of its definition, in float64."""
    maps = features(model, *[layer for layer, _ in units], x=x)
    parts = [block_mean(np.maximum(m[:, unit], 0), size) for m, (_, unit) in zip(maps, units, strict=True)]
    return np.prod(parts, axis=0) ** (1 / len(units))


@given(
    st.lists(st.lists(VALUES, min_size=3, max_size=3), min_size=1, max_size=4),
    st.lists(st.lists(VALUES, min_size=3, max_size=3), max_size=2),
)
@settings(max_examples=60, deadline=None)
def test_the_geometric_mean_is_the_root_of_the_product(factors, constants):
    everything = np.array([*factors, *constants])
    found = geometric_mean(*[[torch.tensor([values]) for values in part] for part in (factors, constants)])
    expected = np.prod(everything.astype(np.float64) ** (1 / len(everything)), axis=0)
    np.testing.assert_allclose(found.numpy()[0], expected, rtol=1e-4, atol=1e-30)
    assert (found.numpy()[0][(everything == 0).any(axis=0)] == 0).all()


def test_its_gradient_is_exact_where_nothing_is_faint_and_bounded_elsewhere():
    a = torch.tensor([[4.0, 1.0, 0.05, 1e-6, 0.0]], dtype=torch.float64, requires_grad=True)
    b = torch.tensor([[1.0, 3.0, 2.0, 2.0, 2.0]], dtype=torch.float64)
    (found,) = torch.autograd.grad(geometric_mean([a], [b]).sum(), a)
    exact = 0.5 * (b / a.detach()).sqrt()
    torch.testing.assert_close(found[0, :3], exact[0, :3])  # down to a hundredth of the maximum
    assert found[0, 3:].tolist() == [0, 0]


def test_rescaling_a_unit_rescales_all_positions_alike():
    parts = [torch.rand(2, 16, dtype=torch.float64, generator=torch.Generator().manual_seed(i)) for i in range(3)]
    plain = geometric_mean(parts)
    scaled = geometric_mean([parts[0] * 1e6, parts[1], parts[2] * 1e-3])
    torch.testing.assert_close(scaled, plain * 10.0)


@pytest.mark.parametrize("units", [(STAGE1, STAGE2), (STAGE3, STAGE1), (STAGE3, STAGE2, STAGE1)])
def test_a_joint_combination_lives_on_the_coarsest_map(units):
    model = tiny_model()
    name = add_combination(model, "some", units=units)
    (found,) = features(model, name)
    size = min(model.feature_shape(layer)[1] for layer, _ in units)
    np.testing.assert_allclose(found[:, 0], independent(model, units, size), rtol=1e-4, atol=1e-6)
    assert found.max() > 0
    assert model.feature_shape(name) == (1, size, size)
    assert model.layers().index(name) == 1 + max(model.layers().index(layer) for layer, _ in units)
    assert unit_label(model, name, 0) == " and ".join(f"{layer}:{unit}" for layer, unit in units)


def test_two_units_of_one_layer_and_a_concept():
    model = tiny_model()
    concept = add_concepts(model, "some", "stage2", torch.eye(12)[[5, 3]])
    name = add_combination(model, "some", units=[("stage2", 5), ("stage2", 7), (concept, 1)])
    (found,) = features(model, name)
    expected = independent(model, [("stage2", 5), ("stage2", 7), ("stage2", 3)], 4)
    np.testing.assert_allclose(found[:, 0], expected, rtol=1e-4, atol=1e-6)
    with torch.no_grad():
        model.module(images())  # nobody watches
        assert features_of(model.module, images(), [name]).keys() == {name}


class RedAndGreen(nn.Module):
    """Unit 0 is the red of an image, unit 1 its green, both at half the resolution."""

    def __init__(self) -> None:
        super().__init__()
        self.colors = nn.Conv2d(3, 2, 2, stride=2, bias=False)
        self.fc = nn.Linear(2, 2)
        with torch.no_grad():
            self.colors.weight.zero_()
            self.colors.weight[0, 0] = self.colors.weight[1, 1] = 0.25

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.colors(x)
        maximum = x.amax(dim=(2, 3))
        x.mul_(-1)  # as networks do: what was captured must not change with it
        return self.fc(maximum)


def test_both_units_must_fire_at_one_place():
    model = model_around(RedAndGreen())
    name = add_combination(model, "yellow", units=[("colors", 0), ("colors", 1)])
    x = torch.zeros(4, 3, 32, 32)
    x[0, 0], x[1, 1], x[2, :2] = 4.0, 4.0, 1.0  # red, green, a paler yellow
    x[3, 0, :16], x[3, 1, 16:] = 4.0, 4.0  # red above green
    (found,) = features(model, name, x=x)
    np.testing.assert_allclose(found.max(axis=(1, 2, 3)), [0, 0, 1, 0], atol=1e-6)


class RunsOneLayerTwice(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.once, self.twice, self.fc = nn.Conv2d(3, 3, 1), nn.Conv2d(3, 3, 1), nn.Linear(3, 2)
        for convolution in (self.once, self.twice):  # each passes the colors on, so that both units fire
            nn.init.dirac_(convolution.weight)
            nn.init.zeros_(convolution.bias)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.twice(self.twice(self.once(x)))
        return self.fc(x.mean(dim=(2, 3)))


def test_nothing_is_left_from_one_pass_to_the_next():
    model = model_around(RunsOneLayerTwice())
    name = add_combination(model, "some", units=[("once", 0), ("twice", 0)])
    (fresh,) = features(model, name)
    with model.capture([name]), torch.no_grad():
        model.module(torch.ones(3, 3, 32, 32))  # the second run of the layer has nothing to be combined with
    (again,) = features(model, name)
    assert fresh.max() > 0
    np.testing.assert_array_equal(fresh, again)


def test_a_model_can_be_copied_after_a_pass_that_stopped_between_the_units():
    model = tiny_model()
    name = add_combination(model, "some", units=[STAGE1, STAGE3])
    assert upstream_layers(model.module, images(1), "stage2", ["stage1"])  # what it leaves is part of a graph
    twin = copy.deepcopy(model)
    np.testing.assert_array_equal(*features(model, name), *features(twin, name))


class TinyTransformer(nn.Module):
    """Patches as a map [B, 6, 4, 4], as tokens behind a class token [B, 17, 6], and mixed ones [B, 9, 6]."""

    num_prefix_tokens = 1

    def __init__(self) -> None:
        super().__init__()
        self.patches = nn.Conv2d(3, 6, 8, stride=8)
        self.block0, self.block1, self.mixed = nn.Linear(6, 6), nn.Linear(6, 6), nn.Linear(6, 6)
        self.head = nn.Linear(6, 4)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.patches(x).flatten(2).transpose(1, 2)
        x = self.block0(torch.cat([x.mean(dim=1, keepdim=True), x], dim=1))
        return self.head(self.mixed(self.block1(x)[:, :9])[:, 0])


@pytest.fixture
def transformer() -> Model:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return model_around(TinyTransformer())


def test_units_of_tokens_are_combined_token_by_token(transformer):
    name = add_combination(transformer, "some", units=[("block1", 2), ("block0", 4)])
    found, first, second = features(transformer, name, "block0", "block1")
    expected = np.sqrt(np.maximum(first[:, 4], 0) * np.maximum(second[:, 2], 0))
    np.testing.assert_allclose(found[:, 0], expected, rtol=1e-4, atol=1e-6)
    assert transformer.feature_shape(name) == (1, 17)
    assert transformer.num_prefix(name) == 1


def test_tokens_and_maps_meet_on_the_grid(transformer):
    name = add_combination(transformer, "some", units=[("block0", 4), ("patches", 1)])
    found, tokens, maps = features(transformer, name, "block0", "patches")
    laid_out = tokens[:, 4, 1:].reshape(-1, 4, 4)  # without the class token, row by row
    np.testing.assert_allclose(
        found[:, 0], np.sqrt(np.maximum(laid_out, 0) * np.maximum(maps[:, 1], 0)), rtol=1e-4, atol=1e-6
    )


def test_logits_weigh_the_mean_of_a_map(transformer):
    name = add_combination(transformer, "some", units=[("classifier", 2), ("patches", 1)])
    found, maps, logits = features(transformer, name, "patches", "head")
    expected = np.sqrt(np.maximum(maps[:, 1], 0).mean(axis=(1, 2)) * np.maximum(logits[:, 2], 0))
    np.testing.assert_allclose(found[:, 0, 0, 0], expected, rtol=1e-4, atol=1e-6)
    classes = add_combination(transformer, "classes", units=[("classifier", 2), ("classifier", 1)])
    assert transformer.feature_shape(classes) == (1,)


def test_tokens_without_a_grid_cannot_be_combined_with_maps(transformer):
    with pytest.raises(ValueError, match='the 9 tokens of layer "mixed" do not lie on a square grid') as caught:
        add_combination(transformer, "some", units=[("mixed", 4), ("patches", 1)])
    assert 'those of "patches"; choose units of layers of one kind' in str(caught.value)
    assert derived_layers(transformer.module) == {}


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({}, "expected either `units`, or `unit` and `conditioned_on`"),
        (
            {"units": [STAGE1, STAGE2], "conditioned_on": STAGE1},
            "expected either `units`, or `unit` and `conditioned_on`",
        ),
        ({"unit": STAGE2}, "expected either `units`, or `unit` and `conditioned_on`"),
        ({"units": [STAGE1]}, "expected at least two different units, got stage1:2"),
        ({"units": [STAGE1, STAGE1]}, "expected at least two different units, got stage1:2, stage1:2"),
        ({"units": [STAGE1, ("stage9", 0)]}, 'no layer "stage9" (did you mean "stage'),
        ({"units": [STAGE1, ("stage2", 12)]}, 'layer "stage2" has units 0 to 11, got 12'),
        (
            {"unit": STAGE1, "conditioned_on": STAGE2},
            'layer "stage1" is not computed from layer "stage2"; expected as `conditioned_on`',
        ),
        ({"unit": STAGE1, "conditioned_on": ("stage1", 0)}, 'layer "stage1" is not computed from layer "stage1"'),
        (
            {"unit": STAGE3, "conditioned_on": ("concepts.c", 0)},
            '"concepts.c", which lies beside the network; expected',
        ),
    ],
)
def test_mistakes_name_the_value_and_what_was_expected(arguments, message):
    model = tiny_model()
    add_concepts(model, "c", "stage1", torch.ones(8))
    with pytest.raises(ValueError, match=r"combinations.some|stage9") as caught:
        add_combination(model, "some", **arguments)
    assert message in str(caught.value)
    assert list(derived_layers(model.module)) == ["concepts.c"]


def test_a_conditional_combination_takes_its_condition_for_a_constant():
    model = tiny_model()
    name = add_combination(model, "some", unit=STAGE2, conditioned_on=STAGE1)
    assert unit_label(model, name, 0) == "stage2:3 given stage1:2"
    model.module.double()
    x = images().double().requires_grad_()
    (found,) = features(model, name, x=x)
    np.testing.assert_allclose(found[:, 0], independent(model, [STAGE2, STAGE1], 4, x=x), rtol=1e-6, atol=1e-12)
    maps = features_of(model.module, x, ["stage1", "stage2"])
    upstream = nn.functional.avg_pool2d(maps["stage1"][:, 2].clamp(min=0), 2).detach()
    downstream = maps["stage2"][:, 3].clamp(min=0)
    strong = downstream > 0.02 * downstream.amax(dim=(1, 2), keepdim=True)
    (expected,) = torch.autograd.grad(((downstream * upstream).sqrt() * strong)[strong].sum(), x)
    (gradient,) = torch.autograd.grad((features_of(model.module, x, [name])[name][:, 0])[strong].sum(), x)
    assert expected.abs().max() > 0
    torch.testing.assert_close(gradient, expected)


def test_relevance_is_shared_evenly_among_the_units():
    model = tiny_model()
    name = add_combination(model, "some", units=[STAGE3, STAGE2])
    model.module.double()
    x = images().double()
    with torch.no_grad():
        value = features_of(model.module, x, [name])[name]
    assert (value.flatten(1).amax(dim=1) > 0).all()
    found = relevance(model.module, x, layer=name, units=[0, 0, 0], feature_layers=["stage3", "stage2"])
    half = value[:, 0] / 2
    others = found["stage3"].clone()
    others[:, 4] = 0
    assert not others.any()
    torch.testing.assert_close(found["stage3"][:, 4], half)
    # What enters stage 3 comes out of stage 2, where the other half arrives too, on the unit's own channel.
    below = relevance(model.module, x, layer="stage3", units=[4, 4, 4], feature_layers=["stage2"])["stage2"]
    assert (found["stage2"][:, 3] > 0).any()
    torch.testing.assert_close(found["stage2"].sum(dim=(1, 2, 3)), value.sum(dim=(1, 2, 3)), rtol=1e-3, atol=0)
    assert not torch.allclose(found["stage2"], below)


def test_conditional_relevance_passes_through_its_condition_alone():
    model = tiny_model()
    name = add_combination(model, "some", unit=STAGE3, conditioned_on=STAGE1)
    plain = relevance(model.module, images(), layer="stage3", units=[4, 4, 4], feature_layers=["stage2", "stage1"])
    layers = ["stage2", "stage1", "stem"]
    found = relevance(model.module, images(), layer=name, units=[0, 0, 0], feature_layers=layers)
    assert (plain["stage1"].abs().sum(dim=(0, 2, 3)) > 0).sum() > 1
    carrying = found["stage1"].abs().sum(dim=(0, 2, 3)) > 0
    assert carrying.nonzero().flatten().tolist() == [STAGE1[1]]
    assert (found["stage2"].abs().sum(dim=(0, 2, 3)) > 0).sum() > 1
    assert found["stem"].abs().sum() > 0


# --- recipes and whole runs ---

COMBINATIONS = """
[[combinations]]
name = "joint"
units = ["stage2:3", "stage1:2"]
[[combinations]]
name = "conditional"
unit = "stage3:4"
conditioned_on = "stage1:2"
"""


@pytest.fixture(scope="module")
def shards(tmp_path_factory) -> str:
    return write_data(tmp_path_factory.mktemp("combinations"), num_shards=2, per_shard=NUM_IMAGES // 2)


def combination_recipe(shards: str, out: Path, combinations: str = COMBINATIONS) -> Recipe:
    text = recipe_toml(shards, out).replace('layer = "stage2"\nunits = "0:3"', 'layer = "combinations.*"')
    return Recipe.from_toml(
        text.replace('layer = "classifier"\nunits = "all"', 'layer = "classifier"\nunits = [0]') + combinations
    )


@pytest.fixture(scope="module")
def atlas(shards, tmp_path_factory) -> Path:
    out = tmp_path_factory.mktemp("atlas") / "out"
    run_stages(combination_recipe(shards, out), STAGES, address="inline", echo=lambda _: None)
    return out


@pytest.mark.parametrize(
    ("name", "units", "size", "label"),
    [
        ("joint", [STAGE2, STAGE1], 4, "stage2:3 and stage1:2"),
        ("conditional", [STAGE3, STAGE1], 2, "stage3:4 given stage1:2"),
    ],
)
def test_references_are_the_images_where_all_units_fire(atlas, shards, name, units, size, label):
    assert validate(str(atlas)) == []
    (row,) = read_rows(Root.open(atlas), f"layers/combinations.{name}.parquet")
    model = resolve(combination_recipe(shards, atlas)).model
    dataset_images = [Image.open(io.BytesIO(dataset_image(seed))) for seed in range(NUM_IMAGES)]
    x = torch.stack([model.preprocess(dataset_image.convert("RGB")) for dataset_image in dataset_images])
    activation = independent(model, units, size, x=x).reshape(NUM_IMAGES, -1).max(axis=1)
    best = np.argsort(-activation, kind="stable")[:4]
    assert (activation[best] > 0).all()
    assert row["reference_keys"] == [f"photo{seed:03d}" for seed in best]
    np.testing.assert_allclose(row["reference_activations"], activation[best], rtol=1e-4)
    assert row["label"] == label
    assert row["relevance"] == "lrp"
    assert row["status"] in ("ok", "weak")
    assert (atlas / row["image_path"]).is_file()


def test_a_combination_enters_the_fingerprints(shards, tmp_path):
    recipe = combination_recipe(shards, tmp_path)
    other = combination_recipe(shards, tmp_path, COMBINATIONS.replace("stage2:3", "stage2:4"))
    assert Recipe.from_toml(recipe.to_toml()) == recipe
    assert recipe.fingerprint("collect") != other.fingerprint("collect")
    assert other.stage_keys("collect")["combinations.joint"] == {"units": ["stage2:4", "stage1:2"]}


@pytest.mark.parametrize(
    ("combinations", "message"),
    [
        (
            'units = ["stage2:3"]',
            'combinations "x": expected either `units`, at least two, or `unit` and `conditioned_on`',
        ),
        ('unit = "stage2:3"', 'combinations "x": expected either'),
        ('units = ["stage2", "stage1:2"]', 'combinations.units = .*"LAYER:UNIT" such as "blocks.4:14"'),
        ('unit = "stage1:2"\nconditioned_on = "stage2:3"', 'layer "stage1" is not computed from layer "stage2"'),
        ('units = ["stage2:3", "stage2:99"]', 'combinations.x: layer "stage2" has units 0 to 11, got 99'),
    ],
)
def test_mistakes_in_a_recipe_are_found_before_work_starts(shards, tmp_path, combinations, message):
    with pytest.raises(RecipeError, match=message):
        resolve(combination_recipe(shards, tmp_path, f'[[combinations]]\nname = "x"\n{combinations}\n'))
