"""Attention that shows its heads: the output of all heads, before they are mixed, as a layer called `heads`.

Units of this layer are dimensions of the concatenated heads: with H heads of D dimensions each, unit u belongs to head
u // D. Libraries compute it inside of a function, or between two modules; here an `nn.Identity` receives it, so that
it has a name (`blocks.5.attn.heads`, `encoder.layers.encoder_layer_5.self_attention.heads`) and can be captured like
any layer. Parameters keep their names, so weights and their hash stay the same; values stay the same too.

Swin's heads live in windows of the image: torchvision's are laid back to a map, timm's are no layer while there are
several windows.
"""

from typing import Any

import torch.nn.functional as F
from torch import Tensor, nn


class ExplicitAttention(nn.MultiheadAttention):
    """`nn.MultiheadAttention` in ordinary modules and functions, without its fused fast path.

    Plain attention runs here. What it does not do, masks and returned attention maps, goes the original way, and
    then `heads` does not run.

    Reference: Vaswani et al., "Attention is all you need", NeurIPS 2017, section 3.2.2.
    """

    heads: nn.Module

    def forward(self, query: Tensor, key: Tensor, value: Tensor, *args: Any, **kwargs: Any) -> tuple[Tensor, Any]:
        """As `nn.MultiheadAttention.forward`: [B, T, C] each (or [T, B, C] by its `batch_first`) → (the same, None)."""
        settings = dict(zip(_ARGUMENTS, args, strict=False)) | kwargs
        if query.ndim != 3 or settings.get("need_weights", True) or not _is_plain(self, settings):
            return super().forward(query, key, value, **settings)
        weights, biases = self.in_proj_weight.chunk(3), _chunk_bias(self.in_proj_bias)
        projected = [F.linear(x, w, b) for x, w, b in zip((query, key, value), weights, biases, strict=True)]
        if not self.batch_first:
            projected = [x.transpose(0, 1) for x in projected]
        q, k, v = (x.unflatten(2, (self.num_heads, self.head_dim)).transpose(1, 2) for x in projected)  # [B, H, T, D]
        output = self.heads(F.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2))
        output = self.out_proj(output)
        return (output if self.batch_first else output.transpose(0, 1)), None


# Of `nn.MultiheadAttention.forward`, after query, key and value.
_ARGUMENTS = ("key_padding_mask", "need_weights", "attn_mask", "average_attn_weights", "is_causal")


def _is_plain(attention: nn.MultiheadAttention, settings: dict[str, Any]) -> bool:
    has_mask = settings.get("key_padding_mask") is not None or settings.get("attn_mask") is not None
    has_extra_key = attention.bias_k is not None or attention.add_zero_attn
    drops = attention.training and attention.dropout > 0
    return attention.in_proj_weight is not None and not (has_mask or has_extra_key or drops)


def _chunk_bias(bias: Tensor | None) -> tuple[Tensor | None, ...]:
    return (None, None, None) if bias is None else bias.chunk(3)


class _ThroughHeads:
    """The pre-hook that sends the input of a projection through `heads`; a class, so that it pickles with the model."""

    def __init__(self, heads: nn.Module) -> None:
        self.heads = heads

    def __call__(self, _projection: nn.Module, inputs: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        return (self.heads(*inputs),)


def expose_heads(module: nn.Module) -> None:
    """Give every attention module inside `module` a child `heads`, in place; those that have one keep it."""
    for child in list(module.modules()):
        if "heads" in dict(child.named_children()) or not isinstance(getattr(child, "num_heads", None), int):
            continue
        if type(child) is nn.MultiheadAttention:
            child.__class__ = ExplicitAttention  # same parameters, hooks and settings; only `forward` is another
            child.heads = nn.Identity()
        elif type(child).__module__ == "torchvision.models.swin_transformer":
            # torchvision takes as long to import as torch, and is loaded already where a network is made of it.
            from pipeline.models.window_attention import expose_window_heads

            expose_window_heads(child)
        elif isinstance(projection := getattr(child, "proj", None), nn.Linear | nn.Conv2d):  # timm's attention
            child.heads = nn.Identity()
            projection.register_forward_pre_hook(_ThroughHeads(child.heads))
