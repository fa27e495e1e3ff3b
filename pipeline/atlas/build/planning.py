"""What `build` decides before it touches a file: rows completed, checked and in order, layer by layer. Pure."""

from collections.abc import Iterable, Mapping
from typing import Any

from pipeline.atlas.format.fragments import Key, Row, row_key
from pipeline.atlas.format.manifest import require_keys
from pipeline.atlas.format.rows import LayerRows, describe, published_row, row_problems
from pipeline.atlas.format.schema import KEY_COLUMNS, extra_score_columns
from pipeline.atlas.neighbors.find import NeighborTables
from pipeline.neurons import nearest
from pipeline.recipe.recipe import Recipe
from pipeline.errors import UserError


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
        """The layer with its rows by unit, method and seed, and `extra` score columns; None without rows.

        Raises:
            UserError: a row is unsound, occurs twice, or claims another row's visualization.
        """
        planned: list[Row] = []
        keys: set[Key] = set()
        owners: dict[str, Row] = {}
        for given in rows:
            require_keys(given, (*KEY_COLUMNS, "status"), "row")
            if layer not in self._layers:
                raise UserError(
                    f"{describe(given)}: layer {layer!r} is not in the model{nearest(layer, self._layers)}"
                )
            row = published_row(given, model_name=self._model_name, extra=extra, keep_examples=self._keep_examples)
            for problem in row_problems(
                row,
                layer=layer,
                num_units=self._layers[layer],
                methods=self._methods,
                model_name=self._model_name,
            ):
                raise UserError(f"{describe(row)}: {problem}")
            if row_key(row) in keys:
                raise UserError(f"{describe(row)} occurs twice")
            keys.add(row_key(row))
            for path in filter(None, (row["image_path"], row["alpha_path"])):
                if path in owners:
                    raise UserError(f"{describe(row)}: {path} is also that of {describe(owners[path])}")
                owners[path] = row
            planned.append(row)
        if not planned:
            return None
        planned.sort(key=lambda row: (row["unit"], self._methods[row["method"]], row["seed"]))
        return LayerRows.of(layer, self._layers[layer], layer == self._class_layer, planned)


def check_rows(
    planner: Planner, rows: Mapping[str, Iterable[Mapping[str, Any]]], neighbors: NeighborTables | None
) -> dict[str, str]:
    """Check the rows of all layers; the score columns that some of them have beyond LAYER_SCHEMA.

    Raises:
        UserError: see `Planner.plan`, or `neighbors` is of other neurons.
    """
    extra: dict[str, str] = {}
    sought = neighbors.units_by_layer() if neighbors is not None else None
    for layer in rows:
        of_layer = list(rows[layer])
        columns = extra_score_columns(name for row in of_layer for name in row)
        extra |= columns
        plan = planner.plan(layer, of_layer, columns)
        if plan and sought is not None and sought.get(layer) != [row["unit"] for row in plan.primary_rows]:
            raise UserError(f"layer {layer!r}: neighbors were sought for other neurons than there are rows of")
    return dict(sorted(extra.items()))
