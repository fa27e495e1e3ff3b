"""Small networks, each around an operation that relevance passes through, and what is asked of them in float64."""

import torch
import torch.nn.functional as F
from torch import nn

from pipeline.attribution.relevance import relevance


def convolution(inputs, outputs, size=3, **options):
    return nn.Conv2d(inputs, outputs, size, padding=size // 2, bias=False, **options)


class Functional(nn.Module):
    """Ends `head`, after `middle` has made something of `stem`'s output."""

    def __init__(self, middle, channels=8, head_inputs=8):
        super().__init__()
        self.stem = convolution(3, channels)
        self.middle = middle
        # The target's activations are not negative, so neither is any relevance.
        self.head = nn.Sequential(convolution(head_inputs, 5), nn.ReLU())

    def forward(self, x):
        return self.head(self.middle(F.relu(self.stem(x))))


class Middle(nn.Module):
    def __init__(self, function, **modules):
        super().__init__()
        self.function = function
        for name, module in modules.items():
            self.add_module(name, module)

    def forward(self, x):
        return self.function(self, x)


def residual(self, x):
    return F.relu(self.conv(x) + x)


def residual_in_place(self, x):
    y = self.conv(x)
    y += x
    return F.relu(y, inplace=True)


def squeeze_excite(self, x):
    gate = torch.sigmoid(self.expand(F.relu(self.reduce(x.mean((2, 3), keepdim=True)))))
    return x * gate


def response_norm(self, x):
    """ConvNeXt V2: Woo et al., 2023; the scale of `weigh` alone matters here."""
    length = x.norm(dim=(2, 3), keepdim=True)
    relative = length / (length.mean(dim=1, keepdim=True) + 1e-6)
    return x + torch.addcmul(self.weigh.bias.view(-1, 1, 1), self.weigh.weight.view(-1, 1, 1), x * relative)


def geometric_mean(self, x):
    return torch.stack([half.clamp_min(1e-6).log() for half in x.chunk(2, dim=1)]).mean(0).exp()


class Standardized(nn.Conv2d):
    def forward(self, x):
        deviation, mean = torch.std_mean(self.weight, dim=(1, 2, 3), keepdim=True)
        return F.conv2d(x, (self.weight - mean) / deviation, self.bias)


def cat_of_branches(self, x):
    return torch.cat([F.relu(self.left(x)), x[:, :4]], dim=1)


NETWORKS = {
    "residual": lambda: Functional(Middle(residual, conv=convolution(8, 8))),
    "residual-in-place": lambda: Functional(Middle(residual_in_place, conv=convolution(8, 8))),
    "depthwise": lambda: Functional(nn.Sequential(convolution(8, 8, groups=8), nn.ReLU(inplace=True))),
    "strided": lambda: Functional(nn.Sequential(convolution(8, 8, stride=2), nn.ReLU())),
    "max-pool": lambda: Functional(nn.MaxPool2d(3, stride=2, padding=1)),
    "max-pool-odd": lambda: Functional(nn.MaxPool2d(3, stride=2, ceil_mode=True)),
    "average-pool": lambda: Functional(nn.AvgPool2d(2)),
    "global-pool": lambda: Functional(nn.AdaptiveAvgPool2d(1)),
    "squeeze-excite": lambda: Functional(Middle(squeeze_excite, reduce=nn.Conv2d(8, 2, 1), expand=nn.Conv2d(2, 8, 1))),
    "concatenation": lambda: Functional(Middle(cat_of_branches, left=convolution(8, 4))),
    "upsample": lambda: Functional(nn.Upsample(scale_factor=2)),
    "batch-norm": lambda: Functional(nn.Sequential(nn.BatchNorm2d(8), nn.Dropout(), nn.ReLU(inplace=True))),
    "linear-bottleneck": lambda: Functional(nn.Sequential(convolution(8, 4), convolution(4, 8), nn.ReLU6())),
    "silu": lambda: Functional(nn.Sequential(nn.BatchNorm2d(8), nn.SiLU(inplace=True), convolution(8, 8), nn.GELU())),
    "swish-by-hand": lambda: Functional(Middle(lambda self, x: x * torch.sigmoid(x))),
    "hard-swish-by-hand": lambda: Functional(Middle(lambda self, x: x * F.relu6(x + 3) / 6)),
    "hard-swish-in-place": lambda: Functional(Middle(lambda self, x: x.clone().mul_(F.relu6(x + 3)).div_(6))),
    "gated-linear-unit": lambda: Functional(
        Middle(lambda self, x: F.gelu(self.gate(x)) * self.signal(x), gate=convolution(8, 8), signal=convolution(8, 8))
    ),
    "response-norm": lambda: Functional(Middle(response_norm, weigh=nn.BatchNorm2d(8))),
    "length-norm": lambda: Functional(Middle(lambda self, x: F.normalize(x) + x / x.norm(dim=1, keepdim=True))),
    "group-norm": lambda: Functional(nn.Sequential(nn.GroupNorm(2, 8), nn.ReLU())),
    "standardized-weights": lambda: Functional(Standardized(8, 8, 3, padding=1, bias=False)),
    "larger-of-two": lambda: Functional(
        Middle(lambda self, x: torch.maximum(self.left(x), x), left=convolution(8, 8)),
    ),
    "power": lambda: Functional(Middle(lambda self, x: (x + 1).sqrt().pow(3).square().log1p())),
    "geometric-mean": lambda: Functional(Middle(geometric_mean), head_inputs=4),
    "channel-product": lambda: Functional(Middle(lambda self, x: torch.einsum("bchw,cd->bdhw", x, torch.eye(8).to(x)))),
    "shuffle": lambda: Functional(
        Middle(lambda self, x: x.view(len(x), 2, 4, *x.shape[2:]).transpose(1, 2).flatten(1, 2))
    ),
}


def build(name):
    torch.manual_seed(0)
    return NETWORKS[name]().double().eval()


def images(size=12, batch=3):
    return torch.randn(batch, 3, size, size, dtype=torch.float64, generator=torch.Generator().manual_seed(1))


def lrp(network, x, feature_layers, layer="head", units=None):
    return relevance(network, x, layer=layer, units=units or list(range(len(x))), feature_layers=feature_layers)


def outputs_of(network, x):
    """Every module's output in one forward pass, copied before anything can overwrite it."""
    outputs, handles = {}, []
    for name, module in network.named_modules():

        def keep(_module, _inputs, output, name=name):
            outputs[name] = output.detach().clone()

        handles.append(module.register_forward_hook(keep))
    network(x)
    for handle in handles:
        handle.remove()
    return outputs
