"""What timm does, beside loading, for weights of its own: constructor arguments, names of the original code, input
channels, unwanted classifiers.
"""

import inspect
import sys
from collections.abc import Callable, Collection, Iterable, Mapping
from typing import Any, Final

import torch
from torch import Tensor, nn

StateDict = Mapping[str, Tensor]

# Keyword arguments that timm's constructors add when they load weights (fbnetc_100 was trained with TensorFlow's
# epsilon): without them the network would compute something else with the same weights.
_SET_FOR_WEIGHTS: Final[Mapping[str, Mapping[str, Any]]] = {"fbnetc_100": {"bn_eps": 1e-3}}


def arguments(name: str) -> Mapping[str, Any]:
    """The keyword arguments of the constructor that timm sets for weights of the model `name`."""
    return _SET_FOR_WEIGHTS.get(name.partition(".")[0], {})


def converters(name: str, module: nn.Module) -> list[Callable[[StateDict], StateDict | None]]:
    """timm's functions from the names of a model's original code to timm's, each None where it does not apply.

    timm keeps them, called `checkpoint_filter_fn` and the like, beside the model's constructor or its class.
    """
    import timm

    places = {timm.models.model_entrypoint(name.partition(".")[0]).__module__, type(module).__module__}
    found = {
        function: None
        for place in sorted(places)
        for function_name, function in vars(sys.modules[place]).items()
        if "filter" in function_name and inspect.isfunction(function) and "state_dict" in _parameters(function)
    }
    return [_converter(function, module) for function in found]


def _parameters(function: Callable[..., Any]) -> list[str]:
    return list(inspect.signature(function).parameters)


def _converter(function: Callable[..., Any], module: nn.Module) -> Callable[[StateDict], StateDict | None]:
    def convert(state: StateDict) -> StateDict | None:
        arguments = (dict(state), module)[: len(_parameters(function))]
        try:
            converted = function(*arguments)
        except (LookupError, AttributeError, TypeError, ValueError, RuntimeError, AssertionError):
            return None  # whatever it raises of names that it was not written for
        is_state = isinstance(converted, dict) and all(isinstance(value, Tensor) for value in converted.values())
        return converted if is_state else None

    return convert


def adapted(
    state: StateDict, module: nn.Module, in_chans: int, resizing: Iterable[Callable[[StateDict], StateDict | None]]
) -> StateDict:
    """The tensors in the network's shapes, as `timm.create_model(…, pretrained=True)` makes them.

    Args:
        state: with the network's names.
        module: the network.
        in_chans: channels of its input; kernels for RGB are summed up or repeated for them.
        resizing: converters that resample positions and biases for another input size.
    """
    from timm.models import adapt_input_conv

    expected = module.state_dict()
    result = dict(state)
    for name, value in state.items():
        shape = expected[name].shape
        is_input = value.ndim == 4 and value.shape[1] == 3 and shape[1:2] == (in_chans,) and in_chans != 3
        if is_input and (*value.shape[:1], *value.shape[2:]) == (*shape[:1], *shape[2:]):
            result[name] = adapt_input_conv(in_chans, value)
    for resize in resizing:
        if _has_shapes(result, expected):
            break
        resized = resize(result)
        if resized is not None and resized.keys() == result.keys() and _has_shapes(resized, expected):
            return resized
    return result


def _has_shapes(state: StateDict, expected: StateDict) -> bool:
    return all(value.shape == expected[name].shape for name, value in state.items())


def dropped_names(name: str) -> Collection[str]:
    """The names of the network with its classifier, which files have beyond those of a backbone."""
    import timm

    with torch.device("meta"):
        return timm.create_model(name, pretrained=False).state_dict().keys()
