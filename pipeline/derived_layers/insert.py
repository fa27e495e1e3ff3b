"""Make a derived layer part of a model."""

import re
from typing import TYPE_CHECKING

from pipeline.models.derived_layer import AddedLayer, AddedLayers, _Start, _Tap

if TYPE_CHECKING:
    from pipeline.models.load import Model


def insert(model: "Model", kind: str, name: str, added: AddedLayer) -> str:
    """Make an added layer part of a model, and return its layer name `KIND.NAME`.

    Args:
        model: whose network is extended in place.
        kind: `concepts` or `circuits`.
        name: letters, digits and `_`.
        added: the layer; its sources are exact layer names of the model.

    Raises:
        ValueError: the name is no part of a layer name, or taken.
    """
    path = f"{kind}.{name}"
    if not re.fullmatch(r"[A-Za-z0-9_]+", name):
        raise ValueError(f'{kind}: name = "{name}": expected letters, digits and "_"')
    if not hasattr(model.module, kind):
        model.module.add_module(kind, AddedLayers().eval())
    container = getattr(model.module, kind)
    if not isinstance(container, AddedLayers):
        raise ValueError(f'"{path}" cannot be added: the network has something of its own called "{kind}"; rename it')
    if hasattr(container, name):
        raise ValueError(f'"{path}" is there already, or a name that modules use themselves; choose another name')
    container.add_module(name, added.eval().requires_grad_(False).to(model.device))
    if len(added.sources) > 1:
        added.handles.append(model.module.register_forward_pre_hook(_Start(added)))
    for index, source in enumerate(added.sources):
        handle = model.module.get_submodule(source).register_forward_hook(_Tap(added, index))
        added.handles.append(handle)
    model.forget_measurements()
    return path
