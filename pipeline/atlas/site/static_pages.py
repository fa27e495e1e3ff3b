"""Text of anybody's atlas as HTML, Markdown, YAML and BibTeX, and the frame of the pages that need no JavaScript. Pure.

Labels, titles and names are data. Every value goes through one of the functions here exactly once, and nothing else
puts it into a file.
"""

import html
import json
import re
from typing import Final
from pipeline.errors import UserError

# The viewer's pages carry the same policy as a <meta> tag, for hosts that set no headers.
META_SECURITY_POLICY: Final = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' blob:; connect-src 'self'; "
    "base-uri 'none'; form-action 'none'"
)
_CONTROL = re.compile(r"[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f\ufffe\uffff]")
_MARKDOWN = re.compile(r"([\\`*_{}\[\]<>()#+\-.!|~&$:@=])")
_BIBTEX = re.compile(r"[\\{}%$&#_~^\"]")


def html_text(value: object) -> str:
    """A value as HTML text or as a quoted attribute; characters that HTML forbids become U+FFFD."""
    return html.escape(_CONTROL.sub("\ufffd", _encodable(value)), quote=True)


def isolated(value: object) -> str:
    """`html_text` in an element that keeps right-to-left marks inside it from turning what stands around it."""
    return f"<bdi>{html_text(value)}</bdi>"


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


def html_page(*, title: str, body: str, up: str, head: str = "") -> bytes:
    """A static page in the viewer's style.

    Args:
        title: plain text.
        body: HTML of the page.
        up: path from the page to the site's root, "" or "../"….
        head: more HTML for the head.
    """
    return f"""<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta http-equiv="Content-Security-Policy" content="{META_SECURITY_POLICY}">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta name="referrer" content="no-referrer">
<meta name="color-scheme" content="light dark">
<title>{html_text(one_line(title))}</title>
<link rel="icon" href="{up}icon.svg" type="image/svg+xml">
<link rel="stylesheet" href="{up}style.css">
<script src="{up}theme.js"></script>
{head}</head>
<body>
<main class="page prose">
{body}
</main>
</body>
</html>
""".encode()


def html_link(href: str, text: object) -> str:
    """A link; `href` is a path or address that was checked or made here."""
    return f'<a href="{html_text(href)}">{isolated(text)}</a>'


def html_facts(facts: list[tuple[str, str]]) -> str:
    """Terms with their values, already HTML, as the viewer lists them."""
    lines = "\n".join(f"<div><dt>{html_text(term)}</dt><dd>{value}</dd></div>" for term, value in facts)
    return f'<dl class="facts">\n{lines}\n</dl>'


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
    # Half of a surrogate pair may stand in JSON, but not in a UTF-8 file.
    return str(value).encode("utf-8", "replace").decode()
