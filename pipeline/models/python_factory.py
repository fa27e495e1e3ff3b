"""Networks that a user's own function makes: called, taken out of wrappers, and refused if they cannot be used."""

import copy
import importlib
import inspect
import traceback
from collections.abc import Callable, Iterator, Mapping
from typing import Any, Final

import torch
from torch import Tensor, nn
from torch.nn.parameter import is_lazy

from pipeline.errors import UserError

_QUANTIZED_PACKAGES: Final = (
    "torch.ao.nn.quantized",
    "torch.ao.nn.intrinsic.quantized",
    "torch.ao.nn.sparse.quantized",
)


def network_of(path: str, options: Mapping[str, Any]) -> nn.Module:
    """The network that a factory makes, without wrappers of `torch.compile`, `DataParallel` and their like.

    Args:
        path: `package.module:factory`.
        options: keyword arguments of the factory.

    Raises:
        UserError: there is no such factory, it fails, or what it gives cannot be used; the remedy is named.
    """
    name = f'model.name = "python:{path}"'
    network = _called(_factory(path, name), options, name)
    if isinstance(network, type):
        raise UserError(
            f"{name}: the factory gave the class {network.__name__} itself, expected `return {network.__name__}()`"
        )
    if not isinstance(network, nn.Module):
        hint = {type(None): "; does it return the network?", tuple: "; let it return the network alone"}
        raise UserError(
            f"{name}: the factory gave {type(network).__name__}, expected a torch.nn.Module"
            f"{hint.get(type(network), '')}"
        )
    network = _unwrapped(network)
    fault = next(_faults(network), None)
    if fault:
        raise UserError(f"{name}: {fault}")
    return network


def stated_preprocessing(network: nn.Module) -> dict[str, Any]:
    """What the attributes of a network say about its images: those of `input_size_px`, `mean`, … that it has.

    Raises:
        UserError: an attribute of these names is of another kind.
    """
    stated: dict[str, Any] = {}
    for name, (expected, read) in _ATTRIBUTES.items():
        value = getattr(network, name, None)
        if value is None:
            continue
        if isinstance(value, Tensor) and any(value is own for own in (*network.parameters(), *network.buffers())):
            raise UserError(
                f'the network has a buffer or parameter "{name}", which is also the attribute that says how its images '
                f"are normalized: give the tensor another name, and let `{name}` be {expected}, where it differs from "
                "ImageNet's"
            )
        try:
            stated[name] = read(value)
        except (TypeError, ValueError) as error:
            raise UserError(f"the network's attribute {name} = {value!r}: expected {expected}") from error
    return stated


def _numbers(value: Any) -> tuple[float, ...]:
    return tuple(float(number) for number in value)


def _whole(value: Any) -> int:
    if isinstance(value, bool) or int(value) != value or value < 1:
        raise ValueError
    return int(value)


def _fraction(value: Any) -> float:
    if not value > 0:
        raise ValueError
    return float(value)


# Attribute → what is expected of it, and a function that reads it.
_ATTRIBUTES: Final[Mapping[str, tuple[str, Callable[[Any], Any]]]] = {
    "input_size_px": ("the side of the square input as a whole number", _whole),
    "crop_fraction": ("the side of the crop over the side after resizing, above 0", _fraction),
    "crop_mode": ("center, squash or border", str),
    "interpolation": ("the name of a filter", str),
    "mean": ("one number per channel, for pixels in [0, 1]; zeros if the network normalizes by itself", _numbers),
    "std": ("one number per channel, for pixels in [0, 1]; ones if the network normalizes by itself", _numbers),
    "in_chans": ("the number of input channels", _whole),
}


def _factory(path: str, name: str) -> Callable[..., object]:
    module_name, _, factory_name = path.partition(":")
    if not factory_name:
        raise UserError(f"{name}: expected python:package.module:factory")
    try:
        factory = getattr(importlib.import_module(module_name), factory_name)
    except (ModuleNotFoundError, AttributeError) as error:
        raise UserError(f"{name}: {error}; is the package on PYTHONPATH?") from error
    except Exception as error:
        raise UserError(f"{name}: {module_name} cannot be imported: {_described(error)}") from error
    if isinstance(factory, nn.Module) or not callable(factory):
        raise UserError(
            f"{name}: {factory_name} is of type {type(factory).__name__}, expected a function that makes a network"
        )
    return factory


