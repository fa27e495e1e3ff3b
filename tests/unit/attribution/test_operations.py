"""The LRP mode on small networks: what it sees, what it leaves alone, what it refuses."""

import copy

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from pipeline.attribution.mode import RelevanceMode, UnsupportedOperationError
from pipeline.attribution.operations import OPERATIONS
from pipeline.attribution.relevance import relevance
from tests.support.operation_networks import NETWORKS, Functional, Middle, build, convolution, images, lrp, outputs_of


@pytest.mark.parametrize("name", NETWORKS)
def test_forward_values_are_bit_identical_and_the_network_is_untouched(name):
    network, x = build(name), images()
    before = copy.deepcopy(network.state_dict())
    expected, x_before = outputs_of(network, x), x.clone()

    mode = RelevanceMode(OPERATIONS, lambda: "")
    image = x.clone().requires_grad_().clone()
    mode.enter_image(image)
    with mode:
        traced = outputs_of(network, image)

    assert traced.keys() == expected.keys()
    for layer, value in expected.items():
        assert torch.equal(traced[layer], value), layer
    lrp(network, x, ["stem"])
    assert torch.equal(x, x_before)
    assert all(torch.equal(value, before[key]) for key, value in network.state_dict().items())
    assert all(parameter.grad is None for parameter in network.parameters())
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in network.modules())


@pytest.mark.parametrize("name", NETWORKS)
def test_relevance_is_conserved_per_image(name):
    network, x = build(name), images()
    seeds = lrp(network, x, ["head"])["head"].flatten(1).sum(1)
    assert (seeds > 0).all()
    maps = lrp(network, x, ["stem", "middle"])
    for layer, relevance_map in maps.items():
        total = relevance_map.flatten(1).sum(1)
        assert (relevance_map >= 0).all()
        if layer == "stem" and "max-pool" in name:  # published: a silent 2×2 window loses what arrives there
            assert (total < seeds).all()
            assert (total > 0.7 * seeds).all()
        else:
            torch.testing.assert_close(total, seeds, rtol=1e-3, atol=0, msg=layer)


@pytest.mark.parametrize("name", NETWORKS)
def test_a_batch_of_different_units_is_each_unit_alone(name):
    network, x = build(name), images()
    units = [4, 0, 2]
    together = lrp(network, x, ["stem"], units=units)["stem"]
    for i, unit in enumerate(units):
        alone = lrp(network, x[i : i + 1], ["stem"], units=[unit])["stem"]
        torch.testing.assert_close(together[i : i + 1], alone)


def test_in_place_and_functional_spellings_give_the_same_relevance():
    plain, in_place = build("residual"), build("residual-in-place")
    in_place.load_state_dict(plain.state_dict())
    for layer in ("stem", "middle.conv"):
        torch.testing.assert_close(lrp(plain, images(), [layer])[layer], lrp(in_place, images(), [layer])[layer])


def test_a_residual_sum_splits_by_the_size_of_its_terms():
    network, x = build("residual"), images()
    outputs = outputs_of(network, x)
    main, skip = outputs["middle.conv"], outputs["stem"].clamp(min=0)
    maps = lrp(network, x, ["middle", "middle.conv"])
    share = main.abs() / (main.abs() + skip)
    torch.testing.assert_close(maps["middle.conv"], maps["middle"] * share, rtol=1e-9, atol=1e-12)


def test_concatenation_gives_each_branch_its_own_slice():
    network, x = build("concatenation"), images()
    maps = lrp(network, x, ["middle", "middle.left"])
    torch.testing.assert_close(maps["middle.left"], maps["middle"][:, :4])


def test_a_gate_gets_no_relevance_and_the_signal_all_of_it():
    network, x = build("squeeze-excite"), images()
    maps = lrp(network, x, ["stem", "middle"])
    torch.testing.assert_close(maps["stem"], maps["middle"])
    with pytest.raises(ValueError, match=r"middle\.expand.*gate"):
        lrp(network, x, ["middle.expand"])


def test_hard_swish_by_hand_is_hard_swish():
    by_hand = build("hard-swish-by-hand")
    torch.manual_seed(0)
    expected = lrp(Functional(nn.Hardswish()).double().eval(), images(), ["stem"])
    torch.testing.assert_close(lrp(by_hand, images(), ["stem"]), expected)


