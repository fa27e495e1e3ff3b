"""What `build` decides before it touches a file: rows completed, checked and ordered, layer by layer. Pure."""

from collections.abc import Iterable, Mapping
from typing import Any

from pipeline.atlas.format.fragments import Key, Row, row_key
from pipeline.atlas.format.manifest import require_keys
from pipeline.atlas.format.rows import LayerRows, describe, published_row, row_problems
from pipeline.atlas.format.schema import KEY_COLUMNS, extra_score_columns
from pipeline.atlas.neighbors.find import NeighborTables
from pipeline.errors import UserError
from pipeline.neurons import nearest
from pipeline.recipe.recipe import Recipe


class Planner:
    """Completes, checks and orders the rows of one layer after the other (pure).

    Args:
        recipe: see `build_atlas`.
        model: MODEL_KEYS.
        layers: layer name → number of units in the model.
    """

    def __init__(self, *, recipe: Recipe, model: Mapping[str, Any], layers: Mapping[str, int]) -> None:
        self._methods = {method: position for position, method in enumerate(recipe.visualize.methods)}
        self._model_name = str(model["name"])
        self._class_layer = model["classifier_layer"]
        self._keep_examples = recipe.atlas.publish_examples == "thumbnails"
        self._layers = layers

    def plan(self, layer: str, rows: Iterable[Mapping[str, Any]], extra: Mapping[str, str]) -> LayerRows | None:
        """The layer with its rows ordered by unit, method and seed, with `extra` score columns; None without rows.

        Raises:
            UserError: a row is invalid, occurs twice, or names another row's image.
        """
        planned: dict[Key, Row] = {}
        owners: dict[str, Row] = {}
        for given in rows:
            row = self._published(layer, given, extra)
            if row_key(row) in planned:
                raise UserError(f"{describe(row)} occurs twice")
            planned[row_key(row)] = row
            for path in filter(None, (row["image_path"], row["alpha_path"])):
                if path in owners:
                    raise UserError(f"{describe(row)}: {path} is also that of {describe(owners[path])}")
                owners[path] = row
        if not planned:
            return None
        ordered = sorted(planned.values(), key=lambda row: (row["unit"], self._methods[row["method"]], row["seed"]))
        return LayerRows.of(layer, self._layers[layer], layer == self._class_layer, ordered)

    def _published(self, layer: str, given: Mapping[str, Any], extra: Mapping[str, str]) -> Row:
        """A row as the atlas has it, without problems of its own."""
        require_keys(given, (*KEY_COLUMNS, "status"), "row")
        if layer not in self._layers:
            raise UserError(f"{describe(given)}: layer {layer!r} is not in the model{nearest(layer, self._layers)}")
        row = published_row(given, model_name=self._model_name, extra=extra, keep_examples=self._keep_examples)
        problems = row_problems(
            row, layer=layer, num_units=self._layers[layer], methods=self._methods, model_name=self._model_name
        )
        for problem in problems:
            raise UserError(f"{describe(row)}: {problem}")
        return row


def check_rows(
    planner: Planner, rows: Mapping[str, Iterable[Mapping[str, Any]]], neighbors: NeighborTables | None
) -> dict[str, str]:
    """Check the rows of all layers and return the score columns that they have beyond LAYER_SCHEMA.

    Raises:
        UserError: see `Planner.plan`, or `neighbors` is of other neurons.
    """
    extra: dict[str, str] = {}
    with_neighbors = neighbors.units_by_layer() if neighbors is not None else None
    for layer in rows:
        of_layer = list(rows[layer])
        columns = extra_score_columns(name for row in of_layer for name in row)
        extra |= columns
        plan = planner.plan(layer, of_layer, columns)
        units = [row["unit"] for row in plan.primary_rows] if plan else None
        if plan and with_neighbors is not None and with_neighbors.get(layer) != units:
            raise UserError(f"layer {layer!r}: the neighbors are of other neurons than the rows")
    return dict(sorted(extra.items()))
