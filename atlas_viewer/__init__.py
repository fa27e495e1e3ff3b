"""The atlas viewer: a static site of plain ES modules that shows one or more atlases.

There is no build step: the files of this folder run as they are, and `site` only leaves out their comments.
"""

from pathlib import Path

import rcssmin
import rjsmin

VIEWER_FOLDER = Path(__file__).resolve().parent
VENDOR_FOLDER = VIEWER_FOLDER / "vendor"

# What a browser may load, and the license texts of vendored code.
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


def published_bytes(file: Path) -> bytes:
    """A viewer file as a site has it: our scripts and styles without comments and indentation.

    Some hosts (S3) do not compress. Vendored code stays unchanged.
    """
    if VENDOR_FOLDER not in file.parents and file.suffix == ".js":
        return rjsmin.jsmin(file.read_bytes())
    if VENDOR_FOLDER not in file.parents and file.suffix == ".css":
        return rcssmin.cssmin(file.read_bytes())
    return file.read_bytes()
