"""Parquet tables. Only this module and `parquet_lookup`, which looks rows up in large ones, import pyarrow.

What is written here is read by a browser (hyparquet), pandas, DuckDB and Polars, so the files keep to the
plain core of the format: Snappy, data page version 1, int32/int64/float32/float64/bool/utf8 and lists of
them, no Arrow-only types. Equal columns give equal bytes.
"""

import io
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, Final

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from pipeline.errors import UserError
from pipeline.io.root import Root, StorageError
from pipeline.neurons import nearest

# Readers of whole files pay per group and column; readers of 100,000 rows want to pause between groups. 8,192 rows hold
# every layer of the usual networks in one group.
ROW_GROUP_ROWS: Final = 8192
# Above this a column falls back to its plain texts: a dictionary of 300,000 captions takes 20 MB.
MAX_DICTIONARY_BYTES: Final = 64 << 20
# Bound on what one table may unpack to: the index of a million neurons needs about 0.2 GB.
MAX_TABLE_BYTES: Final = 2 << 30

_SCALARS: Final = {
    "string": pa.string(),
    "int32": pa.int32(),
    "int64": pa.int64(),
    "float32": pa.float32(),
    "float64": pa.float64(),
    "bool": pa.bool_(),
}

Columns = Mapping[str, "Sequence[Any] | np.ndarray"]
Rows = Sequence[Mapping[str, Any]]


class BadTable(UserError):  # noqa: N818 - the family of images.BadImage
    """A Parquet file that cannot be read: cut, damaged or not Parquet at all. The message names it."""


def table_bytes(
    columns: Columns | Rows,
    schema: Mapping[str, str],
    *,
    metadata: Mapping[str, str] | None = None,
    encodings: Mapping[str, str] | None = None,
) -> bytes:
    """The Parquet file of `columns` (or of a list of rows) as bytes.

    Args:
        columns: one sequence per column, all of one length; or rows as dicts, where a missing key is a null.
        schema: column name → "string" | "int32" | "int64" | "float32" | "float64" | "bool" | "list<…>", in
            file order.
        metadata: extra key/value pairs of the file's footer.
        encodings: column → Parquet encoding, where a dictionary is not the shortest. All readers named above know
            them.

    Raises:
        UserError: a column that the schema does not know, a missing column, unequal lengths, or a value that
            does not fit its type; the message names the column.
    """
    names = list(schema)
    if isinstance(columns, Mapping):
        given: Iterable[str] = columns
        missing = [name for name in names if name not in columns]
        if missing:
            raise UserError(f"columns {missing} are missing, expected {names}")
    else:
        given = {name for row in columns for name in row}
    for name in given:
        if name not in schema:
            raise UserError(f"column {name!r} is not in the schema{nearest(name, names)}; it has {names}")
    arrays = []
    for name, kind in schema.items():
        values = columns[name] if isinstance(columns, Mapping) else [row.get(name) for row in columns]
        arrays.append(_array(name, values, _arrow_type(kind)))
    lengths = {name: len(array) for name, array in zip(names, arrays, strict=True)}
    if len(set(lengths.values())) > 1:
        raise UserError(f"columns of one table must be of one length, got {lengths}")
    table = pa.Table.from_arrays(arrays, schema=_arrow_schema(schema))
    return _file_bytes([table], table.schema, metadata or {}, encodings or {})


def join_tables(
    tables: Iterable[tuple[str, bytes]],
    schema: Mapping[str, str],
    *,
    encodings: Mapping[str, str] | None = None,
    one_group: bool = False,
) -> bytes:
    """The Parquet file with the rows of some tables one after the other, which are read as they are asked for.

    The bytes are those that `table_bytes` gives for all rows at once; only a row group is held beside them, unless all
    rows are one.

    Args:
        tables: (name for errors, Parquet file) of each.
        schema: of all of them, see `table_bytes`.
        encodings: see `table_bytes`.
        one_group: all rows in one row group, with one dictionary for each column: for texts that many rows share, which
            would stand in the dictionary of each group.

    Raises:
        BadTable: a file is damaged or of another schema.
    """
    requested = _arrow_schema(schema)

    def parts() -> Iterator[Any]:
        for source, data in tables:
            part = _read(data, source, None)
            if not part.schema.equals(requested):
                raise BadTable(f"{source}: columns {part.schema.names} of {part.schema.types}, expected {dict(schema)}")
            yield part

    return _file_bytes(parts(), requested, {}, encodings or {}, one_group=one_group)


