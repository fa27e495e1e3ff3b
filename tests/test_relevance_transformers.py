"""Relevance through transformers: attention in all its spellings, a block by hand, conservation, conditions."""

import math

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from pipeline.models import torchvision_operators
from pipeline.relevance import RULES, relevance
from pipeline.relevance.signed_rules import GAMMA

torchvision_operators.declare()

import timm  # noqa: E402
import torchvision  # noqa: E402

DOUBLE = torch.float64
B, T, C, HEADS = 2, 5, 8, 2


def images(size=8, batch=B, dtype=DOUBLE):
    return torch.randn(batch, 3, size, size, dtype=dtype, generator=torch.Generator().manual_seed(1))


def shake(network, seed=0):
    """Biases and norms away from where initialization puts them: zeros and ones hide mistakes."""
    generator = torch.Generator().manual_seed(seed)
    for name, parameter in network.named_parameters():
        if parameter.ndim == 1 and "gamma" not in name:
            noise = 0.2 * torch.randn(parameter.shape, generator=generator)
            parameter.data = (noise + (1 if name.endswith("weight") else 0)).to(parameter.dtype)
    return network.requires_grad_(False).eval()


class Tokens(nn.Module):
    """A class token and four patches, normalized; then `middle`; then a linear head on every token."""

    def __init__(self, middle):
        super().__init__()
        self.embed = nn.Conv2d(3, C, 4, stride=4)
        self.token = nn.Parameter(torch.randn(1, 1, C))
        self.norm = nn.LayerNorm(C)
        self.middle = middle
        self.head = nn.Linear(C, 3)

    def forward(self, x):
        patches = self.embed(x).flatten(2).transpose(1, 2)
        return self.head(self.middle(self.norm(torch.cat([self.token.expand(len(x), -1, -1), patches], dim=1))))


def build(middle, seed=0):
    torch.manual_seed(seed)
    return shake(Tokens(middle()).double())


# Attention


