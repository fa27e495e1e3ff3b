"""Synthesis: images are independent of their batch, reproducible, and approach their targets."""

import dataclasses

import numpy as np
import pytest
import torch

from pipeline.alignment.losses import INPUT_PIXELS, TARGET_LAYER, TARGET_UNIT
from pipeline.models import FeatureLayer, Model
from pipeline.synthesis.api import visualize
from pipeline.synthesis.methods.options import VitalOptions
from pipeline.synthesis.methods.presets import preset
from pipeline.synthesis.methods.vital import AlignmentObjective, activation_weight_at, class_crops_at
from pipeline.synthesis.methods.vital_target import AlignmentPlan, plan_alignment, reference_target, target_shapes
from pipeline.synthesis.optimize import Visualization, learning_rate_at, synthesize
from pipeline.synthesis.parameterization.fourier import FourierParameterization
from pipeline.synthesis.regularizers import image_norm, total_variation
from pipeline.synthesis.step import ExecutionMode, losses_of
from pipeline.synthesis.transforms import draw_jitter, roll
from tests.support.exact_network import exact_model
from tests.support.tiny_networks import tiny_model

PUBLISHED, FAST = preset("published"), preset("fast")
STEPS = 12
QUICK = {
    "published": preset("published", steps=STEPS, jitter_px=3, warmup_steps=2),
    "fast": preset("fast", steps=STEPS),
}


# Float32 sums of a few thousand terms, relative to the largest value.
ROUNDING = 1e-4


@pytest.fixture(scope="module")
def model() -> Model:
    return tiny_model()


@pytest.fixture(scope="module")
def exact() -> Model:
    return exact_model()


def references(seed: int, count: int = 6) -> torch.Tensor:
    """Smooth random images in the model's input space."""
    generator = torch.Generator().manual_seed(seed)
    coarse = torch.rand(count, 3, 4, 4, generator=generator)
    return torch.nn.functional.interpolate(coarse, size=(32, 32), mode="bilinear") * 4 - 2


def run(model: Model, layer: str, units: list[int], options: VitalOptions) -> list[Visualization]:
    plan = plan_alignment(model, layer, options)
    targets = [reference_target(model, plan, unit, references(unit)) for unit in units]
    neurons = [(layer, unit) for unit in units]
    return synthesize(model, neurons, targets, options=options, image_size_px=32, seeds=[100 + u for u in units])


@pytest.mark.parametrize("layer", ["fc", "stage2"])
@pytest.mark.parametrize("name", ["published", "fast"])
def test_loss_and_gradient_of_an_image_are_those_it_has_alone(exact: Model, layer: str, name: str) -> None:
    units = [0, 2, 4]
    plan = plan_alignment(exact, layer, QUICK[name])
    targets = [reference_target(exact, plan, unit, references(unit)) for unit in units]
    images = references(9, count=3)

    def evaluate(rows: list[int]) -> tuple[torch.Tensor, torch.Tensor]:
        batch = images[rows].clone().requires_grad_()
        objective = AlignmentObjective(exact, layer, [units[i] for i in rows], [targets[i] for i in rows], QUICK[name])
        losses = losses_of(objective, batch)
        return losses.detach(), torch.autograd.grad(losses.sum(), batch)[0]

    losses, gradients = evaluate([0, 1, 2])
    for row in range(3):
        loss, gradient = evaluate([row])
        torch.testing.assert_close(losses[row : row + 1], loss, rtol=1e-5, atol=1e-7)
        torch.testing.assert_close(
            gradients[row : row + 1], gradient, rtol=0, atol=float(gradient.abs().max()) * ROUNDING
        )


@pytest.mark.parametrize("layer", ["fc", "stage2"])
@pytest.mark.parametrize("name", ["published", "fast"])
def test_a_visualization_in_a_batch_has_the_losses_and_gradients_it_has_alone(
    exact: Model, layer: str, name: str
) -> None:
    # With images that stand still, rounding is not amplified from step to step.
    options = dataclasses.replace(QUICK[name], steps=3, learning_rate=0.0)
    first, second = run(exact, layer, [0, 2], options)
    (alone,) = run(exact, layer, [2], options)
    assert second.loss == pytest.approx(alone.loss, rel=ROUNDING)
    assert second.alpha == pytest.approx(alone.alpha, abs=ROUNDING)  # the sum of all gradients, at most 1
    assert np.abs(second.image.astype(int) - alone.image.astype(int)).max() <= 1
    assert np.abs(first.alpha - second.alpha).mean() > 0.05  # not all one visualization


