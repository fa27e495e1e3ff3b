"""Concepts: directions as the units of a layer of their own, from a tensor or a file."""

import copy
import hashlib
import pickle
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import safetensors.torch
import torch
from torch import nn

from pipeline import add_combination, add_concepts
from pipeline.alignment.losses import TARGET_LAYER
from pipeline.attribution.relevance import relevance, upstream_layers
from pipeline.derived_layers import concept_files
from pipeline.derived_layers.concept_files import read_concepts
from pipeline.derived_layers.concepts import ConceptSet
from pipeline.derived_layers.layer import derived_layers, feature_space, unit_label
from pipeline.models import Model, Preprocessing, features_of
from pipeline.synthesis.methods.presets import preset
from pipeline.synthesis.methods.vital_target import plan_alignment, reference_target, target_shapes
from tests.support.paths import ROOT
from tests.support.tiny_networks import tiny_model


def images(count: int = 3, size_px: int = 32) -> torch.Tensor:
    return torch.randn(count, 3, size_px, size_px, generator=torch.Generator().manual_seed(0))


def directions(count: int, channels: int, seed: int = 1) -> torch.Tensor:
    return torch.randn(count, channels, generator=torch.Generator().manual_seed(seed))


def model_around(module: nn.Module, size_px: int = 32) -> Model:
    preprocessing = Preprocessing(
        input_size_px=size_px, crop_fraction=1.0, interpolation="bilinear", mean=(0.5,) * 3, std=(0.25,) * 3
    )
    return Model(name="python:x:y", module=module, preprocessing=preprocessing, labels="imagenet1k", device="cpu")


class Tokens(nn.Module):
    """Maps, the same with channels last, tokens with a class token in front, and logits: one layer of each layout."""

    def __init__(self) -> None:
        super().__init__()
        self.patches = nn.Conv2d(3, 6, 8, stride=8)
        self.last, self.tokens, self.head = nn.Linear(6, 7), nn.Linear(7, 5), nn.Linear(5, 4)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.last(self.patches(x).permute(0, 2, 3, 1)).flatten(1, 2)
        return self.head(self.tokens(torch.cat([x.mean(dim=1, keepdim=True), x], dim=1))[:, 0])


@pytest.fixture(params=["patches", "last", "tokens", "head"])
def layer_and_model(request) -> tuple[str, Model]:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return request.param, model_around(Tokens())


@pytest.mark.parametrize("activation", ["projection", "relu", "cosine"])
@pytest.mark.parametrize("normalize", [True, False])
def test_a_concept_is_the_projection_of_the_features_at_each_position(layer_and_model, activation, normalize):
    layer, model = layer_and_model
    channels = model.units(layer)
    rows, center = directions(9, channels), directions(1, channels, seed=2)[0]
    bias = None if activation == "cosine" else directions(1, 9, seed=3)[0]
    name = add_concepts(
        model, "some", layer, rows, bias=bias, center=center, activation=activation, normalize=normalize
    )
    with torch.no_grad():
        features = features_of(model.module, images(), [layer, name])
    x = features[layer].double().numpy() - center.double().numpy().reshape(1, -1, *[1] * (features[layer].ndim - 2))
    w, b = rows.double().numpy(), np.zeros(9) if bias is None else bias.double().numpy()
    length = np.linalg.norm(w, axis=1)
    value = np.einsum("kc,bc...->bk...", w, x) + b.reshape(1, -1, *[1] * (x.ndim - 2))
    if activation == "cosine":
        value = value / length.reshape(1, -1, *[1] * (x.ndim - 2)) / np.linalg.norm(x, axis=1, keepdims=True)
    elif normalize:
        value = value / length.reshape(1, -1, *[1] * (x.ndim - 2))
    value = np.maximum(value, 0) if activation == "relu" else value
    np.testing.assert_allclose(features[name].numpy(), value, rtol=1e-4, atol=1e-5)
    assert model.feature_shape(name) == (9, *model.feature_shape(layer)[1:])
    assert model.map_shape(name) == model.map_shape(layer)
    assert model.num_prefix(name) == model.num_prefix(layer)


def test_as_many_concepts_as_the_map_is_wide_are_still_told_from_positions():
    model = tiny_model()
    name = add_concepts(model, "square", "stage2", directions(4, 12))  # stage2 is [12, 4, 4]
    with torch.no_grad():
        features = features_of(model.module, images(), ["stage2", name])
    expected = torch.einsum("kc,bchw->bkhw", nn.functional.normalize(directions(4, 12)), features["stage2"])
    torch.testing.assert_close(features[name], expected)


