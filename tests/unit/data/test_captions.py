"""Captions: found where the recipe says, made one short line whatever stands there, and never a reason to skip."""

import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from pipeline.data.captions import MAX_CAPTION_CHARACTERS, MAX_JSON_BYTES, MAX_TEXT_BYTES, one_line
from pipeline.data.shards import iterate_samples, write_shards
from pipeline.recipe.recipe import Recipe, RecipeError
from tests.support.tiny_run import recipe_toml, write_tar

HEART = "\N{HEAVY BLACK HEART}"


def read(folder: Path, members: dict[str, bytes], caption_key: str) -> list[str | None]:
    """Captions of a shard with one sample of the key `a`, and of one after it."""
    path = write_tar(folder / "s.tar", list({"a.jpg": b"1", **members, "b.jpg": b"2", "b.txt": b"next"}.items()))
    samples = list(iterate_samples(str(path), caption_key=caption_key, num_classes=None, on_skip=pytest.fail))
    assert [(sample.key, sample.image) for sample in samples] == [("a", b"1"), ("b", b"2")]
    return [sample.caption for sample in samples]


@pytest.mark.parametrize(
    ("members", "caption_key", "caption"),
    [
        ({"a.txt": b"a dog"}, "txt", "a dog"),
        ({"a.txt": b"a dog"}, "TXT ; json:caption", "a dog"),
        ({"a.caption.txt": b"a cat"}, "caption.txt", "a cat"),
        ({"a.json": b'{"caption": "a bee", "text": "no"}'}, "json:caption", "a bee"),
        ({"a.json": b'{"alt text": "spaced"}'}, "json:alt text", "spaced"),
        ({"a.txt": b" \n ", "a.json": b'{"caption": "second"}'}, "txt;json:caption", "second"),
        ({}, "txt", ""),
        ({"a.json": b"{}"}, "json:caption", ""),
        # Damaged, hostile, or not text.
        ({"a.txt": b"two\r\n\tlines\x00\x1b[31m\x85end"}, "txt", "two lines [31m\ufffdend"),
        ({"a.txt": b"\xff\xfe broken"}, "txt", "\ufffd\ufffd broken"),
        ({"a.txt": "\ufeffwith a mark".encode()}, "txt", "with a mark"),
        ({"a.txt": "<script>alert('\u202e')</script> 🧑‍🚀".encode()}, "txt", "<script>alert('\u202e')</script> 🧑‍🚀"),
        ({"a.json": rb'{"caption": "half \ud83d a pair \ud83d\ude00"}'}, "json:caption", "half \ufffd a pair 😀"),
        *[({"a.json": b'{"caption": %s}' % value}, "json:caption", "") for value in (b"3", b"null", b'["x"]', b"{}")],
        ({"a.json": b'["caption"]'}, "json:caption", ""),
        ({"a.json": b'{"caption": "cut'}, "json:caption", ""),
        ({"a.json": b"[" * 100_000}, "json:caption", ""),
        ({"a.json": b'{"n": ' + b"9" * 5000 + b', "caption": "beside a long number"}'}, "json:caption", ""),
    ],
)
def test_what_stands_there_becomes_one_line_or_nothing(tmp_path, members, caption_key, caption):
    assert read(tmp_path, members, caption_key)[0] == caption


def test_without_a_key_no_sample_has_one(tmp_path):
    assert read(tmp_path, {"a.txt": b"a dog"}, "") == [None, None]


def test_members_are_read_up_to_a_bound(tmp_path):
    """A megabyte of text gives its beginning, two of JSON nothing; neither is read whole."""
    long = (HEART.encode() * 20 + b" ") * 50_000
    caption, following = read(tmp_path, {"a.txt": long}, "txt")
    assert caption == ((HEART * 20 + " ") * 48)[:MAX_CAPTION_CHARACTERS].rstrip()
    assert following == "next"
    large = json.dumps({"caption": "behind a megabyte", "more": "x" * 2 * MAX_JSON_BYTES}).encode()
    assert read(tmp_path, {"a.json": large}, "json:caption") == ["", ""]
    assert MAX_TEXT_BYTES >= 4 * MAX_CAPTION_CHARACTERS


def test_an_image_is_read_whole_even_if_its_member_is_taken_for_a_caption(tmp_path):
    image = b"x" * (MAX_TEXT_BYTES + 100)
    (sample,) = iterate_samples(
        str(write_tar(tmp_path / "s.tar", [("a.jpg", image)])),
        caption_key="jpg",
        num_classes=None,
        on_skip=pytest.fail,
    )
    assert sample.image == image
    assert sample.caption == "x" * MAX_CAPTION_CHARACTERS


@given(text=st.text(st.characters(codec=None), max_size=40))
def test_any_text_becomes_one_line_that_utf8_can_write(text):
    line = one_line(text * 200)
    assert len(line) <= MAX_CAPTION_CHARACTERS
    assert line.encode("utf-8").decode() == line == one_line(line)
    assert not any(ord(character) < 32 or 127 <= ord(character) < 160 for character in line)


@pytest.mark.parametrize("value", ["txt", "caption.txt; json:alt text", "json:caption", ""])
def test_keys_of_a_recipe(tmp_path, value):
    text = recipe_toml("s.tar", tmp_path, data=f"caption_key = {json.dumps(value)}")
    assert Recipe.from_toml(text).data.caption_key == value


@pytest.mark.parametrize("value", ["json:", "txt:caption", "txt;;json:x", " ", 3])
def test_bad_keys_are_named(tmp_path, value):
    text = recipe_toml("s.tar", tmp_path, data=f"caption_key = {json.dumps(value)}")
    with pytest.raises(RecipeError, match=r'data\.caption_key = .*: expected suffixes such as "txt", or "json:KEY"'):
        Recipe.from_toml(text)


def test_a_text_beside_an_image_becomes_its_caption(tmp_path):
    images = tmp_path / "in"
    images.mkdir()
    for name in ("a.jpg", "b.png", "c.jpg"):
        Image.new("RGB", (8, 8)).save(images / name)
    (images / "a.txt").write_text("  a red\nkite ", encoding="utf-8")
    (images / "c.txt").write_text("\n", encoding="utf-8")
    (images / "readme.txt").write_text("of no image", encoding="utf-8")
    report = write_shards(images, tmp_path / "out", name="x")
    assert (report.num_samples, report.num_ignored) == (3, 1)
    samples = iterate_samples(
        str(tmp_path / "out/x-000000.tar"), caption_key="json:caption", num_classes=None, on_skip=pytest.fail
    )
    assert [(sample.key, sample.caption) for sample in samples] == [("a", "a red kite"), ("b", ""), ("c", "")]
