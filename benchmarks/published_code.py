"""Agreement with the authors' published code of VITAL on the same weights and images, and the time of both.

    python -m benchmarks.published_code CHECKOUT [--model both] [--size 224] [--seed 0]

CHECKOUT is a clone of github.com/adagorgun/VITAL, whose own functions run (`authors_code.py` says what is changed to
that end). For each network and kind of weights this prints

- per relevance rule and feature layer: the smallest cosine of the raw relevance maps over images and units, and their
  largest difference as a fraction of the largest relevance;
- the relative differences of the sort-matching loss and of its gradient at the image, for intermediate neurons from the
  relevance on, and for class neurons;
- seconds per optimization step and visualization, both sides in turn in one process: the published code with as many
  references as its default, 50, ours alone and in batches as we ship it, and neurons per hour at the steps of each.

Weights are random, since no trained ones come with either side: `plain` as the library initializes them, `calibrated`
with random BatchNorm weights and biases and its statistics taken from dataset images, so that activations are in range
as after training. The dataset images are those of the demo; the image starts from noise. Exit status 1 if a cosine is
below 0.999 or a relative difference of a loss or gradient above 1e-4.
"""

import argparse
import statistics
import sys
from dataclasses import dataclass, replace
from itertools import pairwise
from pathlib import Path
from unittest import mock

import torch
from torch import Tensor, nn

from benchmarks.authors_code import AuthorsCode, Record
from benchmarks.common.data import demo_images
from benchmarks.common.program import make_parser, print_header
from benchmarks.common.steps import BatchOfNeurons
from jobs.engine.allocator import freed_memory_kept
from pipeline.attribution.relevance import relevance
from pipeline.models import Model, load_model
from pipeline.synthesis.methods.presets import preset
from pipeline.synthesis.methods.vital import AlignmentObjective
from pipeline.synthesis.methods.vital_target import plan_alignment, reference_target
from pipeline.synthesis.regularizers import image_norm, total_variation
from pipeline.synthesis.step import losses_of

NUM_CALIBRATION_IMAGES = 16
MIN_COSINE, MAX_DIFFERENCE = 0.999, 1e-4
RULES = {"lrp": "LRP", "lrp_restricted": "LRPRestricted", "guided_backprop": "GuidedBackprop"}
INTERMEDIATE_WEIGHTS = [0.1, 1.0, 1.0, 1.0, 0.0]  # the default of the published program for intermediate neurons
TIMED_REFERENCES = 50  # the default of the published program
BATCH_SIZE = 8  # of our second timing, that of a run on CPUs

ON_PURPOSE = """
Where we differ on purpose, outside of these numbers:
- a batch of visualizations: the published class code averages their features, its intermediate code takes one; ours are
  independent
- a unit that is 0 on a whole image: no relevance there; here a seed of 1, for what would activate it (left out above)
- a residual sum of two exact zeros: its split is 0/0, NaN, there; even here
- a convolution with a bias, which neither network has: it may cancel the denominator of z+ there; here it takes at most
  nine tenths of it
- the convolutions in DenseNet's transitions: epsilon 1e-12 there, 1e-5 here as in all others (within the numbers above)
- neurons of the third stage itself: there the relevance before the stage's last block weights the features after it,
  because layers are found by the size of their maps; here both are of the stage's output
- guided_backprop: for ResNet alone there
"""


@dataclass(frozen=True, kw_only=True)
class Network:
    """One network, as both sides spell its parts.

    Attributes:
        layer: of the intermediate neurons, ours.
        published_layer: the same in the published code.
        stages: stem and stages 1 to 3, the published feature layers of intermediate neurons.
    """

    name: str
    layer: str
    published_layer: str
    stages: tuple[str, ...]


NETWORKS = {
    "resnet50": Network(
        name="resnet50", layer="layer4", published_layer="layer4_2", stages=("conv1", "layer1", "layer2", "layer3")
    ),
    "densenet121": Network(
        name="densenet121",
        layer="features.denseblock4",
        published_layer="features_denseblock4",
        stages=("features.conv0", "features.denseblock1", "features.denseblock2", "features.denseblock3"),
    ),
}


