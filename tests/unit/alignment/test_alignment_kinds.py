"""The three kinds of alignment: values against closed forms in float64, visualizations that approach their targets."""

import dataclasses

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.alignment.losses import (
    ALIGNMENTS,
    LayerTarget,
    NeuronTarget,
    gaussian_kl,
    moment_matching,
    sort_matching,
    sorted_target,
    target_spread,
)
from pipeline.models import Model
from pipeline.synthesis.methods.presets import preset
from pipeline.synthesis.methods.vital import AlignmentObjective
from pipeline.synthesis.methods.vital_target import plan_alignment, reference_target
from pipeline.synthesis.optimize import synthesize
from pipeline.synthesis.step import losses_of
from tests.support.exact_network import exact_model
from tests.support.tiny_networks import tiny_model

B, C, N = 3, 4, 50
BLUR = 0.3  # of the layer's standard deviation: the documented constant


@pytest.fixture(scope="module")
def model() -> Model:
    return tiny_model()


def drawn(seed: int = 0) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Features [B, C, N] of unlike means and deviations, a target [C, N] and an importance [C]; float64."""
    rng = np.random.default_rng(seed)
    features = rng.normal(size=(B, C, N)) * rng.uniform(0.3, 3, (B, C, 1)) + rng.normal(size=(B, C, 1))
    references = rng.normal(size=(5, C, N)) * rng.uniform(0.3, 3, (5, C, 1)) + rng.normal(size=(5, C, 1))
    return torch.tensor(features), sorted_target(torch.tensor(references)), torch.tensor(rng.uniform(size=C))


def moments(values: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    mean = values.sum(axis=-1) / values.shape[-1]
    return mean, np.sqrt(((values - mean[..., None]) ** 2).sum(axis=-1) / values.shape[-1])


def test_moment_matching_is_the_squared_wasserstein_distance_of_gaussians() -> None:
    features, target, importance = drawn()
    (mean, deviation), (target_mean, target_deviation) = moments(features.numpy()), moments(target.numpy())
    expected = ((mean - target_mean) ** 2 + (deviation - target_deviation) ** 2) * importance.numpy()
    np.testing.assert_allclose(moment_matching(features, target, importance), expected.mean(axis=1), rtol=1e-12)


def test_gaussian_kl_is_that_of_two_blurred_normal_distributions() -> None:
    features, target, importance = drawn()
    (mean, deviation), (target_mean, target_deviation) = moments(features.numpy()), moments(target.numpy())
    blur = BLUR**2 * (target_deviation**2).mean()
    real = torch.distributions.Normal(torch.tensor(target_mean), torch.tensor(np.sqrt(target_deviation**2 + blur)))
    synthetic = torch.distributions.Normal(torch.tensor(mean), torch.tensor(np.sqrt(deviation**2 + blur)))
    expected = (torch.distributions.kl_divergence(real, synthetic) * importance).mean(dim=1)
    torch.testing.assert_close(gaussian_kl(features, target, importance), expected, rtol=1e-12, atol=0)


def test_gaussian_kl_goes_from_the_references_to_the_visualization() -> None:
    # By quadrature of p ln(p / q), p the references' density: the closed form has its two sides easily exchanged.
    features, target = (torch.randn(1, 1, 400, dtype=torch.float64) * 2 + 1, torch.randn(1, 400).double())
    (mean, deviation), (target_mean, target_deviation) = moments(features.numpy()), moments(target.numpy())
    blur = BLUR**2 * target_deviation.item() ** 2
    x = np.linspace(-30, 30, 200_001)

    def density(at: float, variance: float) -> np.ndarray:
        return np.exp(-((x - at) ** 2) / (2 * variance)) / np.sqrt(2 * np.pi * variance)

    p = density(target_mean.item(), target_deviation.item() ** 2 + blur)
    q = density(mean.item(), deviation.item() ** 2 + blur)
    inside = p > 1e-300
    expected = np.trapezoid(np.where(inside, p * np.log(np.where(inside, p / q, 1)), 0), x)
    assert gaussian_kl(features, target).item() == pytest.approx(expected, rel=1e-6)


@pytest.mark.parametrize("kind", ALIGNMENTS)
def test_gradients_equal_finite_differences(kind: str) -> None:
    features, target, importance = drawn()
    features = features[:, :, :6].clone().requires_grad_()
    assert torch.autograd.gradcheck(
        lambda x: ALIGNMENTS[kind](x, target[:, ::9].contiguous(), importance), (features,), eps=1e-6, atol=1e-8
    )


@pytest.mark.parametrize("kind", ALIGNMENTS)
@pytest.mark.parametrize("num_values", [1, N])
def test_each_image_is_independent_of_its_batch(kind: str, num_values: int) -> None:
    features = drawn()[0][..., :num_values]
    target = drawn(1)[0][..., :num_values].sort(dim=-1).values
    importance = torch.rand(B, C, dtype=torch.float64)
    together = ALIGNMENTS[kind](features, target, importance)
    alone = [ALIGNMENTS[kind](features[i : i + 1], target[i : i + 1], importance[i : i + 1]).item() for i in range(B)]
    assert together.tolist() == alone
    assert ALIGNMENTS[kind](features, target[0], None).shape == (B,)


@pytest.mark.parametrize("kind", ALIGNMENTS)
def test_equal_distributions_cost_nothing_and_others_something(kind: str) -> None:
    features = drawn()[0]
    shuffled = features[..., torch.randperm(N)]
    target = features.sort(dim=-1).values
    torch.testing.assert_close(ALIGNMENTS[kind](shuffled, target, None), torch.zeros(B).double(), rtol=0, atol=1e-12)
    assert (ALIGNMENTS[kind](shuffled + 0.1, target, None) > 1e-4).all()
    assert (ALIGNMENTS[kind](shuffled * 1.1, target, None) > 1e-4).all()


@settings(max_examples=50, deadline=None)
@given(st.integers(0, 10**6))
def test_moments_bound_sort_matching_from_below(seed: int) -> None:
    features, target, importance = drawn(seed)
    lower, value = moment_matching(features, target, importance), sort_matching(features, target, importance)
    assert (lower <= value + 1e-12).all()
    # Shifted and scaled copies of one distribution: there they are equal.
    copy = target * 1.7 + 0.3
    torch.testing.assert_close(moment_matching(copy[None], target), sort_matching(copy[None], target))


def test_the_moments_of_the_mean_quantile_function_are_those_of_the_barycenter_of_gaussians() -> None:
    rng = np.random.default_rng(0)
    shape = np.sort(rng.normal(size=200))
    shape = (shape - shape.mean()) / shape.std()
    means, deviations = rng.normal(size=7), rng.uniform(0.1, 2, 7)
    target = sorted_target(torch.tensor(means[:, None, None] + deviations[:, None, None] * shape))
    assert target.mean().item() == pytest.approx(means.mean())
    assert target.std(correction=0).item() == pytest.approx(deviations.mean())
    # A Gaussian sample with these moments has nothing left to align.
    sample = torch.tensor(means.mean() + deviations.mean() * shape)[None, None]
    assert moment_matching(sample, target).item() == pytest.approx(0, abs=1e-20)
    assert gaussian_kl(sample, target).item() == pytest.approx(0, abs=1e-12)


def test_kl_has_no_unit() -> None:
    features, target, _ = drawn()
    torch.testing.assert_close(gaussian_kl(features * 7, target * 7), gaussian_kl(features, target))


@pytest.mark.parametrize("kind", ["kl", "moments"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_features_that_do_not_vary_have_a_finite_gradient(kind: str, dtype: torch.dtype) -> None:
    features = torch.full((1, 2, N), 0.5, dtype=dtype, requires_grad=True)
    for target in (drawn()[1][:2].to(dtype), torch.zeros(2, N, dtype=dtype)):
        loss = ALIGNMENTS[kind](features, target, None)
        (gradient,) = torch.autograd.grad(loss.sum(), features)
        assert torch.isfinite(loss).all()
        assert torch.isfinite(gradient).all()
        assert gradient.abs().max() > 0  # the mean is off, and something is done about it


def test_a_single_value_has_no_deviation() -> None:
    features, target = torch.tensor([[[2.0], [5.0]]]), torch.tensor([[1.0], [3.0]])
    assert moment_matching(features, target).item() == pytest.approx((1 + 4) / 2)
    assert sort_matching(features, target).item() == pytest.approx((1 + 4) / 2)
    spread = np.var([1.0, 3.0])  # of the layer's values takes the place of a variance
    assert gaussian_kl(features, target).item() == pytest.approx(np.mean([1, 4]) / (2 * spread))
    assert target_spread(torch.tensor([[[3.0]]])).item() == 9.0  # the only value of a layer: its square


@pytest.mark.parametrize("kind", ["kl", "moments"])
def test_shapes_that_do_not_fit_are_named(kind: str) -> None:
    with pytest.raises(ValueError, match=r"\[2, 3, 8\] and \[3, 9\]"):
        ALIGNMENTS[kind](torch.randn(2, 3, 8), torch.randn(3, 9), None)


# The objective and the optimization.


def references(seed: int) -> torch.Tensor:
    """Smooth random images in the model's input space."""
    generator = torch.Generator().manual_seed(seed)
    coarse = torch.rand(6, 3, 4, 4, generator=generator)
    return torch.nn.functional.interpolate(coarse, size=(32, 32), mode="bilinear") * 4 - 2