def test_two_signals_multiplied_get_half_each():
    network, x = build("gated-linear-unit"), images()
    maps = lrp(network, x, ["middle", "middle.gate", "middle.signal"])
    torch.testing.assert_close(maps["middle.gate"], maps["middle"] / 2)
    torch.testing.assert_close(maps["middle.signal"], maps["middle"] / 2)


def test_the_larger_of_two_takes_all():
    network, x = build("larger-of-two"), images()
    maps, outputs = lrp(network, x, ["middle", "middle.left"]), outputs_of(network, x)
    wins = outputs["middle.left"] > outputs["stem"].clamp(min=0)
    assert 0 < wins.double().mean() < 1
    torch.testing.assert_close(maps["middle.left"], maps["middle"] * wins)


def test_factors_of_a_geometric_mean_share_evenly_whatever_their_scale():
    """Its gradient × input does too: x · ∂/∂x exp(mean log x) is the mean over the number of factors."""
    network, x = build("geometric-mean"), images()
    maps = lrp(network, x, ["stem", "middle"])
    torch.testing.assert_close(maps["stem"], torch.cat([maps["middle"] / 2] * 2, dim=1))


def test_max_pooling_is_average_pooling_two_by_two():
    network, x = build("max-pool"), images()
    maps = lrp(network, x, ["stem", "middle"])
    activation = outputs_of(network, x)["stem"].clamp(min=0)
    per_mean = maps["middle"] / (F.avg_pool2d(activation, 2) + 1e-5)
    expected = activation * F.interpolate(per_mean, scale_factor=2, mode="nearest") / 4
    torch.testing.assert_close(maps["stem"], expected)


def test_average_pooling_shares_evenly_as_the_published_transition_does():
    network, x = build("average-pool"), images()
    maps = lrp(network, x, ["stem", "middle"])
    expected = F.interpolate(maps["middle"], scale_factor=2, mode="nearest") / 4
    torch.testing.assert_close(maps["stem"], expected)


def test_global_pooling_shares_by_activation():
    network, x = build("global-pool"), images()
    maps = lrp(network, x, ["stem", "middle"])
    activation = outputs_of(network, x)["stem"].clamp(min=0)
    expected = maps["middle"] * activation / activation.sum((2, 3), keepdim=True)
    torch.testing.assert_close(maps["stem"], expected, rtol=1e-8, atol=1e-10)


def test_a_convolution_keeps_its_bias_and_a_linear_layer_does_not():
    class Biased(nn.Module):
        def __init__(self):
            super().__init__()
            self.convolution = nn.Sequential(nn.ReLU(), nn.Conv2d(3, 4, 1))
            self.head = nn.Linear(4, 2)

        def forward(self, x):
            return self.head(F.relu(self.convolution(x)).flatten(1))

    torch.manual_seed(0)
    network, x = Biased().double().eval(), images(size=1)
    nn.init.constant_(network.convolution[1].bias, 2.0)
    nn.init.constant_(network.head.bias, 2.0)
    maps = lrp(network, x, ["convolution.0", "convolution", "head"], units=[0, 1, 0])
    torch.testing.assert_close(maps["convolution"].flatten(1).sum(1), maps["head"].sum(1), rtol=1e-3, atol=0)
    inputs = outputs_of(network, x)["convolution.0"]
    evidence = F.conv2d(inputs, network.convolution[1].weight.clamp(min=0))
    share_of_inputs = evidence / (evidence + 2.0 + 1e-5)
    torch.testing.assert_close(
        maps["convolution.0"].sum((1, 2, 3)), (maps["convolution"] * share_of_inputs).sum((1, 2, 3))
    )


def test_the_first_layer_sees_ones_instead_of_the_image():
    class Normalized(nn.Module):
        def __init__(self):
            super().__init__()
            self.normalize = Middle(lambda self, x: (x - 0.5) / 0.25)
            self.stem = convolution(3, 4)

        def forward(self, x):
            return self.stem(self.normalize(x))

    torch.manual_seed(0)
    network, x = Normalized().double().eval(), images()
    maps = lrp(network, x, ["normalize", "stem"], layer="stem")
    positive = network.stem.weight.clamp(min=0)
    coefficient = maps["stem"] / (F.conv2d(torch.ones_like(x), positive, padding=1) + 1e-5)
    torch.testing.assert_close(maps["normalize"], F.conv_transpose2d(coefficient, positive, padding=1))