def test_the_network_computes_what_it_did_and_its_layers_keep_their_order():
    plain, model = tiny_model(), tiny_model()
    name = add_concepts(model, "some", "stage2", directions(3, 12))
    with torch.no_grad():
        torch.testing.assert_close(plain.module(images()), model.module(images()), rtol=1e-5, atol=1e-5)
    expected = plain.layers()
    expected.insert(expected.index("stage2") + 1, name)
    assert model.layers() == expected
    assert list(derived_layers(model.module)) == [name] == ["concepts.some"]
    assert derived_layers(plain.module) == {}
    assert model.classifier_layer == plain.classifier_layer
    assert model.default_feature_layers() == plain.default_feature_layers()


def test_the_pass_ends_with_the_concepts_and_does_without_them_where_nobody_looks(monkeypatch):
    model = tiny_model()
    name = add_concepts(model, "some", "stage2", directions(3, 12))
    nested = add_concepts(model, "of_these", name, directions(2, 3))
    ran = []
    monkeypatch.setattr(ConceptSet, "forward", lambda self, x: ran.append("concepts") or x)
    model.module.stage3.register_forward_hook(lambda *_: ran.append("stage3"))
    with torch.no_grad():
        model.module(images())
        assert ran == ["stage3"]
        ran.clear()
        features_of(model.module, images(), [nested])
    assert ran == ["concepts", "concepts"]


def test_a_sequential_network_can_be_extended():
    module = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.Flatten(), nn.Linear(4 * 30 * 30, 5))
    model = model_around(module)
    before = model.module(images())
    name = add_concepts(model, "some", "1", torch.eye(4)[1])
    assert torch.equal(model.module(images()), before)
    assert model.layers() == ["0", "1", name, "2", "3"]
    assert model.classifier_layer == "3"


def test_units_are_labeled_as_concepts_and_classes():
    model = tiny_model()
    labeled = add_concepts(model, "labeled", "stage2", directions(2, 12), labels=["fur", "grass"])
    plain = add_concepts(model, "plain", "stage2", directions(2, 12))
    assert [unit_label(model, labeled, unit) for unit in range(2)] == ["fur", "grass"]
    assert unit_label(model, plain, 0) == unit_label(model, "stage2", 0) == ""
    assert unit_label(model, "fc", 3) == "class 3"


def test_the_hash_of_the_weights_covers_the_directions():
    hashes = set()
    for seed in (1, 1, 2):
        model = tiny_model()
        without = model.weights_sha256
        add_concepts(model, "some", "stage2", directions(3, 12, seed))
        hashes |= {without, model.weights_sha256}
    assert len(hashes) == 3


def test_a_direction_of_zeros_is_silent():
    model = tiny_model()
    name = add_concepts(model, "some", "stage2", torch.zeros(1, 12), bias=torch.tensor([0.5]))
    with torch.no_grad():
        assert (features_of(model.module, images(), [name])[name] == 0.5).all()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"layer": "stage22"}, 'no layer "stage22" (did you mean "stage2"?)'),
        ({"name": "a.b"}, 'name = "a.b": expected letters, digits'),
        ({"directions": torch.eye(11)}, "have the shape [11, 11], expected [K, 12], one row for each of K concepts"),
        ({"directions": torch.ones(12, 3)}, "they fit when transposed"),
        ({"directions": torch.full((2, 12), torch.nan)}, "holds values that are complex, infinite or no numbers"),
        ({"bias": torch.ones(4)}, "bias has the shape [4], expected [3]"),
        ({"center": torch.ones(3)}, "center has the shape [3], expected [12]"),
        ({"activation": "cosines"}, '(did you mean "cosine"?): expected one of projection, relu, cosine'),
        ({"activation": "cosine", "bias": torch.ones(3)}, "a bias has no meaning"),
        ({"labels": ["one"]}, "1 labels for 3 concepts"),
    ],
)
def test_mistakes_name_the_value_and_what_was_expected(arguments, message):
    model = tiny_model()
    with pytest.raises(ValueError, match=r"concepts|layer") as caught:
        add_concepts(model, **{"name": "some", "layer": "stage2", "directions": directions(3, 12)} | arguments)
    assert message in str(caught.value)
    assert derived_layers(model.module) == {}


def test_a_name_is_given_once():
    model = tiny_model()
    add_concepts(model, "some", "stage2", directions(3, 12))
    for name in ("some", "forward"):
        with pytest.raises(ValueError, match=f'"concepts.{name}" is there already, or a name that modules use'):
            add_concepts(model, name, "stage2", directions(3, 12))
    owner = tiny_model()
    owner.module.concepts = nn.Identity()
    with pytest.raises(ValueError, match='the network has something of its own called "concepts"'):
        add_concepts(owner, "some", "stage2", directions(3, 12))