def _file_bytes(
    tables: Iterable[Any],
    schema: Any,
    metadata: Mapping[str, str],
    encodings: Mapping[str, str],
    *,
    one_group: bool = False,
) -> bytes:
    """Arrow tables as one file in groups of `ROW_GROUP_ROWS` or in one, however they were cut before."""
    group_rows = ROW_GROUP_ROWS
    if one_group:
        tables = [pa.concat_tables([schema.empty_table(), *tables])]
        group_rows = max(1, len(tables[0]))
    buffer = io.BytesIO()
    with pq.ParquetWriter(
        buffer,
        schema,
        compression="snappy",
        data_page_version="1.0",
        store_schema=False,  # no Arrow blob in the footer: the Parquet types say everything
        use_dictionary=[name for name in schema.names if name not in encodings] if encodings else True,
        column_encoding=dict(encodings) or None,
        dictionary_pagesize_limit=MAX_DICTIONARY_BYTES if one_group else None,
    ) as writer:
        writer.add_key_value_metadata(dict(sorted(metadata.items())))
        waiting = schema.empty_table()
        for table in tables:
            waiting = pa.concat_tables([waiting, table])
            whole = len(waiting) - len(waiting) % group_rows
            if whole:
                writer.write_table(waiting.slice(0, whole), row_group_size=group_rows)
                waiting = waiting.slice(whole)
        if len(waiting):
            writer.write_table(waiting, row_group_size=group_rows)
    return buffer.getvalue()


def write_table(
    root: Root,
    path: str,
    columns: Columns | Rows,
    schema: Mapping[str, str],
    *,
    metadata: Mapping[str, str] | None = None,
) -> None:
    """Write one table atomically; see `table_bytes` for the arguments."""
    root.write_bytes(path, table_bytes(columns, schema, metadata=metadata))


def read_table(root: Root, path: str, columns: Sequence[str] | None = None) -> dict[str, list[Any]]:
    """Columns of a table as Python lists (all, or those named), nulls as None.

    Raises:
        BadTable: the file is damaged, too large, or lacks a named column.
        FileNotFoundError: there is none.
    """
    return _read(root.read_bytes(path), f"{root.url}/{path}", columns).to_pydict()


def read_rows(root: Root, path: str) -> list[dict[str, Any]]:
    """Rows of a table as dicts."""
    return _read(root.read_bytes(path), f"{root.url}/{path}", None).to_pylist()


def parse_table(data: bytes, *, source: str, columns: Sequence[str] | None = None) -> dict[str, list[Any]]:
    """Like `read_table`, of bytes already in memory; `source` names them in errors."""
    return _read(data, source, columns).to_pydict()


def column_types(data: bytes, *, source: str) -> dict[str, str]:
    """Column name → type in the words of the schemas ("string", "list<float32>", …), in file order."""
    schema = _open(data, source).schema_arrow
    return {field.name: _type_word(field.type) for field in schema}


