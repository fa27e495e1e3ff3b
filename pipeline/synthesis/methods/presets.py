"""Settings of one visualization: what a recipe may change, and the three presets of VITAL.

The presets of the other methods, and the choice among all of them, are in `pipeline.synthesis.methods.registry`.
"""

from __future__ import annotations

from dataclasses import dataclass, fields, replace
from typing import Literal, get_args, get_type_hints

from pipeline.errors import UserError


@dataclass(frozen=True, kw_only=True)
class SynthesisOptions:
    """How an image is synthesized; every field may be given in a recipe's [visualize] section.

    The default of a field is VITAL's published value, or leaves the thing out.

    Attributes:
        steps: optimizer steps per image.
        parameterization: `pixel` (values in the model's input space), `fourier` (1/f-scaled spectrum) or `phase`
            (phases under the mean magnitude spectrum of real images), see `pipeline.synthesis.parameterization.pixel`.
        initial_std: `pixel`: standard deviation of the noise that the image begins as, in the model's input space.
        spectrum_decay: `fourier`: the spectrum is scaled by frequency to the power of minus this.
        chroma_decay: `fourier`: by how much more than lightness the two planes of color are, since colors of natural
            images change more slowly from place to place than lightness does.
        contrast: `fourier`, `phase`: contrast of the planes before they are squashed into the pixels' range.
        phase_std: `phase`: standard deviation of the phases, in radians.
        optimizer: `adam` or `nadam` (Adam with Nesterov momentum).
        learning_rate, beta1, beta2: of the optimizer.
        schedule: of the learning rate after the warm-up: `cosine` (to zero) or `constant`.
        warmup_steps: linear warm-up.
        jitter_px: the image is rolled by up to this many pixels along each axis before each step; where it is also
            rotated or scaled it is shifted instead, and gray comes in at its borders.
        flip: before each step the image is mirrored with probability one half.
        rotation_degrees: before each step the image is rotated by up to this angle either way.
        scaling: before each step the image is enlarged by a factor between one minus and one plus this.
        num_crops: squares cut from the image at each step and enlarged, whose losses are averaged; 0 shows the
            whole image.
        crop_min, crop_max: side of a square as a fraction of the image's, uniform between the two.
        class_crop_min: VITAL, class neurons: for a quarter of the steps the model sees a square of this to 1 of the
            image's side instead of the whole, then larger ones, from three quarters of the steps on the whole. 1 leaves
            the squares out, and `num_crops` goes before it.
        noise: strength of the noise added to what the model sees, in its input space; see
            `pipeline.synthesis.transforms`.
        alignment: VITAL: how distributions are compared; `sort` is sort matching, `kl` and `moments` compare mean
            and standard deviation.
        grid: VITAL: features are sorted within grid × grid cells of the map, which keeps the coarse layout.
        aligned_side: VITAL: feature maps and visualizations of more positions per side are thinned to every k-th row
            and column before they are compared; jitter brings the others in turn. 0 keeps all.
        normalize_layers: VITAL: divide each layer's loss by the variance of its target, so that layer weights mean
            the same in every layer and model; `kl` has no unit and is left as it is.
        pixel_weight: VITAL: weight of the image's own color distribution as one more feature layer; 0 leaves it out.
        edge_weight: VITAL: weight of the differences between the image's neighboring pixels as further feature layers,
            one for each of three scales, see `pipeline.synthesis.methods.edges`; 0 leaves them out.
        layer_weight: VITAL, intermediate neurons: weight of all channels of the target layer itself, not weighted by
            relevance, as one more feature layer; 0 leaves it out.
        unit_weight: VITAL: weight of the target unit's own activations as one more feature layer; 0 leaves it out.
        activation_weight: VITAL: weight of the shortfall of the unit's activation below `activation_goal` times its
            top-activating image's, as a fraction; the term vanishes once the goal is reached. A class is also to be
            ahead of the other classes.
        activation_goal: see `activation_weight`.
        activation_growth: VITAL: by what factor `activation_weight` grows from a quarter of the steps to three
            quarters, for visualizations that are still below their goal.
        relevance_every: VITAL, intermediate neurons: steps between two computations of the synthetic image's relevance.
        batch_norm_weight: DeepInversion: weight of the distance to the statistics that BatchNorm layers keep.
        first_batch_norm: DeepInversion: by how much the first of these layers counts more.
        total_variation, image_norm: weights of the two regularizers. VITAL: for intermediate neurons (METHOD 4); for
            class neurons they depend on the model, see `pipeline.synthesis.optimize`.
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
    class_crop_min: float = 1.0
    noise: float = 0.0
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
    batch_norm_weight: float = 0.0
    first_batch_norm: float = 1.0
    total_variation: float = 3e-7
    total_variation_l1: float = 0.0
    image_norm: float = 3e-7

    def __post_init__(self) -> None:
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
        for name in ("steps", "grid", "relevance_every"):
            if getattr(self, name) < 1:
                raise UserError(f"visualize.{name} = {getattr(self, name)}: expected at least 1")
        if not (self.beta1 < 1 and self.beta2 < 1):
            raise UserError(f"visualize.beta1, beta2 = {self.beta1}, {self.beta2}: expected values below 1")
        if not 0 < self.crop_min <= self.crop_max <= 1:
            raise UserError(
                f"visualize.crop_min, crop_max = {self.crop_min}, {self.crop_max}: expected fractions of the image's "
                "side, above 0, the first not above the second, at most 1"
            )
        if not 0 < self.class_crop_min <= 1:
            raise UserError(
                f"visualize.class_crop_min = {self.class_crop_min}: expected a fraction of the image's side, above 0, "
                "at most 1"
            )
        if self.scaling >= 1:
            raise UserError(f"visualize.scaling = {self.scaling}: expected less than 1")

    @property
    def within_a_step(self) -> SynthesisOptions:
        """These options but for how many steps there are and how long they are, which changes nothing within one."""
        return replace(self, steps=1, warmup_steps=0, learning_rate=0.0)

    @property
    def needs_spectrum(self) -> bool:
        """Whether the mean magnitude spectrum of real images is needed."""
        return self.parameterization == "phase"


# VITAL as published: Adam 1.0 with betas (0.5, 0.9) on clamped pixels, 2,000 steps, 100 of warm-up, jitter ±30 px.
# Reference: Görgün et al., ICCV 2025, supplement; the constants are read off the authors' code.
PUBLISHED = SynthesisOptions()

# Ours: better visualizations at a twentieth of the steps. What each departure brought is measured in benchmarks/LOG.md.
FAST = SynthesisOptions(
    steps=100,
    parameterization="fourier",
    spectrum_decay=1.5,
    learning_rate=0.03,
    beta1=0.9,
    beta2=0.99,
    warmup_steps=10,
    jitter_px=8,
    grid=3,
    aligned_side=28,
    normalize_layers=True,
    pixel_weight=1.0,
    layer_weight=2.0,
    unit_weight=0.0,
    activation_weight=0.5,
    activation_goal=1.2,
    activation_growth=3.0,
    relevance_every=5,
    total_variation=0.0,
    image_norm=0.0,
)

# Ours at a fifth of the published steps. There is time for detail, which `fast` leaves out as noise: lightness falls
# off less steeply than colors do, and edges are aligned at full resolution. While shapes find their place squares of
# a class's image stand for it, so that objects lie within it as a whole.
BEST = replace(
    FAST,
    steps=400,
    warmup_steps=20,
    spectrum_decay=1.2,
    chroma_decay=0.5,
    class_crop_min=0.8,
    edge_weight=1.0,
    aligned_side=0,
    activation_goal=1.3,
)
