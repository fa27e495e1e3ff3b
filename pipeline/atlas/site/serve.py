"""Preview an atlas or a site on this machine: a small HTTP server on 127.0.0.1 and nowhere else.

An atlas folder is served as a site with one atlas, under the same addresses as a published one, with its data card. Only
files that the viewer, sites.json or atlas.json name are served from it; from a site every plain file, but no hidden one
and no listing.
"""

import errno
import json
import os
import re
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from io import BytesIO
from pathlib import Path
from typing import Any, BinaryIO, Final
from urllib.parse import unquote, urlsplit

from atlas_viewer import viewer_files
from pipeline.atlas.format.schema import check_atlas_path
from pipeline.atlas.site.data_card import card_files
from pipeline.atlas.site.site import atlas_folder, read_atlas, site_entry, sites_json, slug_of
from pipeline.atlas.site.static_pages import META_SECURITY_POLICY
from pipeline.errors import UserError
from pipeline.io.root import Root

# The pages have the policy in a <meta> tag too; frame-ancestors only counts in a header.
SECURITY_POLICY: Final = f"{META_SECURITY_POLICY}; frame-ancestors 'none'"

MIME_TYPES: Final = {
    ".html": "text/html; charset=utf-8",
    ".js": "text/javascript; charset=utf-8",
    ".css": "text/css; charset=utf-8",
    ".json": "application/json",
    ".svg": "image/svg+xml",
    ".png": "image/png",
    ".ico": "image/x-icon",
    ".webp": "image/webp",
    ".parquet": "application/vnd.apache.parquet",
    ".zip": "application/zip",
    ".xml": "application/xml",
    ".toml": "application/toml",
    ".cff": "text/plain; charset=utf-8",
    ".bib": "text/plain; charset=utf-8",
    ".md": "text/plain; charset=utf-8",
    ".txt": "text/plain; charset=utf-8",
    ".license": "text/plain; charset=utf-8",
}
_BUILD_FILE = re.compile(r"atlases/[^/]+/[0-9a-f]{16}/.+")  # never changes: the build id is in its address
_RANGE = re.compile(r"bytes=(\d{1,18})?-(\d{1,18})?")
_IDLE_TIMEOUT_S: Final = 30
_CHUNK_BYTES: Final = 1 << 16

Resource = Path | bytes
Lookup = Callable[[str], Resource | None]  # address without leading slash → what lies there


def serve(path: str | Path, port: int = 8000) -> None:
    """Serve `path` until interrupted, and print where.

    Raises:
        UserError: neither an atlas nor a site, not local, or the port is taken.
    """
    with make_server(path, port) as server:
        print(f"Serving {path} at http://127.0.0.1:{server.server_address[1]}/ (Ctrl+C ends it)", flush=True)
        try:
            server.serve_forever()
        except KeyboardInterrupt:
            print("Stopped.")


def make_server(path: str | Path, port: int = 8000) -> ThreadingHTTPServer:
    """The server of an atlas folder or a site, bound to 127.0.0.1; port 0 takes a free one."""
    root = Root.open(str(path))
    if not root.is_local:
        raise UserError(
            f"{root.url}: `serve` shows local folders only; publish with `neuron-atlas site` and open its address"
        )
    if root.exists("sites.json"):
        lookup: Lookup = _SiteFiles(root.local_path)
    elif root.exists("atlas.json"):
        lookup = _AtlasFiles(root)
    else:
        raise UserError(
            f"{root.url}: neither atlas.json nor sites.json; build the atlas first "
            "(`neuron-atlas build RECIPE`, `make demo`)"
        )
    handler = type("Handler", (_Handler,), {"lookup": staticmethod(lookup)})
    try:
        return _Server(("127.0.0.1", port), handler)
    except OSError as error:
        if error.errno != errno.EADDRINUSE:
            raise
        raise UserError(f"port {port} is taken: end what runs there or give another one with --port") from error


class _Server(ThreadingHTTPServer):
    daemon_threads = True

    def handle_error(self, request: Any, client_address: Any) -> None:
        # A browser that closes the connection in the middle (a gallery scrolled past) is no error.
        if not isinstance(sys.exception(), ConnectionError):
            super().handle_error(request, client_address)


class _SiteFiles:
    """Plain files below a site's folder."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder.resolve()

    def __call__(self, address: str) -> Resource | None:
        return _contained(self._folder, address)


class _AtlasFiles:
    """One atlas as a site: viewer, a sites.json made for it, and the listed files under their build's address."""

    def __init__(self, root: Root) -> None:
        self._root = root
        self._folder = root.local_path.resolve()
        self._viewer = viewer_files()
        self._lock = threading.Lock()
        self._version: object = None
        self._prefix = ""
        self._listed: set[str] = set()
        self._made: dict[str, bytes] = {}  # sites.json, the data card and the other pages that `site` makes
        self._refresh()

    def __call__(self, address: str) -> Resource | None:
        if address in self._viewer:
            return self._viewer[address]
        with self._lock:
            if address == "sites.json":
                self._refresh()
            if address in self._made:
                return self._made[address]
            prefix, listed = self._prefix, self._listed
        path = address.removeprefix(prefix)
        return _contained(self._folder, path) if address.startswith(prefix) and path in listed else None

    def _refresh(self) -> None:
        """Read atlas.json again if it changed, so that a new build shows up without a new server."""
        try:
            status = (self._folder / "atlas.json").stat()
        except FileNotFoundError:
            return  # a build is under way: keep the old one
        if self._version == (status.st_mtime_ns, status.st_size):
            return
        atlas = read_atlas(self._root)
        slug = slug_of(atlas["name"])
        self._version = (status.st_mtime_ns, status.st_size)
        self._prefix = atlas_folder(slug, atlas) + "/"
        self._listed = {"atlas.json", *(entry["path"] for entry in atlas["files"])}
        entry = site_entry(slug, atlas)
        self._made = {**card_files([(entry, atlas)]), "sites.json": json.dumps(sites_json([entry])).encode()}