@pytest.mark.parametrize("name", ["published", "fast"])
def test_the_same_run_gives_the_same_bytes(model: Model, name: str) -> None:
    first, second = (run(model, "stage2", [1, 3], QUICK[name]) for _ in range(2))
    for a, b in zip(first, second, strict=True):
        assert np.array_equal(a.image, b.image)
        assert np.array_equal(a.alpha, b.alpha)
        assert (a.loss, a.activation) == (b.loss, b.activation)


@pytest.mark.parametrize("name", ["published", "fast"])
def test_the_objective_goes_down(model: Model, name: str) -> None:
    base = preset(name, jitter_px=0, warmup_steps=0, activation_weight=0.0)
    short, long = (run(model, "fc", [1], dataclasses.replace(base, steps=steps))[0] for steps in (1, 60))
    assert long.loss < 0.5 * short.loss


def test_a_visualization_is_complete(model: Model) -> None:
    (made,) = run(model, "stage2", [3], QUICK["fast"])
    assert (made.image.shape, made.image.dtype) == ((32, 32, 3), np.uint8)
    assert (made.alpha.shape, made.alpha.dtype) == ((32, 32), np.float32)
    assert made.alpha.min() >= 0
    assert made.alpha.max() == 1
    assert (made.neuron, made.method, made.steps, made.seed) == (("stage2", 3), "vital", STEPS, 103)
    shown = model.preprocessing.to_tensor(made.image)[None]
    with model.capture(["stage2"]) as features, torch.no_grad():
        model.module(shown)
    assert made.activation == pytest.approx(float(features["stage2"][0, 3].max()), rel=1e-5)


def test_progress_is_reported_after_each_step(model: Model) -> None:
    plan = plan_alignment(model, "fc", QUICK["fast"])
    reported = []
    synthesize(
        model,
        [("fc", 0)],
        [reference_target(model, plan, 0, references(0))],
        options=dataclasses.replace(QUICK["fast"], steps=3),
        image_size_px=32,
        seeds=[0],
        on_step=lambda done, total: reported.append((done, total)),
    )
    assert reported == [(1, 3), (2, 3), (3, 3)]


def test_a_loss_that_is_not_finite_names_the_neuron(model: Model) -> None:
    broken = tiny_model()
    broken.module.stage1.down.weight.data.fill_(float("nan"))
    plan = plan_alignment(model, "fc", QUICK["fast"])
    target = reference_target(model, plan, 2, references(2))
    with pytest.raises(FloatingPointError, match='neuron 2 of layer "fc"'):
        synthesize(broken, [("fc", 2)], [target], options=QUICK["fast"], image_size_px=32, seeds=[0])


def test_a_batch_holds_neurons_of_one_layer(model: Model) -> None:
    with pytest.raises(ValueError, match="neurons of one layer"):
        synthesize(model, [("fc", 0), ("stage2", 0)], [], options=PUBLISHED, image_size_px=32, seeds=[0, 1])


def test_plans_follow_the_paper(model: Model) -> None:
    classes = plan_alignment(model, "fc", PUBLISHED)
    assert classes.rule == "none"
    assert list(classes.weights) == ["stem", "stage1", "stage2", "stage3"]
    intermediate = plan_alignment(model, "stage2", PUBLISHED)
    assert intermediate.rule == "lrp"
    assert list(intermediate.weights) == ["stem", "stage1", "stage2"]  # stage3 does not feed the unit
    fast = plan_alignment(
        model, "stage2", dataclasses.replace(FAST, layer_weight=1.0, unit_weight=1.0, pixel_weight=1.0)
    )
    assert {INPUT_PIXELS, TARGET_LAYER, TARGET_UNIT} < set(fast.weights)
    assert "stage2" not in fast.weights  # the layer is aligned once, on its own terms
    named = plan_alignment(model, "fc", PUBLISHED, feature_layers=[FeatureLayer(layer="stage1", weight=2.0)])
    assert named.weights == {"stage1": 2.0}


def test_feature_layers_that_do_not_feed_the_unit_are_refused(model: Model) -> None:
    with pytest.raises(ValueError, match=r'none of the feature layers .* feeds layer "stage1"'):
        plan_alignment(model, "stage1", PUBLISHED, feature_layers=[FeatureLayer(layer="stage3")])


