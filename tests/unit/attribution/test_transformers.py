"""Relevance through whole transformers: conservation, prefix tokens, batches, precision, conditions."""

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from pipeline.attribution.relevance import RULES, relevance
from pipeline.models import torchvision_operators
from tests.support.token_networks import build, images, shake

torchvision_operators.declare()

import timm  # noqa: E402
import torchvision  # noqa: E402

# Whole networks


def tower(name, size=64, **options):
    torch.manual_seed(0)
    return shake(timm.create_model(name, img_size=size, **options))


def torchvision_tower():
    torch.manual_seed(0)
    options = {"num_layers": 4, "num_heads": 3, "hidden_dim": 96, "mlp_dim": 192}
    return shake(torchvision.models.VisionTransformer(image_size=64, patch_size=16, **options))


def blocks(network):
    path = "blocks" if hasattr(network, "blocks") else "encoder.layers"
    return [f"{path}.{name}" for name, _ in network.get_submodule(path).named_children()]


TOWERS = {
    "ViT": lambda: tower("vit_tiny_patch16_224", depth=6),
    "DeiT with two class tokens": lambda: tower("deit_tiny_distilled_patch16_224", depth=4),
    "torchvision's ViT": torchvision_tower,
    "DINOv2 with registers": lambda: tower("vit_small_patch14_reg4_dinov2", 56, depth=4, init_values=0.5),
    "SigLIP with attention pooling": lambda: tower("vit_base_patch16_siglip_224", depth=4, embed_dim=192, num_heads=3),
    "CLIP": lambda: tower("vit_base_patch16_clip_quickgelu_224", depth=4, embed_dim=192, num_heads=3),
}


@pytest.mark.parametrize("name", TOWERS)
def test_relevance_of_a_unit_is_conserved_at_every_block_and_stays_bounded(name):
    network = TOWERS[name]()
    size = network.patch_embed.img_size[0] if hasattr(network, "patch_embed") else network.image_size
    *intermediate, target = blocks(network)
    x, layers = images(size, dtype=torch.float32), [*intermediate, target]
    maps = relevance(network, x, layer=target, units=[3, 7], feature_layers=layers)
    seeds, seed_sizes = maps[target].sum((1, 2)), maps[target].abs().sum((1, 2))
    for layer in intermediate:
        assert ((maps[layer].sum((1, 2)) - seeds).abs() < 0.001 * seed_sizes).all()
        assert (maps[layer].abs().sum((1, 2)) < 10 * seed_sizes).all()
        assert (maps[layer].abs().sum(1) > 0).all()  # at every token, the prefix included


@pytest.mark.parametrize("rule", RULES)
def test_prefix_tokens_are_no_part_of_the_unit(rule):
    network, x = build(nn.Identity), images()
    ask = {"layer": "norm", "units": [2, 5], "feature_layers": ["norm"], "rule": rule}
    everywhere = relevance(network, x, **ask)["norm"][[0, 1], [2, 5]]
    patches = relevance(network, x, num_prefix=1, **ask)["norm"][[0, 1], [2, 5]]
    assert (patches[:, 0] == 0).all()
    assert (patches[:, 1:] != 0).any(1).all()
    if rule in ("lrp", "gradient_x_activation"):
        torch.testing.assert_close(patches[:, 1:], everywhere[:, 1:])
    elif rule == "lrp_restricted":
        assert ((patches != 0).sum(1) == 1).all()


def test_a_batch_of_neurons_is_each_alone():
    network, x = tower("vit_tiny_patch16_224", depth=4), images(64, 3, torch.float32)
    units, layers = [5, 0, 60], ["patch_embed.proj", "blocks.1"]
    together = relevance(network, x, layer="blocks.3", units=units, feature_layers=layers)
    for i, unit in enumerate(units):
        alone = relevance(network, x[i : i + 1], layer="blocks.3", units=[unit], feature_layers=layers)
        for layer in layers:
            torch.testing.assert_close(together[layer][i : i + 1], alone[layer], rtol=1e-3, atol=1e-5)