def test_copies_and_other_types_keep_their_own_concepts():
    model = tiny_model()
    name = add_concepts(model, "some", "stage2", directions(3, 12), bias=torch.ones(3), center=torch.ones(12))
    with torch.no_grad():
        expected = features_of(model.module, images(), [name])[name]
        twin = copy.deepcopy(model)
        twin.module.get_submodule(name).directions.zero_()
        assert torch.equal(features_of(model.module, images(), [name])[name], expected)
        assert not torch.equal(features_of(twin.module, images(), [name])[name], expected)
        doubled = features_of(model.module.double(), images().double(), [name])[name]
    torch.testing.assert_close(doubled.float(), expected)


_OTHER_PROCESS = """
import pickle, sys, torch
from torch import nn
model, images, expected = pickle.load(sys.stdin.buffer)
source = model.module.stage2
# Hooks of a new process are numbered from 0 again: none of them may take the place of one that was unpickled.
handles = [source.register_forward_hook(lambda *_: None) for _ in range(1000)]
for handle in handles:
    handle.remove()
from pipeline.models import features_of
with torch.no_grad():
    features = features_of(model.module, images, ["concepts.some", "combinations.both"])
print(all(torch.equal(features[name], value) for name, value in expected.items()))
"""


def test_the_layers_reach_another_process_whole():
    model = tiny_model()
    name = add_concepts(model, "some", "stage2", directions(3, 12))
    combination = add_combination(model, "both", units=[(name, 1), ("stage1", 2)])
    with torch.no_grad():
        expected = features_of(model.module, images(), [name, combination])
    done = subprocess.run(
        [sys.executable, "-c", _OTHER_PROCESS],
        input=pickle.dumps((model, images(), expected)),
        capture_output=True,
        cwd=ROOT,
    )
    assert done.stdout.strip() == b"True", done.stderr.decode()


def test_relevance_of_a_basis_vector_is_that_of_the_channel():
    # Through one more linear rule: x · w / (w·x + ε) instead of 1, so that they differ by ε / x at each position x.
    model = tiny_model()
    name = add_concepts(model, "basis", "stage2", torch.eye(12))
    model.module.double()
    x, units, layers = 100 * images().double(), [3, 5, 7], ["stem", "stage1", "stage2"]
    for rule, tolerance in (
        ("lrp", 1e-4),
        ("lrp_restricted", 1e-4),
        ("gradient_x_activation", 1e-9),
        ("guided_backprop", 1e-9),
    ):
        channel = relevance(model.module, x, layer="stage2", units=units, feature_layers=layers, rule=rule)
        concept = relevance(model.module, x, layer=name, units=units, feature_layers=layers, rule=rule)
        for layer in layers:
            size = channel[layer].abs().max()
            assert size > 0
            torch.testing.assert_close(concept[layer] / size, channel[layer] / size, rtol=0, atol=tolerance)


def test_relevance_at_the_source_layer_is_shared_by_what_contributes_to_the_concept():
    model = tiny_model()
    name = add_concepts(model, "some", "stage2", directions(8, 12), normalize=False, activation="relu")
    model.module.double()
    with torch.no_grad():
        features = features_of(model.module, images().double(), ["stage2", name])
    x, w = features["stage2"], directions(8, 12).double()[[4, 1, 3]]  # x ≥ 0: after ReLUs
    seed = torch.stack([features[name][i, unit] for i, unit in enumerate((4, 1, 3))])
    assert (seed.flatten(1).amax(dim=1) > 0).all()
    positive = x * w.clamp(min=0)[:, :, None, None]
    expected = positive / (positive.sum(dim=1, keepdim=True) + 1e-5) * seed[:, None]
    found = relevance(model.module, images().double(), layer=name, units=[4, 1, 3], feature_layers=["stage2"])
    torch.testing.assert_close(found["stage2"], expected, rtol=1e-6, atol=1e-9)


def test_relevance_of_a_cosine_takes_the_length_for_a_gate():
    model = tiny_model()
    name = add_concepts(model, "some", "stage2", directions(4, 12).abs(), activation="cosine")
    found = relevance(model.module, images(), layer=name, units=[0, 1, 2], feature_layers=["stem", "stage2"])
    with torch.no_grad():
        seed = torch.stack([features_of(model.module, images(), [name])[name][i, i] for i in range(3)])
    torch.testing.assert_close(found["stage2"].sum(dim=1), seed, rtol=1e-3, atol=1e-4)


