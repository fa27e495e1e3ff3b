"""Class names from text files: encodings, marks, empty lines."""

import pytest

from pipeline.errors import UserError
from pipeline.models.labels import class_names, known_names, read_class_list


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "utf-32"])
def test_a_byte_order_mark_is_no_part_of_a_label(tmp_path, encoding):
    path = tmp_path / "names.txt"
    path.write_bytes("Käse\r\nhot\u2028dog \r\nWein\r\n\r\n".encode(encoding))
    assert class_names(str(path), 3) == ["Käse", "hot\u2028dog", "Wein"]


@pytest.mark.parametrize(
    ("data", "message"),
    [
        ("Käse\nWein".encode("latin-1"), r"is not UTF-8 \(line 1: .*save it as UTF-8"),
        ("Kase\nWein".encode("utf-16-le"), "holds zero bytes"),
        (b"a\n\nb\n", "line 2 is empty"),
        (b"\xef\xbb\xbf \n", "is empty"),
        (b"a\nb\n", "has 2 lines, the model has 3 classes"),
    ],
)
def test_what_is_no_list_of_names_is_refused(tmp_path, data, message):
    (tmp_path / "names.txt").write_bytes(data)
    with pytest.raises(UserError, match=message):
        class_names(str(tmp_path / "names.txt"), 3)


def test_missing_files_and_folders_are_refused(tmp_path):
    for place in (tmp_path / "no.txt", f"{tmp_path}/", "/no.txt", "imagenet-1k"):
        with pytest.raises(UserError, match="there is no such file"):
            read_class_list(str(place))
    with pytest.raises(UserError, match="is a folder"):
        read_class_list(str(tmp_path))


def test_a_line_may_hold_an_id_and_synonyms(tmp_path):
    (tmp_path / "synset_words.txt").write_text("n01440764 tench, Tinca tinca\ncat\n")
    assert known_names(str(tmp_path / "synset_words.txt")) == [
        ["tench, Tinca tinca", "tench", " Tinca tinca", "n01440764"],
        ["cat", "cat"],
    ]