@pytest.mark.parametrize("kind", ["kl", "moments"])
@pytest.mark.parametrize("layer", ["fc", "stage2"])
def test_an_image_in_a_batch_has_the_loss_and_gradient_it_has_alone(layer: str, kind: str) -> None:
    model = exact_model()
    options = preset("fast", alignment=kind, unit_weight=1.0)
    plan = plan_alignment(model, layer, options)
    targets = [reference_target(model, plan, unit, references(unit)) for unit in range(3)]
    images = torch.cat([references(9 + i)[:1] for i in range(3)])

    def evaluate(rows: list[int]) -> tuple[torch.Tensor, torch.Tensor]:
        batch = images[rows].clone().requires_grad_()
        objective = AlignmentObjective(model, layer, rows, [targets[i] for i in rows], options)
        losses = losses_of(objective, batch)
        return losses.detach(), torch.autograd.grad(losses.sum(), batch)[0]

    losses, gradients = evaluate([0, 1, 2])
    for row in range(3):
        loss, gradient = evaluate([row])
        torch.testing.assert_close(losses[row : row + 1], loss, rtol=1e-5, atol=1e-7)
        scale = float(gradient.abs().max())
        torch.testing.assert_close(gradients[row : row + 1], gradient, rtol=0, atol=scale * 1e-4)


