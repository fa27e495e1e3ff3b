"""The atlas viewer: a static site of plain ES modules that shows one or more atlases.

Nothing here is built: the files of this folder are copied beside `sites.json` as they are.
"""

from __future__ import annotations

from pathlib import Path

VIEWER_FOLDER = Path(__file__).resolve().parent

# What a browser may load, and the licence texts that must travel with vendored code.
PUBLISHED_SUFFIXES = frozenset({".html", ".css", ".js", ".svg", ".md", ".LICENSE"})


def viewer_files() -> dict[str, Path]:
    """Files of the viewer: path inside the site (with forward slashes) → file on disk, sorted by path.

    Raises:
        FileNotFoundError: the package was installed without its site files.
    """
    files = {
        path.relative_to(VIEWER_FOLDER).as_posix(): path
        for path in sorted(VIEWER_FOLDER.rglob("*"))
        if path.is_file() and path.suffix in PUBLISHED_SUFFIXES
    }
    if "index.html" not in files:
        raise FileNotFoundError(
            f"the viewer's index.html is missing from {VIEWER_FOLDER}: reinstall the package "
            "(its package data was left out)"
        )
    return files
