"""One forward pass: which layers have units, what shape they have, and which one classifies."""

import pytest
import torch
from torch import Tensor, nn

from pipeline.models import Model, Preprocessing, features_of
from pipeline.models.capture import channels_first
from pipeline.models.probe import probe

CPU = torch.device("cpu")


def model_of(module: nn.Module, size_px: int = 16) -> Model:
    preprocessing = Preprocessing(
        input_size_px=size_px, crop_fraction=1.0, interpolation="bilinear", mean=(0.5,) * 3, std=(0.5,) * 3
    )
    return Model(name="python:own:net", module=module, preprocessing=preprocessing, labels="imagenet1k", device="cpu")


def classifier_of(module: nn.Module, size_px: int = 16) -> str | None:
    module.eval()
    return probe(module, 3, size_px, CPU).classifier


@pytest.mark.parametrize(
    ("output", "features"),
    [
        ((2, 8, 5, 5), (2, 8, 5, 5)),
        ((2, 5, 5, 8), (2, 8, 5, 5)),  # Swin, the inside of ConvNeXt
        ((2, 1, 1, 8), (2, 8, 1, 1)),
        ((2, 8, 1, 1), (2, 8, 1, 1)),
        ((2, 5, 5, 5), (2, 5, 5, 5)),  # nothing tells: channels-first wins
        ((2, 9, 8), (2, 8, 9)),
        ((2, 8), (2, 8)),
    ],
)
def test_axis_1_counts_units_whatever_the_family(output: tuple[int, ...], features: tuple[int, ...]) -> None:
    assert channels_first(torch.zeros(output), "layer").shape == features


def test_channels_last_maps_keep_their_values() -> None:
    maps = torch.randn(2, 5, 5, 8)
    assert torch.equal(channels_first(maps, "layer")[1, 3, 4, 2], maps[1, 4, 2, 3])


