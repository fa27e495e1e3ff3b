"""References by relevance: of the images that activate a unit, those for whose class the unit is most relevant.

A unit may be activated strongly by images whose class does not depend on it. Relevance maximization (RelMax) ranks
images by how much of the evidence for their own strongest class flows through the unit.

Reference: Achtibat et al., From attribution maps to human-understandable explanations through Concept Relevance
Propagation, Nature Machine Intelligence 5, 2023 (relevance-based reference samples).
"""

from collections.abc import Sequence

from torch import Tensor

from pipeline.activations.store import TopImage
from pipeline.attribution.relevance import relevance
from pipeline.errors import UserError
from pipeline.models import Model
from pipeline.references.reading import ReferenceReader

_BATCH_SIZE = 16  # images in one pass: bounds memory, changes nothing


class RelevanceRanking:
    """Ranks the images that activate a unit of one layer by the unit's relevance for each image's own top class.

    One pass gives an image's relevance for all units of the layer, and units of a layer share many images: it is kept.

    Raises:
        UserError: the model has no classifier.
    """

    def __init__(self, model: Model, layer: str, reader: ReferenceReader, *, rule: str = "lrp") -> None:
        self._model = model
        self._classifier = require_classifier(model)
        self._layer = layer
        self._reader = reader
        self._rule = rule
        self._relevance: dict[int, Tensor] = {}

    def rank(self, top_images: Sequence[TopImage], unit: int) -> list[TopImage]:
        """The images in descending order of the unit's relevance; ties keep the order given."""
        self._measure([e for e in top_images if e.sample not in self._relevance])
        return sorted(top_images, key=lambda e: -float(self._relevance[e.sample][unit]))

    def _measure(self, top_images: Sequence[TopImage]) -> None:
        """Keep the relevance [C] of each image: that of every unit, summed over positions."""
        for start in range(0, len(top_images), _BATCH_SIZE):
            batch = top_images[start : start + _BATCH_SIZE]
            maps = relevance(
                self._model.module,
                self._reader.images(batch).to(self._model.device),
                layer=self._classifier,
                units=[top_image.top1 for top_image in batch],
                feature_layers=[self._layer],
                rule=self._rule,
            )[self._layer]
            sums = maps.flatten(2).sum(dim=2) if maps.ndim > 2 else maps
            self._relevance |= {e.sample: row for e, row in zip(batch, sums.cpu(), strict=True)}


def require_classifier(model: Model) -> str:
    """The layer of the class logits, which relevance starts from.

    Raises:
        UserError: the model has none.
    """
    if model.classifier_layer is None:
        raise UserError(
            f'targets.reference_ranking = "relevance" ranks images by a unit\'s relevance for their class, and '
            f'model "{model.name}" has no classifier: set it to "activation"'
        )
    return model.classifier_layer
