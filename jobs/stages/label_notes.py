"""What a run says about the labels of its data: that there are none, or that they are not the model's classes."""

import re
from collections.abc import Iterator, Sequence
from typing import Final

from jobs.run.resolved import ResolvedRecipe
from pipeline.activations.storage.samples import SAMPLES, SampleTable
from pipeline.data.class_folders import fold_name
from pipeline.evaluation.label_agreement import LabelPairs, compare_labels
from pipeline.io.root import Root
from pipeline.models.labels import known_names

_SHARD: Final = re.compile(r"(.+)-[0-9]{6,}\.tar")
MAX_CLASS_LISTS: Final = 8  # read of a run's tar shards, each one a request on object storage


def label_notes(resolved: ResolvedRecipe) -> list[str]:
    """Warnings and notes on the labels, as far as `collect` has recorded them and `shards` has kept a class list."""
    if not resolved.model.num_classes:
        return []
    warning = label_warning(resolved)
    notes = [f"WARNING: {warning}"] if warning else [f"WARNING: {text}" for text in _class_list_warnings(resolved)]
    pairs = _pairs(resolved.root)
    if pairs is not None and pairs.num_samples and not len(pairs.label):
        key = resolved.recipe.data.label_key
        notes.append(
            f'{"note" if key == "cls" else "WARNING"}: no image has a label (data.label_key = "{key}"): class neurons '
            "take the images with their highest logits"
        )
    return notes


def label_warning(resolved: ResolvedRecipe) -> str:
    """What is wrong with the labels by the model's own top-1 classes; nothing before `collect`."""
    pairs, model = _pairs(resolved.root), resolved.model
    return "" if pairs is None else compare_labels(pairs, model.num_classes, model.class_names).warning


def _pairs(root: Root) -> LabelPairs | None:
    return LabelPairs.of(SampleTable(root).labels_and_classes()) if root.exists(SAMPLES) else None


def _class_list_warnings(resolved: ResolvedRecipe) -> Iterator[str]:
    """Where `NAME-classes.tsv` beside tar shards calls the model's classes otherwise than the model."""
    model, labels = resolved.model, resolved.recipe.model.labels
    if model.class_names[:1] == ["class 0"]:
        names: Sequence[Sequence[str]] = ()
    else:
        names = known_names(labels)
    for place in _class_lists(resolved.shard_urls):
        folder, _, file = place.rpartition("/")
        root = Root.open(folder or "/")
        if not root.exists(file):
            continue
        lines = [line.partition("\t") for line in root.read_text(file).splitlines()]
        written = {name: int(label) for label, _, name in lines if label.isdecimal()}
        outside = {name: label for name, label in written.items() if label >= model.num_classes}
        if outside:
            name, label = next(iter(outside.items()))
            yield (
                f"{place}: {len(outside)} of {len(written)} class folders have an index that the model does not have "
                f"({name!r} is {label}, the model has {model.num_classes} classes): their images are left out"
            )
        other = [
            (name, label)
            for name, label in written.items()
            if label < len(names) and not name.isdecimal() and not _is_named(name, names[label])
        ]
        if 2 * len(other) > len(written):
            name, label = other[0]
            yield (
                f"{place}: {len(other)} of {len(written)} class folders have the index of a class with another name "
                f"(folder {name!r} is {label}, which the model calls {names[label][0]!r}): write the tar shards again "
                "with --labels"
            )


def _is_named(folder: str, names: Sequence[str]) -> bool:
    return fold_name(folder) in map(fold_name, names)


def _class_lists(shard_urls: Sequence[str]) -> list[str]:
    """Where `shards` keeps the class lists of tar shards, without repeats."""
    found = [match[1] for url in shard_urls if (match := _SHARD.fullmatch(url))]
    return [f"{prefix}-classes.tsv" for prefix in list(dict.fromkeys(found))[:MAX_CLASS_LISTS]]
