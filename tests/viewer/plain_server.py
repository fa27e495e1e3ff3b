"""Small web servers as people have them: below a path, without HTTP Range, with gzip, with answers that are wrong."""

import atexit
import gzip
import threading
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, Literal

Ranges = Literal["ignored", "wrong place", "cut off"]


def run_to_the_end(server: ThreadingHTTPServer) -> str:
    """Serve in the background until all tests are over, and the address.

    A page may still be asking for images when its test ends: a server that ended with the test would make errors in
    it, now and then.
    """
    threading.Thread(target=server.serve_forever, daemon=True).start()
    atexit.register(server.server_close)
    return f"http://127.0.0.1:{server.server_address[1]}"


def plain_server(folder: Path, *, prefix: str = "/", gzipped: bool = False, ranges: Ranges = "ignored") -> str:
    """Serve `folder` below `prefix` on a free port of 127.0.0.1, until all tests are over; gives the address.

    Args:
        folder: the site.
        prefix: path that it is published under, with slashes at both ends.
        gzipped: every file is compressed on its way, whatever its type, for browsers that take it.
        ranges: what becomes of a request for a part of a file.
    """

    class Handler(SimpleHTTPRequestHandler):
        def __init__(self, *arguments: Any) -> None:
            super().__init__(*arguments, directory=str(folder))

        def log_message(self, format: str, *args: Any) -> None:
            """Say nothing."""

        def do_HEAD(self) -> None:
            self._answer(body=False)

        def do_GET(self) -> None:
            self._answer(body=True)

        def _answer(self, *, body: bool) -> None:
            file = Path(super().translate_path(self.path.removeprefix(prefix.rstrip("/"))))
            file = file / "index.html" if file.is_dir() else file
            if not self.path.startswith(prefix) or not file.is_file():
                self.send_error(404)
                return
            data, status, headers = file.read_bytes(), 200, {}
            if ranges != "ignored" and (wanted := self.headers.get("Range")):
                first, last = (int(number) for number in wanted.removeprefix("bytes=").split("-"))
                shift = 7 if ranges == "wrong place" and last - first > 4 else 0
                headers["Content-Range"] = f"bytes {first + shift}-{last + shift}/{len(data)}"
                data, status = data[first + shift : last + 1 + shift], 206
                if ranges == "cut off" and len(data) > 4:
                    data = data[:-3]
            if gzipped and "gzip" in self.headers.get("Accept-Encoding", ""):
                data = gzip.compress(data, 1)
                headers["Content-Encoding"] = "gzip"
            self.send_response(status)
            for name, value in {"Content-Type": self.guess_type(str(file)), **headers}.items():
                self.send_header(name, value)
            self.send_header("Content-Length", str(len(data)))
            self.end_headers()
            if body:
                self.wfile.write(data)

    return run_to_the_end(ThreadingHTTPServer(("127.0.0.1", 0), Handler)) + prefix
