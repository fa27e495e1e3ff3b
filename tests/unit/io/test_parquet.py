"""Parquet tables: what goes in comes out, in Python, pandas and the browser; what does not fit is named."""

import hashlib
import io
import json
import shutil
import subprocess
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.io.parquet import (
    ROW_GROUP_ROWS,
    BadTable,
    column_types,
    join_tables,
    num_rows,
    parse_table,
    read_rows,
    read_table,
    table_bytes,
    write_table,
)
from pipeline.io.root import Root
from tests.support.paths import ROOT

SCHEMA = {
    "name": "string",
    "unit": "int32",
    "offset": "int64",
    "loss": "float32",
    "mean": "float64",
    "flag": "bool",
    "keys": "list<string>",
    "positions": "list<float32>",
    "counts": "list<int32>",
}
ROWS = [
    {
        "name": "quote \" ' <b> \x00 🦆 ‮",
        "unit": -(2**31),
        "offset": 2**53 - 1,  # the largest whole number of JavaScript
        "loss": 0.5,
        "mean": 0.1,
        "flag": True,
        "keys": ["", "a", "ü"],
        "positions": [0.25, 1.0],
        "counts": [2**31 - 1, 0],
    },
    {
        "name": "",
        "unit": 0,
        "offset": 0,
        "loss": None,
        "mean": None,
        "flag": False,
        "keys": [],
        "positions": [],
        "counts": [],
    },
    dict.fromkeys(SCHEMA),
]
VIEWER_DATA_MODULE = ROOT / "atlas_viewer" / "data" / "tables.js"


@pytest.fixture
def root(tmp_path: Path) -> Root:
    return Root.open(str(tmp_path))


@pytest.mark.parametrize("url", ["local", "memory://tables"])
def test_rows_and_columns_come_back_as_written(tmp_path: Path, url: str) -> None:
    root = Root.open(str(tmp_path) if url == "local" else url)
    write_table(root, "sub/t.parquet", ROWS, SCHEMA)
    assert read_rows(root, "sub/t.parquet") == ROWS
    assert read_table(root, "sub/t.parquet", ["unit", "keys"]) == {
        "unit": [-(2**31), 0, None],
        "keys": [["", "a", "ü"], [], None],
    }
    assert num_rows(root, "sub/t.parquet") == 3
    assert column_types(root.read_bytes("sub/t.parquet"), source="t") == SCHEMA


@given(
    st.lists(
        st.fixed_dictionaries(
            {
                "name": st.none() | st.text(st.characters(codec="utf-8")),
                "loss": st.none() | st.floats(width=32, allow_nan=False),
                "counts": st.none() | st.lists(st.integers(-(2**31), 2**31 - 1)),
            }
        ),
        max_size=20,
    )
)
@settings(max_examples=50, deadline=None)
def test_any_rows_come_back(rows: list[dict]) -> None:
    schema = {name: SCHEMA[name] for name in ("name", "loss", "counts")}
    columns = parse_table(table_bytes(rows, schema), source="t")
    assert [dict(zip(columns, row, strict=True)) for row in zip(*columns.values(), strict=True)] == rows


def test_arrays_lists_and_rows_give_the_same_bytes() -> None:
    schema = {"unit": "int32", "loss": "float32", "keys": "list<float32>"}
    units, losses, keys = [3, 1], [0.5, 1.25], [[1.0, 2.0], [3.0, 4.0]]
    from_lists = table_bytes({"unit": units, "loss": losses, "keys": keys}, schema)
    from_arrays = table_bytes(
        {"unit": np.array(units), "loss": np.array(losses), "keys": np.array(keys, np.float32)}, schema
    )
    from_rows = table_bytes(
        [{"unit": u, "loss": x, "keys": k} for u, x, k in zip(units, losses, keys, strict=True)], schema
    )
    assert from_lists == from_arrays == from_rows


@pytest.mark.parametrize(
    ("column", "value"),
    [
        ("unit", 1.5),
        ("unit", 2**31),
        ("unit", "1"),
        ("name", 7),
        ("name", "lone surrogate \ud800"),
        ("keys", "abc"),
        ("keys", [1]),
        ("counts", [2**40]),
        ("flag", "yes"),
    ],
)
def test_a_value_that_does_not_fit_names_its_column(column: str, value: object) -> None:
    with pytest.raises(ValueError, match=f"column '{column}'"):
        table_bytes([{column: value}], SCHEMA)


@pytest.mark.parametrize("dtype_and_value", [(np.int64, 2**40), (np.float64, 1.5)])
def test_an_array_is_never_rounded_or_wrapped_into_integers(dtype_and_value: tuple) -> None:
    dtype, value = dtype_and_value
    with pytest.raises(ValueError, match="column 'unit'"):
        table_bytes({"unit": np.array([value], dtype)}, {"unit": "int32"})