def _called(factory: Callable[..., object], options: Mapping[str, Any], name: str) -> object:
    try:
        inspect.signature(factory).bind(**options)
    except TypeError as error:
        raise UserError(
            f"{name}: the factory is called with model.options = {dict(options)}: {error}; give what it takes in "
            "[model] options"
        ) from error
    except ValueError:  # some classes written in C have no signature
        pass
    try:
        return factory(**options)
    except torch.OutOfMemoryError:
        raise
    except Exception as error:
        raise UserError(f"{name}: the factory failed: {_described(error)}") from error


def _described(error: Exception) -> str:
    """An exception in one line, with the place where it was raised."""
    frame = traceback.extract_tb(error.__traceback__)[-1]
    where = (
        "; paths are relative to the folder that the command runs in" if isinstance(error, FileNotFoundError) else ""
    )
    return f"{type(error).__name__}: {' '.join(str(error).split())} (line {frame.lineno} of {frame.filename}){where}"


def _unwrapped(network: nn.Module) -> nn.Module:
    """The network without wrappers that change no number, also around its parts."""
    wrapper, network = network, _inner(network)
    for name in _ATTRIBUTES.keys() & vars(wrapper).keys() - vars(network).keys():
        setattr(network, name, vars(wrapper)[name])
    while inside := next((name for name, child in network.named_modules() if _inner(child) is not child), ""):
        network.set_submodule(inside, _inner(network.get_submodule(inside)))
    for child in network.modules():
        if child._compiled_call_impl is not None:  # what `Module.compile()` leaves
            child._compiled_call_impl = None
    return network


def _inner(module: nn.Module) -> nn.Module:
    wrappers = nn.DataParallel, nn.parallel.DistributedDataParallel, torch.optim.swa_utils.AveragedModel
    while True:
        if "_orig_mod" in module._modules:  # of `torch.compile`, whose class takes seconds to import
            module = module.get_submodule("_orig_mod")
        elif isinstance(module, wrappers):
            module = module.module
        else:
            return module


def _faults(network: nn.Module) -> Iterator[str]:
    """Why a network cannot be used."""
    modules = dict(network.named_modules())
    tensors: dict[str, Tensor] = {**dict(network.named_parameters()), **dict(network.named_buffers())}
    if isinstance(network, torch.jit.ScriptModule):
        yield (
            "the network is scripted or traced (torch.jit), which hides its layers; give the network itself, in Python"
        )
    for module_name, module in modules.items():
        if isinstance(module, torch.jit.ScriptModule):
            yield (
                f'the part "{module_name}" is scripted or traced (torch.jit) and cannot be sent to workers; give it in '
                "Python"
            )
        if type(module).__module__.startswith(_QUANTIZED_PACKAGES):
            yield (
                f'layer "{module_name}" ({type(module).__name__}) is quantized and has no gradient; give the network '
                "as it was before quantization"
            )
    for tensor_name, tensor in tensors.items():
        if is_lazy(tensor):
            yield (
                f'"{tensor_name}" has no values yet (a lazy layer); let the factory run the network on an image and '
                "load its weights"
            )
        if tensor.is_meta:
            yield f'"{tensor_name}" has no values (it is on the device "meta"); let the factory load its weights'
    for tensor_name, parameter in network.named_parameters():
        if not is_lazy(parameter) and (
            parameter.is_quantized or not (parameter.is_floating_point() or parameter.is_complex())
        ):
            yield (
                f'"{tensor_name}" holds {str(parameter.dtype).removeprefix("torch.")}: the network is quantized; give '
                "it as it was before"
            )


def in_float32(network: nn.Module, num_channels: int, size_px: int) -> nn.Module:
    """A network whose weights are of another precision in float32, unless it runs only in its own.

    Args:
        network: of the factory.
        num_channels: of its input.
        size_px: side of its images.
    """
    kinds = {tensor.dtype for tensor in (*network.parameters(), *network.buffers()) if tensor.is_floating_point()}
    if kinds <= {torch.float32}:
        return network
    wide = copy.deepcopy(network).float().eval()
    place = next(wide.parameters()).device
    try:
        with torch.no_grad(), torch.random.fork_rng(devices=[]):
            wide(torch.zeros(2, num_channels, size_px, size_px, device=place))
    except torch.OutOfMemoryError:
        raise
    except RuntimeError:  # it casts its input to the type that its weights had
        return network
    return wide