class Attention(nn.Module):
    def __init__(self, weigh):
        super().__init__()
        self.qkv, self.heads = nn.Linear(C, 3 * C), nn.Identity()
        self.weigh = weigh

    def forward(self, x):
        q, k, v = self.qkv(x).unflatten(2, (3, HEADS, C // HEADS)).permute(2, 0, 3, 1, 4)
        return self.heads(self.weigh(q, k, v).transpose(1, 2).flatten(2))


def by_matmul(q, k, v):
    return (q @ k.transpose(-2, -1) / math.sqrt(C // HEADS)).softmax(-1) @ v


def by_bmm(q, k, v):
    q, k, v = (x.flatten(0, 1) for x in (q, k, v))
    scores = torch.baddbmm(torch.zeros(len(q), T, T, dtype=q.dtype), q, k.transpose(1, 2), alpha=(C // HEADS) ** -0.5)
    return torch.bmm(F.dropout(F.softmax(scores, dim=-1), 0.1, False), v).unflatten(0, (-1, HEADS))


def by_einsum(q, k, v):
    scores = torch.einsum("bhqd,bhkd->bhqk", q * (C // HEADS) ** -0.5, k)
    return torch.einsum("bhqk,bhkd->bhqd", torch.softmax(scores, 3), v)


def by_transposed_product(q, k, v):
    scores = (k * (C // HEADS) ** -0.5) @ q.transpose(-2, -1)
    return (v.transpose(-2, -1) @ scores.softmax(-2)).transpose(-2, -1)


SPELLINGS = {
    "fused": F.scaled_dot_product_attention,
    "matmul": by_matmul,
    "bmm": by_bmm,
    "einsum": by_einsum,
    "values first": by_transposed_product,
}


@pytest.mark.parametrize("spelling", SPELLINGS)
def test_attention_gives_values_their_weighted_contributions_and_queries_and_keys_nothing(spelling):
    network, x = build(lambda: Attention(SPELLINGS[spelling])), images()
    maps = relevance(network, x, layer="head", units=[0, 2], feature_layers=["middle.qkv", "middle.heads"])
    with torch.no_grad():
        tokens = torch.cat([network.token.expand(B, -1, -1), network.embed(x).flatten(2).transpose(1, 2)], 1)
        q, k, v = network.middle.qkv(network.norm(tokens)).unflatten(2, (3, HEADS, C // HEADS)).permute(2, 0, 3, 1, 4)
        weights = (q @ k.transpose(-2, -1) / 2).softmax(-1)  # head dimension 4
        flow = maps["middle.heads"].transpose(1, 2).unflatten(2, (HEADS, C // HEADS)).transpose(1, 2)
        contributions = weights[..., None] * v[:, :, None]  # [B, H, query, key, D]
        shares = contributions / contributions.sum(3, keepdim=True)
        expected = (shares * flow[:, :, :, None]).sum(2).transpose(1, 2).flatten(2)
    actual = maps["middle.qkv"].transpose(1, 2)
    torch.testing.assert_close(actual[..., 2 * C :], expected)
    assert actual[..., : 2 * C].abs().max() == 0


class Library(nn.Module):
    def __init__(self, **options):
        super().__init__()
        self.attention, self.options = nn.MultiheadAttention(C, HEADS, batch_first=True), options

    def forward(self, x):
        return self.attention(x, x, x, **self.options)[0]


class ByHand(nn.Module):
    """The parameters of `nn.MultiheadAttention`, with every product written out."""

    def __init__(self):
        super().__init__()
        self.attention = nn.MultiheadAttention(C, HEADS, batch_first=True)

    def forward(self, x):
        projected = F.linear(x, self.attention.in_proj_weight, self.attention.in_proj_bias)
        q, k, v = projected.unflatten(2, (3, HEADS, C // HEADS)).permute(2, 0, 3, 1, 4)
        return self.attention.out_proj(by_matmul(q, k, v).transpose(1, 2).flatten(2))


@pytest.mark.parametrize("need_weights", [False, True])
def test_librarys_attention_module_is_the_same_written_out(need_weights):
    expected = relevance(build(ByHand), images(), layer="head", units=[0, 2], feature_layers=["embed", "norm"])
    network = build(lambda: Library(need_weights=need_weights))
    actual = relevance(network, images(), layer="head", units=[0, 2], feature_layers=["embed", "norm"])
    for layer, value in expected.items():
        torch.testing.assert_close(actual[layer], value)


def test_library_values_stay_bit_identical_under_the_mode():
    network, seen = build(lambda: Library(need_weights=False)), []
    handle = network.middle.register_forward_hook(lambda _m, _i, output: seen.append(output.detach().clone()))
    network(images().requires_grad_())  # without, the library takes its fused path
    relevance(network, images(), layer="head", units=[0, 2], feature_layers=["norm"])
    handle.remove()
    assert torch.equal(*seen)


def test_constant_latent_queries_pool_by_their_weights():
    """SigLIP's pooling: one learned query attends to all tokens."""

    class Pool(nn.Module):
        def __init__(self):
            super().__init__()
            self.query, self.kv = nn.Parameter(torch.randn(1, 1, C)), nn.Linear(C, 2 * C)

        def forward(self, x):
            k, v = self.kv(x).chunk(2, dim=-1)
            return F.scaled_dot_product_attention(self.query.expand(len(x), -1, -1), k, v)

    maps = relevance(build(Pool), images(), layer="head", units=[0, 2], feature_layers=["norm", "middle"])
    torch.testing.assert_close(maps["norm"].sum((1, 2)), maps["middle"].sum((1, 2)))


# Sums and products of signed features


class Two(nn.Module):
    def __init__(self, combine):
        super().__init__()
        self.left, self.right, self.combine = nn.Linear(C, C), nn.Linear(C, C), combine

    def forward(self, x):
        return self.combine(self.left(x), self.right(x))


def add_in_place(left, right):
    left += right
    return left


SUMS = {
    "plus": (lambda left, right: left + right, 1, 1),
    "in place": (add_in_place, 1, 1),
    "minus": (lambda left, right: left - right, 1, -1),
    "from": (lambda left, right: torch.rsub(left, right, alpha=2), -2, 1),
    "scaled": (lambda left, right: torch.add(left, right, alpha=3), 1, 3),
}


@pytest.mark.parametrize("name", SUMS)
def test_terms_of_a_sum_share_by_their_values(name):
    combine, left_factor, right_factor = SUMS[name]
    network, x = build(lambda: Two(combine)), images()
    maps = relevance(network, x, layer="head", units=[0, 2], feature_layers=["middle", "middle.left", "middle.right"])
    with torch.no_grad():
        tokens = torch.cat([network.token.expand(B, -1, -1), network.embed(x).flatten(2).transpose(1, 2)], 1)
        normed = network.norm(tokens)
        left = left_factor * network.middle.left(normed).transpose(1, 2)
        right = right_factor * network.middle.right(normed).transpose(1, 2)
    torch.testing.assert_close(maps["middle.left"], maps["middle"] * left / (left + right))
    torch.testing.assert_close(maps["middle.right"], maps["middle"] * right / (left + right))


@pytest.mark.parametrize("product", [lambda a, b: a @ (a.transpose(1, 2) @ b), lambda a, b: a * b])
def test_signals_of_a_product_get_half_each(product):
    """The first is a product of products: a gets half, and half of the half that goes to the inner one."""
    network = build(lambda: Two(product))
    layers = ["middle", "middle.left", "middle.right"]
    maps = relevance(network, images(), layer="head", units=[0, 2], feature_layers=layers)
    total, left, right = (maps[layer].sum((1, 2)) for layer in layers)
    share = 0.25 if product(torch.ones(1, 2, 2), torch.ones(1, 2, 2)).max() > 1 else 0.5
    torch.testing.assert_close(right, share * total)
    torch.testing.assert_close(left, (1 - share) * total)


def test_features_stay_signed_when_a_part_of_them_is_overwritten():
    def overwrite(left, _right):
        left.chunk(2, dim=2)[0].mul_(2)  # writes into `left` through a view
        return left + left.flip(2)

    network, x = build(lambda: Two(overwrite)), images()
    maps = relevance(network, x, layer="head", units=[0, 2], feature_layers=["middle", "middle.left"])
    with torch.no_grad():
        tokens = torch.cat([network.token.expand(B, -1, -1), network.embed(x).flatten(2).transpose(1, 2)], 1)
        left = network.middle.left(network.norm(tokens)).transpose(1, 2)
        left[:, : C // 2] *= 2
    per_value = maps["middle"] / (left + left.flip(1))  # not by size, as before a LayerNorm
    torch.testing.assert_close(maps["middle.left"], left * (per_value + per_value.flip(1)))


# A block by hand


class Block(nn.Module):
    def __init__(self):
        super().__init__()
        self.norm1, self.norm2 = nn.LayerNorm(C), nn.LayerNorm(C)
        self.attention, self.proj = Attention(F.scaled_dot_product_attention), nn.Linear(C, C)
        self.scale = nn.Parameter(torch.rand(C) + 0.5)
        self.mlp = nn.Sequential(nn.Linear(C, 2 * C), nn.GELU(), nn.Linear(2 * C, C))

    def forward(self, x):
        x = x + self.scale * self.proj(self.attention(self.norm1(x)))
        return x + self.mlp(self.norm2(x))


def share_linear(flow, x, layer):
    """γ rule by its table of contributions, [..., outputs, inputs]."""
    contributions = x[..., None, :] * layer.weight
    z, bias = contributions.sum(-1) + layer.bias, layer.bias.expand(*x.shape[:-1], -1)
    wins = (contributions > 0) == (z >= 0)[..., None]
    won = (contributions * wins).sum(-1)
    bias = torch.where((bias >= 0) == (z >= 0), (1 + GAMMA) * bias, bias)
    table = torch.where(wins, contributions * (1 + GAMMA + bias / won)[..., None], contributions)
    return (flow[..., None] * table / table.sum(-1, keepdim=True)).sum(-2)


def share_norm(flow, x, norm):
    deviation = (x.var(-1, correction=0, keepdim=True) + norm.eps).sqrt()
    matrix = norm.weight[:, None] * (torch.eye(C, dtype=DOUBLE) - 1 / C)
    contributions = matrix * x[..., None, :] / deviation[..., None]
    z = contributions.sum(-1) + norm.bias
    of_bias = (flow * norm.bias / z).sum(-1, keepdim=True)
    return (flow[..., None] * contributions / z[..., None]).sum(-2) + of_bias * x.abs() / x.abs().sum(-1, keepdim=True)


def test_a_block_agrees_with_its_rules_written_out():
    network, x = build(Block), images()
    block = network.middle
    with torch.no_grad():
        tokens = torch.cat([network.token.expand(B, -1, -1), network.embed(x).flatten(2).transpose(1, 2)], 1)
        start = network.norm(tokens)
        normed1 = block.norm1(start)
        q, k, v = block.attention.qkv(normed1).unflatten(2, (3, HEADS, C // HEADS)).permute(2, 0, 3, 1, 4)
        weights = (q @ k.transpose(-2, -1) / 2).softmax(-1)
        heads = (weights @ v).transpose(1, 2).flatten(2)
        attended = block.scale * block.proj(heads)
        middle = start + attended
        normed2 = block.norm2(middle)
        hidden = block.mlp[0](normed2)
        updated = block.mlp[2](F.gelu(hidden))
        output = middle + updated

        flow = torch.zeros(B, T, 3, dtype=DOUBLE)
        logits = network.head(output)
        flow[0, :, 1], flow[1, :, 0] = logits[0, :, 1], logits[1, :, 0]
        flow = share_linear(flow, output, network.head)
        at_output = flow
        to_mlp = share_linear(flow * updated / output, F.gelu(hidden), block.mlp[2])
        flow = flow * middle / output + share_norm(share_linear(to_mlp, normed2, block.mlp[0]), middle, block.norm2)
        to_heads = share_linear(flow * attended / middle, heads, block.proj)
        to_heads = to_heads.unflatten(2, (HEADS, C // HEADS)).transpose(1, 2)
        contributions = weights[..., None] * v[:, :, None]
        shares = contributions / contributions.sum(3, keepdim=True)
        to_values = (shares * to_heads[:, :, :, None]).sum(2).transpose(1, 2).flatten(2)
        to_qkv = torch.cat([torch.zeros(B, T, 2 * C, dtype=DOUBLE), to_values], dim=2)
        to_normed = share_linear(to_qkv, normed1, block.attention.qkv)
        flow = flow * start / middle + share_norm(to_normed, start, block.norm1)

    maps = relevance(network, x, layer="head", units=[1, 0], feature_layers=["norm", "middle"])
    torch.testing.assert_close(maps["middle"].transpose(1, 2), at_output, rtol=1e-6, atol=1e-9)
    torch.testing.assert_close(maps["norm"].transpose(1, 2), flow, rtol=1e-6, atol=1e-9)


# Whole networks


def tower(name, size=64, **options):
    torch.manual_seed(0)
    return shake(timm.create_model(name, img_size=size, **options))


def torchvision_tower():
    torch.manual_seed(0)
    options = {"num_layers": 6, "num_heads": 3, "hidden_dim": 96, "mlp_dim": 192}
    return shake(torchvision.models.VisionTransformer(image_size=64, patch_size=16, **options))


def blocks(network):
    path = "blocks" if hasattr(network, "blocks") else "encoder.layers"
    return [f"{path}.{name}" for name, _ in network.get_submodule(path).named_children()]


TOWERS = {
    "ViT": lambda: tower("vit_tiny_patch16_224"),
    "DeiT with two class tokens": lambda: tower("deit_tiny_distilled_patch16_224"),
    "torchvision's ViT": torchvision_tower,
    "DINOv2 with registers": lambda: tower("vit_small_patch14_reg4_dinov2", 56, depth=6, init_values=0.5),
    "SigLIP with attention pooling": lambda: tower("vit_base_patch16_siglip_224", depth=6, embed_dim=192, num_heads=3),
    "CLIP": lambda: tower("vit_base_patch16_clip_quickgelu_224", depth=6, embed_dim=192, num_heads=3),
}


@pytest.mark.parametrize("name", TOWERS)
def test_relevance_of_a_unit_is_conserved_at_every_block_and_stays_bounded(name):
    network = TOWERS[name]()
    size = network.patch_embed.img_size[0] if hasattr(network, "patch_embed") else network.image_size
    *inner, target = blocks(network)
    x, layers = images(size, dtype=torch.float32), [*inner, target]
    maps = relevance(network, x, layer=target, units=[3, 7], feature_layers=layers)
    seeds, seed_sizes = maps[target].sum((1, 2)), maps[target].abs().sum((1, 2))
    for layer in inner:
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
    if rule in ("lrp", "gradient"):
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
def test_a_unit_that_a_relu_silences_asks_for_what_would_excite_it(rule):
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
    assert maps["norm"][0, 0] < 0 < maps["norm"][0, 1]  # the first input inhibits the unit, the second excites it


# Conditions


class Conditional(nn.Module):
    """`given`, which an in-place ReLU overwrites, feeds `last` beside a way around it."""

    def __init__(self):
        super().__init__()
        self.first, self.middle, self.last = (nn.Conv2d(3, 4, 1), nn.Conv2d(4, 4, 1), nn.Conv2d(4, 2, 1))
        self.act = nn.ReLU(inplace=True)

    def forward(self, x):
        return self.last(self.act(self.middle(F.relu(self.first(x)))))


@pytest.mark.parametrize("rule", ["lrp", "gradient", "guided_backprop"])
def test_relevance_passes_a_given_layer_through_the_given_unit_alone(rule):
    torch.manual_seed(0)
    network, x = Conditional().double().eval(), images(4)
    ask = {"layer": "last", "units": [0, 1], "feature_layers": ["first", "middle"], "rule": rule}
    free = relevance(network, x, **ask)
    parts = []
    for unit in range(4):
        network.last.given = ("middle", unit)
        part = relevance(network, x, **ask)
        others = [i for i in range(4) if i != unit]
        torch.testing.assert_close(part["middle"][:, unit], free["middle"][:, unit])
        assert part["middle"][:, others].abs().max() == 0
        parts.append(part["first"])
    if rule != "guided_backprop":  # whose clamp is not linear
        torch.testing.assert_close(torch.stack(parts).sum(0), free["first"])


def test_a_condition_that_cannot_be_met_is_named():
    network, x = Conditional().double().eval(), images(4)
    network.middle.given = ("last", 0)
    with pytest.raises(ValueError, match=r'"middle" is given unit 0 of layer "last", which no relevance reaches'):
        relevance(network, x, layer="middle", units=[0, 1], feature_layers=["first"])
    network.last.given = ("middle", 9)
    with pytest.raises(ValueError, match=r'given unit 9 of layer "middle"; expected 0 to 3'):
        relevance(network, x, layer="last", units=[0, 1], feature_layers=["first"])
