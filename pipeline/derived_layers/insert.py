"""Make a derived layer part of a model."""

import re
from typing import TYPE_CHECKING

from pipeline.errors import UserError
from pipeline.models.derived_layer import DerivedLayer, DerivedLayers, _Start, _Tap

if TYPE_CHECKING:
    from pipeline.models.load import Model


def insert(model: "Model", kind: str, name: str, derived: DerivedLayer) -> str:
    """Make an derived layer part of a model, and return its layer name `KIND.NAME`.

    Args:
        model: whose network is extended in place.
        kind: `concepts` or `combinations`.
        name: letters, digits and `_`.
        derived: the layer; its sources are exact layer names of the model.

    Raises:
        UserError: the name is no part of a layer name, or taken.
    """
    path = f"{kind}.{name}"
    if not re.fullmatch(r"[A-Za-z0-9_]+", name):
        raise UserError(f'{kind}: name = "{name}": expected letters, digits and "_"')
    if not hasattr(model.module, kind):
        model.module.add_module(kind, DerivedLayers().eval())
    container = getattr(model.module, kind)
    if not isinstance(container, DerivedLayers):
        raise UserError(f'"{path}" cannot be added: the network has something of its own called "{kind}"; rename it')
    if hasattr(container, name):
        raise UserError(f'"{path}" is there already, or a name that modules use themselves; choose another name')
    container.add_module(name, derived.eval().requires_grad_(False).to(model.device))
    if len(derived.sources) > 1:
        derived.handles.append(model.module.register_forward_pre_hook(_Start(derived)))
    for index, source in enumerate(derived.sources):
        handle = model.module.get_submodule(source).register_forward_hook(_Tap(derived, index))
        derived.handles.append(handle)
    model.forget_measurements()
    return path
