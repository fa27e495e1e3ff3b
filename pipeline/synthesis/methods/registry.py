"""The methods by name: what each minimizes, and what it needs of a model.

What the optimizer moves, how the image is shown to the model and which optimizer moves it are options
(`pipeline.synthesis.methods.options`), so that a recipe may mix them.
"""

from collections.abc import Mapping
from typing import Any, Final

from pipeline.errors import UserError
from pipeline.models import Model
from pipeline.synthesis.methods.activation_maximization import FOURIER, PIXEL
from pipeline.synthesis.methods.deepinversion import DEEPINVERSION, batch_norm_layers
from pipeline.synthesis.methods.maco import MACO
from pipeline.synthesis.methods.method import Method
from pipeline.synthesis.methods.presets import require_method
from pipeline.synthesis.methods.vital import VITAL

_METHODS: Final[Mapping[str, Method[Any]]] = {
    method.name: method for method in (VITAL, MACO, FOURIER, DEEPINVERSION, PIXEL)
}


def method_named(name: str) -> Method[Any]:
    """The method of that name.

    Raises:
        UserError: there is none.
    """
    require_method(name)
    return _METHODS[name]


def check_method(model: Model, method: str) -> None:
    """Refuse a method that a model lacks something for; looks at the model's modules only.

    Raises:
        UserError: an unknown method, or DeepInversion for a model without BatchNorm statistics.
    """
    if method_named(method).needs_batch_norm and not batch_norm_layers(model.module):
        others = [other.name for other in _METHODS.values() if not other.needs_batch_norm]
        raise UserError(
            f'method "{method}" matches the running statistics of BatchNorm layers, and model "{model.name}" has '
            f"none; choose among {', '.join(others)}"
        )
