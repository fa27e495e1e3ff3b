"""The presets of each method, and the names of methods and presets: what a recipe may choose from.

Nothing heavy is imported here: recipes are checked with it. What each method minimizes is in
`pipeline.synthesis.methods.registry`.
"""

from collections.abc import Mapping
from dataclasses import fields, replace
from typing import Any, Final, Literal, get_args, overload

from pipeline.errors import UserError
from pipeline.neurons import nearest
from pipeline.synthesis.methods.options import ActivationOptions, DeepInversionOptions, SynthesisOptions, VitalOptions

MethodName = Literal["vital", "maco", "fourier", "deepinversion", "pixel"]
METHODS: Final[tuple[str, ...]] = get_args(MethodName)
PresetName = Literal["published", "fast", "best"]
PRESETS: Final[tuple[str, ...]] = get_args(PresetName)
# Preset → version of its settings, raised whenever they change: visualizations by other settings must not mix in one
# folder.
PRESET_VERSIONS: Final[Mapping[str, int]] = {"published": 1, "fast": 5, "best": 4}

# Adam 1.0 with betas (0.5, 0.9) on clamped pixels, 2,000 steps, 100 of warm-up, jitter ±30 px.
# Reference: Görgün et al., ICCV 2025, supplement; the constants are read off the authors' code.
_VITAL_PUBLISHED = VitalOptions()