def test_the_target_of_a_basis_vector_is_that_of_the_channel():
    model = tiny_model()
    rows = torch.eye(12)[[3, 7]]
    name = add_concepts(model, "basis", "stage2", rows)
    nested = add_concepts(model, "same", name, torch.eye(2))
    combination = add_combination(model, "both", units=[(nested, 0), ("stage1", 2)])
    assert {feature_space(model.module, layer) for layer in ("stage2", name, nested, combination)} == {"stage2"}
    targets = []
    for layer, unit in (("stage2", 7), (name, 1), (nested, 1)):
        plan = plan_alignment(model, layer, preset("fast"))
        target = reference_target(model, plan, unit, 100 * images(5))
        shapes = {key: tuple(value.quantile.shape) for key, value in target.layers.items()}
        assert shapes == target_shapes(model, plan)
        assert shapes[TARGET_LAYER][0] % 12 == 0  # the channels of stage2, in each cell of the grid
        targets.append(target)
    for target in targets[1:]:
        assert target.layers.keys() == targets[0].layers.keys()
        assert target.goal_activation == targets[0].goal_activation
        for key, value in targets[0].layers.items():
            torch.testing.assert_close(target.layers[key].quantile, value.quantile, rtol=1e-3, atol=1e-3)


def test_only_earlier_layers_feed_a_concept():
    model = tiny_model()
    name = add_concepts(model, "some", "stage2", directions(3, 12))
    found = upstream_layers(model.module, images(1), name, ["stem", "stage2", "stage3", name])
    assert found == ["stem", "stage2", name]
    assert upstream_layers(model.module, images(1), "stage3", ["stage2", name]) == ["stage2"]


# --- files ---


@pytest.fixture
def arrays() -> dict[str, torch.Tensor]:
    return {"decoder.weight": directions(12, 5), "encoder.bias": directions(1, 5)[0]}


def write(path: Path, arrays: dict[str, torch.Tensor]) -> str:
    if path.suffix == ".npz":
        np.savez(path, **{name: value.double().numpy() for name, value in arrays.items()})
    else:
        safetensors.torch.save_file(arrays, path)
    return str(path)


@pytest.mark.parametrize("suffix", ["npz", "safetensors"])
def test_arrays_are_read_by_name(tmp_path, arrays, suffix):
    file = write(tmp_path / f"sae.{suffix}", arrays)
    read = read_concepts(file, key="decoder.weight", bias="encoder.bias")
    torch.testing.assert_close(read.directions, arrays["decoder.weight"])
    torch.testing.assert_close(read.bias, arrays["encoder.bias"])
    assert read.directions.dtype == read.bias.dtype == torch.float32
    assert read.center is None
    assert read.sha256 == hashlib.sha256(Path(file).read_bytes()).hexdigest()
    only = write(tmp_path / f"only.{suffix}", {"w": arrays["encoder.bias"]})
    torch.testing.assert_close(read_concepts(only).directions, arrays["encoder.bias"])


def test_a_bfloat16_decoder_is_read(tmp_path):
    file = write(tmp_path / "sae.safetensors", {"w": torch.eye(3, dtype=torch.bfloat16)})
    assert torch.equal(read_concepts(file).directions, torch.eye(3))


@pytest.mark.parametrize("suffix", ["npz", "safetensors"])
def test_mistakes_in_files_name_what_is_there(tmp_path, arrays, suffix):
    file = write(tmp_path / f"sae.{suffix}", arrays)
    with pytest.raises(ValueError, match=r"holds several arrays, decoder.weight.*name that of the directions in `key`"):
        read_concepts(file)
    with pytest.raises(ValueError, match=r'has no array "decoder.weights" \(did you mean "decoder.weight"\?\)'):
        read_concepts(file, key="decoder.weights")
    (tmp_path / f"broken.{suffix}").write_bytes(b"nothing of the kind")
    with pytest.raises(ValueError, match="is no valid"):
        read_concepts(str(tmp_path / f"broken.{suffix}"))
    with pytest.raises(ValueError, match="there is no such file"):
        read_concepts(str(tmp_path / f"absent.{suffix}"))


def test_nothing_is_unpickled_and_nothing_too_large_is_read(tmp_path, arrays, monkeypatch):
    np.savez(tmp_path / "objects.npz", w=np.array([{"a": 1}], dtype=object))
    with pytest.raises(ValueError, match='array "w" cannot be read: Object arrays cannot be loaded'):
        read_concepts(str(tmp_path / "objects.npz"))
    with pytest.raises(ValueError, match=r"expected a .safetensors or .npz file"):
        read_concepts(str(tmp_path / "probe.pkl"))
    np.savez_compressed(tmp_path / "bomb.npz", w=np.zeros((1000, 1000)))  # a few kilobytes stand for 8 MB
    file = write(tmp_path / "sae.npz", arrays)
    monkeypatch.setattr(concept_files, "MAX_FILE_BYTES", 100_000)
    with pytest.raises(ValueError, match='array "w" has 8,000,128 bytes'):
        read_concepts(str(tmp_path / "bomb.npz"))
    monkeypatch.setattr(concept_files, "MAX_FILE_BYTES", 100)
    with pytest.raises(ValueError, match=r"at most 100 are read"):
        read_concepts(file)
