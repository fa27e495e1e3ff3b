"""CLIP as an evaluator: a tiny open_clip model with random weights, against open_clip's own computation."""

import json
import socket
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from pipeline.evaluation.evaluators.load import load_evaluator
from pipeline.models import torchvision_operators

torchvision_operators.declare()
open_clip = pytest.importorskip("open_clip", reason="the extra `clip` is not installed")

NAMES = ["goldfish", "tabby cat", "castle", "volcano"]
# Two layers of width 16 at 32 px; the vocabulary is that of CLIP's tokenizer, which ships in open_clip.
CONFIG = {
    "embed_dim": 12,
    "vision_cfg": {"image_size": 32, "layers": 2, "width": 16, "patch_size": 16, "head_width": 8},
    "text_cfg": {"context_length": 24, "vocab_size": 49408, "width": 16, "heads": 2, "layers": 2},
}


@pytest.fixture(autouse=True)
def no_network(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """A test fails if it resolves any host name."""
    asked: list[object] = []

    def refuse(*arguments: object, **options: object) -> None:
        asked.append(arguments)
        raise OSError("no network in this test")

    monkeypatch.setattr(socket.socket, "connect", refuse)
    monkeypatch.setattr(socket, "getaddrinfo", refuse)
    for loader in ("download_pretrained", "download_pretrained_from_hf"):
        monkeypatch.setattr(f"open_clip.factory.{loader}", refuse)
    yield
    assert not asked


@pytest.fixture(scope="module")
def architectures(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """`tiny-clip`, and architectures that need the Hugging Face hub, entered in open_clip's list for this module."""
    folder = tmp_path_factory.mktemp("configs")
    foreign = {"hf_tokenizer_name": "someone/tokenizer"}
    biased = CONFIG | {"custom_text": True, "init_logit_bias": -10}
    for name, config in {
        "tiny-clip": CONFIG,
        "tiny-biased": biased,
        "tiny-deep": CONFIG | {"text_cfg": CONFIG["text_cfg"] | {"layers": 3}},
        "tiny-foreign-tokenizer": CONFIG | {"text_cfg": CONFIG["text_cfg"] | foreign},
        "tiny-foreign-text": CONFIG | {"text_cfg": {"hf_model_name": "someone/text"} | foreign},
    }.items():
        (folder / f"{name}.json").write_text(json.dumps(config))
    factory = sys.modules["open_clip.factory"]
    paths, known = list(factory._MODEL_CONFIG_PATHS), dict(factory._MODEL_CONFIGS)
    open_clip.add_model_config(folder)
    yield folder
    factory._MODEL_CONFIG_PATHS[:] = paths
    factory._MODEL_CONFIGS.clear()
    factory._MODEL_CONFIGS.update(known)


@pytest.fixture(scope="module", params=["tiny-clip", "tiny-biased"])
def reference(request: pytest.FixtureRequest, architectures: Path) -> tuple[str, torch.nn.Module, Path]:
    """Architecture, a model of it with weights of its own, and the file that holds them."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(7)
        model = open_clip.create_model(request.param).eval()
        with torch.no_grad():
            model.logit_scale.fill_(np.log(17.0))
    path = architectures / f"{request.param}.pt"
    torch.save(model.state_dict(), path)
    return request.param, model, path


def visualization(seed: int, height: int = 32, width: int = 32) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)


def test_zero_shot_logits_are_those_of_open_clip(reference: tuple[str, torch.nn.Module, Path]) -> None:
    """open_clip's own `get_logits`, its own preprocessing and tokenizer, the templates written out by hand."""
    architecture, model, path = reference
    dataset_images = [Image.fromarray(visualization(seed, 50, 40)) for seed in range(3)]
    evaluator = load_evaluator(f"open_clip:{architecture}", str(path), class_names=NAMES)
    prediction = evaluator.predict(dataset_images)

    transform = open_clip.image_transform(32, is_train=False)
    images = torch.stack([transform(dataset_image) for dataset_image in dataset_images])
    tokenizer = open_clip.get_tokenizer(architecture)
    with torch.no_grad():
        embedding = model.encode_image(images, normalize=True)
        for index, name in enumerate(NAMES):
            texts = [
                f"itap of a {name}.",
                f"a bad photo of the {name}.",
                f"a origami {name}.",
                f"a photo of the large {name}.",
                f"a {name} in a video game.",
                f"art of the {name}.",
                f"a photo of the small {name}.",
            ]
            # The average of unit vectors, scaled to length 1: its logit is the mean of theirs over its length.
            texts_of_class = model.encode_text(tokenizer(texts), normalize=True)
            mean_logit = model.get_logits(images, tokenizer(texts))[0].mean(dim=1)
            bias = 0 if model.logit_bias is None else model.logit_bias
            expected = (mean_logit - bias) / texts_of_class.mean(dim=0).norm() + bias
            np.testing.assert_allclose(prediction.logits[:, index], expected, rtol=1e-4, atol=1e-4)
    np.testing.assert_allclose(prediction.embedding, embedding, rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(np.linalg.norm(prediction.embedding, axis=1), 1, rtol=1e-5)
    assert (evaluator.num_classes, evaluator.slug) == (4, f"open_clip_{architecture.replace('-', '_')}")
    assert (model.logit_bias is not None) == (architecture == "tiny-biased")


@pytest.fixture(scope="module")
def tiny_file(architectures: Path) -> str:
    path = architectures / "weights.pt"
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(7)
        torch.save(open_clip.create_model("tiny-clip").state_dict(), path)
    return str(path)


def test_without_class_names_it_only_embeds(tiny_file: str) -> None:
    evaluator = load_evaluator("open_clip:tiny-clip", tiny_file)
    prediction = evaluator.predict([visualization(0)])
    assert (evaluator.num_classes, prediction.logits, prediction.embedding.shape) == (None, None, (1, 12))


def test_visualizations_are_resized_whole_and_dataset_images_cropped(tiny_file: str) -> None:
    evaluator = load_evaluator("open_clip:tiny-clip", tiny_file)
    wide = visualization(0, height=40, width=80)
    squeezed = np.asarray(Image.fromarray(wide).resize((32, 32), Image.Resampling.BICUBIC))
    middle = np.asarray(Image.fromarray(wide).resize((64, 32), Image.Resampling.BICUBIC).crop((16, 0, 48, 32)))
    shown = evaluator.predict([wide, squeezed, Image.fromarray(wide), middle]).embedding
    np.testing.assert_allclose(shown[0], shown[1], rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(shown[2], shown[3], rtol=1e-5, atol=1e-6)
    assert not np.allclose(shown[0], shown[2], atol=1e-3)


def test_names_of_imagenet_become_the_curated_ones(tiny_file: str, monkeypatch: pytest.MonkeyPatch) -> None:
    from pipeline.models.labels import class_names

    asked: list[list[str]] = []

    def note(_model: object, _tokenizer: object, names: list[str], *_rest: object, **_options: object) -> torch.Tensor:
        asked.append(names)
        return torch.ones(12, len(names))

    monkeypatch.setattr(open_clip, "build_zero_shot_classifier", note)
    load_evaluator("open_clip:tiny-clip", tiny_file, class_names=class_names("imagenet1k", 1000))
    load_evaluator("open_clip:tiny-clip", tiny_file, class_names=["crane", "castle"])
    assert (asked[0][134], asked[0][517]) == ("crane bird", "construction crane")
    assert asked[1] == ["crane", "castle"]


def test_random_weights_repeat_and_leave_the_global_generator(architectures: Path) -> None:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(123)
        state = torch.random.get_rng_state()
        first, second = (load_evaluator("open_clip:tiny-clip", "random").predict([visualization(0)]) for _ in range(2))
        assert torch.equal(torch.random.get_rng_state(), state)
    np.testing.assert_array_equal(first.embedding, second.embedding)


def test_a_file_named_like_a_tag_is_a_file(
    tiny_file: str, architectures: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """open_clip looks among its tags first, and would download."""
    (tmp_path / "openai").write_bytes(Path(tiny_file).read_bytes())
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ValueError, match="do not load into ViT-B-32"):
        load_evaluator("open_clip:ViT-B-32", "openai")


def test_a_tag_is_left_to_open_clip(architectures: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[str | None] = []
    create = open_clip.create_model

    def note(architecture: str, *, pretrained: str | None, device: str) -> torch.nn.Module:
        asked.append(pretrained)
        return create(architecture, device=device)

    monkeypatch.setattr(open_clip, "create_model", note)
    load_evaluator("open_clip:tiny-clip", "pretrained:laion2b_s34b_b79k")
    assert asked == ["laion2b_s34b_b79k"]


class Payload:
    """What a malicious checkpoint could hold: unpickling it runs code."""

    def __reduce__(self) -> tuple[object, tuple[str]]:
        return (exec, ("raise SystemExit('the payload ran')",))


def test_checkpoints_are_never_unpickled_into_code(architectures: Path) -> None:
    torch.save({"state_dict": Payload()}, architectures / "payload.pt")
    with pytest.raises(ValueError, match="do not load into tiny-clip"):
        load_evaluator("open_clip:tiny-clip", str(architectures / "payload.pt"))


@pytest.mark.parametrize(
    ("name", "weights", "names", "message"),
    [
        ("tiny-clap", "random", None, 'no architecture "tiny-clap".*tiny-clip'),
        ("hf-hub:someone/model", "random", None, "no architecture"),
        ("tiny-clip", "pretrained", None, 'weights = "pretrained": there is no such file.*pretrained:TAG'),
        ("tiny-clip", "/nowhere/clip.pt", None, "there is no such file"),
        ("tiny-foreign-text", "random", None, 'the text side .* "someone/text" of the Hugging Face hub'),
        ("tiny-foreign-tokenizer", "random", NAMES, '"someone/tokenizer" of the Hugging Face hub'),
    ],
)
def test_what_would_need_a_download_is_refused(
    architectures: Path, name: str, weights: str, names: list[str] | None, message: str
) -> None:
    with pytest.raises(ValueError, match=f'evaluator "open_clip:{name}": .*{message}'):
        load_evaluator(f"open_clip:{name}", weights, class_names=names)


def test_a_foreign_tokenizer_still_embeds(architectures: Path) -> None:
    evaluator = load_evaluator("open_clip:tiny-foreign-tokenizer", "random")
    assert evaluator.predict([visualization(0)]).embedding.shape == (1, 12)


def test_weights_of_another_architecture_are_refused(tiny_file: str) -> None:
    with pytest.raises(ValueError, match=r"do not load into tiny-deep: .*\s+Missing key"):
        load_evaluator("open_clip:tiny-deep", tiny_file)


def test_without_open_clip_the_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "open_clip", None)
    with pytest.raises(ValueError, match=r"pip install 'neuron-atlas\[clip\]'"):
        load_evaluator("open_clip:ViT-B-32", "random")
