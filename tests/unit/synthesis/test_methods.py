"""The methods beside VITAL: each equals its reference, and images are independent of their batch."""

import dataclasses
import re

import numpy as np
import pytest
import torch
from torch import nn

from pipeline.alignment.losses import NeuronTarget
from pipeline.models import Model, Preprocessing
from pipeline.synthesis.api import visualize
from pipeline.synthesis.methods.activation_maximization import ActivationObjective
from pipeline.synthesis.methods.deepinversion import InversionObjective, batch_norm_layers, statistics_distance
from pipeline.synthesis.methods.options import SynthesisOptions
from pipeline.synthesis.methods.presets import METHODS, preset
from pipeline.synthesis.methods.registry import check_method, method_named
from pipeline.synthesis.methods.vital_target import plan_alignment, reference_target
from pipeline.synthesis.optimize import Visualization, learning_rate_at, synthesize
from pipeline.synthesis.step import losses_of
from tests.support.exact_network import exact_model
from tests.support.paths import ROOT
from tests.support.tiny_networks import TinyResidualNet, tiny_model

SIZE = 32
PUBLISHED = preset("published")
OTHERS = [method for method in METHODS if method != "vital"]
SPECTRUM = torch.rand(3, SIZE, SIZE // 2 + 1, generator=torch.Generator().manual_seed(1)) + 0.1


# Float32 sums of a few thousand terms, relative to the largest value.
ROUNDING = 1e-4


@pytest.fixture(scope="module")
def model() -> Model:
    return tiny_model()


@pytest.fixture(scope="module")
def exact() -> Model:
    return exact_model()


def goals(count: int, goal: float = 2.0) -> list[NeuronTarget]:
    return [NeuronTarget(layers={}, goal_activation=goal)] * count


def run(model: Model, method: str, layer: str, units: list[int], options: SynthesisOptions) -> list[Visualization]:
    return synthesize(
        model,
        [(layer, unit) for unit in units],
        goals(len(units)),
        method=method,
        options=options,
        image_size_px=SIZE,
        seeds=[100 + unit for unit in units],
        spectrum=SPECTRUM,
    )


def dataset_images(count: int, channels: int = 3) -> torch.Tensor:
    coarse = torch.rand(count, channels, 4, 4, generator=torch.Generator().manual_seed(count))
    return torch.nn.functional.interpolate(coarse, size=(SIZE, SIZE), mode="bilinear") * 4 - 2


def test_the_viewer_knows_the_methods() -> None:
    words = (ROOT / "atlas_viewer" / "base" / "glossary.js").read_text(encoding="utf-8")
    table = words.partition("const METHOD_WORDS = {")[2].partition("\n}")[0]
    assert tuple(re.findall(r"^  (\w+): \{", table, re.MULTILINE)) == METHODS


@pytest.mark.parametrize("name", METHODS)
def test_a_method_says_where_it_is_from(name: str) -> None:
    method = method_named(name)
    assert method.name == name
    assert len(method.description) > 20
    assert re.search(r"\b(19|20)\d\d\b", method.source)
    published, fast = preset("published", name), preset("fast", name)
    assert fast.steps <= 100 < published.steps
    assert fast.steps * max(1, fast.num_crops) <= preset("fast").steps  # images shown to the model


@pytest.mark.parametrize("name", METHODS)
def test_the_best_of_each_method_has_one_budget(name: str) -> None:
    best, vital = preset("best", name), preset("best")
    assert preset("fast", name).steps < best.steps
    assert best.steps * max(1, best.num_crops) <= vital.steps
    published = preset("published").steps
    assert preset("fast").steps <= published // 8
    assert vital.steps <= published // 5


@pytest.mark.parametrize("layer", ["fc", "stage2"])
@pytest.mark.parametrize("method", OTHERS)
def test_an_image_in_a_batch_has_the_losses_and_gradients_it_has_alone(exact: Model, method: str, layer: str) -> None:
    # With images that stand still, rounding is not amplified from step to step.
    options = preset("fast", method, steps=3, learning_rate=0.0)
    first, second = run(exact, method, layer, [0, 2], options)
    (alone,) = run(exact, method, layer, [2], options)
    assert second.loss == pytest.approx(alone.loss, rel=ROUNDING)
    assert second.alpha == pytest.approx(alone.alpha, abs=ROUNDING)  # the sum of all gradients, at most 1
    assert np.abs(second.image.astype(int) - alone.image.astype(int)).max() <= 1
    assert np.abs(first.alpha - second.alpha).mean() > 0.05  # not all one visualization


@pytest.mark.parametrize("method", OTHERS)
def test_an_image_in_a_batch_moves_as_it_does_alone(exact: Model, method: str) -> None:
    options = preset("fast", method, steps=1, warmup_steps=0)
    _, moved = run(exact, method, "stage2", [0, 2], options)
    (alone,) = run(exact, method, "stage2", [2], options)
    assert np.abs(moved.image.astype(int) - alone.image.astype(int)).max() <= 1


@pytest.mark.parametrize("method", OTHERS)
def test_the_same_run_gives_the_same_bytes_with_deterministic_kernels(model: Model, method: str) -> None:
    options = preset("fast", method, steps=3)
    torch.use_deterministic_algorithms(True)
    try:
        first, second = (run(model, method, "stage2", [1, 3], options) for _ in range(2))
    finally:
        torch.use_deterministic_algorithms(False)
    for a, b in zip(first, second, strict=True):
        assert np.array_equal(a.image, b.image)
        assert np.array_equal(a.alpha, b.alpha)
        assert (a.loss, a.activation) == (b.loss, b.activation)
        assert (a.method, a.steps) == (method, 3)
        assert a.alpha.max() == 1
        assert a.image.shape == (SIZE, SIZE, 3)


@pytest.mark.parametrize(("method", "layer"), [*((method, "stage2") for method in OTHERS), ("deepinversion", "fc")])
def test_the_objective_goes_down(model: Model, method: str, layer: str) -> None:
    options = preset("fast", method, warmup_steps=0, num_crops=0, noise=0.0, jitter_px=0)
    first, last = (run(model, method, layer, [1], dataclasses.replace(options, steps=steps))[0] for steps in (1, 20))
    # Logits of a random network hardly depend on the visualization.
    assert first.loss - last.loss > (0.05 if layer == "stage2" else 0.005) * abs(first.loss)


def test_the_activation_is_a_logit_or_the_mean_of_a_map_in_units_of_the_goal(model: Model) -> None:
    images = dataset_images(2)
    with model.capture(["stage2", "fc"]) as features, torch.no_grad():
        model.module(images)
    for layer in ("stage2", "fc"):
        for targets, unit_of_loss in ((goals(2, -4.0), 4.0), ((), 1.0), (goals(2, 0.0), 1e-6)):
            objective = ActivationObjective(model, layer, [3, 1], targets, PUBLISHED)
            maps = features[layer].numpy().reshape(2, features[layer].shape[1], -1)
            expected = [-maps[0, 3].mean() / unit_of_loss, -maps[1, 1].mean() / unit_of_loss]
            assert losses_of(objective, images).tolist() == pytest.approx(expected, rel=1e-5)


def test_batch_norm_distance_equals_its_formula() -> None:
    features = torch.randn(2, 3, 4, 5, dtype=torch.float64)
    mean, variance = torch.randn(3, dtype=torch.float64), torch.rand(3, dtype=torch.float64)
    distances = statistics_distance(features, mean, variance)
    for image, distance in zip(features.numpy(), distances, strict=True):
        means, variances = np.zeros(3), np.zeros(3)
        for channel in range(3):
            values = image[channel].ravel()
            means[channel] = values.sum() / 20
            variances[channel] = ((values - means[channel]) ** 2).sum() / 20
        expected = np.sqrt(((means - mean.numpy()) ** 2).sum()) + np.sqrt(((variances - variance.numpy()) ** 2).sum())
        assert float(distance) == pytest.approx(expected)


@pytest.mark.parametrize("relative", [False, True])
def test_deep_inversion_adds_cross_entropy_and_the_distances_of_all_batch_norm_layers(
    model: Model, relative: bool
) -> None:
    images = dataset_images(2)
    options = preset("published", "deepinversion", batch_norm_weight=0.25, normalize_layers=relative)
    inputs: list[torch.Tensor] = []
    layers = [module for module in model.module.modules() if type(module) is nn.BatchNorm2d]
    handles = [layer.register_forward_hook(lambda _m, given, _o: inputs.append(given[0])) for layer in layers]
    with torch.no_grad():
        logits = model.module(images)
    for handle in handles:
        handle.remove()
    for row, unit in enumerate([3, 1]):
        expected = -float(logits[row].log_softmax(dim=0)[unit])
        for index, (layer, given) in enumerate(zip(layers, inputs, strict=True)):
            # The published code on a batch of one.
            own = given[row : row + 1]
            mean, variance = own.mean([0, 2, 3]), own.transpose(0, 1).flatten(1).var(1, unbiased=False)
            distance = float((layer.running_var - variance).norm(2) + (layer.running_mean - mean).norm(2))
            size = float(np.linalg.norm(layer.running_var) + np.linalg.norm(layer.running_mean)) if relative else 1.0
            expected += 0.25 * (10.0 if index == 0 else 1.0) * distance / size
        objective = InversionObjective(model, "fc", [3, 1], goals(2), options)
        assert float(losses_of(objective, images)[row]) == pytest.approx(expected, rel=1e-4)


def test_deep_inversion_of_an_intermediate_unit_raises_its_mean(model: Model) -> None:
    images = dataset_images(1)
    free = preset("published", "deepinversion", batch_norm_weight=0.0)
    plain = losses_of(ActivationObjective(model, "stage2", [2], goals(1), free), images)
    torch.testing.assert_close(losses_of(InversionObjective(model, "stage2", [2], goals(1), free), images), 10 * plain)


def without_batch_norm() -> Model:
    module = nn.Sequential(
        nn.Conv2d(3, 4, 3, stride=2), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 5)
    )
    return Model(name="python:a.b:c", module=module, preprocessing=tiny_model().preprocessing, labels="", device="cpu")


