"""What a method is: an objective, what it needs, and what it decides in the optimization itself."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Generic, TypeVar

from torch import Tensor

from pipeline.alignment.losses import NeuronTarget
from pipeline.models import Model
from pipeline.synthesis.methods.options import SynthesisOptions
from pipeline.synthesis.regularizers import Regularizer
from pipeline.synthesis.step import Objective, Tensors

Options = TypeVar("Options", bound=SynthesisOptions)


@dataclass(frozen=True, kw_only=True)
class Method(Generic[Options]):
    """One way to visualize a neuron; a method that decides more than its objective overrides the functions below.

    Attributes:
        name: as in recipes.
        description: one line.
        source: where the method and the options of `published` are from.
        objective: makes what is minimized for neurons of one layer, of (model, layer, units, targets, options).
        needs_targets: whether targets of the neurons are needed (`reference_target`); where they are not, a target
            may still tell the goal activation.
        needs_batch_norm: whether the model must have BatchNorm layers with running statistics.
    """

    name: str
    description: str
    source: str
    objective: Callable[[Model, str, Sequence[int], Sequence[NeuronTarget], Options], Objective]
    needs_targets: bool = False
    needs_batch_norm: bool = False

    def initial_rgb(self, model: Model, targets: Sequence[NeuronTarget], options: Options) -> Tensor | None:
        """Coarse colors that the images begin with, [B, C, h, w] in [0, 1]; None leaves them open."""
        return None

    def view_size_px(self, model: Model, image_size_px: int) -> int:
        """Side of a random resized crop as the model sees it."""
        return min(image_size_px, model.input_size_px)

    def regularizer(self, model: Model, layer: str, options: Options) -> Regularizer:
        """The image priors for neurons of a layer."""
        return Regularizer(
            total_variation=options.total_variation,
            total_variation_l1=options.total_variation_l1,
            image_norm=options.image_norm,
        )

    def steps_per_view(self, options: Options) -> int:
        """Steps for which views are kept, and with them the relevance of the images as they were shown."""
        return 1

    def views_at(self, step: int, model: Model, layer: str, options: Options) -> SynthesisOptions:
        """The options that the views of a step are drawn by."""
        return options

    def before_step(self, step: int, options: Options, tensors: Tensors) -> None:
        """Set, in place, those of the objective's tensors that change from step to step."""
