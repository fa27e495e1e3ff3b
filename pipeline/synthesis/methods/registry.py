"""The methods: what each maximizes or aligns, with the settings of its reference and quicker ones.

A method is an objective and the settings it is used with. What the optimizer moves, how the image is shown to the
model and which optimizer moves it are settings (`SynthesisOptions`), so that a recipe may mix them.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields, replace
from typing import Any

from pipeline.alignment.losses import NeuronTarget
from pipeline.errors import UserError
from pipeline.models import Model
from pipeline.neurons import nearest
from pipeline.synthesis.methods.activation_maximization import ActivationObjective
from pipeline.synthesis.methods.deepinversion import InversionObjective, batch_norm_layers
from pipeline.synthesis.methods.presets import BEST, FAST, PUBLISHED, SynthesisOptions
from pipeline.synthesis.methods.vital import AlignmentObjective
from pipeline.synthesis.step import Objective

MakeObjective = Callable[[Model, str, Sequence[int], Sequence[NeuronTarget], SynthesisOptions], Objective]


@dataclass(frozen=True, kw_only=True)
class Method:
    """One way to visualize a neuron.

    Attributes:
        name: as in recipes.
        description: one line.
        source: where the method and the settings of `published` are from.
        objective: makes what is minimized for neurons of one layer.
        published: the reference's settings; `SynthesisOptions.needs_spectrum` says whether they need a spectrum.
        fast: settings for a CPU, with the budget of VITAL's `fast` in images shown to the model.
        best: the same with the budget of VITAL's `best`; None takes `fast` with as many times its steps.
        needs_targets: whether targets of the neurons are needed (`reference_target`); where they are not, a target
            may still tell the goal activation.
        needs_batch_norm: whether the model must have BatchNorm layers with running statistics.
    """

    name: str
    description: str
    source: str
    objective: MakeObjective
    published: SynthesisOptions
    fast: SynthesisOptions
    best: SynthesisOptions | None = None
    needs_targets: bool = False
    needs_batch_norm: bool = False

    def preset(self, name: str) -> SynthesisOptions:
        """The settings of one of `PRESETS`."""
        if name == "best":
            return self.best or replace(self.fast, steps=self.fast.steps * BEST.steps // FAST.steps)
        return self.published if name == "published" else self.fast


_VITAL = Method(
    name="vital",
    description="align feature distributions with those of real images, weighted by relevance",
    source="Görgün, Schiele, Fischer, ICCV 2025, arXiv 2503.22399",
    objective=AlignmentObjective,
    published=PUBLISHED,
    fast=FAST,
    best=BEST,
    needs_targets=True,
)

# Settings that only alignment reads are left at their defaults below; the regularizers of VITAL are off.
_PLAIN = replace(PUBLISHED, warmup_steps=0, jitter_px=0, total_variation=0.0, image_norm=0.0)

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
_MACO = Method(
    name="maco",
    description="maximize the activation over the phases under the mean magnitude spectrum of real images",
    source="Fel et al., NeurIPS 2023, arXiv 2306.06805; settings of the authors' library Horama",
    objective=ActivationObjective,
    published=_MACO_PUBLISHED,
    # Squares large enough that one object fills a visualization of 224 px; no bright corners; natural contrast.
    fast=replace(_MACO_PUBLISHED, steps=50, num_crops=2, crop_min=0.5, crop_max=1.0, phase_std=3.0, contrast=1.5),
)

# Adam at 0.05, 512 steps, 1/f in decorrelated colors: Lucid's `render_vis`. Its standard transforms are a border of
# 12 px gray, shifts by 8 and by 4 px (±4 and ±2), scales 0.9 to 1.1, rotations by up to 10°. A gain of 1/8 is its
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
_FOURIER = Method(
    name="fourier",
    description="maximize the activation in frequency space, robust to small shifts, rotations and scalings",
    source="Olah, Mordvintsev, Schubert, Feature Visualization, Distill 2017; settings of their library Lucid",
    objective=ActivationObjective,
    published=_FOURIER_PUBLISHED,
    fast=replace(_FOURIER_PUBLISHED, steps=100),
)

# The authors' code at full resolution (its setting 1) with the weights of its README: Adam at 0.25 with betas
# (0.5, 0.9), warm-up and cosine, jitter ±30 px, flips, clamped pixels, BatchNorm 0.01, its first layer × 10, norm 1e-5.
# Total variation is 1e-4 there, of a whole batch of 84 whose cross-entropies are averaged: √84 times that per image.
_DEEPINVERSION_PUBLISHED = replace(
    PUBLISHED,
    learning_rate=0.25,
    flip=True,
    batch_norm_weight=0.01,
    first_batch_norm=10.0,
    total_variation=9e-4,
    image_norm=1e-5,
)
_DEEPINVERSION = Method(
    name="deepinversion",
    description="match the statistics that BatchNorm layers keep of the training images, under a class's loss",
    source="Yin et al., CVPR 2020, arXiv 1912.08795; settings of the authors' code",
    objective=InversionObjective,
    published=_DEEPINVERSION_PUBLISHED,
    # Few steps leave the initial noise where it is: begin near gray, with more total variation. A step costs two thirds
    # more than the others' for the statistics, so there are fewer.
    fast=replace(
        _DEEPINVERSION_PUBLISHED,
        steps=60,
        warmup_steps=6,
        initial_std=0.1,
        learning_rate=0.2,
        normalize_layers=True,
        batch_norm_weight=1.0,
        total_variation=0.04,
    ),
    needs_batch_norm=True,
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
_PIXEL = Method(
    name="pixel",
    description="maximize the activation over the pixels, with total variation",
    source="Erhan et al., 2009; Simonyan et al., 2014, arXiv 1312.6034; Mahendran and Vedaldi, IJCV 2016, "
    "arXiv 1512.02017",
    objective=ActivationObjective,
    published=_PIXEL_PUBLISHED,
    fast=replace(_PIXEL_PUBLISHED, steps=100),
)

_METHODS = {method.name: method for method in (_VITAL, _MACO, _FOURIER, _DEEPINVERSION, _PIXEL)}
METHODS: tuple[str, ...] = tuple(_METHODS)
PRESETS: tuple[str, ...] = ("published", "fast", "best")


def method_named(name: str) -> Method:
    """The method of that name.

    Raises:
        UserError: there is none.
    """
    if name not in _METHODS:
        raise UserError(f'method = "{name}": expected one of {", ".join(METHODS)}{nearest(name, METHODS)}')
    return _METHODS[name]


def preset(name: str, method: str = "vital", **overrides: Any) -> SynthesisOptions:
    """A method's settings under a preset, with some of them replaced.

    Raises:
        UserError: an unknown preset, method or setting, or a value out of its range.
    """
    chosen = method_named(method)
    if name not in PRESETS:
        raise UserError(f'visualize.preset = "{name}": expected one of {", ".join(PRESETS)}{nearest(name, PRESETS)}')
    known = [field.name for field in fields(SynthesisOptions)]
    for key in overrides:
        if key not in known:
            raise UserError(f"visualize.{key}: there is no such setting{nearest(key, known)}")
    return replace(chosen.preset(name), **overrides)


def check_method(model: Model, method: str) -> None:
    """Refuse a method that a model lacks something for; costs nothing but a look at its modules.

    Raises:
        UserError: an unknown method, or DeepInversion for a model without BatchNorm statistics.
    """
    if method_named(method).needs_batch_norm and not batch_norm_layers(model.module):
        others = [other.name for other in _METHODS.values() if not other.needs_batch_norm]
        raise UserError(
            f'method "{method}" matches the running statistics of BatchNorm layers, and model "{model.name}" has '
            f"none; choose among {', '.join(others)}"
        )