@pytest.mark.parametrize("layer", ["fc", "stage2"])
@pytest.mark.parametrize("side", [0, 4])
def test_shapes_are_known_before_anything_is_computed(model: Model, layer: str, side: int) -> None:
    options = dataclasses.replace(FAST, grid=3, aligned_side=side, layer_weight=1.0, unit_weight=1.0, edge_weight=1.0)
    plan = plan_alignment(model, layer, options)
    target = reference_target(model, plan, 0, references(0))
    shapes = {k: tuple(v.quantile.shape) for k, v in target.layers.items()}
    assert shapes == target_shapes(model, plan)
    assert shapes[INPUT_PIXELS][1] == (4 if side else 121)  # of 4 × 4 or 32 × 32 pixels in nine cells
    objective = AlignmentObjective(model, layer, [0], [target], options)
    assert losses_of(objective, references(1)[:1]).isfinite().all()


def test_relevance_enters_the_target(model: Model) -> None:
    plain: AlignmentPlan = plan_alignment(model, "stage2", PUBLISHED, rule="none")
    weighted = plan_alignment(model, "stage2", PUBLISHED, rule="lrp")
    without, with_relevance = (reference_target(model, p, 1, references(1)).layers for p in (plain, weighted))
    assert without["stem"].importance is None
    importance = with_relevance["stem"].importance
    assert importance.shape == (8,)
    assert 0 <= importance.min() < importance.max() <= 1
    assert not torch.allclose(without["stem"].quantile, with_relevance["stem"].quantile)


def test_warm_up_then_cosine_to_zero() -> None:
    rates = [learning_rate_at(step, PUBLISHED) for step in range(2000)]
    assert rates[0] == pytest.approx(0.01)
    assert rates[99] == rates[100] == 1.0
    assert rates[1050] == pytest.approx(0.5, abs=1e-3)
    assert 0 < rates[-1] < 1e-5
    assert learning_rate_at(0, preset("published", steps=1)) == 1.0


def test_the_activation_s_weight_grows_between_a_quarter_of_the_steps_and_three_quarters() -> None:
    options = preset("fast", steps=100, activation_weight=0.5, activation_growth=10.0)
    weights = [activation_weight_at(step, options) for step in range(100)]
    assert weights[:26] == [0.5] * 26
    assert weights[50] == pytest.approx(2.75)
    assert weights[75:] == [5.0] * 25
    assert activation_weight_at(99, dataclasses.replace(options, activation_growth=1.0)) == 0.5


def test_crops_of_a_class_grow_to_the_whole_between_a_quarter_of_the_steps_and_three_quarters() -> None:
    options = preset("best", steps=100)
    shown = [class_crops_at(step, options) for step in range(100)]
    assert {(one.num_crops, one.crop_max) for one in shown} == {(1, 1.0)}
    smallest = [one.crop_min for one in shown]
    assert smallest[:26] == [0.8] * 26
    assert smallest[50] == pytest.approx(0.9)
    assert smallest[75:] == [1.0] * 25


@pytest.mark.parametrize(("layer", "num_crops", "differs"), [("fc", 0, True), ("stage2", 0, False), ("fc", 1, False)])
def test_only_classes_are_shown_in_random_crops(model: Model, layer: str, num_crops: int, differs: bool) -> None:
    """And not where the recipe has crops of its own."""
    images = torch.randn(3, 3, 32, 32, generator=torch.Generator().manual_seed(4))

    def visualization(smallest: float) -> np.ndarray:
        options = preset("fast", steps=4, class_crop_min=smallest, num_crops=num_crops, crop_min=0.8)
        target = reference_target(model, plan_alignment(model, layer, options), 1, images)
        return synthesize(model, [(layer, 1)], [target], options=options, image_size_px=32, seeds=[0])[0].image

    assert np.array_equal(visualization(0.5), visualization(1.0)) is not differs


def test_what_is_minimized_at_the_end_has_the_grown_weight(model: Model) -> None:
    images = torch.randn(3, 3, 32, 32, generator=torch.Generator().manual_seed(4))
    still = {"steps": 4, "learning_rate": 0.0, "jitter_px": 0}  # a visualization that nothing moves

    def last_loss(growth: float, execution_mode: ExecutionMode = "plain") -> float:
        options = preset("fast", **still, activation_goal=50.0, activation_growth=growth)
        target = reference_target(model, plan_alignment(model, "stage1", options), 1, images)
        neuron = [("stage1", 1)]
        (visualization,) = synthesize(
            model, neuron, [target], options=options, image_size_px=32, seeds=[0], execution_mode=execution_mode
        )
        return visualization.loss

    once, fourfold, tenfold = (last_loss(growth) for growth in (1.0, 4.0, 10.0))
    assert fourfold > once + 1
    assert (tenfold - once) / (fourfold - once) == pytest.approx(3, rel=1e-3)
    assert last_loss(10.0, "traced") == pytest.approx(tenfold, rel=1e-5)


