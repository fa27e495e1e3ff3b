"""Layers are calls of modules: one that runs again in a pass (a shared activation, a recurrent block) is another layer.

The first call of a module has the module's name, the second `NAME@2`, and so on, in the order in which they complete.
The network's own output is the layer `output`, where no module gives it.
"""

from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import Any

from torch import nn

from pipeline.errors import UserError
from pipeline.neurons import nearest


class LayerNames:
    """The names of a network's layers, read off its modules once.

    Attributes:
        modules: name → module; an object that the network holds under several names stands under each.
        output: the network's own output as a layer: `output`, with underscores if a module is called so.
    """

    def __init__(self, module: nn.Module) -> None:
        self.modules = {name: child for name, child in module.named_modules(remove_duplicate=False) if name}
        self.output = "output"
        while self.output in self.modules:
            self.output += "_"
        self._module = module
        self._first = {child: name for name, child in module.named_modules()} | {module: self.output}

    def layer(self, child: nn.Module, number: int = 1) -> str | None:
        """The layer that is a module's call of this number, from 1, by the first of the object's names.

        None of a module that is no part of the network, and where another module is called like this call.
        """
        name = self._first.get(child)
        if name is None or number == 1:
            return name
        return None if (call := f"{name}@{number}") in self.modules else call

    def call(self, layer: str) -> tuple[nn.Module, int]:
        """The module that a layer is a call of, and the number of the call, from 1; any name of an object will do.

        Raises:
            UserError: no module is called so. Whether it runs so many times is not known here.
        """
        if (found := self._find(layer)) is None:
            raise UserError(f'unknown layer "{layer}"{nearest(layer, list(self.modules))}')
        return found

    def listed(self, layer: str) -> str:
        """The name by which a layer is listed, that of the first of its object's names; of no layer, the name given."""
        return layer if (found := self._find(layer)) is None else self.layer(*found) or layer

    def _find(self, layer: str) -> tuple[nn.Module, int] | None:
        if layer in self.modules:
            return self.modules[layer], 1
        name, _, number = layer.rpartition("@")
        if name in self.modules and number.isdecimal() and int(number) > 1:
            return self.modules[name], int(number)
        return (self._module, 1) if layer == self.output else None


See = Callable[[str, tuple[Any, ...], Any], Any]


@contextmanager
def each_call(module: nn.Module, layers: Iterable[str], see: See) -> Iterator[None]:
    """Inside the `with` block, `see(layer, inputs, output)` as soon as a layer is computed in a pass of the network.

    What `see` returns takes the place of the output, unless it is None. A pass begins when `module` itself is called.

    Raises:
        UserError: a layer is not a call of a module of `module`.
    """
    names = LayerNames(module)
    watched: dict[nn.Module, dict[int, list[str]]] = {}
    for layer in dict.fromkeys(layers):
        child, number = names.call(layer)
        watched.setdefault(child, {}).setdefault(number, []).append(layer)

    def note(child: nn.Module, number: int, inputs: tuple[Any, ...], output: Any) -> Any:
        answers = [see(layer, inputs, output) for layer in watched[child].get(number, ())]
        return next((answer for answer in answers if answer is not None), None)

    with _counted(module, watched, note):
        yield


@contextmanager
def every_call(module: nn.Module, see: Callable[[str, nn.Module, Any], None]) -> Iterator[None]:
    """Inside the `with` block, `see(layer, child, output)` for every layer but the network's own output.

    A layer comes before those that are computed from it, also before derived ones.
    """
    names = LayerNames(module)

    def note(child: nn.Module, number: int, _inputs: object, output: Any) -> None:
        if (layer := names.layer(child, number)) is not None:
            see(layer, child, output)

    with _counted(module, {child for child in module.modules() if child is not module}, note, prepend=True):
        yield


@contextmanager
def _counted(
    module: nn.Module, children: Iterable[nn.Module], note: Callable[..., Any], *, prepend: bool = False
) -> Iterator[None]:
    """Inside the `with` block, `note(child, number, inputs, output)` after each call of one of the modules."""
    calls: Counter[nn.Module] = Counter()

    def begin(_module: nn.Module, _inputs: object) -> None:
        calls.clear()

    def count(child: nn.Module, inputs: tuple[Any, ...], output: Any) -> Any:
        calls[child] += 1
        return note(child, calls[child], inputs, output)

    handles = [module.register_forward_pre_hook(begin, prepend=True)]
    handles += [child.register_forward_hook(count, prepend=prepend) for child in children]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()
