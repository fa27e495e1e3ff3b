"""The options of each method: what a recipe's [visualize] may set for it.

Every method has the common options; some add their own. Nothing heavy is imported here: recipes are checked with it.
"""

from __future__ import annotations

from dataclasses import dataclass, fields, replace
from typing import Literal, TypeVar, get_args, get_type_hints

from pipeline.errors import UserError

_Options = TypeVar("_Options", bound="SynthesisOptions")


@dataclass(frozen=True, kw_only=True)
class SynthesisOptions:
    """The options that all methods have. A default is VITAL's published value, or leaves the option out.

    Attributes:
        steps: optimizer steps per image.
        parameterization: `pixel` (values in the model's input space), `fourier` (1/f-scaled spectrum) or `phase`
            (phases under the mean magnitude spectrum of real images), see `pipeline.synthesis.parameterization.pixel`.
        initial_std: `pixel`: standard deviation of the initial noise, in the model's input space.
        spectrum_decay: `fourier`: the spectrum is scaled by frequency to the power of minus this.
        chroma_decay: `fourier`: added to `spectrum_decay` for the two planes of color, since the colors of natural
            images vary more slowly over the image than lightness does.
        contrast: `fourier`, `phase`: factor of the planes before they are squashed into the range of pixels.
        phase_std: `phase`: standard deviation of the phases, in radians.
        optimizer: `adam` or `nadam` (Adam with Nesterov momentum).
        learning_rate, beta1, beta2: of the optimizer.
        schedule: of the learning rate after the warm-up: `cosine` (to zero) or `constant`.
        warmup_steps: linear warm-up.
        jitter_px: before each step the image is rolled by up to this many pixels along each axis; where it is also
            rotated or scaled it is shifted instead, and its borders are filled with gray.
        flip: before each step the image is mirrored with probability one half.
        rotation_degrees: before each step the image is rotated by up to this angle either way.
        scaling: before each step the image is scaled by a factor between one minus and one plus this.
        num_crops: random resized crops of the image at each step, whose losses are averaged; 0 shows the whole image.
        crop_min, crop_max: side of a crop as a fraction of the image's, uniform between the two.
        noise: strength of the noise added to what the model sees, in its input space; see
            `pipeline.synthesis.transforms`.
        total_variation, image_norm: weights of the two regularizers of DeepInversion and VITAL.
        total_variation_l1: weight of the mean absolute difference between neighboring pixels.
    """

    steps: int = 2000
    parameterization: Literal["pixel", "fourier", "phase"] = "pixel"
    initial_std: float = 1.0
    spectrum_decay: float = 1.0
    chroma_decay: float = 0.0
    contrast: float = 1.0
    phase_std: float = 1.0
    optimizer: Literal["adam", "nadam"] = "adam"
    learning_rate: float = 1.0
    beta1: float = 0.5
    beta2: float = 0.9
    schedule: Literal["cosine", "constant"] = "cosine"
    warmup_steps: int = 100
    jitter_px: int = 30
    flip: bool = False
    rotation_degrees: float = 0.0
    scaling: float = 0.0
    num_crops: int = 0
    crop_min: float = 1.0
    crop_max: float = 1.0
    noise: float = 0.0
    total_variation: float = 3e-7
    total_variation_l1: float = 0.0
    image_norm: float = 3e-7

    def __post_init__(self) -> None:
        self._check_types()
        self._require_at_least_one("steps")
        if not (self.beta1 < 1 and self.beta2 < 1):
            raise UserError(f"visualize.beta1, beta2 = {self.beta1}, {self.beta2}: expected values below 1")
        if not 0 < self.crop_min <= self.crop_max <= 1:
            raise UserError(
                f"visualize.crop_min, crop_max = {self.crop_min}, {self.crop_max}: expected fractions of the image's "
                "side, above 0, the first not above the second, at most 1"
            )
        if self.scaling >= 1:
            raise UserError(f"visualize.scaling = {self.scaling}: expected less than 1")

    def _check_types(self) -> None:
        types = get_type_hints(type(self))
        for field in fields(self):
            value, expected = getattr(self, field.name), types[field.name]
            choices = get_args(expected)
            if choices and value not in choices:
                raise UserError(f'visualize.{field.name} = "{value}": expected one of {", ".join(choices)}')
            if expected is int and (not isinstance(value, int) or isinstance(value, bool) or value < 0):
                raise UserError(f"visualize.{field.name} = {value!r}: expected a whole number ≥ 0")
            if expected is float and (not isinstance(value, int | float) or isinstance(value, bool) or value < 0):
                raise UserError(f"visualize.{field.name} = {value!r}: expected a number ≥ 0")
            if expected is bool and not isinstance(value, bool):
                raise UserError(f"visualize.{field.name} = {value!r}: expected true or false")

    def _require_at_least_one(self, *names: str) -> None:
        for name in names:
            if getattr(self, name) < 1:
                raise UserError(f"visualize.{name} = {getattr(self, name)}: expected at least 1")

    @property
    def needs_spectrum(self) -> bool:
        """Whether the mean magnitude spectrum of real images is needed."""
        return self.parameterization == "phase"


