"""Look-ups in a Parquet table that is too large to be held: by row groups, and byte ranges of the file."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from pipeline.errors import UserError
from pipeline.io.parquet import reading
from pipeline.io.range_file import open_ranges
from pipeline.io.root import Root

# What a `SortedTable` keeps of the row groups it read last. The samples of ImageNet (1.28 million, 88 MB) fit: they are
# looked up at random, so a worker comes by every group, and from object storage each costs a request.
CACHE_BYTES: Final = 128 << 20
# The least that is fetched of a file read in parts: two or three row groups of samples, at the price of one request.
READ_AHEAD_BYTES: Final = 1 << 20


class SortedTable:
    """A table too large to be held, ordered by a column of distinct whole numbers, by which its rows are found.

    Of the file, only the footer and the row groups with rows that are asked for are read; those read last are kept, as
    long as they fit `CACHE_BYTES`.
    """

    def __init__(self, root: Root, path: str, *, by: str, columns: Sequence[str]) -> None:
        """Open the table; `by` is the column it is ordered by, `columns` what `rows` gives.

        Raises:
            BadTable: the file is damaged.
            FileNotFoundError: there is none.
        """
        self._source, self._by, self._columns = f"{root.url}/{path}", by, [by, *columns]
        with reading(self._source):
            file = open_ranges(
                self._source,
                root.size_bytes(path),
                lambda offset, size: root.read_bytes(path, offset=offset, size=size),
                read_ahead_bytes=READ_AHEAD_BYTES,
            )
            opened = pq.ParquetFile(file)
            strings = [field.name for field in opened.schema_arrow if field.type.equals(pa.string())]
            # Strings as places in a dictionary: a URL that a thousand rows share is held once for each group.
            self._file = pq.ParquetFile(file, metadata=opened.metadata, read_dictionary=strings)
            place = opened.schema_arrow.get_field_index(by)
            footers = [opened.metadata.row_group(i).column(place) for i in range(opened.num_row_groups)]
            self._last = np.array([footer.statistics.max for footer in footers], np.int64)
        self._groups: dict[int, _Group] = {}
        self._held_bytes = 0

    def rows(self, values: Sequence[int] | np.ndarray) -> dict[str, list[Any]]:
        """The rows in which `by` is one of `values`, in the order of `values`: column → one entry for each of them.

        Raises:
            UserError: no row has one of the values.
            BadTable: the file is damaged.
        """
        requested = np.asarray(values, np.int64)
        found: dict[str, list[Any]] = {name: [None] * len(requested) for name in self._columns}
        group_of = np.searchsorted(self._last, requested)
        for number in np.unique(group_of).tolist():
            (asked,) = np.nonzero(group_of == number)
            group = self._group(number) if number < len(self._last) else None
            there = np.empty(0, np.int64) if group is None else group.columns[self._by]
            place = np.searchsorted(there, requested[asked])
            if group is None or (there[place] != requested[asked]).any():
                missing = np.setdiff1d(requested[asked], there)
                raise UserError(f"{self._source} has no row with {self._by} = {missing[0]}")
            for name in self._columns:
                for index, entry in zip(asked.tolist(), group.entries(name, place), strict=True):
                    found[name][index] = entry
        return found

    def scan(self, columns: Sequence[str]) -> Iterator[dict[str, Any]]:
        """All rows, one row group after the other: column → list of strings, or array of numbers.

        Raises:
            BadTable: the file is damaged.
        """
        for number in range(len(self._last)):
            group = self._read_group(number, columns)
            everywhere = np.arange(self._file.metadata.row_group(number).num_rows)
            yield {
                name: group.entries(name, everywhere) if name in group.words else group.columns[name]
                for name in columns
            }

    def _group(self, number: int) -> "_Group":
        group = self._groups.pop(number, None)
        if group is None:
            group = self._read_group(number, self._columns)
            self._held_bytes += group.nbytes
            while self._groups and self._held_bytes > CACHE_BYTES:
                self._held_bytes -= self._groups.pop(next(iter(self._groups))).nbytes
        self._groups[number] = group  # the one used last is last
        return group

    def _read_group(self, number: int, columns: Sequence[str]) -> "_Group":
        with reading(self._source):
            table = self._file.read_row_group(number, columns=list(columns), use_threads=False).combine_chunks()
        numbers, words = {}, {}
        for name in columns:
            (column,) = table[name].chunks
            if pa.types.is_dictionary(column.type):
                column, words[name] = column.indices, column.dictionary
            numbers[name] = np.from_dlpack(column)  # `to_numpy` would import pandas, 60 MB
        return _Group(columns=numbers, words=words, nbytes=table.nbytes)


@dataclass(frozen=True, kw_only=True)
class _Group:
    """A row group in memory: column → numbers, which for strings are places in the column's `words`."""

    columns: Mapping[str, np.ndarray]
    words: Mapping[str, Any]
    nbytes: int

    def entries(self, name: str, places: np.ndarray) -> list[Any]:
        """What a column holds in some rows, as Python objects."""
        numbers = self.columns[name][places].tolist()
        if name not in self.words:
            return numbers
        words = self.words[name]
        return [words[number].as_py() for number in numbers]
