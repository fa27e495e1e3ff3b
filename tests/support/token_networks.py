"""Small networks of tokens in float64, for relevance written out by hand, and images for them."""

import torch
from torch import nn

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
