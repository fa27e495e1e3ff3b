"""Make a derived layer part of a model."""

import re

from pipeline.derived_layers.layer import DerivedLayer
from pipeline.errors import UserError
from pipeline.models.model import Model
from pipeline.models.probe import PassThrough


def insert(model: Model, kind: str, name: str, derived: DerivedLayer) -> str:
    """Make a derived layer part of a model, and return its layer name `KIND.NAME`.

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
        model.module.add_module(kind, PassThrough().eval())
    container = getattr(model.module, kind)
    if not isinstance(container, PassThrough):
        raise UserError(f'"{path}" cannot be added: the network has something of its own called "{kind}"; rename it')
    if hasattr(container, name):
        raise UserError(f'"{path}" is there already, or a name that modules use themselves; choose another name')
    container.add_module(name, derived.eval().requires_grad_(False).to(model.device))
    derived.attach(model.module)
    model.forget_measurements()
    return path
