"""torchvision's shifted window attention with a layer `heads`, laid back from windows to the map [B, H, W, C]."""

from typing import Any

import torch
from torch import Tensor, nn
from torchvision.models.swin_transformer import (
    ShiftedWindowAttention,
    ShiftedWindowAttentionV2,
    shifted_window_attention,
)


class ExplicitWindowAttention(ShiftedWindowAttention):
    """Swin: Liu et al., "Swin Transformer", ICCV 2021."""

    def forward(self, x: Tensor) -> Tensor:
        """[B, H, W, C] → the same."""
        return _attend(self, x)


class ExplicitWindowAttentionV2(ShiftedWindowAttentionV2):
    """Swin V2, with cosine attention: Liu et al., "Swin Transformer V2", CVPR 2022."""

    def forward(self, x: Tensor) -> Tensor:
        """[B, H, W, C] → the same."""
        return _attend(self, x)


def _attend(attention: Any, x: Tensor) -> Tensor:
    """The library's function with an identity for its projection, then `heads`, then the projection.

    The projection mixes the channels of one position, so it may as well come after the windows are laid back.
    """
    output = shifted_window_attention(
        x,
        attention.qkv.weight,
        torch.eye(x.shape[-1], dtype=x.dtype, device=x.device),
        attention.get_relative_position_bias(),
        attention.window_size,
        attention.num_heads,
        shift_size=attention.shift_size,
        attention_dropout=attention.attention_dropout,
        qkv_bias=attention.qkv.bias,
        logit_scale=getattr(attention, "logit_scale", None),
        training=attention.training,
    )
    return nn.functional.dropout(attention.proj(attention.heads(output)), attention.dropout, attention.training)


_EXPLICIT: dict[type, Any] = {
    ShiftedWindowAttention: ExplicitWindowAttention,
    ShiftedWindowAttentionV2: ExplicitWindowAttentionV2,
}


def expose_window_heads(attention: nn.Module) -> None:
    """Give one of torchvision's window attentions a child `heads`, in place."""
    attention.__class__ = _EXPLICIT[type(attention)]
    attention.heads = nn.Identity()
