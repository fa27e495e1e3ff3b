"""Look-ups in a large table: the right rows in the right order, and no more of the file than they need."""

import uuid
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from pipeline.io import parquet_lookup as sorted_table
from pipeline.io.parquet import ROW_GROUP_ROWS, BadTable, join_tables, table_bytes, write_table
from pipeline.io.parquet_lookup import SortedTable
from pipeline.io.root import Root

SCHEMA = {"id": "int64", "name": "string", "url": "string", "size": "int32"}
NUM_ROWS = 3 * ROW_GROUP_ROWS + 5
IDS = 7 + 3 * np.arange(NUM_ROWS)
COLUMNS = {
    "id": IDS,
    "name": [f"photo-{i}" for i in IDS],
    "url": [f"s3://b/shard-{i // 1000}.tar" for i in range(NUM_ROWS)],
    "size": (IDS % 1000).astype(np.int32),
}


@pytest.fixture(scope="module", params=["local", "memory"])
def root(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Root:
    url = f"memory://{uuid.uuid4().hex}" if request.param == "memory" else str(tmp_path_factory.mktemp("table"))
    root = Root.open(url)
    write_table(root, "t.parquet", COLUMNS, SCHEMA)
    return root


def opened(root: Root) -> SortedTable:
    return SortedTable(root, "t.parquet", by="id", columns=["name", "url", "size"])


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(places=st.lists(st.integers(0, NUM_ROWS - 1), max_size=20))
def test_rows_come_in_the_order_asked_for(root: Root, places: list[int]) -> None:
    found = opened(root).rows(IDS[places])
    assert found == {
        "id": [int(IDS[i]) for i in places],
        "name": [COLUMNS["name"][i] for i in places],
        "url": [COLUMNS["url"][i] for i in places],
        "size": [int(COLUMNS["size"][i]) for i in places],
    }


@pytest.mark.parametrize(
    "absent",
    [0, 8, int(IDS[ROW_GROUP_ROWS]) - 1, int(IDS[-1]) + 1],
    ids=["before all", "inside a group", "between two groups", "behind all"],
)
def test_a_value_that_no_row_has_is_named(root: Root, absent: int) -> None:
    with pytest.raises(ValueError, match=rf"t\.parquet has no row with id = {absent}$"):
        opened(root).rows([int(IDS[0]), absent])


def test_a_look_up_reads_the_groups_of_its_rows_once(root: Root, monkeypatch: pytest.MonkeyPatch) -> None:
    read: list[int] = []
    whole = Root.read_bytes

    def counted(self: Root, path: str, *, offset: int = 0, size: int | None = None) -> bytes:
        data = whole(self, path, offset=offset, size=size)
        read.append(len(data))
        return data

    monkeypatch.setattr(Root, "read_bytes", counted)
    monkeypatch.setattr(sorted_table, "READ_AHEAD_BYTES", 1)
    table = opened(root)
    footer = sum(read)
    assert footer < root.size_bytes("t.parquet") / 4
    table.rows(IDS[:2])
    one_group = sum(read) - footer
    assert 0 < one_group < (root.size_bytes("t.parquet") - footer) / 2
    table.rows(IDS[3:9])
    assert sum(read) == footer + one_group


def test_with_read_ahead_a_group_costs_one_request(root: Root, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sorted_table, "READ_AHEAD_BYTES", 250_000)
    requests: list[int] = []
    whole = Root.read_bytes
    monkeypatch.setattr(Root, "read_bytes", lambda *a, **k: requests.append(1) or whole(*a, **k))
    table = opened(root)
    assert len(requests) == 1
    table.rows(IDS[[0, 5]])
    assert len(requests) <= 2


def test_no_more_than_the_bound_is_kept(root: Root, monkeypatch: pytest.MonkeyPatch) -> None:
    table = opened(root)
    reads: list[int] = []
    read_group = table._read_group
    monkeypatch.setattr(table, "_read_group", lambda group, columns: reads.append(group) or read_group(group, columns))
    first, second, third = (IDS[i * ROW_GROUP_ROWS + 1] for i in range(3))
    one_group = read_group(0, ["id", "name", "url", "size"]).nbytes
    monkeypatch.setattr(sorted_table, "CACHE_BYTES", int(2.5 * one_group))
    for value in (first, second, first, third, first, second):  # the third drives out the second, used longest ago
        table.rows([value])
    assert reads == [0, 1, 2, 1]
    assert len(table._groups) == 2


def test_a_scan_gives_every_row_once(root: Root) -> None:
    groups = list(opened(root).scan(["size", "name"]))
    assert np.concatenate([group["size"] for group in groups]).tolist() == COLUMNS["size"].tolist()
    assert [name for group in groups for name in group["name"]] == COLUMNS["name"]


def test_damage_and_absence_are_told_apart(root: Root) -> None:
    data = root.read_bytes("t.parquet")
    root.write_bytes("cut.parquet", data[:-9])
    with pytest.raises(BadTable, match=r"cut\.parquet"):
        SortedTable(root, "cut.parquet", by="id", columns=["size"])
    with pytest.raises(FileNotFoundError):
        SortedTable(root, "absent.parquet", by="id", columns=["size"])


@pytest.mark.parametrize("cuts", [[], [1], [5, 9000, 9001], list(range(0, NUM_ROWS, 1251))])
def test_joined_tables_have_the_bytes_of_all_rows_at_once(cuts: list[int]) -> None:
    bounds = [0, *cuts, NUM_ROWS]
    parts = (
        (f"part {a}", table_bytes({name: column[a:b] for name, column in COLUMNS.items()}, SCHEMA))
        for a, b in pairwise(bounds)
    )
    assert join_tables(parts, SCHEMA) == table_bytes(COLUMNS, SCHEMA)


def test_tables_that_do_not_fit_are_not_joined() -> None:
    other = table_bytes({"id": [1]}, {"id": "int64"})
    with pytest.raises(BadTable, match=r"of shard 3.*expected"):
        join_tables([("of shard 3", other)], SCHEMA)
    assert join_tables([], SCHEMA) == table_bytes([], SCHEMA)
