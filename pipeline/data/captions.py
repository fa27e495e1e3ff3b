"""Captions: what somebody wrote about an image, as a sample of a tar shard holds it, made one short line of text.

A caption may be missing, damaged or not text at all; then it is "". It never is a reason to leave out an image.
"""

import json
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Final

# A caption of COCO has 50 characters, alternative texts of the web a few hundred: this holds a paragraph, and a table
# with the captions of 64 neurons (16 each) stays below a megabyte whatever the data set says.
MAX_CAPTION_CHARACTERS: Final = 1000
# What is read of a member: of a text more than the caption takes (4 bytes a character, and space to be folded), of JSON
# all or nothing.
MAX_TEXT_BYTES: Final = 16 << 10
MAX_JSON_BYTES: Final = 1 << 20

JSON_PREFIX: Final = "json:"
_FORM: Final = r"(json:[^;]*[^;\s]|[^;:\s]+)"
CAPTION_KEY: Final = rf"|\s*{_FORM}(\s*;\s*{_FORM})*\s*"  # what a recipe's data.caption_key may be
# Spaces of all kinds, line breaks and control characters (C0, DEL, C1).
_SPACES: Final = re.compile(r"[\s\x00-\x1f\x7f-\x9f]+")
_SURROGATES: Final = re.compile("[\ud800-\udfff]")  # JSON can name half a character, UTF-8 cannot write it


@dataclass(frozen=True, kw_only=True)
class CaptionField:
    """Where a caption may stand: in the member of a suffix, as its text or under a key of its JSON object."""

    suffix: str
    json_key: str | None

    @property
    def max_bytes(self) -> int:
        """How much of the member is worth reading."""
        return MAX_TEXT_BYTES if self.json_key is None else MAX_JSON_BYTES

    def text(self, data: bytes) -> str:
        """The caption in the member, or in the first `max_bytes` of it; "" if there is none."""
        if self.json_key is None:
            return one_line(data[:MAX_TEXT_BYTES].decode("utf-8-sig", "replace"))
        try:
            description = json.loads(data.decode("utf-8-sig", "replace"))
        except (ValueError, RecursionError):  # no JSON, cut at the bound, or nested beyond measure
            return ""
        value = description.get(self.json_key) if isinstance(description, dict) else None
        return one_line(value) if isinstance(value, str) else ""


def caption_fields(caption_key: str) -> list[CaptionField]:
    """The fields that a recipe's `data.caption_key` names, in order of preference: suffixes and `json:KEY`."""
    fields = []
    for part in filter(None, (part.strip() for part in caption_key.split(";"))):
        is_json = part.startswith(JSON_PREFIX)
        fields.append(
            CaptionField(
                suffix="json" if is_json else part.lower(),
                json_key=part.removeprefix(JSON_PREFIX).strip() if is_json else None,
            )
        )
    return fields


def find_caption(fields: Sequence[CaptionField], member: Callable[[str], bytes | None]) -> str:
    """The first caption that is not empty, "" if there is none.

    Args:
        fields: where it may stand.
        member: suffix → the beginning of that member of the sample, None if it has none.
    """
    for field in fields:
        data = member(field.suffix)
        text = field.text(data) if data is not None else ""
        if text:
            return text
    return ""


def one_line(text: str) -> str:
    """A text without line breaks and control characters, at most MAX_CAPTION_CHARACTERS long."""
    # Cut first: a megabyte of JSON is not folded as a whole.
    folded = _SPACES.sub(" ", text[: 4 * MAX_CAPTION_CHARACTERS]).strip()
    return _SURROGATES.sub("\ufffd", folded[:MAX_CAPTION_CHARACTERS]).rstrip()
