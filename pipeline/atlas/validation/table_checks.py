"""Checks of the tables of an atlas: their columns, and the rows that repeat those of the layers' own tables.

Every deviation becomes a fault of the file, and checking goes on.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from pipeline.atlas.format.fragments import Row
from pipeline.atlas.format.manifest import Manifest
from pipeline.atlas.format.schema import (
    INDEX_PATH,
    INDEX_SCHEMA,
    KEY_COLUMNS,
    LABELS_PATH,
    LABELS_SCHEMA,
    indexed_scores,
)
from pipeline.atlas.validation.listed_files import ListedFiles
from pipeline.io.parquet import BadTable, HeldTable, column_types


@dataclass
class WholeTable:
    """A table of all layers, compared with one layer after the other."""

    path: str
    schema: Mapping[str, str]
    table: HeldTable
    num_compared: int = 0


class TableChecks:
    """Reads tables and compares them.

    Args:
        files: of the atlas; they collect the faults.
        manifest: atlas.json.
    """

    def __init__(self, files: ListedFiles, manifest: Manifest) -> None:
        self._files = files
        self._manifest = manifest

    def read(self, path: str, data: bytes, schema: Mapping[str, str]) -> list[Row] | None:
        """Rows of a table with valid columns; None, with faults, if the table is invalid."""
        table = self._hold(path, data, schema)
        return table.rows() if table is not None else None

    def _hold(self, path: str, data: bytes, schema: Mapping[str, str]) -> HeldTable | None:
        """The same, with rows that are not Python objects yet."""
        try:
            table = HeldTable(data, source=path)
        except BadTable as error:
            self._files.add(path, str(error).removeprefix(f"{path}: "))
            return None
        types = table.types
        problems = [
            f"column {name!r} is {types.get(name, 'missing')}, expected {kind}"
            for name, kind in schema.items()
            if types.get(name) != kind
        ]
        problems += [
            f"column {name!r} is not in the schema, nor a float32 score that atlas.json explains"
            for name, kind in types.items()
            if name not in schema and (kind != "float32" or name not in self._manifest["columns"])
        ]
        problems += [
            f"column {name!r} has empty cells"
            for name, kind in schema.items()
            if (name in KEY_COLUMNS or not kind.startswith(("int", "float")))
            and name in types
            and table.has_nulls(name)
        ]
        for problem in problems:
            self._files.add(path, problem)
        return None if problems else table

    def index(self) -> WholeTable | None:
        """index.parquet, None if it cannot be read."""
        for path, data in self._files.intact([INDEX_PATH]):
            try:
                types = column_types(data, source=path)
            except BadTable as error:
                self._files.add(path, str(error).removeprefix(f"{path}: "))
                return None
            scores = indexed_scores(self._manifest["columns"])
            schema = INDEX_SCHEMA | {name: kind for name, kind in scores.items() if name in types}
            table = self._hold(path, data, schema)
            return WholeTable(path, schema, table) if table is not None else None
        return None

    def labels(self) -> WholeTable | None:
        """labels.parquet, None if it cannot be read."""
        for path, data in self._files.intact([LABELS_PATH]):
            table = self._hold(path, data, LABELS_SCHEMA)
            return WholeTable(path, LABELS_SCHEMA, table) if table is not None else None
        return None

    def compare_next(self, table: WholeTable, expected: Sequence[Row]) -> None:
        """The next rows of a table of all layers must be those of the next layer."""
        start, stop = table.num_compared, table.num_compared + len(expected)
        self._compare_rows(table.path, table.table.rows(start, stop), expected, table.schema, start)
        table.num_compared = stop

    def end(self, table: WholeTable) -> None:
        """A table of all layers must have no rows beyond those compared."""
        if len(table.table) != table.num_compared:
            self._files.add(table.path, f"has {len(table.table)} rows, the layers have {table.num_compared} neurons")

    def check_copy(self, path: str, expected: Sequence[Row], schema: Mapping[str, str]) -> None:
        """The table at `path`, if it is listed, must hold the expected rows."""
        for _, data in self._files.intact([path]):
            found = self.read(path, data, schema)
            if found is None:
                continue
            if len(found) != len(expected):
                self._files.add(path, f"has {len(found)} rows, the layers have {len(expected)} neurons")
            self._compare_rows(path, found, expected, schema)

    def _compare_rows(
        self, path: str, rows: Sequence[Row], expected: Sequence[Row], schema: Mapping[str, str], first: int = 0
    ) -> None:
        """Rows of the table at `path`, from row `first` on, must be those expected."""
        for number, (row, requested) in enumerate(zip(rows, expected, strict=False), start=first):
            differing = [name for name in schema if row.get(name) != requested.get(name)]
            if differing:
                where = f"{requested['layer'][:200]}:{requested['unit']}"
                self._files.add(path, f"row {number} ({where}): {differing} differ from the layer's table")
