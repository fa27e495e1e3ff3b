"""A real S3 server on loopback, and in front of it a proxy that lets requests fail the way networks do.

    with S3Server() as server:
        server.choose = every(5, "500", "drop-request")   # each fifth request fails, in turn in these ways
        ...
        server.choose = no_faults

Faults go by the number of the request, not by chance, so a test that fails does so again.
"""

import http.client
import logging
import re
import socket
import threading
import time
import uuid
from collections.abc import Callable
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Literal, TypeAlias

from moto.server import ThreadedMotoServer

# 500, 503: the answer of a server that fails or wants fewer requests. drop-request: the connection ends in the middle
# of the upload (or before the answer), and the server keeps nothing of it, as S3 does with an incomplete body.
# drop-response: the server has done what was asked, and the connection ends in the middle of the answer. stall:
# the answer comes after `stall_s`. refuse: the connection ends at once, as when nobody is there.
Fault: TypeAlias = Literal["500", "503", "drop-request", "drop-response", "stall", "refuse"]
_CODES = {"500": "InternalError", "503": "SlowDown"}


@dataclass(frozen=True)
class Request:
    """One request as the proxy saw it; `number` counts from 1, `path` is still quoted."""

    number: int
    method: str
    path: str


def no_faults(request: Request) -> Fault | None:
    """Let every request through."""
    return None


def every(nth: int, *kinds: Fault) -> Callable[[Request], Fault | None]:
    """Let each `nth` request fail, in the ways given, in turn."""

    def choose(request: Request) -> Fault | None:
        turn, rest = divmod(request.number, nth)
        return None if rest else kinds[(turn - 1) % len(kinds)]

    return choose


def environment_of(server: "S3Server") -> dict[str, str]:
    """The variables that name the server to a process, as in a user's shell."""
    return {
        "AWS_ACCESS_KEY_ID": "test",
        "AWS_SECRET_ACCESS_KEY": "test",
        "AWS_DEFAULT_REGION": "us-east-1",
        "AWS_ENDPOINT_URL": server.url,
    }


class S3Server:
    """The server and its proxy; `url` is the endpoint, `requests` what came in."""

    def __init__(self) -> None:
        logging.getLogger("werkzeug").setLevel(logging.ERROR)
        self._moto = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
        self._moto.start()
        self.upstream = self._moto.get_host_and_port()
        self._proxy = ThreadingHTTPServer(("127.0.0.1", 0), _handler_of(self))
        self._proxy.daemon_threads = True
        self._thread = threading.Thread(target=self._proxy.serve_forever, kwargs={"poll_interval": 0.02})
        self._thread.start()
        self.url = f"http://127.0.0.1:{self._proxy.server_address[1]}"
        self._lock = threading.Lock()
        self.reset()

    def reset(self) -> None:
        """No faults, nothing hidden, no requests counted."""
        self.choose: Callable[[Request], Fault | None] = no_faults
        self.stall_s = 0.0
        self.hide_younger_s = 0.0  # objects this young are left out of listings
        self.requests: list[Request] = []
        self.written_at: dict[str, float] = {}

    def __enter__(self) -> "S3Server":
        return self

    def __exit__(self, *_: object) -> None:
        self._proxy.shutdown()
        self._thread.join()
        self._proxy.server_close()
        self._moto.stop()

    def make_bucket(self) -> str:
        """Make a new bucket and return its name."""
        name = f"test-{uuid.uuid4().hex[:12]}"
        connection = http.client.HTTPConnection(*self.upstream)
        connection.request("PUT", f"/{name}")
        assert connection.getresponse().status == 200
        connection.close()
        return name

    def count(self, method: str, path: str) -> tuple[Request, Fault | None]:
        """Count a request and choose how it fails, if at all."""
        with self._lock:
            request = Request(len(self.requests) + 1, method, path)
            self.requests.append(request)
            return request, self.choose(request)

    def without_young(self, bucket: str, listing: bytes) -> bytes:
        """A listing without the objects written just now."""

        def keep(entry: re.Match[bytes]) -> bytes:
            written = self.written_at.get(f"/{bucket}/{entry[1].decode()}", float("-inf"))
            return entry[0] if time.monotonic() - written >= self.hide_younger_s else b""

        return re.sub(rb"<Contents><Key>(.*?)</Key>.*?</Contents>", keep, listing, flags=re.DOTALL)


def _handler_of(server: S3Server) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"
        disable_nagle_algorithm = True  # or each answer waits 40 ms for an acknowledgment that the kernel delays

        def log_message(self, format: str, *arguments: object) -> None:
            """Say nothing: the server counts requests itself."""

        def handle_one_request(self) -> None:
            try:
                super().handle_one_request()
            except ConnectionError:  # of a client that did not wait, or was killed
                self.close_connection = True

        def _forward(self) -> None:
            _, fault = server.count(self.command, self.path)
            if fault == "refuse":
                self._hang_up()
                return
            length = int(self.headers.get("Content-Length") or 0)
            if fault == "drop-request":
                self.rfile.read(length // 2)
                self._hang_up()
                return
            body = self.rfile.read(length)
            if fault in ("500", "503"):
                code = _CODES[fault]
                self._answer(int(fault), {}, f"<Error><Code>{code}</Code><Message>{code}</Message></Error>".encode())
                return
            status, headers, answer = self._ask_upstream(body)
            if fault == "stall":
                time.sleep(server.stall_s)
            if fault != "drop-response":
                self._answer(status, headers, answer)
                return
            if answer:
                self._answer(status, headers, answer, send_bytes=len(answer) // 2)
            self._hang_up()

        def _ask_upstream(self, body: bytes) -> tuple[int, dict[str, str], bytes]:
            connection = http.client.HTTPConnection(*server.upstream)
            try:
                connection.request(self.command, self.path, body or None, dict(self.headers))
                answer = connection.getresponse()
                data, headers = answer.read(), dict(answer.getheaders())
            finally:
                connection.close()
            path, _, query = self.path.partition("?")
            if self.command == "PUT":
                server.written_at[path] = time.monotonic()
            if "list-type" in query:
                data = server.without_young(path.strip("/"), data)
            return answer.status, headers, data

        def _answer(self, status: int, headers: dict[str, str], body: bytes, *, send_bytes: int | None = None) -> None:
            self.send_response_only(status)
            for name, value in headers.items():
                if name.lower() not in ("content-length", "transfer-encoding", "connection", "server"):
                    self.send_header(name, value)
            # The length that the answer to HEAD announces is the object's.
            announced = headers.get("Content-Length", "0") if self.command == "HEAD" else str(len(body))
            self.send_header("Content-Length", announced)
            self.end_headers()
            self.wfile.write(body[:send_bytes])
            self.wfile.flush()

        def _hang_up(self) -> None:
            self.close_connection = True
            self.connection.shutdown(socket.SHUT_RDWR)

        do_GET = do_HEAD = do_PUT = do_POST = do_DELETE = _forward  # noqa: N815  # http.server calls them so

    return Handler
