"""Work ahead: the results in order, few at once, and what goes wrong is raised when its turn comes."""

import threading

import pytest

from pipeline.atlas.format.file_list import FileList, build_id, file_entry
from pipeline.io.prefetch import ahead


def test_results_come_in_order_and_few_things_are_begun() -> None:
    begun, lock = [], threading.Lock()

    def work(thing: int) -> int:
        with lock:
            begun.append(thing)
        return thing * thing

    taken = []
    for thing, result in ahead(work, range(50), threads=3, most=5):
        assert result == thing * thing
        assert len(begun) <= len(taken) + 6
        taken.append(thing)
    assert taken == list(range(50))


def test_an_error_is_raised_in_its_turn_and_ends_the_work() -> None:
    begun = []

    def work(thing: int) -> int:
        begun.append(thing)
        if thing == 3:
            raise FileNotFoundError(thing)
        return thing

    results = ahead(work, range(1000), threads=1, most=4)
    assert [next(results)[1] for _ in range(3)] == [0, 1, 2]
    with pytest.raises(FileNotFoundError):
        next(results)
    assert len(begun) < 10


def test_a_list_of_files_is_by_path_and_has_the_build_id_of_its_entries() -> None:
    entries = [file_entry(path, path.encode()) for path in ("b", "head.json", "a/c")]
    files = FileList(entries)
    assert list(files) == sorted(entries, key=lambda entry: entry["path"])
    assert "b" in files
    assert files["b"] == entries[0]
    assert build_id(files) == build_id(entries) == build_id(files for files in entries if files["path"] != "head.json")
    with pytest.raises(ValueError, match="b would be listed twice"):
        files.add(entries[0])
