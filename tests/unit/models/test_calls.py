"""A module that runs again is a layer of its own, the same one for capture, folding, derived layers, visualization."""

import pytest
import torch
from torch import Tensor, nn

from pipeline.attribution.relevance import relevance
from pipeline.derived_layers.layer import DerivedLayer
from pipeline.errors import UserError
from pipeline.models import Model, features_of
from pipeline.models.calls import LayerNames, each_call, every_call
from pipeline.models.outputs import select_output
from pipeline.synthesis.api import visualize
from tests.support.tiny_networks import model_around


class Shared(nn.Module):
    """One activation after three convolutions of different widths, and a convolution under two names."""

    def __init__(self) -> None:
        super().__init__()
        act = nn.ReLU()
        self.features = nn.Sequential(
            nn.Conv2d(3, 4, 3, 2, 1), act, nn.Conv2d(4, 6, 3, 2, 1), act, nn.Conv2d(6, 8, 3, 2, 1), act
        )
        self.mix = nn.Conv2d(8, 8, 1)
        self.alias = self.mix
        self.fc = nn.Linear(8, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = self.features(x)
        for _ in range(2):
            x = torch.relu(self.mix(x)) + self.alias(x)
        return self.fc(x.mean((2, 3)))


class Heads(nn.Module):
    """The mean of two heads, both zero before training."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 8, 4, 4)
        self.head, self.head_dist = nn.Linear(8, 5), nn.Linear(8, 5)
        for head in (self.head, self.head_dist):
            nn.init.zeros_(head.weight)
            nn.init.zeros_(head.bias)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x).relu().mean((2, 3))
        return (self.head(x) + self.head_dist(x)) / 2


class Windows(nn.Module):
    """Tokens in windows: [B, windows, T, C], for a while in a shape that a map could have, as inside of NesT."""

    block_size = 4

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 8, 2, 2)
        self.level = Level()
        self.fc = nn.Linear(8, 5)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc(self.level(self.stem(x)).mean((2, 3)))


class Level(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.block_size = 4
        self.pos_embed = nn.Parameter(torch.zeros(1, 16, 16, 8))
        self.norm, self.narrow = nn.LayerNorm(8), nn.Linear(8, 12)

    def forward(self, x: Tensor) -> Tensor:
        windows = x.unflatten(3, (4, 4)).unflatten(2, (4, 4)).permute(0, 2, 4, 3, 5, 1).reshape(len(x), 16, 16, 8)
        self.narrow(windows[:, :9])
        return x + self.norm(windows + self.pos_embed).mean((1, 2))[..., None, None]


@pytest.fixture(scope="module")
def shared() -> Model:
    torch.manual_seed(0)
    return model_around(Shared(), 32)


def test_every_call_is_listed_with_its_own_shape(shared: Model) -> None:
    shapes = shared.feature_shapes
    assert [shapes[f"features.1{call}"] for call in ("", "@2", "@3")] == [(4, 16, 16), (6, 8, 8), (8, 4, 4)]
    assert [layer for layer in shapes if layer.startswith(("mix", "alias"))] == ["mix", "mix@2", "mix@3", "mix@4"]
    assert shared.classifier_layer == "fc"
    assert [each.layer for each in shared.default_feature_layers()] == [
        "features.0", "features.1", "features.1@2", "features.1@3",
    ]  # fmt: skip


def test_a_name_is_one_tensor_whatever_else_is_captured(shared: Model) -> None:
    images = torch.randn(3, 3, 32, 32)
    expected: dict[str, Tensor] = {}
    counts: dict[nn.Module, int] = {}

    def note(name: str, child: nn.Module, output: Tensor) -> None:
        counts[child] = counts.get(child, 0) + 1
        expected[name if counts[child] == 1 else f"{name}@{counts[child]}"] = output.clone()

    handles = [
        child.register_forward_hook(lambda child, _i, output, name=name: note(name, child, output))
        for name, child in shared.module.named_modules()
        if name
    ]
    shared.module(images)
    for handle in handles:
        handle.remove()
    together = features_of(shared.module, images, shared.layers())
    assert together.keys() == set(shared.layers())
    for layer in shared.layers():
        (alone,) = features_of(shared.module, images, [layer]).values()
        assert torch.equal(alone, expected[layer])
        assert torch.equal(together[layer], expected[layer])
        assert torch.allclose(features_of(shared.folded([layer]), images, [layer])[layer], alone, atol=1e-5)
    with shared.capture(["mix@3"]) as features:  # a second pass counts anew
        shared.module(torch.zeros_like(images))
        shared.module(images)
    assert torch.equal(features["mix@3"], expected["mix@3"])


def test_either_name_of_an_object_will_do(shared: Model) -> None:
    assert shared.resolve_layer("alias@2") == "mix@2" == shared.names.listed("alias@2")
    assert shared.names.call("alias") == (shared.module.mix, 1)
    with pytest.raises(UserError, match='no layer "mix@5"'):
        shared.resolve_layer("mix@5")
    with pytest.raises(UserError, match='unknown layer "mox"'), each_call(shared.module, ["mox"], lambda *_: None):
        pass


def test_a_name_with_an_at_sign_is_the_module_called_so() -> None:
    """The second call of another module, which would be called so, too, is no layer then."""
    module = nn.Sequential(nn.Linear(3, 3))
    module.add_module("0@2", nn.Linear(3, 3))
    module.append(module[0])
    names = LayerNames(module)
    assert names.call("0@2") == (module.get_submodule("0@2"), 1)
    assert (names.layer(module[0]), names.layer(module[0], 2), names.layer(module[0], 3)) == ("0", None, "0@3")
    seen: list[str] = []
    with every_call(module, lambda layer, _child, _output: seen.append(layer)):
        module(torch.zeros(1, 3))
    assert seen == ["0", "0@2"]


def test_visualizations_are_of_the_call_that_was_asked_for(shared: Model) -> None:
    """The unit does not exist in earlier calls, which are narrower."""
    (made,) = visualize(shared, [("features.1@3", 7)], method="fourier", preset="fast", steps=2, image_size_px=32)
    assert made.image.shape == (32, 32, 3)


class Doubled(DerivedLayer):
    def forward(self, features: Tensor) -> Tensor:
        return 2 * features


def test_a_derived_layer_reads_one_call() -> None:
    module = Shared().eval()
    module.add_module("doubled", Doubled(["features.1@2"]))
    module.doubled.attach(module)
    for _ in range(2):
        found = features_of(module, torch.randn(2, 3, 32, 32), ["doubled", "features.1@2", "fc"])
        assert torch.equal(found["doubled"], 2 * found["features.1@2"])


def test_the_classifier_is_the_answer_of_a_network_of_several_heads() -> None:
    model = model_around(Heads(), 16)
    assert model.classifier_layer == "output" == model.names.output
    assert {"head", "head_dist", "output"} <= set(model.layers())
    nn.init.normal_(model.module.head.weight)
    images = torch.randn(4, 3, 16, 16)
    assert torch.equal(features_of(model.module, images, ["output"])["output"], model.module(images))
    assert model.resolve_layer("classifier") == "output"
    (map_of_stem,) = relevance(
        model.module, images, layer="output", units=[0] * 4, feature_layers=["stem"], rule="gradient_x_activation"
    ).values()
    expected = model.module.head.weight[0, :, None, None] / 2 / 16  # of 4 × 4 positions
    features = features_of(model.module, images, ["stem"])["stem"]
    torch.testing.assert_close(map_of_stem, features.clamp(min=0) * expected)


def test_windows_are_refused_by_name() -> None:
    model = model_around(Windows(), 32)
    for layer, reason in (
        ("level.norm", r"tokens in windows, \[B, windows, T, C\]"),
        ("level.narrow", r"\(2, 9, 16, 12\)"),
    ):
        assert layer not in model.layers()
        with pytest.raises(UserError, match=reason):
            model.resolve_layer(layer)


class Answer(nn.Module):
    """A network that gives whatever a function makes of logits and maps."""

    def __init__(self, make: object) -> None:
        super().__init__()
        self.stem, self.fc, self.make = nn.Conv2d(3, 8, 4, 4), nn.Linear(8, 5), make

    def forward(self, x: Tensor) -> object:
        maps = self.stem(x).relu()
        return self.make(self.fc(maps.mean((2, 3))), maps)


@pytest.mark.parametrize(
    ("make", "key", "classifier"),
    [
        (lambda logits, maps: {"loss": None, "logits": logits, "hidden": maps}, "auto", "fc"),
        (lambda logits, maps: {"answer": logits}, "auto", "fc"),
        (lambda logits, maps: (maps, logits), "1", "fc"),
        (lambda logits, maps: (maps, logits), "auto", None),  # nothing says which
        (lambda logits, maps: {"out": maps, "aux": maps}, "auto", None),  # segmentation
        (lambda logits, maps: {"maps": maps, "scores": logits}, "scores", "fc"),
    ],
)
def test_the_answer_is_found_in_what_a_network_gives(make: object, key: str, classifier: str | None) -> None:
    module = Answer(make)
    select_output(module, key)
    model = model_around(module, 16)
    assert model.classifier_layer == classifier
    assert {"stem", "fc"} <= set(model.layers())
    visualize(model, [("stem", 1)], method="fourier", preset="fast", steps=1, image_size_px=16)


def test_a_key_that_is_not_there_names_those_that_are() -> None:
    module = Answer(lambda logits, maps: {"logits": logits, "maps": maps, "size": 3})
    for key, message in (("logit", "gives dict of logits, maps, size.*logits"), ("size", "is int, expected a tensor")):
        broken = Answer(module.make)
        select_output(broken, key)
        with pytest.raises(UserError, match=f'model.output = "{key}".*{message}'):
            model_around(broken, 16).layers()