def test_deep_inversion_needs_batch_norm() -> None:
    model = without_batch_norm()
    assert not batch_norm_layers(model.module)
    for method in OTHERS:
        if method != "deepinversion":
            check_method(model, method)
    message = r'"deepinversion" matches .* "python:a.b:c" has none; choose among vital, maco, fourier, pixel'
    with pytest.raises(ValueError, match=message):
        check_method(model, "deepinversion")
    with pytest.raises(ValueError, match=message):
        visualize(model, [("classifier", 0)], method="deepinversion", steps=1)
    stateless = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4, track_running_stats=False))
    assert not batch_norm_layers(stateless)


@pytest.mark.parametrize(("channels", "shown"), [(1, 3), (2, 4), (4, 4)])  # gray; gray and opacity; color and opacity
@pytest.mark.parametrize("method", METHODS)
def test_models_with_other_input_channels(method: str, channels: int, shown: int) -> None:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        module = TinyResidualNet()
        module.stem = nn.Conv2d(channels, 8, 3, stride=2, padding=1, bias=False)
    preprocessing = Preprocessing(
        input_size_px=SIZE, crop_fraction=1, interpolation="bilinear", mean=(0.5,) * channels, std=(0.25,) * channels
    )
    model = Model(name="python:a.b:c", module=module, preprocessing=preprocessing, labels="", device="cpu")
    (made,) = visualize(
        model, [("classifier", 1)], [dataset_images(3, channels)], method=method, preset="fast", steps=2
    )
    assert made.image.shape == (SIZE, SIZE, shown)
    with torch.no_grad():
        logits = model.module(preprocessing.to_tensor(made.image)[None])
    assert made.activation == pytest.approx(float(logits[0, 1]), rel=1e-4, abs=1e-5)