def test_a_constant_added_or_multiplied_passes_relevance_through():
    class Affine(nn.Module):
        def __init__(self):
            super().__init__()
            self.scale = nn.Parameter(torch.rand(8, 1, 1))

        def forward(self, x):
            y = torch.zeros_like(x)
            y += x
            return 2 * (self.scale * y + 1 - self.scale) / 3

    torch.manual_seed(0)
    network = Functional(Affine()).double().eval()
    maps = lrp(network, images(), ["stem", "middle"])
    torch.testing.assert_close(maps["stem"], maps["middle"])


def test_an_overwritten_feature_keeps_its_own_relevance():
    """`y += x` overwrites the convolution's output; its map must be the share of the convolution alone."""
    network, x = build("residual-in-place"), images()
    maps = lrp(network, x, ["middle.conv", "middle"])
    assert (maps["middle.conv"] <= maps["middle"] + 1e-12).all()
    assert maps["middle.conv"].sum() < 0.99 * maps["middle"].sum()


class CustomSwish(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x):
        return x * torch.sigmoid(x)

    @staticmethod
    def backward(ctx, gradient):
        return gradient


@pytest.mark.parametrize(
    ("middle", "function", "where"),
    [
        (nn.Sequential(nn.LPPool2d(2, 2)), "lp_pool2d", r'"middle\.0" \(LPPool2d\)'),
        (Middle(lambda self, x: x.cumsum(3)), "cumsum", r'"middle" \(Middle\)'),
        (Middle(lambda self, x: x / (1 + x)), "div.*divisor", r'"middle" \(Middle\)'),
        (Middle(lambda self, x: x.clone().sin_()), "sin_", r'"middle" \(Middle\)'),
        (
            Middle(lambda self, x: CustomSwish.apply(x)),
            "custom operation.*CustomSwish",
            r'"middle" \(Middle\)',
        ),
    ],
)
def test_an_operation_without_a_rule_is_named_with_its_place_and_the_way_out(middle, function, where):
    network, x = Functional(middle).double().eval(), images()
    with pytest.raises(UnsupportedOperationError, match=rf"{function}.* in {where}.*rule='gradient_x_activation'"):
        lrp(network, x, ["stem"])
    for rule in ("gradient_x_activation", "guided_backprop"):
        maps = relevance(network, x, layer="head", units=[0, 1, 2], feature_layers=["stem"], rule=rule)
        assert maps["stem"].isfinite().all()


def test_an_element_written_by_index_is_refused():
    def write(self, x):
        y = x.clone()
        y[:, 0] = x[:, 1]
        return y

    with pytest.raises(UnsupportedOperationError, match="__setitem__"):
        lrp(Functional(Middle(write)).double().eval(), images(), ["stem"])


def test_an_operation_that_no_relevance_reaches_needs_no_rule():
    network, x = Functional(Middle(lambda self, x: x.cumsum(3))).double().eval(), images()
    assert lrp(network, x, ["middle"])["middle"].sum() > 0


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32, torch.float64])
def test_relevance_keeps_the_dtype_and_agrees_with_float64(dtype):
    network, x = build("residual"), images()
    expected = lrp(network, x, ["stem"])["stem"]
    actual = lrp(network.to(dtype), x.to(dtype), ["stem"])["stem"]
    assert actual.dtype == dtype
    tolerance = {torch.bfloat16: 0.05, torch.float32: 1e-5, torch.float64: 1e-12}[dtype]
    error = (actual.double() - expected).abs().sum() / expected.abs().sum()
    assert error < tolerance


def test_channels_last_images_give_the_same_relevance():
    network, x = build("depthwise"), images()
    expected = lrp(network, x, ["stem"])["stem"]
    actual = lrp(network, x.contiguous(memory_format=torch.channels_last), ["stem"])["stem"]
    torch.testing.assert_close(actual, expected)
