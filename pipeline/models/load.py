"""Models by name: `timm:NAME`, `torchvision:NAME`, `python:package.module:factory`."""

import importlib
from collections.abc import Iterable
from contextlib import AbstractContextManager
from functools import cached_property

import torch
from PIL import Image
from torch import Tensor, nn

from pipeline.models import torchvision_operators
from pipeline.models.capture import UnsupportedOutputError, capture, channels_first
from pipeline.models.feature_layers import FeatureLayer, Shape, default_feature_layers
from pipeline.models.labels import class_names
from pipeline.models.preprocessing import Preprocessing
from pipeline.models.weights import hash_state, load_into, read_state_dict
from pipeline.neurons import nearest

# ImageNet statistics, the default of torchvision's weights and of most timm models.
_IMAGENET_MEAN, _IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


class Model:
    """A vision network in eval mode with frozen parameters, and what is known of its input and layers."""

    def __init__(
        self,
        *,
        name: str,
        module: nn.Module,
        preprocessing: Preprocessing,
        labels: str,
        device: str | torch.device,
    ) -> None:
        self.name = name
        self.module = module.eval().requires_grad_(False).to(device)
        self.device = torch.device(device)
        self.preprocessing = preprocessing
        self._labels = labels

    @property
    def input_size_px(self) -> int:
        """Side of the square input."""
        return self.preprocessing.input_size_px

    @property
    def mean(self) -> tuple[float, ...]:
        """Per-channel mean of the input normalization, for RGB in [0, 1]."""
        return self.preprocessing.mean

    @property
    def std(self) -> tuple[float, ...]:
        """Per-channel standard deviation of the input normalization, for RGB in [0, 1]."""
        return self.preprocessing.std

    def preprocess(self, image: Image.Image) -> Tensor:
        """A photograph as the model's input: float32 [3, H, W], resized, center-cropped, normalized."""
        return self.preprocess_at(image, self.input_size_px)

    def preprocess_at(self, image: Image.Image, size_px: int) -> Tensor:
        """As `preprocess`, at another input size: float32 [3, size_px, size_px]."""
        return self.preprocessing.to_tensor(self.preprocessing.square_crop(image, size_px))

    def capture(self, layers: Iterable[str]) -> AbstractContextManager[dict[str, Tensor]]:
        """Collect features of `layers` while the module runs: see `pipeline.models.capture.capture`."""
        return capture(self.module, layers)

    @cached_property
    def weights_sha256(self) -> str:
        """Hash of all parameters and buffers."""
        return hash_state(self.module)

    @cached_property
    def feature_shapes(self) -> dict[str, Shape]:
        """Layer → (C, H, W), (C, T) or (C,) at the model's input size, in order of completion."""
        return self.feature_shapes_at(self.input_size_px)

    def feature_shapes_at(self, size_px: int) -> dict[str, Shape]:
        """As `feature_shapes`, at another input size; one forward pass of a single gray image."""
        names = {module: name for name, module in self.module.named_modules() if name}
        shapes: dict[str, Shape] = {}

        def note(module: nn.Module, _inputs: object, output: object) -> None:
            try:
                shapes[names[module]] = tuple(channels_first(output, names[module]).shape[1:])
            except UnsupportedOutputError:
                return  # not a layer that has units: left out of the list

        handles = [module.register_forward_hook(note) for module in names]
        try:
            with torch.inference_mode():
                self.module(torch.zeros(1, len(self.mean), size_px, size_px, device=self.device))
        finally:
            for handle in handles:
                handle.remove()
        return shapes

    def layers(self) -> list[str]:
        """The layers that have units, in the order in which the forward pass completes them."""
        return list(self.feature_shapes)

    def feature_shape(self, layer: str) -> Shape:
        """The shape of one layer's features without the batch axis.

        Raises:
            ValueError: there is no such layer; the nearest names are given.
        """
        if layer not in self.feature_shapes:
            raise ValueError(f'model "{self.name}" has no layer "{layer}"{nearest(layer, self.layers())}')
        return self.feature_shapes[layer]

    def units(self, layer: str) -> int:
        """How many units a layer has: channels, token dimensions or classes."""
        return self.feature_shape(layer)[0]

    @cached_property
    def classifier_layer(self) -> str:
        """The layer whose output is the class logits: the last linear layer completed.

        Raises:
            ValueError: the model has no classifier.
        """
        modules = dict(self.module.named_modules())
        linear = [
            name
            for name in self.layers()
            if isinstance(modules[name], nn.Linear) and len(self.feature_shapes[name]) == 1
        ]
        if linear:
            return linear[-1]
        logits = [name for name in self.layers() if len(self.feature_shapes[name]) == 1]
        if not logits:
            raise ValueError(f'model "{self.name}" has no classifier: no layer gives one value per class')
        return logits[-1]

    @property
    def num_classes(self) -> int:
        """Number of classes of the classifier."""
        return self.units(self.classifier_layer)

    @cached_property
    def class_names(self) -> list[str]:
        """Text of each class, by index."""
        return class_names(self._labels, self.num_classes)

    def resolve_layer(self, layer: str) -> str:
        """A layer's exact name; `classifier` stands for the class logits whatever the model calls them."""
        if layer == "classifier" and layer not in self.feature_shapes:
            return self.classifier_layer
        self.feature_shape(layer)
        return layer

    def default_feature_layers(self) -> list[FeatureLayer]:
        """Where distributions are aligned unless the recipe says otherwise: stem and stages."""
        return default_feature_layers(self.name, self.module, self.feature_shapes)