def test_views_of_one_image_count_as_one(model: Model) -> None:
    # Two views that are both the whole image give what one gives.
    whole = preset("fast", "maco", steps=2, num_crops=1, crop_min=1.0, crop_max=1.0, noise=0.0)
    once, twice = (
        run(model, "maco", "stage2", [0, 3], dataclasses.replace(whole, num_crops=number)) for number in (1, 2)
    )
    for a, b in zip(once, twice, strict=True):
        assert a.loss == pytest.approx(b.loss, rel=1e-4)
        assert np.abs(a.image.astype(int) - b.image.astype(int)).max() <= 1


def test_alignment_takes_crops_and_phases_too(model: Model) -> None:
    options = preset("fast", "vital", steps=2, parameterization="phase", num_crops=2, crop_min=0.9)
    plan = plan_alignment(model, "stage2", options)
    targets = [reference_target(model, plan, unit, dataset_images(4)) for unit in (1, 2)]
    arguments = {"options": options, "image_size_px": SIZE, "spectrum": SPECTRUM}
    made = synthesize(model, [("stage2", 1), ("stage2", 2)], targets, seeds=[1, 2], **arguments)
    (alone,) = synthesize(model, [("stage2", 2)], targets[1:], seeds=[2], **arguments)
    assert made[1].loss == pytest.approx(alone.loss, rel=1e-3)