def test_jitter_is_each_image_s_own_and_uniform() -> None:
    generators = [torch.Generator().manual_seed(i) for i in range(400)]
    offsets = np.array(draw_jitter(generators, 5))
    assert offsets.min() == -5
    assert offsets.max() == 5
    counts = np.bincount(offsets.flatten() + 5, minlength=11)
    assert counts.min() > 40  # of 800 draws, 73 expected
    alone = draw_jitter([torch.Generator().manual_seed(7)], 5)
    assert tuple(offsets[7]) == alone[0]
    images = torch.randn(2, 3, 6, 6)
    rolled = roll(images, [(1, -2), (0, 0)])
    assert torch.equal(rolled[0], images[0].roll((1, -2), dims=(1, 2)))
    assert torch.equal(rolled[1], images[1])


def test_regularizers_equal_their_formula() -> None:
    images = torch.randn(2, 3, 5, 6, dtype=torch.float64)
    for b, image in enumerate(images.numpy()):
        directions = ((0, 1), (1, 0), (1, 1), (1, -1))
        expected = 0.0
        for dy, dx in directions:
            pairs = [
                (image[:, y, x] - image[:, y + dy, x + dx])
                for y in range(5)
                for x in range(6)
                if y + dy < 5 and 0 <= x + dx < 6
            ]
            expected += float(np.sqrt(np.square(pairs).sum()))
        assert total_variation(images)[b].item() == pytest.approx(expected)
        assert image_norm(images)[b].item() == pytest.approx(float(np.sqrt(np.square(image).sum())))


def test_fourier_images_begin_with_the_colors_of_the_references(model: Model) -> None:
    colors = torch.tensor([0.8, 0.5, 0.2]).view(1, 3, 1, 1)
    parameters = FourierParameterization(
        32, [torch.Generator().manual_seed(0)], model.preprocessing, torch.device("cpu"), initial_rgb=colors
    )
    rgb = model.preprocessing.denormalize(parameters.images()).detach()
    torch.testing.assert_close(rgb.mean(dim=(2, 3)), colors.flatten(1), atol=0.05, rtol=0)
    assert rgb.min() > 0
    assert rgb.max() < 1


def test_pixels_stay_in_the_range_of_real_images(model: Model) -> None:
    (made,) = run(model, "fc", [0], dataclasses.replace(QUICK["published"], learning_rate=50.0))
    assert np.isfinite(made.loss)  # without the clamp this diverges


def test_the_notebook_interface(model: Model) -> None:
    visualizations = visualize(
        model,
        [("stage2", 1), ("classifier", 3), ("stage2", 4)],
        [references(i) for i in range(3)],
        preset="fast",
        steps=3,
        seed=5,
    )
    assert [p.neuron for p in visualizations] == [("stage2", 1), ("fc", 3), ("stage2", 4)]
    again = visualize(model, [("stage2", 4)], [references(2)], preset="fast", steps=3, seed=5)
    assert again[0].seed == visualizations[2].seed  # the seed is the neuron's, not its place in the call


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"neurons": [("stage9", 0)]}, 'no layer "stage9"'),
        ({"neurons": [("stage2", 12)]}, "has units 0 to 11, got 12"),
        ({"method": "deepdream"}, 'method = "deepdream": expected one of vital, maco'),
        ({"preset": "fastt"}, 'visualize.preset = "fastt".*did you mean'),
        ({"learning_rat": 1.0}, "there is no such option.*learning_rate"),
        ({"class_crop_min": 1.1}, "class_crop_min = 1.1: expected a fraction"),
        ({"first_batch_norm": 2.0}, 'method "vital" has no such option; deepinversion has it'),
        ({"steps": 0}, "steps = 0: expected at least 1"),
        ({"grid": 1.5}, "grid = 1.5: expected a whole number"),
        ({"normalize_layers": 1}, "expected true or false"),
        ({"parameterization": "wavelet"}, "expected one of pixel, fourier, phase"),
        ({"beta2": 1.0}, "expected values below 1"),
        ({"image_size_px": 64}, "use model.preprocess_at"),
    ],
)
def test_wrong_arguments_are_explained(model: Model, arguments: dict, message: str) -> None:
    full = {"neurons": [("stage2", 0)], "references": [references(0)], "preset": "fast", **arguments}
    with pytest.raises(ValueError, match=message):
        visualize(model, full.pop("neurons"), full.pop("references"), **full)