class Comparison:
    """Both sides on one network with one set of weights, and whether all that was printed agrees."""

    def __init__(self, network: Network, model: Model, intermediate: AuthorsCode, classes: AuthorsCode) -> None:
        self.network, self.model, self.intermediate, self.classes = network, model, intermediate, classes
        self.agrees = True

    def intermediate_neurons(self, rule: str, units: list[int], start: Tensor, references: Tensor) -> None:
        """Print the agreement of relevance, loss and gradient of intermediate neurons."""
        cosines: dict[str, list[float]] = {stage: [] for stage in self.network.stages}
        differences: dict[str, list[float]] = {stage: [] for stage in self.network.stages}
        losses, gradients, silent = [], [], 0
        for unit in units:
            theirs = self._published_intermediate(rule, unit, start, references, steps=1)
            images = torch.cat([references, start])
            ours = relevance(
                self.model.module,
                images,
                layer=self.network.layer,
                units=[unit] * len(images),
                feature_layers=self.network.stages,
                rule=rule,
            )
            for stage, *published in zip(reversed(self.network.stages), *theirs.maps, strict=True):
                their_map, our_map = torch.cat(published).flatten(1).double(), ours[stage].flatten(1).double()
                active = their_map.abs().amax(1) > 0
                their_map, our_map = their_map[active], our_map[active]
                cosines[stage] += torch.cosine_similarity(their_map, our_map).tolist()
                differences[stage].append(((our_map - their_map).abs().max() / their_map.abs().max()).item())
            silent += int((~active).sum())
            loss, gradient = self._our_loss(self.network.layer, unit, rule, start, references)
            if active.all():
                losses.append(_relative(loss, torch.tensor(theirs.losses[0])))
                gradients.append(_relative(gradient, theirs.gradients[0]))
        for stage in self.network.stages:
            agrees = min(cosines[stage]) >= MIN_COSINE
            line = f"cosine {min(cosines[stage]):.9f}   difference {max(differences[stage]):.1e}"
            self._print(f"{rule:<16} {stage:<22} {line}", agrees)
        if silent:
            print(f"{rule:<16} {silent} of {len(units) * len(images)} maps left out: the unit is 0 on the image")
        self._print_loss(f"intermediate neurons, {rule}", losses, gradients)

    def class_neurons(self, units: list[int], start: Tensor, references: Tensor) -> None:
        """Print the agreement of loss and gradient of class neurons.

        With BatchNorms folded a feature next to 0 may round to the other side, and ReLU's gradient there is another:
        the gradient is compared on the network as it is, and only printed of the folded one.
        """
        losses, gradients, folded_losses, folded_gradients = [], [], [], []
        for unit in units:
            theirs = self._published_class(unit, start, references, steps=1)
            loss, gradient = self._our_loss(self.model.classifier_layer, unit, "none", start, references)
            folded_losses.append(_relative(loss, torch.tensor(theirs.losses[0])))
            folded_gradients.append(_relative(gradient, theirs.gradients[0]))
            with mock.patch.object(self.model, "folded", return_value=self.model.module):
                loss, gradient = self._our_loss(self.model.classifier_layer, unit, "none", start, references)
            losses.append(_relative(loss, torch.tensor(theirs.losses[0])))
            gradients.append(_relative(gradient, theirs.gradients[0]))
        self._print_loss("class neurons", losses, gradients)
        line = f"loss {max(folded_losses):.1e}   gradient {max(folded_gradients):.1e}"
        self._print(f"{'class neurons, folded':<39} {line}", max(folded_losses) <= MAX_DIFFERENCE)

    def image_priors(self, image: Tensor) -> None:
        """Print the agreement of total variation and image norm."""
        variation = _relative(total_variation(image)[0], self.intermediate.main.get_image_prior_losses(image)[1])
        norm = _relative(image_norm(image)[0], torch.norm(image.view(1, -1), dim=1).mean())
        self._print(
            f"{'image priors':<39} variation {variation:.1e}   norm {norm:.1e}", max(variation, norm) <= MAX_DIFFERENCE
        )

    def step_times(self, unit: int, start: Tensor, references: Tensor, *, steps: int) -> None:
        """Print the seconds per step and visualization of both sides, and neurons per hour."""
        print(f"with {len(references)} references, batches of {BATCH_SIZE}:")
        print(f"{'neurons':<20}{'code':<26}{'s per step':>11}{'steps':>7}{'neurons/h':>11}{'ratio':>8}")
        for kind, layer, rule in (
            ("class", self.model.classifier_layer, "none"),
            ("intermediate, lrp", self.network.layer, "lrp"),
        ):
            times: dict[tuple[str, str], list[float]] = {}
            for _ in range(2):
                if rule == "none":
                    record = self._published_class(unit, start, references, steps=steps)
                else:
                    record = self._published_intermediate(rule, unit, start, references, steps=steps)
                times.setdefault(("published code", "published"), []).extend(record.seconds_per_step())
                for name, batch_size in (("published", 1), ("published", BATCH_SIZE), ("fast", BATCH_SIZE)):
                    what = f"ours, {name}, {'alone' if batch_size == 1 else 'batched'}"
                    # Relevance is computed anew every few steps of `fast`: whole rounds of it.
                    count = max(steps, preset(name).relevance_every) if rule != "none" else steps
                    step_s = self._our_step_s(layer, unit, rule, references, name, count, batch_size=batch_size)
                    times.setdefault((what, name), []).append(statistics.mean(step_s) / batch_size)
            published_s = statistics.median(times["published code", "published"]) * preset("published").steps
            for (what, name), values in times.items():
                step_s, count = statistics.median(values), preset(name).steps
                neuron_s = step_s * count
                line = f"{kind:<20}{what:<26}{step_s:>11.3f}{count:>7}{3600 / neuron_s:>11.2f}"
                print(f"{line}{published_s / neuron_s:>8.1f}", flush=True)

    def _published_intermediate(self, rule: str, unit: int, start: Tensor, references: Tensor, *, steps: int) -> Record:
        return self.intermediate.optimize(
            self.model.module,
            start,
            references,
            steps=steps,
            arch_name=self.network.name,
            layer=self.network.published_layer,
            channel=unit,
            method=RULES[rule],
            layer_weights=INTERMEDIATE_WEIGHTS,
        )

    def _published_class(self, unit: int, start: Tensor, references: Tensor, *, steps: int) -> Record:
        weights = [feature_layer.weight for feature_layer in self.model.default_feature_layers()]
        return self.classes.optimize(
            self.model.module,
            start,
            references,
            steps=steps,
            arch_name=self.network.name,
            target=unit,
            channel=None,
            layer=None,
            layer_weights=weights,
        )

    def _our_loss(self, layer: str, unit: int, rule: str, start: Tensor, references: Tensor) -> tuple[Tensor, Tensor]:
        options = preset("published")
        plan = plan_alignment(self.model, layer, options, rule=rule, image_size_px=start.shape[-1])
        target = reference_target(self.model, plan, unit, references)
        objective = AlignmentObjective(self.model, layer, [unit], [target], options)
        image = start.clone().requires_grad_()
        loss = losses_of(objective, image).sum()
        (gradient,) = torch.autograd.grad(loss, image)
        return loss.detach(), gradient

    def _our_step_s(
        self, layer: str, unit: int, rule: str, references: Tensor, name: str, steps: int, *, batch_size: int
    ) -> list[float]:
        untimed = 2  # the first step with relevance and the first without are traced
        batch = BatchOfNeurons(
            self.model,
            layer,
            references,
            replace(preset(name), steps=steps + untimed),
            size=batch_size,
            rule=rule,
            execution_mode="plain" if rule == "none" else "traced",  # as `jobs.stages.visualize_actor` chooses on a CPU
            unit=unit,
        )
        return [after - before for before, after in pairwise(batch.run().ends_s[untimed - 1 :])]

    def _print_loss(self, what: str, losses: list[float], gradients: list[float]) -> None:
        agrees = bool(losses) and max(losses + gradients) <= MAX_DIFFERENCE
        worst = f"loss {max(losses):.1e}   gradient {max(gradients):.1e}" if losses else "every unit is 0 on some image"
        self._print(f"{what:<39} {worst}", agrees)

    def _print(self, line: str, agrees: bool) -> None:
        print(f"{line:<90}{'ok' if agrees else 'DIFFERS'}", flush=True)
        self.agrees &= agrees


