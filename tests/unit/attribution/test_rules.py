"""Each relevance rule against an independent derivation in float64: loops over contributions, no autograd."""

import itertools

import pytest
import torch
import torch.nn.functional as F

from pipeline.attribution.rules import BIAS_FLOOR, EPSILON, average_to_size, share_of_first, spread, z_plus

DOUBLE = torch.float64


def tensor(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(shape, dtype=DOUBLE, generator=torch.Generator().manual_seed(seed))


def z_plus_by_loops(relevance, x, weight, bias, *, stride, padding, groups):
    """Visit every (output, input) pair of a convolution and keep its contribution if it is positive."""
    height, width = x.shape[2:]
    num_outputs, inputs_per_group, size_y, size_x = weight.shape
    shared = torch.zeros_like(x)
    for image, output, row, column in itertools.product(*(range(n) for n in relevance.shape)):
        first_input = output // (num_outputs // groups) * inputs_per_group
        contributions = {}
        for i, dy, dx in itertools.product(range(inputs_per_group), range(size_y), range(size_x)):
            y_in, x_in = row * stride - padding + dy, column * stride - padding + dx
            if 0 <= y_in < height and 0 <= x_in < width:
                product = (x[image, first_input + i, y_in, x_in] * weight[output, i, dy, dx]).item()
                contributions[first_input + i, y_in, x_in] = max(product, 0.0)
        total = sum(contributions.values())
        if bias is not None:
            total = max(total + bias[output].item(), BIAS_FLOOR * total)
        for (channel, y_in, x_in), contribution in contributions.items():
            shared[image, channel, y_in, x_in] += (
                relevance[image, output, row, column] * contribution / (total + EPSILON)
            )
    return shared


@pytest.mark.parametrize(
    ("stride", "padding", "groups", "with_bias", "signed"),
    [
        (1, 1, 1, False, False),
        (1, 1, 1, True, True),
        (2, 1, 1, True, False),
        (2, 0, 2, False, True),
        (1, 1, 4, True, True),  # depthwise
    ],
)
def test_z_plus_of_a_convolution(stride, padding, groups, with_bias, signed):
    x = tensor(2, 4, 5, 6) if signed else tensor(2, 4, 5, 6).clamp(min=0)
    weight = tensor(4, 4 // groups, 3, 3, seed=1)
    bias = tensor(4, seed=2) if with_bias else None

    def convolve(x, w):
        return F.conv2d(x, w, None, stride, padding, groups=groups)

    relevance = tensor(*convolve(x, weight).shape, seed=3).abs()
    shared = z_plus(relevance, x, weight, bias, convolve, nonnegative=not signed)
    expected = z_plus_by_loops(relevance, x, weight, bias, stride=stride, padding=padding, groups=groups)
    torch.testing.assert_close(shared, expected, rtol=1e-9, atol=1e-12)


def test_z_plus_of_a_linear_layer_is_a_matrix_of_shares():
    x, weight, relevance = tensor(3, 5), tensor(4, 5, seed=1), tensor(3, 4, seed=2)
    contributions_BOI = (x[:, None, :] * weight[None]).clamp(min=0)
    shares_BOI = contributions_BOI / (contributions_BOI.sum(2, keepdim=True) + EPSILON)
    expected = (relevance[:, :, None] * shares_BOI).sum(1)
    torch.testing.assert_close(z_plus(relevance, x, weight, None, F.linear, nonnegative=False), expected)


def test_z_plus_pairing_equals_the_published_rule_for_nonnegative_inputs():
    """Published z⁺: `x · conv_transpose(R / (conv(x, w⁺, b) + ε), w⁺)`, with a positive denominator."""
    x, weight, bias = tensor(2, 3, 6, 6).abs(), tensor(5, 3, 3, 3, seed=1), tensor(5, seed=2)
    relevance = tensor(2, 5, 4, 4, seed=3).abs()
    denominator = F.conv2d(x, weight.clamp(min=0), bias) + EPSILON
    assert (denominator > 1).all()
    expected = x * F.conv_transpose2d(relevance / denominator, weight.clamp(min=0))
    for nonnegative in (True, False):
        shared = z_plus(relevance, x, weight, bias, F.conv2d, nonnegative=nonnegative)
        torch.testing.assert_close(shared, expected)


def test_z_plus_stays_bounded_where_a_negative_bias_cancels_the_evidence():
    x, weight = torch.ones(1, 1, dtype=DOUBLE), torch.ones(1, 1, dtype=DOUBLE)
    relevance = torch.ones(1, 1, dtype=DOUBLE)
    for bias in (-1.0, -0.999999, -5.0):
        shared = z_plus(relevance, x, weight, torch.tensor([bias], dtype=DOUBLE), F.linear, nonnegative=True)
        assert 0 < shared.item() <= 1 / BIAS_FLOOR


def test_z_plus_leaves_weight_and_input_untouched():
    x, weight = tensor(2, 3, 5, 5), tensor(4, 3, 3, 3, seed=1)
    before = x.clone(), weight.clone(), x._version, weight._version
    z_plus(tensor(2, 4, 3, 3), x, weight, None, F.conv2d, nonnegative=False)
    assert torch.equal(x, before[0])
    assert torch.equal(weight, before[1])
    assert (x._version, weight._version) == before[2:]
    assert not x.requires_grad


def test_spread_over_windows_in_proportion_to_positive_values():
    x = tensor(1, 2, 4, 6)
    x[0, 0, :2, :2] = -1.0  # a window with nothing positive: shared evenly
    relevance = tensor(1, 2, 2, 3, seed=1)
    expected = torch.zeros_like(x)
    for c, i, j in itertools.product(range(2), range(2), range(3)):
        window = (0, c, slice(2 * i, 2 * i + 2), slice(2 * j, 2 * j + 2))
        positive = x[window].clamp(min=0)
        share = positive / positive.sum() if positive.sum() > 0 else torch.full_like(positive, 0.25)
        expected[window] = relevance[0, c, i, j] * share
    shared = spread(relevance, x, lambda p: F.avg_pool2d(p, 2))
    torch.testing.assert_close(shared, expected, rtol=1e-9, atol=1e-9)


def test_spread_evenly_is_nearest_upsampling_over_four():
    relevance = tensor(2, 3, 4, 4)
    shared = spread(relevance, torch.ones(2, 3, 8, 8, dtype=DOUBLE), lambda p: F.avg_pool2d(p, 2))
    torch.testing.assert_close(shared, F.interpolate(relevance, scale_factor=2, mode="nearest") / 4)


@pytest.mark.parametrize(("length", "requested"), [(8, 4), (13, 6), (5, 5), (7, 1)])
def test_average_to_size_gives_the_size_and_keeps_constants(length, requested):
    pooled = average_to_size(torch.full((1, 1, length, length), 3.0), [requested, requested])
    assert pooled.shape == (1, 1, requested, requested)
    torch.testing.assert_close(pooled, torch.full_like(pooled, 3.0))


def test_average_to_size_is_2x2_pooling_where_the_map_halves():
    x = tensor(1, 2, 6, 6)
    assert torch.equal(average_to_size(x, [3, 3]), F.avg_pool2d(x, 2))


@pytest.mark.parametrize(
    ("first", "second", "share"), [(3.0, 1.0, 0.75), (-3.0, 1.0, 0.75), (0.0, 2.0, 0.0), (0.0, 0.0, 0.5)]
)
def test_share_of_a_residual_sum(first, second, share):
    result = share_of_first(torch.tensor(first, dtype=DOUBLE), torch.tensor(second, dtype=DOUBLE))
    assert result.item() == pytest.approx(share, abs=1e-9)
