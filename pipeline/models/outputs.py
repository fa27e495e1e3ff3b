"""The part of a network's output that is taken for its answer: a tensor, out of what libraries wrap it in.

Hugging Face gives a `ModelOutput`, torchvision's segmentation networks a dict, others a dataclass or a tuple.
"""

from collections.abc import Mapping
from dataclasses import fields, is_dataclass
from typing import Any

from torch import Tensor, nn

from pipeline.errors import UserError
from pipeline.neurons import nearest

AUTO = "auto"
# Of Hugging Face's classifiers, torchvision's segmentation networks, Hugging Face's backbones; the first that is there.
_USUAL_KEYS = ("logits", "out", "last_hidden_state")


def select_output(module: nn.Module, key: str) -> None:
    """Let the network give one part of its output from now on, as if its `forward` returned it.

    Args:
        module: the network, changed in place by a hook, which copies and pickles with it.
        key: a key, an attribute, or the place in a tuple, from 0. `auto` takes a tensor as it is, `logits`, `out` or
            `last_hidden_state` where there is one, or the only tensor; without any of these the output stays what it
            is, and the model has no classes.
    """
    module.register_forward_hook(_Selection(key))


class _Selection:
    """The hook of `select_output`; a class, so that it pickles."""

    def __init__(self, key: str) -> None:
        self.key = key

    def __call__(self, _module: nn.Module, _inputs: object, output: Any) -> Any:
        if self.key == AUTO:
            return output if isinstance(output, Tensor) else _usual(parts_of(output), output)
        parts = parts_of(output)
        if self.key not in parts:
            raise UserError(
                f'model.output = "{self.key}": the network gives {_describe(output, parts)}'
                f"{nearest(self.key, list(parts))}"
            )
        if not isinstance(parts[self.key], Tensor):
            raise UserError(
                f'model.output = "{self.key}" is {type(parts[self.key]).__name__}, expected a tensor: the network '
                f"gives {_describe(output, parts)}"
            )
        return parts[self.key]


def parts_of(output: Any) -> dict[str, Any]:
    """The parts of a network's output by key, attribute or place."""
    if isinstance(output, Mapping):
        return {str(key): value for key, value in output.items()}
    if is_dataclass(output) and not isinstance(output, type):
        return {field.name: getattr(output, field.name) for field in fields(output)}
    if isinstance(output, tuple | list):
        keys = getattr(output, "_fields", range(len(output)))  # of a named tuple
        return {str(key): value for key, value in zip(keys, output, strict=True)}
    return {}


def _usual(parts: Mapping[str, Any], output: Any) -> Any:
    tensors = {key: value for key, value in parts.items() if isinstance(value, Tensor)}
    for key in _USUAL_KEYS:
        if key in tensors:
            return tensors[key]
    return next(iter(tensors.values())) if len(tensors) == 1 else output


def _describe(output: Any, parts: Mapping[str, Any]) -> str:
    if isinstance(output, Tensor):
        return 'one tensor; leave model.output at "auto"'
    return f"{type(output).__name__} of {', '.join(parts) or 'no named parts'}"