def test_bfloat16_is_close_to_float32_and_float16_is_refused():
    network, x = tower("vit_tiny_patch16_224", depth=3), images(64, 2, torch.float32)
    ask = {"layer": "blocks.2", "units": [5, 0], "feature_layers": ["blocks.0"]}
    expected = relevance(network, x, **ask)["blocks.0"]
    actual = relevance(network.bfloat16(), x.bfloat16(), **ask)["blocks.0"]
    assert actual.dtype == torch.bfloat16
    assert (actual - expected).abs().sum() < 0.1 * expected.abs().sum()
    with pytest.raises(ValueError, match=r"float16 has no numbers below.*bfloat16"):
        relevance(network.half(), x.half(), **ask)


@pytest.mark.parametrize("rule", ["lrp", "lrp_restricted"])
def test_a_unit_that_a_relu_silences_asks_for_what_would_activate_it(rule):
    class Silent(nn.Module):
        def __init__(self):
            super().__init__()
            self.norm, self.linear, self.act = nn.LayerNorm(4), nn.Linear(4, 2), nn.ReLU()

        def forward(self, x):
            return self.act(self.linear(self.norm(x.flatten(1))))

    network, x = Silent().eval(), torch.tensor([[[[3.0, 1.0], [-1.0, -3.0]]]])
    with torch.no_grad():
        network.linear.weight.copy_(torch.tensor([[-1.0, 0.5, 0, 0], [0, 0, 0, 0]]))
        network.linear.bias.fill_(-1.0)
    maps = relevance(network, x, layer="act", units=[0], feature_layers=["norm"], rule=rule)
    assert maps["norm"][0, 0] < 0 < maps["norm"][0, 1]  # the first input inhibits the unit, the second activates it


# Conditions


class Conditional(nn.Module):
    """`middle`, which an in-place ReLU overwrites, feeds `last` beside a way around it."""

    def __init__(self):
        super().__init__()
        self.first, self.middle, self.last = (nn.Conv2d(3, 4, 1), nn.Conv2d(4, 4, 1), nn.Conv2d(4, 2, 1))
        self.act = nn.ReLU(inplace=True)

    def forward(self, x):
        return self.last(self.act(self.middle(F.relu(self.first(x)))))


@pytest.mark.parametrize("rule", ["lrp", "gradient_x_activation", "guided_backprop"])
def test_relevance_passes_a_layer_through_the_conditioning_unit_alone(rule):
    torch.manual_seed(0)
    network, x = Conditional().double().eval(), images(4)
    ask = {"layer": "last", "units": [0, 1], "feature_layers": ["first", "middle"], "rule": rule}
    free = relevance(network, x, **ask)
    parts = []
    for unit in range(4):
        network.last.conditioned_on = ("middle", unit)
        part = relevance(network, x, **ask)
        others = [i for i in range(4) if i != unit]
        torch.testing.assert_close(part["middle"][:, unit], free["middle"][:, unit])
        assert part["middle"][:, others].abs().max() == 0
        parts.append(part["first"])
    if rule != "guided_backprop":  # whose clamp is not linear
        torch.testing.assert_close(torch.stack(parts).sum(0), free["first"])


def test_a_condition_that_cannot_be_met_is_named():
    network, x = Conditional().double().eval(), images(4)
    network.middle.conditioned_on = ("last", 0)
    with pytest.raises(
        ValueError, match=r'"middle" is conditioned on unit 0 of layer "last", which no relevance reaches'
    ):
        relevance(network, x, layer="middle", units=[0, 1], feature_layers=["first"])
    network.last.conditioned_on = ("middle", 9)
    with pytest.raises(ValueError, match=r'conditioned on unit 9 of layer "middle"; expected 0 to 3'):
        relevance(network, x, layer="last", units=[0, 1], feature_layers=["first"])
