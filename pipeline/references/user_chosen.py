"""References that the recipe names itself: the images of a folder, or samples of the data set by their keys."""

from collections.abc import Mapping

from pipeline.activations.store import StatisticsStore
from pipeline.errors import UserError
from pipeline.io.images import BadImage, check_aspect, decode_image
from pipeline.io.root import Root
from pipeline.models import Model
from pipeline.neurons import match_layers, nearest, parse_units
from pipeline.recipe.recipe import Recipe
from pipeline.recipe.sections import CLASSIFIER, DataSection, NeuronsBlock
from pipeline.references.reading import folder_top_image
from pipeline.references.selection import References

_IMAGE_SUFFIXES = (".jpg", ".jpeg", ".png", ".webp", ".gif", ".bmp")

Chosen = Mapping[tuple[str, int], References]  # (layer, unit) → its references, whose activations are not known yet


def blocks_with_references(recipe: Recipe, model: Model) -> dict[tuple[str, int], NeuronsBlock]:
    """(layer, unit) → the block of [[neurons]] that names its references; neurons without such a block are absent.

    Raises:
        UserError: a layer or unit is not in the model, or two blocks name different references for one neuron.
    """
    found: dict[tuple[str, int], NeuronsBlock] = {}
    for block in recipe.neurons:
        if not (block.references or block.reference_keys):
            continue
        is_alias = block.layer == CLASSIFIER
        for layer in [model.resolve_layer(CLASSIFIER)] if is_alias else match_layers([block.layer], model.layers()):
            for unit in parse_units(block.units, model.units(layer), layer):
                earlier = found.setdefault((layer, unit), block)
                if _named(earlier) != _named(block):
                    raise UserError(
                        f'unit {unit} of layer "{layer}" gets references from two blocks of [[neurons]]: '
                        f"{_describe(earlier)} and {_describe(block)}; give it to one of them"
                    )
    return found


def _named(block: NeuronsBlock) -> tuple[str, frozenset[str]]:
    return block.references, frozenset(block.reference_keys)


def _describe(block: NeuronsBlock) -> str:
    return f'references = "{block.references}"' if block.references else f"{len(block.reference_keys)} reference_keys"


def find_chosen(recipe: Recipe, model: Model, statistics: StatisticsStore) -> Chosen:
    """Where the references lie that the recipe names, each folder and list read once.

    Raises:
        UserError: as `blocks_with_references`; a folder without images, an image that cannot be decoded, or keys that
            the data set does not have, or has more than once.
    """
    found: dict[tuple[str, frozenset[str]], References] = {}
    chosen = {}
    for neuron, block in blocks_with_references(recipe, model).items():
        name = _named(block)
        if name not in found:
            found[name] = (
                _in_folder(block.references, recipe.data)
                if block.references
                else _with_keys(block.reference_keys, statistics)
            )
        chosen[neuron] = found[name]
    return chosen


def check_folders(recipe: Recipe) -> None:
    """Read the folders of references that a recipe names.

    Raises:
        UserError: a folder without images, or an image that cannot be decoded.
    """
    for url in dict.fromkeys(block.references for block in recipe.neurons if block.references):
        _in_folder(url, recipe.data)


def _in_folder(url: str, data: DataSection) -> References:
    folder = Root.open(url)
    names = [name for name in folder.list() if name.lower().endswith(_IMAGE_SUFFIXES)]
    if not names:
        what = "has no images" if folder.exists() else "does not exist"
        raise UserError(
            f'neurons.references = "{url}" {what}: expected a folder with {", ".join(_IMAGE_SUFFIXES)} files'
        )
    for name in names:
        try:
            image = decode_image(folder.read_bytes(name), max_pixels=data.max_pixels, max_value=data.max_value)
            check_aspect(*image.size)
        except BadImage as error:
            raise UserError(f'neurons.references = "{url}": {name}: {error}; repair or remove it') from error
    top_images = [folder_top_image(folder, name) for name in names]
    return References(top_images=top_images, source="folder", boxes=(), folder=folder.url)


def _with_keys(keys: tuple[str, ...], statistics: StatisticsStore) -> References:
    samples = statistics.samples.with_keys(keys)
    missing = [key for key, found in samples.items() if not found]
    if missing:
        raise UserError(
            f"neurons.reference_keys: {len(missing)} of {len(keys)} are not keys of the data set, the first is "
            f'"{missing[0]}"{nearest(missing[0], statistics.samples.keys())}'
        )
    repeated = [key for key, found in samples.items() if len(found) > 1]
    if repeated:
        raise UserError(
            f'neurons.reference_keys: "{repeated[0]}" is the key of {len(samples[repeated[0]])} samples in different '
            "tar shards; name the images by a folder (references) instead"
        )
    top_images = statistics.top_images_of([samples[key][0] for key in keys])
    return References(top_images=top_images, source="keys", boxes=())