def within_a_step(options: _Options) -> _Options:
    """The options with neutral values of those that do not change what one step computes."""
    return replace(options, steps=1, warmup_steps=0, learning_rate=0.0)


@dataclass(frozen=True, kw_only=True)
class VitalOptions(SynthesisOptions):
    """The options of `vital`.

    Attributes:
        class_crop_min: class neurons: for a quarter of the steps the model sees a random resized crop of this to 1 of
            the image's side instead of the whole, then larger ones, from three quarters of the steps on the whole.
            1 leaves the crops out; where `num_crops` is set, it alone counts.
        alignment: how distributions are compared; `sort` is sort matching, `kl` and `moments` compare mean and
            standard deviation.
        grid: features are sorted within each cell of a spatial grid of grid × grid, which keeps the coarse layout.
        aligned_side: feature maps and images of more positions per side are thinned to every k-th row and column
            before they are compared; jitter brings the others in turn. 0 keeps all.
        normalize_layers: divide each layer's loss by the variance of its target, so that layer weights mean the same
            in every layer and model; `kl` has no unit and is not divided.
        pixel_weight: weight of the image's own color distribution as one more feature layer; 0 leaves it out.
        edge_weight: weight of the differences between the image's neighboring pixels as further feature layers, one
            for each of three scales, see `pipeline.synthesis.methods.edges`; 0 leaves them out.
        layer_weight: intermediate neurons: weight of all channels of the target layer itself, not weighted by
            relevance, as one more feature layer; 0 leaves it out.
        unit_weight: weight of the target unit's own activations as one more feature layer; 0 leaves it out.
        activation_weight: weight of the shortfall of the unit's activation below `activation_goal` times its
            top-activating image's, as a fraction; the term vanishes once the goal is reached. A class is also to be
            ahead of the other classes.
        activation_goal: see `activation_weight`.
        activation_growth: by what factor `activation_weight` grows from a quarter of the steps to three quarters.
        relevance_every: intermediate neurons: steps between two computations of the synthetic image's relevance.
    """

    class_crop_min: float = 1.0
    alignment: Literal["sort", "kl", "moments"] = "sort"
    grid: int = 1
    aligned_side: int = 0
    normalize_layers: bool = False
    pixel_weight: float = 0.0
    edge_weight: float = 0.0
    layer_weight: float = 0.0
    unit_weight: float = 0.0
    activation_weight: float = 0.0
    activation_goal: float = 1.0
    activation_growth: float = 1.0
    relevance_every: int = 1

    def __post_init__(self) -> None:
        super().__post_init__()
        self._require_at_least_one("grid", "relevance_every")
        if not 0 < self.class_crop_min <= 1:
            raise UserError(
                f"visualize.class_crop_min = {self.class_crop_min}: expected a fraction of the image's side, above 0, "
                "at most 1"
            )


@dataclass(frozen=True, kw_only=True)
class DeepInversionOptions(SynthesisOptions):
    """The options of `deepinversion`.

    Attributes:
        batch_norm_weight: weight of the distance to the statistics that BatchNorm layers keep.
        first_batch_norm: factor of the first of these layers.
        normalize_layers: divide each layer's distance by the size of its statistics, so that the weight means the same
            in every layer and model.
    """

    batch_norm_weight: float = 0.0
    first_batch_norm: float = 1.0
    normalize_layers: bool = False


@dataclass(frozen=True, kw_only=True)
class ActivationOptions(SynthesisOptions):
    """The options of activation maximization (`maco`, `fourier`, `pixel`): the common ones."""
