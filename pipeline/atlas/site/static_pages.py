"""Text of anybody's atlas as HTML, Markdown, YAML and BibTeX, and the pages that need no JavaScript. Pure.

Labels, titles and names are untrusted data. The templates escape every value, and the functions here do for the other
formats.
"""

import json
import re
from pathlib import Path
from typing import Final

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup, escape

from pipeline.errors import UserError

# The viewer's pages have the same policy in a <meta> tag, for hosts that set no headers.
META_SECURITY_POLICY: Final = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' blob:; connect-src 'self'; "
    "base-uri 'none'; form-action 'none'"
)
_CONTROL = re.compile(r"[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f\ufffe\uffff]")
_MARKDOWN = re.compile(r"([\\`*_{}\[\]<>()#+\-.!|~&$:@=])")
_BIBTEX = re.compile(r"[\\{}%$&#_~^\"]")


def html_text(value: object) -> str:
    """A value as HTML text or as a quoted attribute; characters that HTML forbids become U+FFFD."""
    return str(escape(_printable(value)))


def one_line(value: object, max_length: int = 200) -> str:
    """A value as one line of printable text of bounded length: for titles, previews and names in plain files."""
    words = "".join(character if character.isprintable() else " " for character in _encodable(value)).split()
    line = " ".join(words)
    return line if len(line) <= max_length else line[: max_length - 1].rstrip() + "…"


def markdown_text(value: object) -> str:
    """A value as Markdown that shows it as it is."""
    return _MARKDOWN.sub(r"\\\1", one_line(value, 2000))


def yaml_text(value: object) -> str:
    """A value as a double-quoted YAML scalar of one line (YAML 1.2 reads every JSON string)."""
    return json.dumps(one_line(value, 500), ensure_ascii=False)


def bibtex_text(value: object) -> str:
    """A value as BibTeX that needs no escape: what LaTeX reads as a command becomes a space."""
    return one_line(_BIBTEX.sub(" ", _encodable(value)), 500)


def page(template: str, *, title: str, up: str, **values: object) -> bytes:
    """A static page in the viewer's style.

    Args:
        template: name of a file in templates/; it escapes every value.
        title: plain text.
        up: path from the page to the site's root, "" or "../"….
        values: what the template shows.
    """
    return _ENVIRONMENT.get_template(template).render(title=title, up=up, **values).encode()


def check_base_url(url: str) -> str:
    """`url` with a slash at its end, if it is the plain address of a folder on the web.

    Raises:
        UserError: anything else.
    """
    if not re.fullmatch(r"https?://[A-Za-z0-9.\-]+(:\d{1,5})?(/[A-Za-z0-9._~%\-]+)*/?", url):
        raise UserError(
            f"address {url[:200]!r}: expected where the site will be, e.g. https://user.github.io/atlas/, without "
            "'?', '#' or spaces"
        )
    return url if url.endswith("/") else f"{url}/"


def _encodable(value: object) -> str:
    # Half of a surrogate pair may occur in JSON, but not in a UTF-8 file.
    return str(value).encode("utf-8", "replace").decode()


def _printable(value: object) -> object:
    """A value before it is escaped; what is HTML already stays."""
    return value if hasattr(value, "__html__") else _CONTROL.sub("\ufffd", _encodable(value))


_ENVIRONMENT = Environment(
    loader=FileSystemLoader(Path(__file__).parent / "templates"),
    autoescape=True,
    finalize=_printable,
    undefined=StrictUndefined,
    trim_blocks=True,
    lstrip_blocks=True,
    keep_trailing_newline=True,
)
_ENVIRONMENT.filters["one_line"] = one_line
_ENVIRONMENT.globals["policy"] = Markup(META_SECURITY_POLICY)