def _relative(ours: Tensor, theirs: Tensor) -> float:
    return ((ours.double() - theirs.double()).norm() / theirs.double().norm()).item()


def calibrate(net: nn.Module, images: Tensor, generator: torch.Generator) -> None:
    """Give every BatchNorm random weights and biases, and the statistics of the images."""
    for module in net.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.reset_running_stats()
            module.momentum = None  # a plain mean over batches, of which there is one
            nn.init.uniform_(module.weight, 0.5, 1.5, generator=generator)
            nn.init.normal_(module.bias, std=0.2, generator=generator)
    net.train()
    with torch.no_grad():
        net(images)
    net.eval()


def compare(arguments: argparse.Namespace, intermediate: AuthorsCode, classes: AuthorsCode) -> bool:
    """Print the comparison of each network and its weights; returns whether all numbers agree."""
    agrees = True
    for name in NETWORKS if arguments.model == "both" else [arguments.model]:
        network = NETWORKS[name]
        for weights in ("calibrated", "plain"):
            generator = torch.Generator().manual_seed(arguments.seed)
            model = load_model(f"torchvision:{name}", "random", seed=arguments.seed)
            images = demo_images(model, TIMED_REFERENCES, arguments.size)
            if weights == "calibrated":
                calibrate(model.module, images[:NUM_CALIBRATION_IMAGES], generator)
            print(f"\n{name}, {weights} weights")
            comparison = Comparison(network, model, intermediate, classes)
            references = images[: arguments.references]
            start = torch.randn(1, *images.shape[1:], generator=generator)
            units = torch.randperm(model.units(network.layer), generator=generator)[: arguments.units].tolist()
            for rule in RULES:
                if rule != "guided_backprop" or name == "resnet50":
                    comparison.intermediate_neurons(rule, units, start, references)
            comparison.class_neurons([unit % model.num_classes for unit in units], start, references)
            comparison.image_priors(start)
            if weights == "calibrated" and arguments.steps:
                comparison.step_times(units[0], start, images, steps=arguments.steps)
            agrees &= comparison.agrees
    return agrees


def main() -> None:
    parser = make_parser(__doc__, threads=True)
    parser.add_argument("checkout", type=Path)
    parser.add_argument("--model", choices=(*NETWORKS, "both"), default="both")
    parser.add_argument("--size", type=int, default=224, help="image side in pixels, a multiple of 32")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--units", type=int, default=3, help="neurons of each kind, drawn at random")
    parser.add_argument("--references", type=int, default=4, help="images per neuron, but for the timing")
    parser.add_argument("--steps", type=int, default=3, help="of each timed run; 0 leaves the timing out")
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)

    intermediate = AuthorsCode(arguments.checkout, "intermediate_fvis", "opt_intermediate")
    classes = AuthorsCode(arguments.checkout, "class_fvis", "opt_utils")
    print_header(
        f"{arguments.size} px",
        f"{arguments.units} units",
        f"{arguments.references} references and a noise image each",
        f"seed {arguments.seed}",
    )
    with freed_memory_kept():  # as in our workers; both sides have it
        agrees = compare(arguments, intermediate, classes)
    print(ON_PURPOSE)
    sys.exit(0 if agrees else 1)


if __name__ == "__main__":
    main()
