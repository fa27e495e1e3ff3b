"""Layers are calls of modules: one that runs again in a pass (a shared activation, a recurrent block) is another layer.

The first call of a module has the module's name, the second `NAME@2`, and so on, in the order in which they complete.
The network's own output is the layer `output`, where no module gives it.
"""

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from torch import nn

from pipeline.errors import UserError
from pipeline.neurons import nearest


def call_name(module_name: str, number: int) -> str:
    """The layer that is a module's call of this number, from 1."""
    return module_name if number == 1 else f"{module_name}@{number}"


def output_layer(module: nn.Module) -> str:
    """The name of the network's own output as a layer: `output`, with underscores if a module is called so."""
    names = {name for name, _ in module.named_modules(remove_duplicate=False)}
    name = "output"
    while name in names:
        name += "_"
    return name


def layer_names(module: nn.Module) -> dict[nn.Module, str]:
    """Every module of a network by its name; of an object with several names the first one, for the root `output`."""
    return {child: name or output_layer(module) for name, child in module.named_modules()}


def call_of(module: nn.Module, layer: str) -> tuple[nn.Module, int]:
    """The module that a layer is a call of, and the number of the call, from 1; any name of an object will do.

    Raises:
        UserError: no module is called so. Whether it runs so many times is not known here.
    """
    return _call_of(_named(module), module, layer)


def _named(module: nn.Module) -> dict[str, nn.Module]:
    return {name: child for name, child in module.named_modules(remove_duplicate=False) if name}


def _call_of(modules: Mapping[str, nn.Module], module: nn.Module, layer: str) -> tuple[nn.Module, int]:
    if layer in modules:
        return modules[layer], 1
    name, _, number = layer.rpartition("@")
    if name in modules and number.isdecimal() and int(number) > 1:
        return modules[name], int(number)
    if layer == output_layer(module):
        return module, 1
    raise UserError(f'unknown layer "{layer}"{nearest(layer, list(modules))}')


def canonical_name(module: nn.Module, layer: str) -> str:
    """The name by which a layer is listed: that of the first of its object's names.

    Raises:
        UserError: no module is called so.
    """
    child, number = call_of(module, layer)
    return call_name(layer_names(module)[child], number)


@contextmanager
def each_call(
    module: nn.Module, layers: Iterable[str], see: Callable[[str, tuple[Any, ...], Any], None]
) -> Iterator[None]:
    """Inside the `with` block, `see(layer, inputs, output)` as soon as a layer is computed in a pass of the network.

    A pass begins when `module` itself is called.

    Raises:
        UserError: a layer is not a call of a module of `module`.
    """
    modules = _named(module)
    watched: dict[nn.Module, dict[int, list[str]]] = {}
    for layer in dict.fromkeys(layers):
        child, number = _call_of(modules, module, layer)
        watched.setdefault(child, {}).setdefault(number, []).append(layer)
    calls: Counter[nn.Module] = Counter()

    def begin(_module: nn.Module, _inputs: object) -> None:
        calls.clear()

    def note(child: nn.Module, inputs: tuple[Any, ...], output: Any) -> None:
        calls[child] += 1
        for layer in watched[child].get(calls[child], ()):
            see(layer, inputs, output)

    handles = [module.register_forward_pre_hook(begin, prepend=True)]
    handles += [child.register_forward_hook(note) for child in watched]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()
