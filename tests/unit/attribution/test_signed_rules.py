"""The rules for signed features against explicit tables of contributions, in float64."""

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.attribution.signed_rules import gamma_rule, layer_norm, proportional, share_of_first_term

DOUBLE = torch.float64


def tensor(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(shape, dtype=DOUBLE, generator=torch.Generator().manual_seed(seed))


def gamma_by_table(relevance, x, weight, bias, gamma):
    """One image: walk over the outputs, sort their contributions by sign, and share."""
    shared = torch.zeros_like(x)
    for j, r in enumerate(relevance):
        contributions = x * weight[j]
        z = contributions.sum() + bias[j]
        winners = (contributions > 0) == (z >= 0)  # those of the output's sign
        won = contributions[winners].sum()
        agrees = (bias[j] >= 0) == (z >= 0)
        favored = 1 + gamma + bias[j] / won * (1 + gamma if agrees else 1)
        numerators = torch.where(winners, contributions * favored, contributions)
        shared += r * numerators / numerators.sum()
    return shared


@pytest.mark.parametrize("gamma", [0.0, 0.25, 3.0])
def test_gamma_of_a_linear_layer(gamma):
    x, weight, bias, relevance = tensor(3, 6), tensor(5, 6, seed=1), tensor(5, seed=2), tensor(3, 5, seed=3)
    shared = gamma_rule(relevance, x, weight, bias, F.linear, nonnegative=False, gamma=gamma)
    expected = torch.stack([gamma_by_table(r, row, weight, bias, gamma) for r, row in zip(relevance, x, strict=True)])
    torch.testing.assert_close(shared, expected)
    torch.testing.assert_close(shared.sum(1), relevance.sum(1))


@pytest.mark.parametrize("nonnegative", [False, True])
def test_gamma_of_a_convolution_is_that_of_its_matrix(nonnegative):
    x = tensor(1, 4, 5, 5).abs() if nonnegative else tensor(1, 4, 5, 5)
    weight, bias = tensor(6, 2, 3, 3, seed=1), tensor(6, seed=2)

    def convolve(x, w):
        return F.conv2d(x, w, None, stride=2, padding=1, groups=2)

    matrix = torch.autograd.functional.jacobian(lambda v: convolve(v.view(1, 4, 5, 5), weight).flatten(), x.flatten())
    relevance = tensor(1, 6, 3, 3, seed=3)
    expected = gamma_by_table(relevance.flatten(), x.flatten(), matrix, bias.repeat_interleave(9), 0.5)
    shared = gamma_rule(relevance, x, weight, bias.view(6, 1, 1), convolve, nonnegative=nonnegative, gamma=0.5)
    torch.testing.assert_close(shared.flatten(), expected)


def test_gamma_of_zero_without_bias_is_the_epsilon_rule_and_of_infinity_keeps_the_winners():
    x, weight, relevance = tensor(2, 6), tensor(5, 6, seed=1), tensor(2, 5, seed=3)
    contributions_BOI = x[:, None] * weight
    z = contributions_BOI.sum(2, keepdim=True)
    expected = (relevance[:, :, None] * contributions_BOI / z).sum(1)
    torch.testing.assert_close(gamma_rule(relevance, x, weight, None, F.linear, nonnegative=False, gamma=0), expected)
    won = torch.where(contributions_BOI.sign() == z.sign(), contributions_BOI, 0)
    expected = (relevance[:, :, None] * won / won.sum(2, keepdim=True)).sum(1)
    shared = gamma_rule(relevance, x, weight, None, F.linear, nonnegative=False, gamma=1e9)
    torch.testing.assert_close(shared, expected, rtol=1e-6, atol=1e-6)


@settings(max_examples=100, deadline=None)
@given(seed=st.integers(0, 10_000), gamma=st.sampled_from([0.05, 1.0]), scale=st.sampled_from([0.1, 1.0, 50.0]))
def test_gamma_conserves_and_its_shares_stay_bounded(seed, gamma, scale):
    """However biases and evidence cancel: |shares| together are at most (1 + 2/γ) |R|."""
    x, weight = tensor(1, 12, seed=seed), tensor(1, 12, seed=seed + 1)
    bias, relevance = tensor(1, seed=seed + 2) * scale, torch.ones(1, 1, dtype=DOUBLE)
    contributions = x * weight
    if ((contributions > 0) == (contributions.sum() + bias >= 0)).sum() == 0:
        return  # the bias alone decided, against every input: nobody to share with
    shared = gamma_rule(relevance, x, weight, bias, F.linear, nonnegative=False, gamma=gamma)
    assert shared.sum().item() == pytest.approx(1)
    assert shared.abs().sum() <= 1 + 2 / gamma + 1e-9


def test_gamma_leaves_nothing_to_an_input_of_zeros():
    shared = gamma_rule(
        torch.ones(1, 2), torch.zeros(1, 3), torch.randn(2, 3), torch.ones(2), F.linear, nonnegative=False
    )
    assert torch.equal(shared, torch.zeros(1, 3))


def test_proportional_shares_by_contribution():
    x, relevance = tensor(2, 3, 4), tensor(2, 3, seed=1)
    expected = relevance[:, :, None] * x / x.sum(2, keepdim=True)
    torch.testing.assert_close(proportional(relevance, x, lambda x: x.mean(2)), expected)


@pytest.mark.parametrize(("first", "second", "share"), [(3.0, 1.0, 0.75), (3.0, -1.0, 1.5), (1.0, -1.0, 0.5)])
def test_share_of_a_term_by_value(first, second, share):
    result = share_of_first_term(torch.tensor(first), torch.tensor(second))
    assert result.item() == pytest.approx(share)


@pytest.mark.parametrize("affine", [False, True])
@pytest.mark.parametrize("shape", [(6,), (2, 3)])
def test_layer_norm_is_linear_in_the_centered_input_and_gives_its_biass_part_by_size(shape, affine):
    x, relevance = tensor(4, *shape), tensor(4, *shape, seed=1)
    weight, bias = (tensor(*shape, seed=2), tensor(*shape, seed=3)) if affine else (None, None)
    shared = layer_norm(relevance, x, len(shape), weight, bias, 0.1)

    flat, r, n = x.flatten(1), relevance.flatten(1), x[0].numel()
    w = torch.ones(n, dtype=DOUBLE) if weight is None else weight.flatten()
    b = torch.zeros(n, dtype=DOUBLE) if bias is None else bias.flatten()
    for row, vector in enumerate(flat):
        deviation = ((vector - vector.mean()) ** 2).mean().add(0.1).sqrt()
        matrix = w[:, None] * (torch.eye(n, dtype=DOUBLE) - 1 / n) / deviation
        contributions_OI = matrix * vector
        z = contributions_OI.sum(1) + b
        expected = (r[row][:, None] * contributions_OI / z[:, None]).sum(0)
        expected += (r[row] * b / z).sum() * vector.abs() / vector.abs().sum()
        torch.testing.assert_close(shared[row].flatten(), expected)
    torch.testing.assert_close(shared.flatten(1).sum(1), r.sum(1))
