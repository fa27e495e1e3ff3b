"""CLIP as an evaluator, through open_clip: image embeddings and zero-shot logits, from local weights."""

import pickle
from collections.abc import Sequence
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from pipeline.errors import UserError
from pipeline.evaluation.evaluators.base import Evaluator, EvaluatorInput, Prediction
from pipeline.models import torchvision_operators
from pipeline.models.labels import class_names as names_of_labels
from pipeline.models.weights.loading import hash_state
from pipeline.neurons import evaluator_slug, nearest

_TAG = "pretrained:"


def load_clip_evaluator(
    architecture: str, weights: str, *, device: str | torch.device, class_names: Sequence[str] | None
) -> Evaluator:
    """An open_clip model as an evaluator; nothing is downloaded unless the weights are `pretrained:TAG`.

    The embedding is the image embedding, of length 1. The logits are the model's own for the zero-shot classifier of
    the class names: exp(logit scale) × cosine of image and text embedding, plus the model's bias if it has one. A
    class's text embedding is the average over the 7 templates of open_clip's `SIMPLE_IMAGENET_TEMPLATES`: the subset
    of CLIP's 80 that its authors selected, as good as all of them (openai/CLIP, notebook "Prompt engineering for
    ImageNet") at a tenth of the time.

    Args:
        architecture: as open_clip lists them: `ViT-B-32`; `ViT-B-32-quickgelu` for OpenAI's own weights.
        weights: path of a local file (read with weights_only), `random`, or `pretrained:TAG` for open_clip's loader.
        device: where it runs.
        class_names: the texts of the logits, by class index; None embeds only. For ImageNet's 1,000 names the curated
            ones of open_clip are used: two of the originals read "crane".

    Raises:
        UserError: open_clip is not installed; architecture or weights are unknown, do not fit each other, or would
            need a download.

    Reference: Radford et al., "Learning transferable visual models from natural language supervision", ICML 2021,
    section 3.1.
    """
    open_clip = _open_clip()
    known = open_clip.list_models()
    if architecture not in known:
        raise UserError(f'open_clip has no architecture "{architecture}"{nearest(architecture, known)}')
    if weights.startswith(_TAG):
        pretrained: str | None = weights.removeprefix(_TAG)
    else:
        _check_needs_no_download(open_clip, architecture, with_text=class_names is not None)
        pretrained = None if weights == "random" else _local_file(weights)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)  # of random weights
        try:
            module = open_clip.create_model(architecture, pretrained=pretrained, device=device)
        except (RuntimeError, AssertionError, pickle.UnpicklingError) as error:
            raise UserError(f'weights = "{weights}" do not load into {architecture}: {error}') from error
    module = module.eval().requires_grad_(False)
    classifier = None if class_names is None else _zero_shot_classifier(architecture, module, class_names, device)
    return _ClipEvaluator(name=f"open_clip:{architecture}", module=module, classifier=classifier, device=device)


class _ClipEvaluator:
    """An image tower, its preprocessing and the text embeddings of the classes."""

    def __init__(self, *, name: str, module: Any, classifier: Tensor | None, device: str | torch.device) -> None:
        from open_clip.transform import PreprocessCfg, image_transform_v2

        self.name = name
        self.slug = evaluator_slug(name)
        self.num_classes = None if classifier is None else classifier.shape[1]
        self._module = module
        self._classifier = classifier  # [D, K]
        self._device = device
        config = PreprocessCfg(**self._module.visual.preprocess_cfg)
        self._side_px: int = config.input_size[-1]
        self._transform = image_transform_v2(config, is_train=False)

    @property
    def weights_sha256(self) -> str:
        """See `Evaluator`."""
        return hash_state(self._module)

    @torch.no_grad()
    def predict(self, images: Sequence[EvaluatorInput]) -> Prediction:
        """See `Evaluator.predict`."""
        inputs = torch.stack([self._transform(self._as_dataset_image(image)) for image in images]).to(self._device)
        embedding = self._module.encode_image(inputs, normalize=True)
        logits = None
        if self._classifier is not None:
            logits = self._module.logit_scale.exp() * embedding @ self._classifier
            if self._module.logit_bias is not None:
                logits = logits + self._module.logit_bias
        return Prediction(embedding=_array(embedding), logits=None if logits is None else _array(logits))

    def _as_dataset_image(self, image: EvaluatorInput) -> Image.Image:
        """A visualization is resized whole, so that the resizing and center crop that follow do not change it."""
        if isinstance(image, Image.Image):
            return image.convert("RGB")
        side = (self._side_px, self._side_px)
        return Image.fromarray(image).convert("RGB").resize(side, Image.Resampling.BICUBIC)


def _open_clip() -> ModuleType:
    torchvision_operators.declare()  # open_clip imports torchvision
    try:
        import open_clip
    except ModuleNotFoundError as error:
        if error.name != "open_clip":
            raise
        raise UserError(
            "open_clip is not installed; `pip install 'neuron-atlas[clip]'`, or leave this evaluator out"
        ) from error
    return open_clip


def _zero_shot_classifier(
    architecture: str, module: Any, class_names: Sequence[str], device: str | torch.device
) -> Tensor:
    """The text embedding of each class, of length 1: [D, K]."""
    import open_clip

    names = list(class_names)
    if names == names_of_labels("imagenet1k", len(open_clip.IMAGENET_CLASSNAMES)):
        names = list(open_clip.IMAGENET_CLASSNAMES)
    return open_clip.build_zero_shot_classifier(
        module, open_clip.get_tokenizer(architecture), names, open_clip.SIMPLE_IMAGENET_TEMPLATES, device=device
    )


def _check_needs_no_download(open_clip: ModuleType, architecture: str, *, with_text: bool) -> None:
    """Refuse an architecture whose text tower or tokenizer open_clip would download from the Hugging Face hub."""
    text = open_clip.get_model_config(architecture)["text_cfg"]
    foreign = text.get("hf_model_name") or (text.get("hf_tokenizer_name") if with_text else None)
    if foreign:
        raise UserError(
            f'the text side of {architecture} is "{foreign}" of the Hugging Face hub, which open_clip would download; '
            f'choose an architecture with a tokenizer of open_clip, or allow it by weights = "{_TAG}TAG"'
        )


def _local_file(weights: str) -> str:
    """The absolute path, which open_clip cannot mistake for one of its tags."""
    path = Path(weights).expanduser()
    if not path.is_file():
        raise UserError(
            f'weights = "{weights}": there is no such file; give the path of a checkpoint of open_clip, or '
            f'"{_TAG}TAG" to let open_clip download that tag'
        )
    return str(path.resolve())


def _array(values: Tensor) -> np.ndarray:
    return values.float().cpu().numpy()