def test_aligned_crops_are_of_the_visualization_s_size(model: Model) -> None:
    """Not of the model's: targets are made at the visualization's size."""
    size = SIZE + 16
    options = preset("fast", steps=2, num_crops=1, crop_min=0.5)
    plan = plan_alignment(model, "fc", options, image_size_px=size)
    references = torch.nn.functional.interpolate(dataset_images(4), size=(size, size))
    target = reference_target(model, plan, 1, references)
    (made,) = synthesize(model, [("fc", 1)], [target], options=options, image_size_px=size, seeds=[0])
    assert made.image.shape == (size, size, 3)


def test_other_methods_do_not_begin_with_the_colors_of_the_references(model: Model) -> None:
    plan = plan_alignment(model, "fc", preset("fast"))
    target = reference_target(model, plan, 1, dataset_images(4))
    options = preset("fast", "fourier", steps=1)
    arguments = {"method": "fourier", "options": options, "image_size_px": SIZE, "seeds": [3]}
    (with_colors,) = synthesize(model, [("fc", 1)], [target], **arguments)
    bare = NeuronTarget(layers={}, goal_activation=target.goal_activation)
    (without,) = synthesize(model, [("fc", 1)], [bare], **arguments)
    assert np.array_equal(with_colors.image, without.image)


def test_a_constant_schedule_stays_where_the_warm_up_ended() -> None:
    options = dataclasses.replace(PUBLISHED, steps=20, warmup_steps=4, schedule="constant", learning_rate=2.0)
    assert [learning_rate_at(step, options) for step in range(6)] == [0.5, 1.0, 1.5, 2.0, 2.0, 2.0]
    assert learning_rate_at(19, options) == 2.0


def test_the_notebook_interface_takes_references_where_they_are_needed(model: Model) -> None:
    (made,) = visualize(model, [("stage2", 1)], method="fourier", steps=2)
    assert made.image.shape == (SIZE, SIZE, 3)
    (larger,) = visualize(model, [("stage2", 1)], method="pixel", steps=2, image_size_px=40)
    assert larger.image.shape == (40, 40, 3)
    for method in ("vital", "maco"):
        with pytest.raises(ValueError, match=f'"{method}" needs reference images'):
            visualize(model, [("stage2", 1)], method=method, steps=2)
    references = dataset_images(3)
    (with_goal,) = visualize(model, [("stage2", 1)], [references], method="fourier", steps=2)
    with model.capture(["stage2"]) as features, torch.no_grad():
        model.module(references)
    assert with_goal.loss == pytest.approx(made.loss / float(features["stage2"][:, 1].max()), rel=0.01)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"targets": ()}, 'method "vital" needs a target for each neuron'),
        ({"method": "maco", "spectrum": None}, 'parameterization "phase" .* needs the mean magnitude spectrum'),
        ({"method": "maco", "spectrum": torch.ones(1, SIZE, 17)}, r"expected \[3, S, S // 2 \+ 1\]"),
        ({"method": "mako"}, 'method = "mako": .*did you mean "maco"'),
        ({"method": "pixel", "seeds": [1, 2]}, "a target and a seed each"),
    ],
)
def test_what_a_method_lacks_is_named(model: Model, arguments: dict, message: str) -> None:
    method = arguments.get("method", "vital")
    options = preset("fast", method if method in METHODS else "vital", steps=1)
    full = {"targets": goals(1), "options": options, "image_size_px": SIZE, "seeds": [0], **arguments}
    with pytest.raises(ValueError, match=message):
        synthesize(model, [("fc", 0)], full.pop("targets"), **full)


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        ({"crop_min": 0.0}, "crop_min, crop_max = 0.0, 1.0: expected fractions"),
        ({"crop_min": 0.8, "crop_max": 0.5}, "crop_min, crop_max = 0.8, 0.5"),
        ({"scaling": 1.0}, "scaling = 1.0: expected less than 1"),
        ({"optimizer": "sgd"}, "expected one of adam, nadam"),
        ({"flip": 1}, "flip = 1: expected true or false"),
    ],
)
def test_settings_out_of_range_are_named(overrides: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        preset("fast", "maco", **overrides)