@pytest.mark.parametrize(("name", "kind"), [("published", "moments"), ("fast", "kl")])
def test_the_objective_goes_down(model: Model, name: str, kind: str) -> None:
    base = preset(name, jitter_px=0, warmup_steps=0, activation_weight=0.0, alignment=kind)
    plan = plan_alignment(model, "fc", base)
    target = reference_target(model, plan, 1, references(1))
    short, long = (
        synthesize(
            model,
            [("fc", 1)],
            [target],
            options=dataclasses.replace(base, steps=steps),
            image_size_px=32,
            seeds=[100],
        )[0].loss
        for steps in (1, 40)
    )
    assert long < 0.5 * short


def test_normalized_layers_divide_what_has_a_unit(model: Model) -> None:
    target = reference_target(model, plan_alignment(model, "fc", preset("published")), 0, references(0))
    stage = target.layers["stage1"]
    only = NeuronTarget(layers={"stage1": LayerTarget(quantile=stage.quantile)})
    images = references(5)[:1]

    def loss(kind: str, normalize: bool) -> float:
        options = preset("published", alignment=kind, normalize_layers=normalize)
        return losses_of(AlignmentObjective(model, "fc", [0], [only], options), images).item()

    variance = np.var(stage.quantile.numpy())
    for kind in ("sort", "moments"):
        assert loss(kind, True) == pytest.approx(loss(kind, False) / variance, rel=1e-4)
    assert loss("kl", True) == loss("kl", False)
    assert len({loss(kind, False) for kind in ALIGNMENTS}) == 3