def test_wrong_columns_are_named() -> None:
    with pytest.raises(ValueError, match='did you mean "unit"'):
        table_bytes([{"unti": 1}], SCHEMA)
    with pytest.raises(ValueError, match=r"\['loss'\] are missing"):
        table_bytes({"unit": [1]}, {"unit": "int32", "loss": "float32"})
    with pytest.raises(ValueError, match="of one length"):
        table_bytes({"unit": [1], "loss": [0.5, 1.0]}, {"unit": "int32", "loss": "float32"})
    with pytest.raises(ValueError, match="column type 'int8'"):
        table_bytes([], {"unit": "int8"})


def test_a_cut_or_foreign_file_is_a_bad_table_with_its_name(root: Root) -> None:
    data = table_bytes(ROWS, SCHEMA)
    root.write_bytes("cut.parquet", data[: len(data) // 2])
    root.write_bytes("text.parquet", b"not a table at all, only text")
    root.write_bytes("empty.parquet", b"")
    for name in ("cut", "text", "empty"):
        with pytest.raises(BadTable, match=f"{name}.parquet"):
            read_rows(root, f"{name}.parquet")
    write_table(root, "good.parquet", ROWS, SCHEMA)
    with pytest.raises(BadTable, match='did you mean "unit"'):
        read_table(root, "good.parquet", ["unti"])
    with pytest.raises(FileNotFoundError):
        read_rows(root, "absent.parquet")


def test_files_keep_to_the_plain_core_of_the_format(root: Root) -> None:
    num = ROW_GROUP_ROWS + 1
    write_table(root, "t.parquet", {"unit": list(range(num))}, {"unit": "int32"}, metadata={"b": "2", "a": "1"})
    file = pq.ParquetFile(root.local_path / "t.parquet")
    assert [file.metadata.row_group(i).num_rows for i in range(file.num_row_groups)] == [ROW_GROUP_ROWS, 1]
    assert file.metadata.row_group(0).column(0).compression == "SNAPPY"
    assert file.metadata.metadata == {b"a": b"1", b"b": b"2"}, "no ARROW:schema blob"


def test_pandas_reads_it(root: Root) -> None:
    write_table(root, "t.parquet", ROWS, SCHEMA)
    frame = pd.read_parquet(root.local_path / "t.parquet")
    assert list(frame.columns) == list(SCHEMA)
    assert frame["name"].tolist()[:2] == [ROWS[0]["name"], ""]
    assert frame["positions"][0].tolist() == [0.25, 1.0]


@pytest.mark.skipif(shutil.which("node") is None, reason="needs Node")
def test_the_browsers_reader_reads_it(root: Root) -> None:
    write_table(root, "t.parquet", ROWS, SCHEMA)
    program = f"""
    import {{ decodeTable }} from {json.dumps(VIEWER_DATA_MODULE.as_uri())}
    import {{ readFileSync }} from 'node:fs'
    const data = readFileSync({json.dumps(str(root.local_path / "t.parquet"))})
    const table = await decodeTable(data.buffer.slice(data.byteOffset, data.byteOffset + data.length), 't')
    const plain = (key, value) => (ArrayBuffer.isView(value) ? Array.from(value) : value)
    console.log(JSON.stringify(table.columns, plain))
    """
    done = subprocess.run(
        ["node", "--input-type=module", "-e", program],
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout) == {name: [row[name] for row in ROWS] for name in SCHEMA}


def test_texts_that_many_rows_share_stand_once_in_a_table_of_one_group() -> None:
    """Two thousand captions of 500 characters: more than fits the dictionary of a usual group, and in two groups."""
    captions = [hashlib.sha512(b"%d" % number).hexdigest() * 4 for number in range(2000)]
    schema = {"unit": "int32", "captions": "list<string>"}
    rows = [{"unit": unit, "captions": [captions[unit % 2000], captions[unit * 7 % 2000]]} for unit in range(10_000)]
    parts = [(str(start), table_bytes(rows[start : start + 2500], schema)) for start in range(0, 10_000, 2500)]
    groups, whole = join_tables(parts, schema), join_tables(parts, schema, one_group=True)
    assert parse_table(whole, source="whole") == parse_table(groups, source="groups")
    assert pq.ParquetFile(io.BytesIO(whole)).num_row_groups == 1
    assert len(whole) < len(groups) / 1.5
    empty = join_tables([], schema, one_group=True)
    assert parse_table(empty, source="empty") == {"unit": [], "captions": []}
