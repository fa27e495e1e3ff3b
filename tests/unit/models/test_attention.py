"""Attention whose heads are a layer: the same values, gradients and weights as before, and the right heads."""

import copy
import math
import pickle

import pytest
import torch
from torch import Tensor, nn

from pipeline.models import features_of, load_model, torchvision_operators
from pipeline.models.attention import ExplicitAttention, expose_heads
from pipeline.models.weights.loading import hash_state

torchvision_operators.declare()
HEADS, DIMS = 3, 4


def small_attention(**settings: object) -> nn.MultiheadAttention:
    torch.manual_seed(0)
    attention = nn.MultiheadAttention(HEADS * DIMS, HEADS, **settings).eval()
    for parameter in attention.parameters():
        nn.init.normal_(parameter)
    return attention


def heads_by_hand(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """softmax(q kᵀ / √D) v of each head, one query after the other, [B, T, H·D] each, in float64."""
    B, T, _ = q.shape
    output = torch.zeros(B, T, HEADS * DIMS, dtype=torch.float64)
    for b in range(B):
        for head in range(HEADS):
            own = slice(head * DIMS, (head + 1) * DIMS)
            for t in range(T):
                scores = (k[b, :, own].double() @ q[b, t, own].double()) / math.sqrt(DIMS)
                weights = scores.exp() / scores.exp().sum()
                output[b, t, own] = weights @ v[b, :, own].double()
    return output


def exposed(attention: nn.Module) -> nn.Module:
    wrapped = nn.Sequential(copy.deepcopy(attention))
    expose_heads(wrapped)
    return wrapped[0]


@pytest.mark.parametrize("settings", [{"batch_first": True}, {"batch_first": False}, {"bias": False}])
def test_values_and_gradients_are_those_of_the_library(settings: dict) -> None:
    original = small_attention(**settings).double()  # float32 rounds otherwise with another number of threads
    explicit = exposed(original)
    assert isinstance(explicit, ExplicitAttention)
    results = []
    for attention in (original, explicit):
        generator = torch.Generator().manual_seed(1)
        tokens = torch.randn(2, 5, HEADS * DIMS, generator=generator, dtype=torch.float64).requires_grad_()
        output, weights = attention(tokens, tokens, tokens, need_weights=False)
        assert weights is None
        (gradient,) = torch.autograd.grad(output.square().sum(), tokens)
        results.append((output.detach(), gradient))
    torch.testing.assert_close(results[1][0], results[0][0], rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(results[1][1], results[0][1], rtol=1e-10, atol=1e-10)


def test_the_heads_are_what_the_formula_says() -> None:
    attention = exposed(small_attention(batch_first=True))
    query, memory = torch.randn(2, 5, HEADS * DIMS), torch.randn(2, 7, HEADS * DIMS)
    seen: list[Tensor] = []
    attention.heads.register_forward_hook(lambda _m, _i, output: seen.append(output))
    attention(query, memory, memory, need_weights=False)
    q, k, v = (
        x @ w.T + b
        for x, w, b in zip(
            (query, memory, memory), attention.in_proj_weight.chunk(3), attention.in_proj_bias.chunk(3), strict=True
        )
    )
    torch.testing.assert_close(seen[0].double(), heads_by_hand(q, k, v), rtol=1e-5, atol=1e-5)


def test_weights_keep_their_names_and_their_hash() -> None:
    original = small_attention(batch_first=True)
    assert list(exposed(original).state_dict()) == list(original.state_dict())
    assert hash_state(exposed(original)) == hash_state(original)


@pytest.mark.parametrize("kind", ["mask", "padding", "weights"])
def test_what_it_does_not_do_goes_the_library_s_way(kind: str) -> None:
    original = small_attention(batch_first=True)
    tokens = torch.randn(2, 5, HEADS * DIMS)
    settings: dict = {
        "mask": {"need_weights": False, "attn_mask": torch.ones(5, 5, dtype=torch.bool).triu(1)},
        "padding": {"need_weights": False, "key_padding_mask": torch.tensor([[False] * 4 + [True]] * 2)},
        "weights": {},
    }[kind]
    expected, expected_weights = original(tokens, tokens, tokens, **settings)
    output, weights = exposed(original)(tokens, tokens, tokens, **settings)
    assert torch.equal(output, expected)
    assert (weights is None) == (kind != "weights")
    if weights is not None:
        assert torch.equal(weights, expected_weights)


def torchvision_vit() -> nn.Module:
    from torchvision.models import VisionTransformer

    module = VisionTransformer(
        image_size=32, patch_size=8, num_layers=2, num_heads=HEADS, hidden_dim=HEADS * DIMS, mlp_dim=16, num_classes=5
    )
    nn.init.normal_(module.heads.head.weight)
    module.input_size_px = 32
    return module


def torchvision_swin(version: int = 1) -> nn.Module:
    from torchvision.models import swin_transformer as library

    blocks = {} if version == 1 else {
        "block": library.SwinTransformerBlockV2, "downsample_layer": library.PatchMergingV2
    }  # fmt: skip
    module = library.SwinTransformer(
        patch_size=[4, 4], embed_dim=6, depths=[2, 1], num_heads=[3, 3], window_size=[3, 3], num_classes=5, **blocks
    )
    module.input_size_px = 32
    return module


def torchvision_swin_v2() -> nn.Module:
    return torchvision_swin(2)


@pytest.mark.parametrize("factory", [torchvision_vit, torchvision_swin, torchvision_swin_v2])
def test_whole_networks_give_the_same_and_travel(factory) -> None:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        original = factory().eval()
    model = load_model(f"python:{__name__}:{factory.__name__}", seed=0)
    assert model.weights_sha256 == hash_state(original)
    images = torch.randn(3, 3, 32, 32)
    expected = original(images)
    torch.testing.assert_close(model.module(images), expected, rtol=1e-5, atol=1e-5)
    for copied in (pickle.loads(pickle.dumps(model)).module, copy.deepcopy(model.module)):
        torch.testing.assert_close(copied(images), model.module(images), rtol=1e-5, atol=1e-5)


def test_torchvision_s_heads_are_layers() -> None:
    vit = load_model(f"python:{__name__}:torchvision_vit")
    heads = "encoder.layers.encoder_layer_1.self_attention.heads"
    assert vit.feature_shape(heads) == (HEADS * DIMS, 17)
    assert vit.token_grid(heads) == (1, 4, 4)
    swin = load_model(f"python:{__name__}:torchvision_swin")
    assert swin.feature_shape("features.1.1.attn.heads") == (6, 8, 8)  # shifted windows, padded from 8 to 9
    features = features_of(swin.module, torch.randn(2, 3, 32, 32), ["features.1.1.attn", "features.1.1.attn.heads"])
    projected = swin.module.features[1][1].attn.proj(features["features.1.1.attn.heads"].permute(0, 2, 3, 1))
    torch.testing.assert_close(features["features.1.1.attn"].permute(0, 2, 3, 1), projected)


def test_timm_s_heads_are_layers_and_the_output_is_the_same() -> None:
    import timm

    options = {"depth": 1, "embed_dim": HEADS * DIMS, "num_heads": HEADS}
    model = load_model("timm:vit_tiny_patch16_224", "random", seed=3, input_size_px=48, options=options)
    with torch.random.fork_rng():
        torch.manual_seed(3)
        original = timm.create_model("vit_tiny_patch16_224", img_size=48, **options).eval()
    images = torch.randn(2, 3, 48, 48)
    assert model.weights_sha256 == hash_state(original)
    # In float64, since kernels may round by where in memory their operands lie.
    exact, expected = pickle.loads(pickle.dumps(model)).module.double(), original.double()
    torch.testing.assert_close(exact(images.double()), expected(images.double()), rtol=1e-12, atol=1e-12)

    layers = ["blocks.0.attn.qkv", "blocks.0.attn.heads", "blocks.0.attn"]
    features = features_of(model.module, images, layers)
    q, k, v = features["blocks.0.attn.qkv"].transpose(1, 2).chunk(3, dim=2)
    heads = features["blocks.0.attn.heads"].transpose(1, 2)
    torch.testing.assert_close(heads.double(), heads_by_hand(q, k, v), rtol=1e-5, atol=1e-5)
    # They are in the network's path: what is done to them reaches the output.
    copied = pickle.loads(pickle.dumps(model)).module
    copied.blocks[0].attn.heads.register_forward_hook(lambda _m, _i, output: output * 0)
    (bias,) = {tuple(row.tolist()) for row in features_of(copied, images, layers)["blocks.0.attn"][0].T}
    assert bias == pytest.approx(model.module.blocks[0].attn.proj.bias.tolist())


def test_heads_are_exposed_once() -> None:
    module = torchvision_vit()
    expose_heads(module)
    names = [name for name, _ in module.named_modules()]
    expose_heads(module)
    assert [name for name, _ in module.named_modules()] == names
