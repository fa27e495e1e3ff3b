"""Evaluators by name, with the weights that a recipe names."""

from collections.abc import Sequence

import torch

from pipeline.errors import UserError
from pipeline.evaluation.evaluators.base import Evaluator
from pipeline.evaluation.evaluators.clip import load_clip_evaluator
from pipeline.evaluation.evaluators.network import model_evaluator
from pipeline.models import load_model

_FAMILIES = ("timm", "torchvision", "python")  # those of `load_model`


def load_evaluator(
    name: str,
    weights: str = "pretrained",
    *,
    device: str | torch.device = "cpu",
    class_names: Sequence[str] | None = None,
) -> Evaluator:
    """An evaluator by name.

    Args:
        name: `timm:NAME`, `torchvision:NAME` or `python:package.module:factory` as for `load_model`, or
            `open_clip:ARCHITECTURE`.
        weights: as for `load_model`: `pretrained` (the library's own loader; may download), `random`, `package:NAME`,
            or the path or URL of a file. For open_clip: the path of a local file, `random`, or `pretrained:TAG`,
            which open_clip downloads.
        device: where it runs.
        class_names: for open_clip, the texts of its zero-shot logits, by class index; without them it only embeds.
            Other evaluators have the classes that they were trained with.

    Raises:
        UserError: name or weights are unknown or do not fit each other, or open_clip is not installed.
    """
    family, _, rest = name.partition(":")
    try:
        if family == "open_clip" and rest:
            return load_clip_evaluator(rest, weights, device=device, class_names=class_names)
        if family not in _FAMILIES or not rest:
            raise UserError("expected timm:NAME, torchvision:NAME, python:package.module:factory or open_clip:NAME")
        return model_evaluator(load_model(name, weights, device=device))
    except ValueError as error:
        raise UserError(f'evaluator "{name}": {error}') from error