# Ours: a twentieth of the steps. What each departure brought is measured in benchmarks/LOG.md.
_VITAL_FAST = VitalOptions(
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

# Ours: a fifth of the published steps. There is time for detail, which `fast` leaves out as noise: lightness falls off
# less steeply than colors do, and edges are aligned at full resolution. At first the model sees random resized crops of
# a class's image, so that objects come to lie within it as a whole.
_VITAL_BEST = replace(
    _VITAL_FAST,
    steps=400,
    warmup_steps=20,
    spectrum_decay=1.2,
    chroma_decay=0.5,
    class_crop_min=0.8,
    edge_weight=1.0,
    aligned_side=0,
    activation_goal=1.3,
)

# Neither warm-up nor jitter nor priors.
_PLAIN = ActivationOptions(warmup_steps=0, jitter_px=0, total_variation=0.0, image_norm=0.0)

# NAdam at 1.0 with its default betas, 1,000 steps, 6 crops a step, noise 0.05: the defaults of the authors' Horama.
# Its crops are 0.25 to 0.30 of the side (`rand · (0.25 − 0.20) + 0.25` in the code, whose argument says 0.20 to 0.25).
# They are meant for images of 1,280 px; set `image_size_px` accordingly.
_MACO_PUBLISHED = replace(
    _PLAIN,
    steps=1000,
    parameterization="phase",
    optimizer="nadam",
    learning_rate=1.0,
    beta1=0.9,
    beta2=0.999,
    schedule="constant",
    num_crops=6,
    crop_min=0.25,
    crop_max=0.30,
    noise=0.05,
)
# Crops large enough that one object fills a visualization of 224 px; no bright corners; natural contrast.
_MACO_FAST = replace(_MACO_PUBLISHED, steps=50, num_crops=2, crop_min=0.5, crop_max=1.0, phase_std=3.0, contrast=1.5)

# Adam at 0.05, 512 steps, 1/f in decorrelated colors: Lucid's `render_vis`. Its standard transforms are a border of
# 12 px gray, shifts by 8 and by 4 px (±4 and ±2), scales 0.9 to 1.1, rotations by up to 10°. A contrast of 1/8 is its
# division by 4, and its logistic function in place of our tanh (σ(x) = (1 + tanh(x / 2)) / 2).
_FOURIER_PUBLISHED = replace(
    _PLAIN,
    steps=512,
    parameterization="fourier",
    spectrum_decay=1.0,
    contrast=0.125,
    learning_rate=0.05,
    beta1=0.9,
    beta2=0.999,
    schedule="constant",
    jitter_px=6,
    rotation_degrees=10.0,
    scaling=0.1,
)

# The authors' code at full resolution (its setting 1) with the weights of its README: Adam at 0.25 with betas
# (0.5, 0.9), warm-up and cosine, jitter ±30 px, flips, clamped pixels, BatchNorm 0.01, its first layer × 10, norm 1e-5.
# Total variation is 1e-4 there, of a whole batch of 84 whose cross-entropies are averaged: √84 times that per image.
_DEEPINVERSION_PUBLISHED = DeepInversionOptions(
    learning_rate=0.25,
    flip=True,
    batch_norm_weight=0.01,
    first_batch_norm=10.0,
    total_variation=9e-4,
    image_norm=1e-5,
)
# Few steps leave the initial noise where it is: begin near gray, with more total variation. The statistics make a step
# longer than the other methods', so there are fewer.
_DEEPINVERSION_FAST = replace(
    _DEEPINVERSION_PUBLISHED,
    steps=60,
    warmup_steps=6,
    initial_std=0.1,
    learning_rate=0.2,
    normalize_layers=True,
    batch_norm_weight=1.0,
    total_variation=0.04,
)

_PIXEL_PUBLISHED = replace(
    _PLAIN,
    steps=512,
    initial_std=0.01,
    learning_rate=0.05,
    beta1=0.9,
    beta2=0.999,
    schedule="constant",
    jitter_px=8,
    total_variation=0.01,
)


def _longer(fast: SynthesisOptions) -> SynthesisOptions:
    """`best` of the methods but VITAL: `fast` with as many times its steps as VITAL's `best` has."""
    return replace(fast, steps=fast.steps * _VITAL_BEST.steps // _VITAL_FAST.steps)


def _by_name(
    published: SynthesisOptions, fast: SynthesisOptions, best: SynthesisOptions | None = None
) -> Mapping[str, SynthesisOptions]:
    return {"published": published, "fast": fast, "best": best or _longer(fast)}


_PRESETS: Final[Mapping[str, Mapping[str, SynthesisOptions]]] = {
    "vital": _by_name(_VITAL_PUBLISHED, _VITAL_FAST, _VITAL_BEST),
    "maco": _by_name(_MACO_PUBLISHED, _MACO_FAST),
    "fourier": _by_name(_FOURIER_PUBLISHED, replace(_FOURIER_PUBLISHED, steps=100)),
    "deepinversion": _by_name(_DEEPINVERSION_PUBLISHED, _DEEPINVERSION_FAST),
    "pixel": _by_name(_PIXEL_PUBLISHED, replace(_PIXEL_PUBLISHED, steps=100)),
}


def require_method(name: str) -> None:
    """Raise UserError if there is no method of that name."""
    if name not in METHODS:
        raise UserError(f'method = "{name}": expected one of {", ".join(METHODS)}{nearest(name, METHODS)}')


def option_names(method: str) -> tuple[str, ...]:
    """The options of a method, the common ones first."""
    require_method(method)
    return tuple(field.name for field in fields(_PRESETS[method]["published"]))


def options_type(method: str) -> type[SynthesisOptions]:
    """The dataclass of a method's options."""
    require_method(method)
    return type(_PRESETS[method]["published"])


def methods_with(option: str) -> tuple[str, ...]:
    """The methods that have an option; none if there is no such option."""
    return tuple(method for method in METHODS if option in option_names(method))


def all_options() -> tuple[str, ...]:
    """Every option of any method, the common ones first."""
    return tuple(dict.fromkeys(name for method in METHODS for name in option_names(method)))


@overload
def preset(name: str, method: Literal["vital"] = "vital", **overrides: Any) -> VitalOptions: ...
@overload
def preset(name: str, method: str, **overrides: Any) -> SynthesisOptions: ...
def preset(name: str, method: str = "vital", **overrides: Any) -> SynthesisOptions:
    """A method's options under a preset, with some of them replaced.

    Raises:
        UserError: an unknown preset, method or option, one that the method does not have, or a value out of its range.
    """
    require_method(method)
    if name not in PRESETS:
        raise UserError(f'visualize.preset = "{name}": expected one of {", ".join(PRESETS)}{nearest(name, PRESETS)}')
    for option in overrides:
        if option not in option_names(method):
            raise UserError(_why_not(option, method))
    return replace(_PRESETS[method][name], **overrides)


def _why_not(option: str, method: str) -> str:
    owners = methods_with(option)
    if owners:
        return f'visualize.{option}: method "{method}" has no such option; {", ".join(owners)} {_have(owners)} it'
    return f"visualize.{option}: there is no such option{nearest(option, option_names(method))}"


def _have(owners: tuple[str, ...]) -> str:
    return "has" if len(owners) == 1 else "have"
