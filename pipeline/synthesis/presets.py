"""Settings of one visualization: the published ones, our quicker ones, and what a recipe may change."""

from __future__ import annotations

from dataclasses import dataclass, fields, replace
from typing import Any, Literal, get_args, get_type_hints

from pipeline.neurons import nearest

Preset = Literal["published", "fast"]


@dataclass(frozen=True, kw_only=True)
class SynthesisOptions:
    """How an image is synthesized; every field may be given in a recipe's [visualize] section.

    Attributes:
        steps: optimizer steps per image.
        parameterization: `pixel` (values in the model's input space) or `fourier` (1/f-scaled spectrum, see
            `pipeline.synthesis.parameterization`).
        spectrum_decay: `fourier`: the spectrum is scaled by frequency to the power of minus this.
        learning_rate, beta1, beta2: of Adam.
        warmup_steps: linear warm-up before the cosine decay to zero.
        jitter_px: the image is rolled by up to this many pixels along each axis before each step.
        alignment: how distributions are compared; `sort` is sort matching.
        grid: features are sorted within grid × grid cells of the map, which keeps the coarse layout.
        normalize_layers: divide each layer's loss by the variance of its target, so that layer weights mean the
            same in every layer and model.
        pixel_weight: weight of the image's own color distribution as one more feature layer; 0 leaves it out.
        layer_weight: inner neurons: weight of all channels of the target layer itself, not weighted by relevance,
            as one more feature layer; 0 leaves it out.
        unit_weight: weight of the target unit's own activations as one more feature layer; 0 leaves it out.
        activation_weight: weight of the shortfall of the unit's activation below `activation_goal` times its top
            exemplar's, as a fraction; the term vanishes once the goal is reached. A class is also to be ahead
            of the other classes.
        activation_goal: see `activation_weight`.
        relevance_every: inner neurons: steps between two computations of the synthetic image's relevance.
        total_variation, image_norm: weights of the two regularizers for inner neurons (METHOD 4); for class
            neurons they depend on the model, see `pipeline.synthesis.optimize`.
    """

    steps: int = 2000
    parameterization: Literal["pixel", "fourier"] = "pixel"
    spectrum_decay: float = 1.0
    learning_rate: float = 1.0
    beta1: float = 0.5
    beta2: float = 0.9
    warmup_steps: int = 100
    jitter_px: int = 30
    alignment: Literal["sort"] = "sort"
    grid: int = 1
    normalize_layers: bool = False
    pixel_weight: float = 0.0
    layer_weight: float = 0.0
    unit_weight: float = 0.0
    activation_weight: float = 0.0
    activation_goal: float = 1.0
    relevance_every: int = 1
    total_variation: float = 3e-7
    image_norm: float = 3e-7

    def __post_init__(self) -> None:
        types = get_type_hints(type(self))
        for field in fields(self):
            value, expected = getattr(self, field.name), types[field.name]
            choices = get_args(expected)
            if choices and value not in choices:
                raise ValueError(f'visualize.{field.name} = "{value}": expected one of {", ".join(choices)}')
            if expected is int and (not isinstance(value, int) or isinstance(value, bool) or value < 0):
                raise ValueError(f"visualize.{field.name} = {value!r}: expected a whole number ≥ 0")
            if expected is float and (not isinstance(value, int | float) or isinstance(value, bool) or value < 0):
                raise ValueError(f"visualize.{field.name} = {value!r}: expected a number ≥ 0")
            if expected is bool and not isinstance(value, bool):
                raise ValueError(f"visualize.{field.name} = {value!r}: expected true or false")
        for name in ("steps", "grid", "relevance_every"):
            if getattr(self, name) < 1:
                raise ValueError(f"visualize.{name} = {getattr(self, name)}: expected at least 1")
        if not (self.beta1 < 1 and self.beta2 < 1):
            raise ValueError(f"visualize.beta1, beta2 = {self.beta1}, {self.beta2}: expected values below 1")


# VITAL as published: Adam 1.0 with betas (0.5, 0.9) on clamped pixels, 2,000 steps, 100 of warm-up, jitter ±30 px.
# Reference: Görgün et al., ICCV 2025, supplement; the constants are read off the authors' code.
PUBLISHED = SynthesisOptions()

# Ours: better pictures at a twentieth of the steps. What each departure brought is measured in benchmarks/LOG.md.
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
    normalize_layers=True,
    pixel_weight=1.0,
    layer_weight=2.0,
    unit_weight=0.0,
    activation_weight=0.2,
    activation_goal=1.2,
    relevance_every=5,
    total_variation=0.0,
    image_norm=0.0,
)

_PRESETS: dict[str, SynthesisOptions] = {"published": PUBLISHED, "fast": FAST}


def preset(name: str, **overrides: Any) -> SynthesisOptions:
    """A preset's settings, with some of them replaced.

    Raises:
        ValueError: an unknown preset, an unknown setting, or a value out of its range.
    """
    if name not in _PRESETS:
        raise ValueError(
            f'visualize.preset = "{name}": expected one of {", ".join(_PRESETS)}{nearest(name, list(_PRESETS))}'
        )
    known = [field.name for field in fields(SynthesisOptions)]
    for key in overrides:
        if key not in known:
            raise ValueError(f"visualize.{key}: there is no such setting{nearest(key, known)}")
    return replace(_PRESETS[name], **overrides)