class Windows(nn.Module):
    """Cuts the map into four windows, as Swin does, and puts it together again; beside it a tensor per head."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 6, 3, padding=1)
        self.in_windows = nn.Linear(6, 6)
        self.attention = Heads()
        self.after = nn.ReLU()
        self.register_buffer("position", torch.zeros(1, 4, 6))
        self.embed = nn.Identity()
        self.fc = nn.Linear(6, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = self.conv(x)
        B, C, H, W = x.shape
        windows = x.reshape(B, C, 2, H // 2, 2, W // 2).permute(0, 2, 4, 3, 5, 1).reshape(B * 4, -1, C)
        x = self.in_windows(windows).transpose(1, 2).reshape(B, 2, 2, C, H // 2, W // 2)
        x = self.after(x.permute(0, 3, 1, 4, 2, 5).reshape(B, C, H, W))
        self.embed(self.position)
        return self.fc(self.attention(x.flatten(2).transpose(1, 2)).mean(dim=1))


class Heads(nn.Module):
    """Tokens in, tokens out, with [B, heads, T, D] in between."""

    num_heads = 3

    def __init__(self) -> None:
        super().__init__()
        self.q_norm = nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        return self.q_norm(x.unflatten(2, (3, 2)).transpose(1, 2)).transpose(1, 2).flatten(2)


def test_layers_whose_axis_0_is_not_the_batch_or_1_is_heads_are_left_out() -> None:
    shapes = probe(Windows().eval(), 3, 16, CPU).shapes
    assert shapes == {"conv": (6, 16, 16), "after": (6, 16, 16), "attention": (6, 256), "fc": (5,)}


def test_a_probe_leaves_nothing_behind() -> None:
    class Noisy(nn.Sequential):
        def forward(self, x: Tensor) -> Tensor:
            return super().forward(x + torch.randn_like(x))

    module = Noisy(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4)).eval()
    before = {name: value.clone() for name, value in module.state_dict().items()}
    state = torch.get_rng_state()
    probe(module, 3, 16, CPU)
    assert torch.equal(torch.get_rng_state(), state)
    assert all(torch.equal(value, before[name]) for name, value in module.state_dict().items())
    with pytest.raises(RuntimeError):
        probe(module, 5, 16, CPU)
    assert not any(child._forward_hooks for child in module.modules())


def test_what_a_network_caches_during_a_probe_can_be_used_with_gradients() -> None:
    class Caching(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.table = nn.Parameter(torch.randn(4, 4))
            self.cached: Tensor | None = None

        def forward(self, x: Tensor) -> Tensor:
            if self.cached is None:
                self.cached = self.table * 2
            return x.mean(dim=(2, 3)).repeat(1, 2)[:, :4] @ self.cached

    module = Caching().eval().requires_grad_(False)
    probe(module, 3, 8, CPU)
    image = torch.randn(1, 3, 8, 8, requires_grad=True)
    module(image).sum().backward()
    assert image.grad is not None


class Net(nn.Sequential):
    """A Sequential with named parts and an attribute or two, the way people write their own."""

    def __init__(self, **parts: object) -> None:
        super().__init__()
        for name, part in parts.items():
            if isinstance(part, nn.Module):
                self.add_module(name, part)
            else:
                setattr(self, name, part)


def trunk() -> nn.Module:
    return nn.Sequential(nn.Conv2d(3, 6, 3, stride=2), nn.BatchNorm2d(6), nn.ReLU())


def pool() -> nn.Module:
    return nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten())


class OwnHead(nn.Module):
    """Class directions as columns."""

    def __init__(self) -> None:
        super().__init__()
        self.directions = nn.Parameter(torch.randn(6, 5))

    def forward(self, x: Tensor) -> Tensor:
        return nn.functional.normalize(x, dim=1) @ self.directions


class TwoHeads(Net):
    """As distilled DeiT: the output is the mean of two classifiers."""

    def forward(self, x: Tensor) -> Tensor:
        x = self.pool(self.trunk(x))
        return (self.head(x) + self.head_dist(x)) / 2

    def get_classifier(self) -> tuple[nn.Module, nn.Module]:
        return self.head, self.head_dist


def test_the_classifier_is_the_layer_of_the_class_logits() -> None:
    assert classifier_of(Net(trunk=trunk(), pool=pool(), fc=nn.Linear(6, 5))) == "fc"
    assert classifier_of(Net(trunk=trunk(), pool=pool(), fc=nn.Linear(6, 5), p=nn.Softmax(dim=1))) == "fc"
    assert classifier_of(Net(trunk=trunk(), pool=pool(), own=OwnHead())) == "own"
    head = nn.Sequential(nn.Linear(6, 6), nn.ReLU(), nn.Dropout(), nn.Linear(6, 5), nn.Identity())
    assert classifier_of(Net(trunk=trunk(), pool=pool(), classifier=head)) == "classifier.3"
    assert classifier_of(Net(trunk=trunk(), pool=nn.AdaptiveAvgPool2d(1), fc=nn.Conv2d(6, 5, 1))) == "fc"
    two = TwoHeads(trunk=trunk(), pool=pool(), head=nn.Linear(6, 5), head_dist=nn.Linear(6, 5))
    assert classifier_of(two) == "output"


def test_a_convolution_that_classifies_is_found_behind_its_pooling() -> None:
    """SqueezeNet: the convolution gives a map, and the logits are its mean over positions."""
    classifier = nn.Sequential(nn.Dropout(), nn.Conv2d(6, 5, 1), nn.ReLU(), nn.AdaptiveAvgPool2d(1))
    module = Net(trunk=trunk(), classifier=classifier, flatten=nn.Flatten())
    assert classifier_of(module) == "classifier.3"
    model = model_of(module)
    assert (model.num_classes, model.units("classifier.3")) == (5, 5)
    images = torch.randn(3, 3, 16, 16)
    logits = features_of(model.module, images, ["classifier.3"])["classifier.3"]
    assert torch.equal(logits.flatten(1), model.module(images))
    # The recipe's word means the logits, also where the network calls something else so.
    assert model.resolve_layer("classifier") == "classifier.3"


class Gives(nn.Module):
    """A trunk whose output is not one value per class."""

    def __init__(self, form: str) -> None:
        super().__init__()
        self.trunk, self.form = trunk(), form

    def forward(self, x: Tensor) -> object:
        maps = self.trunk(x)
        return {"map": maps, "dict": {"features": maps}, "tuple": (maps, maps), "none": None}[self.form]


def test_a_backbone_has_no_classifier() -> None:
    backbones = [
        Net(trunk=trunk(), pool=pool(), fc=nn.Identity()),  # a ResNet whose `fc` was taken away
        Net(trunk=trunk(), pool=pool(), norm=nn.LayerNorm(6)),
        Net(trunk=trunk(), pool=pool(), projection=nn.Linear(6, 5), num_classes=0),  # CLIP: says so itself
        *(Gives(form) for form in ("map", "dict", "tuple", "none")),
    ]
    assert [classifier_of(module) for module in backbones] == [None] * len(backbones)


def test_a_model_without_classifier_says_so_when_asked_for_classes() -> None:
    model = model_of(Gives("dict"))
    assert (model.classifier_layer, model.has_classifier, model.num_classes, model.class_names) == (None, False, 0, [])
    assert model.units("trunk") == 6
    with pytest.raises(ValueError, match=r'"python:own:net" has no classifier.*`neuron-atlas layers'):
        model.resolve_layer("classifier")


def test_a_size_that_the_network_does_not_take_is_a_clear_error() -> None:
    class Fixed(Gives):
        def forward(self, x: Tensor) -> object:
            torch._assert(x.shape[-1] == 16, "input is not 16 px")  # as timm and torchvision do
            return super().forward(x)

    model = model_of(Fixed("map"))
    assert model.feature_shape("trunk") == (6, 7, 7)
    with pytest.raises(ValueError, match=r"does not run on images of 20 px.*input is not 16 px.*model.input_size_px"):
        model.feature_shapes_at(20)


def test_a_changed_network_is_measured_again_when_told() -> None:
    model = model_of(Net(trunk=trunk(), pool=pool(), fc=nn.Linear(6, 5)))
    before = (model.num_classes, model.weights_sha256)
    model.module.fc = nn.Identity()
    assert (model.num_classes, model.weights_sha256) == before
    model.forget_measurements()
    assert model.num_classes == 0
    assert model.weights_sha256 != before[1]


class Constant(nn.Module):
    """A table of positions goes through layers of its own: [2, 4], as many rows as the first pass has images."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.positions, self.fc = nn.Conv2d(3, 4, 4, 4), nn.Linear(3, 4), nn.Linear(4, 5)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc(self.stem(x).mean((2, 3)) + self.positions(torch.ones(2, 3)).mean(0))


def test_maps_that_a_function_pools_are_no_classes() -> None:
    class Trunk(nn.Module):
        def __init__(self, **attributes: int) -> None:
            super().__init__()
            self.conv = nn.Conv2d(3, 6, 3)
            vars(self).update(attributes)

        def forward(self, x: Tensor) -> Tensor:
            return self.conv(x).relu().mean((2, 3))

    assert classifier_of(Trunk()) is None
    assert classifier_of(Trunk(num_classes=6)) == "output"


def test_a_constant_with_as_many_rows_as_there_are_images_is_no_layer() -> None:
    assert list(probe(Constant().eval(), 3, 16, CPU).shapes) == ["stem", "fc"]
