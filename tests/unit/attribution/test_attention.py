"""Relevance through the parts of a transformer: attention in all its spellings, sums, products, a block by hand."""

import math

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from pipeline.attribution.relevance import relevance
from pipeline.attribution.signed_rules import GAMMA
from tests.support.token_networks import DOUBLE, HEADS, B, C, T, build, images

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
    """The first is a product of products: a gets half, and half of the half that goes to the intermediate one."""
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
