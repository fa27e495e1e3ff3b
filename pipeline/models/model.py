"""`Model`: a network with its input, its layers, its tokens and its classes."""

import copy
from collections.abc import Collection, Iterable, Mapping, Sequence
from contextlib import AbstractContextManager
from functools import cached_property

import torch
from PIL import Image
from torch import Tensor, nn

from pipeline.errors import UserError
from pipeline.models.calls import LayerNames
from pipeline.models.capture import capture, unit_activation
from pipeline.models.copying import without_inference_tensors
from pipeline.models.feature_layers import FeatureLayer, default_feature_layers
from pipeline.models.folding import fold_batch_norms
from pipeline.models.labels import class_names
from pipeline.models.memory_format import choose_memory_format
from pipeline.models.precision import PRECISIONS, Precision, in_bfloat16
from pipeline.models.preprocessing import Preprocessing
from pipeline.models.probe import Probe, Shape, probe
from pipeline.models.tokens import TokenGrid, token_grid
from pipeline.models.weights.loading import hash_state
from pipeline.neurons import nearest


class Model:
    """A vision network in eval mode with frozen parameters, its preprocessing and its layers."""

    def __init__(
        self,
        *,
        name: str,
        module: nn.Module,
        preprocessing: Preprocessing,
        labels: str,
        device: str | torch.device,
        remarks: Sequence[str] = (),
    ) -> None:
        self.name = name
        self.module = without_inference_tensors(module).eval().requires_grad_(False)
        self.preprocessing = preprocessing
        self.remarks = tuple(remarks)
        """What a user has to know of how it was loaded, in sentences."""
        self.is_deterministic = False  # until `check_determinism` has seen it
        self._labels = labels
        self._probes: dict[int, Probe] = {}
        self._folded: tuple[frozenset[str], nn.Module] | None = None
        self.move_to(device)

    @torch.inference_mode(False)
    def move_to(self, device: str | torch.device) -> None:
        """Move the network, and choose how its convolutions' maps lie in memory there: see `choose_memory_format`."""
        self.device = torch.device(device)
        self.module.to(self.device)
        choose_memory_format(self.module, self._example())
        self.__dict__.pop("_in_bfloat16", None)
        self._folded = None

    @property
    def input_size_px(self) -> int:
        """Side of the square input."""
        return self.preprocessing.input_size_px

    @property
    def mean(self) -> tuple[float, ...]:
        """Per-channel mean of the input normalization, for pixels in [0, 1]; its length is the number of channels."""
        return self.preprocessing.mean

    @property
    def std(self) -> tuple[float, ...]:
        """Per-channel standard deviation of the input normalization, for pixels in [0, 1]."""
        return self.preprocessing.std

    def preprocess(self, image: Image.Image) -> Tensor:
        """A dataset image as the model's input: float32 [channels, H, W], resized, center-cropped, normalized.

        The image may be as `Image.open` gives it: orientation, transparency and 16 bits become what they are in a run.
        """
        return self.preprocess_at(image, self.input_size_px)

    def preprocess_at(self, image: Image.Image, size_px: int) -> Tensor:
        """As `preprocess`, at another input size: float32 [channels, size_px, size_px]."""
        return self.preprocessing.to_tensor(self.preprocessing.square_crop(image, size_px))

    def capture(self, layers: Iterable[str]) -> AbstractContextManager[dict[str, Tensor]]:
        """Collect features of `layers` while the module runs: see `pipeline.models.capture.capture`."""
        return capture(self.module, layers)

    def activation(self, features: Tensor, layer: str, units: Sequence[int] | Tensor, reduction: str = "max") -> Tensor:
        """Each image's activation of its own unit, over the positions that lie on the image: [B].

        Args:
            features: of `layer`, as `capture` gives them.
            layer: exact name.
            units: one per image.
            reduction: over positions, `max` or `mean`.
        """
        return unit_activation(features, units, reduction, num_prefix=self.num_prefix(layer))

    @cached_property
    def weights_sha256(self) -> str:
        """Hash of all parameters and buffers."""
        return hash_state(self.module)

    @property
    def feature_shapes(self) -> Mapping[str, Shape]:
        """Layer → (C, H, W), (C, T) or (C,) at the model's input size, in order of completion."""
        return self.feature_shapes_at(self.input_size_px)

    def feature_shapes_at(self, size_px: int) -> Mapping[str, Shape]:
        """As `feature_shapes`, at another input size; measured with one forward pass and then kept.

        Raises:
            UserError: the network does not take images of this size.
        """
        return self._probe(size_px).shapes

    def _probe(self, size_px: int) -> Probe:
        if size_px not in self._probes:
            try:
                self._probes[size_px] = probe(self.module, len(self.mean), size_px, self.device)
            except torch.OutOfMemoryError:
                raise
            except (AssertionError, RuntimeError) as error:
                raise UserError(
                    f'model "{self.name}" does not run on images of {size_px} px with {len(self.mean)} channels: '
                    f"{error}; a network of fixed size is made for another one by model.input_size_px"
                ) from error
        return self._probes[size_px]

    def forget_measurements(self) -> None:
        """Measure shapes, classifier and hash again at their next use; call it after the module has changed."""
        self._probes.clear()
        self._folded = None
        self.is_deterministic = False
        for name in ("weights_sha256", "names", "classifier_layer", "head_layer", "class_names", "_in_bfloat16"):
            self.__dict__.pop(name, None)

    def in_precision(self, precision: Precision) -> "Model":
        """This model, or with `bfloat16` a copy whose network computes in it; images stay float32.

        Names, shapes and the hash of the weights are those of this model. The copy is made once and kept.
        """
        if precision not in PRECISIONS:
            raise UserError(f'precision = "{precision}": expected one of {", ".join(PRECISIONS)}')
        return self if precision == "float32" else self._in_bfloat16

    @cached_property
    def _in_bfloat16(self) -> "Model":
        _ = self.weights_sha256, self.classifier_layer  # measured here, on the weights as they are
        narrow = copy.copy(self)
        narrow.module = in_bfloat16(self.module)
        narrow._folded = None
        narrow.__dict__.pop("names", None)
        return narrow

    def folded(self, layers: Collection[str]) -> nn.Module:
        """The network in a form that is quicker to run: the features of `layers` are the same up to rounding.

        Features of other layers need not be; see `fold_batch_norms`. In bfloat16 the network stays as it is: folded
        weights would be rounded otherwise. The one made last is kept.
        """
        if any(parameter.dtype != torch.float32 for parameter in self.module.parameters()):
            return self.module
        key = frozenset(layers)
        if self._folded is None or self._folded[0] != key:
            self._folded = (key, fold_batch_norms(self.module, self._example(), key))
        return self._folded[1]

    def _example(self) -> Tensor:
        """Two images of noise in the network's input space, always the same."""
        shape = (2, len(self.mean), self.input_size_px, self.input_size_px)
        return torch.randn(shape, generator=torch.Generator().manual_seed(0)).to(self.device)

    def layers(self) -> list[str]:
        """The layers that have units, in the order in which the forward pass completes them."""
        return list(self.feature_shapes)

    def feature_shape(self, layer: str) -> Shape:
        """The shape of one layer's features without the batch axis.

        Raises:
            UserError: there is no such layer; the nearest names are given.
        """
        if layer not in self.feature_shapes:
            reason = self._probe(self.input_size_px).refused.get(layer)
            raise UserError(reason or f'model "{self.name}" has no layer "{layer}"{nearest(layer, self.layers())}')
        return self.feature_shapes[layer]

    def units(self, layer: str) -> int:
        """How many units a layer has: channels, token dimensions or classes."""
        return self.feature_shape(layer)[0]

    def token_grid(self, layer: str, size_px: int | None = None) -> TokenGrid | None:
        """How the T tokens of a layer lie on the image: (num_prefix, height, width).

        The prefix (class and register tokens) comes first; then the patches, row by row.

        Args:
            layer: exact name.
            size_px: of the input; None is the model's own.

        Returns:
            None for maps and logits, and for tokens that are no places of the image.
        """
        self.feature_shape(layer)
        return token_grid(self.module, layer, self.feature_shapes_at(size_px or self.input_size_px))

    def num_prefix(self, layer: str) -> int:
        """How many tokens at the start of a layer's T lie nowhere on the image; 0 for maps and logits."""
        grid = self.token_grid(layer)
        return 0 if grid is None else grid.num_prefix

    def map_shape(self, layer: str, size_px: int | None = None) -> tuple[int, int] | None:
        """The (height, width) of the grid in which positions of a layer are given, (y, x), for maps and patch tokens.

        None where positions have no place on the image: logits, and tokens without a grid.
        """
        shape = self.feature_shape(layer)
        if len(shape) == 3:
            _, height, width = self.feature_shapes_at(size_px or self.input_size_px)[layer]
            return height, width
        grid = self.token_grid(layer, size_px)
        return None if grid is None else (grid.height, grid.width)

    @cached_property
    def classifier_layer(self) -> str | None:
        """The layer whose features are the class logits, [B, K] or [B, K, 1, 1]; None for a backbone."""
        return self._probe(self.input_size_px).classifier

    @cached_property
    def names(self) -> LayerNames:
        """Names of layers and the modules that they are calls of."""
        return LayerNames(self.module)

    @cached_property
    def head_layer(self) -> str | None:
        """The layer whose weights make the logits: the classifier, or the last with weights before it.

        SqueezeNet's classifier, for one, is the pooling of the maps that its last convolution gives.
        """
        if self.classifier_layer is None:
            return None
        layers = self.layers()
        candidates = reversed(layers[: layers.index(self.classifier_layer) + 1])
        return next((layer for layer in candidates if self._has_own_weights(layer)), self.classifier_layer)

    def _has_own_weights(self, layer: str) -> bool:
        child, _ = self.names.call(layer)
        return child is not self.module and next(child.parameters(recurse=False), None) is not None

    @property
    def has_classifier(self) -> bool:
        """Whether the model has class logits."""
        return self.classifier_layer is not None

    @property
    def num_classes(self) -> int:
        """Number of classes of the classifier; 0 for a backbone."""
        return 0 if self.classifier_layer is None else self.units(self.classifier_layer)

    @cached_property
    def class_names(self) -> list[str]:
        """Text of each class, by index; for a backbone the names that a file of labels gives to the data's labels."""
        return class_names(self._labels, self.num_classes)

    def resolve_layer(self, layer: str) -> str:
        """A layer's exact name; `classifier` stands for the class logits whatever the model calls them.

        A model without classes may have a layer of that name, as torchvision's segmentation networks do.

        Raises:
            UserError: there is no such layer, or the model has no classifier.
        """
        if layer == "classifier" and (self.has_classifier or layer not in self.feature_shapes):
            if self.classifier_layer is None:
                raise UserError(
                    f'model "{self.name}" has no classifier, so "classifier" names no layer: name intermediate ones '
                    f"(`neuron-atlas layers {self.name}` lists them)"
                )
            return self.classifier_layer
        listed = self.names.listed(layer)
        self.feature_shape(listed)
        return listed

    def default_feature_layers(self) -> list[FeatureLayer]:
        """Where distributions are aligned by default: stem and stages."""
        return default_feature_layers(self.name, self.module, self.feature_shapes, self.classifier_layer)
