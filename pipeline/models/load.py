"""Models by name: `timm:NAME`, `torchvision:NAME`, `python:package.module:factory`."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from pipeline.errors import UserError
from pipeline.models import torchvision_operators
from pipeline.models.attention import expose_heads
from pipeline.models.model import Model
from pipeline.models.outputs import AUTO, select_output
from pipeline.models.preprocessing import Preprocessing, crop_fraction, for_channels
from pipeline.models.python_factory import in_float32, network_of, stated_preprocessing
from pipeline.models.weights import timm_conventions, torchvision_conventions
from pipeline.models.weights.files import read_checkpoint
from pipeline.models.weights.loading import Conventions, load_into
from pipeline.neurons import nearest

torchvision_operators.declare()

# ImageNet statistics, the default of torchvision's weights and of most timm models.
_IMAGENET_MEAN, _IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)

# Keyword arguments of the libraries' constructors that have a key of their own.
_OWN_KEYS = {
    "pretrained": "model.weights", "weights": "model.weights", "img_size": "model.input_size_px",
    "image_size": "model.input_size_px", "input_size": "model.input_size_px",
}  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class _Request:
    """What a builder is asked for; `name` is the part after the family."""

    name: str
    weights: str
    input_size_px: int | None
    options: Mapping[str, Any]

    @property
    def pretrained(self) -> bool:
        """Whether the library loads its own weights."""
        return self.weights == "pretrained"


def load_model(
    name: str,
    weights: str = "pretrained",
    *,
    device: str | torch.device = "cpu",
    seed: int = 0,
    labels: str = "imagenet1k",
    input_size_px: int | None = None,
    options: Mapping[str, Any] | None = None,
    output: str = AUTO,
) -> Model:
    """A model by name, with its weights and its preprocessing.

    Attention is made to show the outputs of its heads as a layer, see `pipeline.models.attention`.

    Args:
        name: `timm:NAME`, `torchvision:NAME` or `python:package.module:factory`.
        weights: `pretrained` (the library's own loader; may download), `random` (from `seed`), `package:NAME`,
            or the path or URL of a checkpoint (only tensors are read), see `pipeline.models.weights.checkpoints`. The
            network is the same whichever way they come.
        device: where the module lives.
        seed: of random weights.
        labels: `imagenet1k` or a text file, see `class_names`.
        input_size_px: side of the input; None is the library's own. Networks of fixed size are made for it, and
            position embeddings of another size are resampled.
        options: further keyword arguments of the constructor: `{"num_classes": 0}` makes a timm backbone,
            `{"in_chans": 1}` a timm model of gray images.
        output: the part of what the network gives that is its answer, see `select_output`.

    Returns:
        The model; its `remarks` say which part of a checkpoint was taken, unless it is plain.

    Raises:
        UserError: the name, the weights or an option are unknown, or do not fit each other.
    """
    family, _, rest = name.partition(":")
    builders = {"timm": _build_timm, "torchvision": _build_torchvision, "python": _build_python}
    if family not in builders or not rest:
        raise UserError(f'model.name = "{name}": expected timm:NAME, torchvision:NAME or python:package.module:factory')
    request = _Request(name=rest, weights=weights, input_size_px=input_size_px, options=_checked(options or {}))
    with torch.random.fork_rng(devices=[]):  # random weights depend on `seed` alone, and disturb nobody's stream
        torch.manual_seed(seed)
        module, preprocessing = builders[family](request)
    remarks: tuple[str, ...] = ()
    if weights not in ("pretrained", "random"):
        conventions = _conventions(family, request, module, preprocessing.input_size_px)
        remarks = load_into(module, read_checkpoint(weights), weights, conventions)
    expose_heads(module)
    select_output(module, output)
    return Model(name=name, module=module, preprocessing=preprocessing, labels=labels, device=device, remarks=remarks)


def _conventions(family: str, request: _Request, module: nn.Module, size_px: int) -> Conventions:
    """How the library of a model reads weight files."""
    native_size_px = None if request.input_size_px else size_px
    if family == "torchvision":
        return Conventions(
            surplus=lambda: torchvision_conventions.dropped_names(request.name), native_size_px=native_size_px
        )
    if family == "timm":
        converters = timm_conventions.converters(request.name, module)
        return Conventions(
            renames=converters,
            surplus=lambda: (
                timm_conventions.dropped_names(request.name) if request.options.get("num_classes") == 0 else ()
            ),
            adapt=lambda state: timm_conventions.adapted(
                state, module, request.options.get("in_chans", 3), converters if request.input_size_px else ()
            ),
            native_size_px=native_size_px,
        )
    return Conventions(native_size_px=native_size_px)


def _checked(options: Mapping[str, Any]) -> Mapping[str, Any]:
    for option, value in options.items():
        if option in _OWN_KEYS:
            raise UserError(f"model.options.{option} = {value!r}: this is set by {_OWN_KEYS[option]}")
    return options


def _call(constructor: Callable[..., Any], request: _Request, *args: Any, **kwargs: Any) -> Any:
    """Call a library's constructor; what it says of wrong arguments is passed on as the user's mistake."""
    try:
        return constructor(*args, **kwargs, **request.options)
    except (TypeError, ValueError, AssertionError) as error:
        if not request.options and request.input_size_px is None:
            raise
        raise UserError(
            f'model.name = "{request.name}" cannot be made with model.input_size_px = {request.input_size_px} and '
            f"model.options = {dict(request.options)}: {error}; give what its constructor takes"
        ) from error


def _build_timm(request: _Request) -> tuple[nn.Module, Preprocessing]:
    import timm

    name = request.name
    architecture = name.partition(".")[0]
    if not timm.is_model(architecture):
        raise UserError(
            f'model.name = "timm:{name}": timm has no such model{nearest(architecture, timm.list_models())}'
        )
    size_px = request.input_size_px
    arguments = {key: value for key, value in timm_conventions.arguments(name).items() if key not in request.options}
    known = timm.get_pretrained_cfg(name)
    if size_px is None and known is not None and known.input_size[-2] != known.input_size[-1]:
        raise UserError(
            f'model.name = "timm:{name}" takes images of {known.input_size[-1]} × {known.input_size[-2]} px, and '
            "inputs are square here: set model.input_size_px"
        )
    if size_px and known is not None and known.fixed_input_size and size_px != known.input_size[-1]:
        arguments["img_size"] = size_px
    module = _call(timm.create_model, request, name, pretrained=request.pretrained, **arguments)
    config = timm.data.resolve_data_config({}, model=module)
    mean, std = for_channels(request.options.get("in_chans", 3), tuple(config["mean"]), tuple(config["std"]))
    return module, Preprocessing(
        input_size_px=size_px or config["input_size"][-1],
        crop_fraction=config["crop_pct"],
        interpolation=config["interpolation"],
        mean=mean,
        std=std,
        crop_mode=config["crop_mode"],
    )


def _build_torchvision(request: _Request) -> tuple[nn.Module, Preprocessing]:
    import torchvision

    name, size_px = request.name, request.input_size_px
    known = torchvision.models.list_models(module=torchvision.models)
    if name not in known:
        raise UserError(f'model.name = "torchvision:{name}": torchvision has no such model{nearest(name, known)}')
    entry = torchvision_conventions.weights_entry(name, request.weights)
    transform = entry.transforms()
    native_px = transform.crop_size[0]
    preprocessing = Preprocessing(
        input_size_px=size_px or native_px,
        crop_fraction=crop_fraction(native_px, transform.resize_size[0]),
        interpolation=transform.interpolation.value,
        mean=tuple(transform.mean),
        std=tuple(transform.std),
    )
    if request.pretrained and size_px in (None, native_px):
        return _call(torchvision.models.get_model, request, name, weights=entry), preprocessing
    arguments = torchvision_conventions.arguments(
        name, preprocessing.input_size_px, is_initialized=request.weights == "random"
    )
    arguments = {argument: value for argument, value in arguments.items() if argument not in request.options}
    module = _call(torchvision.models.get_model, request, name, weights=None, **arguments)
    if request.pretrained:  # the library refuses weights for another size; position embeddings are resampled here
        load_into(module, entry.get_state_dict(check_hash=True), "pretrained")
    return module, preprocessing


def _build_python(request: _Request) -> tuple[nn.Module, Preprocessing]:
    """One's own model: the factory loads its own weights; attributes of the module override the defaults."""
    module = network_of(request.name, request.options)
    stated = stated_preprocessing(module)
    mean, std = for_channels(stated.get("in_chans", 3), _IMAGENET_MEAN, _IMAGENET_STD)
    preprocessing = Preprocessing(
        input_size_px=request.input_size_px or stated.get("input_size_px", 224),
        crop_fraction=stated.get("crop_fraction", 0.875),
        interpolation=stated.get("interpolation", "bilinear"),
        mean=stated.get("mean", mean),
        std=stated.get("std", std),
        crop_mode=stated.get("crop_mode", "center"),
    )
    return in_float32(module, preprocessing.num_channels, preprocessing.input_size_px), preprocessing
