"""The rows of the atlas: fragments joined with scores, of the neurons that the recipe requests."""

from typing import Any, Final, TypeAlias

from jobs.run.session import Session
from jobs.stages.captions import add_captions
from pipeline.activations.store import StatisticsStore
from pipeline.atlas.format.fragments import RunRows, join_rows, row_key
from pipeline.atlas.format.schema import examples_path
from pipeline.evaluation.derived import read_derived
from pipeline.evaluation.scores import data_columns

Row: TypeAlias = dict[str, Any]  # column → value

NUM_EXAMPLES: Final = 9  # dataset images beside a visualization


def requested_rows(session: Session, *, captions: bool = False) -> RunRows:
    """Layer → its rows; `captions`: with those of the references."""
    root, recipe, requested = session.resolved.root, session.resolved.recipe, set(session.resolved.keys)
    published = recipe.atlas.publish_examples
    captioned = StatisticsStore.open(root) if captions else None  # one for all layers: it caches the captions it read

    def finish(layer: str, joined: list[Row]) -> list[Row]:
        statistics = StatisticsStore.open(root)  # of this layer alone: it caches what it has read
        rows = [row for row in join_rows(joined, read_derived(root, layer)) if row_key(row) in requested]
        for row in rows:
            if is_bare(row):  # without a visualization it was not scored; its statistics are known all the same
                row |= data_columns(statistics, layer, row["unit"]) | row
            if published == "thumbnails":
                row |= _examples_columns(row)
            if published == "none":  # the keys of the samples stay private; their labels and scores are published
                row["reference_keys"] = [""] * len(row["reference_keys"] or ())
        if captioned is not None:
            add_captions(root, captioned, layer, rows)
        return rows

    return RunRows(root, finish)


def is_bare(row: Row) -> bool:
    """Whether a joined row lacks what `evaluate` adds."""
    return row.get("max_activation") is None


def _examples_columns(row: Row) -> Row:
    if not row["num_references"]:
        return {"examples_path": "", "num_examples": 0}
    return {
        "examples_path": examples_path(row["layer"], row["unit"], row["facet"]),
        "num_examples": min(NUM_EXAMPLES, row["num_references"]),
    }