def load_model(
    name: str,
    weights: str = "pretrained",
    *,
    device: str | torch.device = "cpu",
    seed: int = 0,
    labels: str = "imagenet1k",
) -> Model:
    """A model by name, with its weights and its preprocessing.

    Args:
        name: `timm:NAME`, `torchvision:NAME` or `python:package.module:factory` (a factory without arguments).
        weights: `pretrained` (the library's own loader; may download), `random` (from `seed`), `package:NAME`,
            or the path or URL of a .safetensors or .pth file (read with weights_only).
        device: where the module lives.
        seed: of random weights.
        labels: `imagenet1k` or a text file, see `class_names`.

    Raises:
        ValueError: the name or the weights are unknown, or do not fit each other.
    """
    family, _, rest = name.partition(":")
    builders = {"timm": _build_timm, "torchvision": _build_torchvision, "python": _build_python}
    if family not in builders or not rest:
        raise ValueError(
            f'model.name = "{name}": expected timm:NAME, torchvision:NAME or python:package.module:factory'
        )
    with torch.random.fork_rng(devices=[]):  # random weights depend on `seed` alone, and disturb nobody's stream
        torch.manual_seed(seed)
        module, preprocessing = builders[family](rest, weights == "pretrained")
    if weights not in ("pretrained", "random"):
        load_into(module, read_state_dict(weights), weights)
    return Model(name=name, module=module, preprocessing=preprocessing, labels=labels, device=device)


def _build_timm(name: str, pretrained: bool) -> tuple[nn.Module, Preprocessing]:
    torchvision_operators.declare()
    import timm

    architecture = name.partition(".")[0]
    if not timm.is_model(architecture):
        raise ValueError(
            f'model.name = "timm:{name}": timm has no such model{nearest(architecture, timm.list_models())}'
        )
    module = timm.create_model(name, pretrained=pretrained)
    config = timm.data.resolve_data_config({}, model=module)
    return module, Preprocessing(
        input_size_px=config["input_size"][-1],
        crop_fraction=config["crop_pct"],
        interpolation=config["interpolation"],
        mean=tuple(config["mean"]),
        std=tuple(config["std"]),
    )


def _build_torchvision(name: str, pretrained: bool) -> tuple[nn.Module, Preprocessing]:
    torchvision_operators.declare()
    import torchvision

    known = torchvision.models.list_models(module=torchvision.models)
    if name not in known:
        raise ValueError(f'model.name = "torchvision:{name}": torchvision has no such model{nearest(name, known)}')
    # IMAGENET1K_V1 throughout, as the published code: `DEFAULT` changes with the library's version.
    versions = torchvision.models.get_model_weights(name)
    entry = versions["IMAGENET1K_V1"] if "IMAGENET1K_V1" in versions.__members__ else next(iter(versions))
    transform = entry.transforms()
    module = torchvision.models.get_model(name, weights=entry if pretrained else None)
    return module, Preprocessing(
        input_size_px=transform.crop_size[0],
        crop_fraction=transform.crop_size[0] / transform.resize_size[0],
        interpolation=transform.interpolation.value,
        mean=tuple(transform.mean),
        std=tuple(transform.std),
    )


def _build_python(path: str, _pretrained: bool) -> tuple[nn.Module, Preprocessing]:
    """One's own model: the factory loads its own weights; attributes of the module override the defaults."""
    module_name, _, factory_name = path.partition(":")
    if not factory_name:
        raise ValueError(f'model.name = "python:{path}": expected python:package.module:factory')
    try:
        factory = getattr(importlib.import_module(module_name), factory_name)
    except (ModuleNotFoundError, AttributeError) as error:
        raise ValueError(f'model.name = "python:{path}": {error}; is the package on PYTHONPATH?') from error
    module = factory()
    if not isinstance(module, nn.Module):
        raise ValueError(
            f'model.name = "python:{path}": the factory gave {type(module).__name__}, expected a torch.nn.Module'
        )
    return module, Preprocessing(
        input_size_px=getattr(module, "input_size_px", 224),
        crop_fraction=getattr(module, "crop_fraction", 0.875),
        interpolation=getattr(module, "interpolation", "bilinear"),
        mean=tuple(getattr(module, "mean", _IMAGENET_MEAN)),
        std=tuple(getattr(module, "std", _IMAGENET_STD)),
    )