def _contained(folder: Path, path: str) -> Path | None:
    """The plain file `path` below `folder` (already resolved), or None, also for a link that leads out."""
    try:
        file = (folder / check_atlas_path(path)).resolve()
    except (UserError, OSError):
        return None
    return file if file.is_relative_to(folder) and file.is_file() else None


class _Handler(BaseHTTPRequestHandler):
    """GET and HEAD of what `lookup` finds, with single byte ranges (RFC 9110, section 14)."""

    lookup: Lookup
    protocol_version = "HTTP/1.1"
    server_version = "neuron-atlas"
    sys_version = ""
    timeout = _IDLE_TIMEOUT_S
    disable_nagle_algorithm = True  # headers and body are two writes; the second must not wait for an acknowledgment

    def do_GET(self) -> None:
        self._answer(with_body=True)

    def do_HEAD(self) -> None:
        self._answer(with_body=False)

    def log_message(self, format: str, *args: Any) -> None:
        """Print nothing: a gallery requests hundreds of files."""

    def end_headers(self) -> None:
        self.send_header("Content-Security-Policy", SECURITY_POLICY)
        self.send_header("X-Content-Type-Options", "nosniff")
        self.send_header("Referrer-Policy", "no-referrer")
        self.send_header("Cross-Origin-Resource-Policy", "same-origin")
        super().end_headers()

    def _answer(self, *, with_body: bool) -> None:
        try:
            address = unquote(urlsplit(self.path).path, errors="strict").removeprefix("/") or "index.html"
            found = self.lookup(address)
            if found is None:
                self._refuse(HTTPStatus.NOT_FOUND, b"404: there is no such file here\n", with_body=with_body)
                return
            with _opened(found) as (stream, size):
                self._send(address, stream, size, with_body=with_body)
        except UnicodeDecodeError:
            self._refuse(HTTPStatus.BAD_REQUEST, b"400: the address is not UTF-8\n", with_body=with_body)

    def _send(self, address: str, stream: BinaryIO, size: int, *, with_body: bool) -> None:
        start, end = 0, size
        requested = _parse_range(self.headers.get("Range"), size)
        if requested == "unsatisfiable":
            self.send_response(HTTPStatus.REQUESTED_RANGE_NOT_SATISFIABLE)
            self.send_header("Content-Range", f"bytes */{size}")
            self.send_header("Content-Length", "0")
            self.end_headers()
            return
        if isinstance(requested, tuple):
            start, end = requested
            self.send_response(HTTPStatus.PARTIAL_CONTENT)
            self.send_header("Content-Range", f"bytes {start}-{end - 1}/{size}")
        else:
            self.send_response(HTTPStatus.OK)
        kept = _BUILD_FILE.fullmatch(address)
        suffix = os.path.splitext(address)[1].lower()
        self.send_header("Content-Type", MIME_TYPES.get(suffix, "application/octet-stream"))
        self.send_header("Content-Length", str(end - start))
        self.send_header("Accept-Ranges", "bytes")
        self.send_header("Cache-Control", "private, max-age=3600" if kept else "no-cache")
        self.end_headers()
        if with_body:
            stream.seek(start)
            while start < end and (data := stream.read(min(_CHUNK_BYTES, end - start))):
                self.wfile.write(data)
                start += len(data)
            self.close_connection |= start < end  # the file shrank: the promised length cannot be kept

    def _refuse(self, status: HTTPStatus, text: bytes, *, with_body: bool) -> None:
        self.send_response(status)
        self.send_header("Content-Type", "text/plain; charset=utf-8")
        self.send_header("Content-Length", str(len(text)))
        self.send_header("Cache-Control", "no-cache")
        self.end_headers()
        if with_body:
            self.wfile.write(text)


@contextmanager
def _opened(resource: Resource) -> Iterator[tuple[BinaryIO, int]]:
    """(stream, size in bytes) of a resource: the size of the opened file, whatever a rebuild does."""
    with BytesIO(resource) if isinstance(resource, bytes) else resource.open("rb") as stream:
        yield stream, stream.seek(0, os.SEEK_END)


def _parse_range(header: str | None, size: int) -> tuple[int, int] | str | None:
    """(start, end) of one range, "unsatisfiable", or None for no, several or malformed ranges."""
    match = _RANGE.fullmatch(header.replace(" ", "")) if header else None
    if match is None or (match.group(1) is None and match.group(2) is None):
        return None
    first, last = (int(group) if group is not None else None for group in match.groups())
    if first is None:
        assert last is not None
        return (max(0, size - last), size) if last and size else "unsatisfiable"
    if last is not None and last < first:
        return None
    return (first, min(size, size if last is None else last + 1)) if first < size else "unsatisfiable"