class HeldTable:
    """A table of bytes in memory as Arrow holds it, whose rows become Python's when they are asked for.

    The index of 100,000 neurons takes 20 MB so, and 110 MB as rows.

    Args:
        data: the Parquet file.
        source: names it in errors.

    Raises:
        BadTable: the file is damaged or too large.
    """

    def __init__(self, data: bytes, *, source: str) -> None:
        self._table = _read(data, source, None)

    def __len__(self) -> int:
        return int(self._table.num_rows)

    @property
    def types(self) -> dict[str, str]:
        """Column name → type in the words of the schemas, in file order."""
        return {field.name: _type_word(field.type) for field in self._table.schema}

    def has_nulls(self, column: str) -> bool:
        """Whether a cell of a column is empty."""
        return bool(self._table.column(column).null_count)

    def rows(self, start: int = 0, stop: int | None = None) -> list[dict[str, Any]]:
        """Rows from `start` to before `stop` as dicts."""
        columns = self._table.slice(start, None if stop is None else max(0, stop - start)).to_pydict()
        return [dict(zip(columns, values, strict=True)) for values in zip(*columns.values(), strict=True)]


def num_rows(root: Root, path: str) -> int:
    """Number of rows, from the footer."""
    return _open(root.read_bytes(path), f"{root.url}/{path}").metadata.num_rows


@contextmanager
def reading(source: str) -> Iterator[None]:
    """What pyarrow says of a file that it cannot read, as a `BadTable` that names the file."""
    try:
        yield
    except (FileNotFoundError, StorageError):
        raise  # not of the file's content
    except (pa.ArrowException, OSError, ValueError) as error:
        raise BadTable(f"{source}: not a readable Parquet file, or a damaged one ({error})") from error


def _arrow_schema(schema: Mapping[str, str]) -> Any:
    return pa.schema([(name, _arrow_type(kind)) for name, kind in schema.items()])


def _arrow_type(kind: str) -> Any:
    scalar = kind.removeprefix("list<").removesuffix(">")
    if scalar not in _SCALARS or kind not in (scalar, f"list<{scalar}>"):
        raise UserError(f"column type {kind!r}: expected one of {sorted(_SCALARS)} or a list<…> of one")
    return _SCALARS[scalar] if kind == scalar else pa.list_(_SCALARS[scalar])


def _type_word(kind: Any) -> str:
    if pa.types.is_list(kind):
        return f"list<{_type_word(kind.value_type)}>"
    return next((word for word, known in _SCALARS.items() if known.equals(kind)), str(kind))


def _array(name: str, values: Any, kind: Any) -> Any:
    if isinstance(values, np.ndarray) and values.ndim > 1:
        values = list(values)
    try:
        if not isinstance(values, np.ndarray):
            values = list(values)
            _check_values(values, kind)
        return pa.array(values, type=kind)
    except (pa.ArrowException, TypeError, ValueError, OverflowError) as error:
        raise UserError(f"column {name!r}: a value does not fit {_type_word(kind)}: {error}") from error


def _check_values(values: Sequence[Any], kind: Any) -> None:
    """Refuse what pyarrow converts without a word: 1.5 to the integer 1, "ab" to the list ["a", "b"]."""
    if pa.types.is_integer(kind):
        for value in values:
            if isinstance(value, float | np.floating) and not float(value).is_integer():
                raise UserError(f"{value!r} is not an integer")
    elif pa.types.is_list(kind):
        for value in values:
            if isinstance(value, str | bytes):
                raise UserError(f"{value[:80]!r} is not a list")


def _open(data: bytes, source: str) -> Any:
    with reading(source):
        file = pq.ParquetFile(io.BytesIO(data))
        unpacked = sum(file.metadata.row_group(i).total_byte_size for i in range(file.num_row_groups))
    if unpacked > MAX_TABLE_BYTES:
        raise BadTable(f"{source}: unpacks to {unpacked} bytes, more than the {MAX_TABLE_BYTES} allowed")
    return file


def _read(data: bytes, source: str, columns: Sequence[str] | None) -> Any:
    file = _open(data, source)
    for name in columns or ():
        if name not in file.schema_arrow.names:
            raise BadTable(f"{source}: has no column {name!r}{nearest(name, file.schema_arrow.names)}")
    with reading(source):
        return file.read(columns=list(columns) if columns is not None else None, use_threads=False)
