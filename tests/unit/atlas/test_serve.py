"""The preview server: right bytes, right headers, ranges, loopback only, and no way out of the folder."""

import http.client
import re
import socket
import struct
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from atlas_viewer import viewer_files
from pipeline.atlas.site.serve import META_SECURITY_POLICY, SECURITY_POLICY, make_server
from pipeline.atlas.site.site import write_site
from pipeline.io.root import Root
from tests.support.synthetic_atlas import build, build_synthetic_atlas, write_run

OPTIONS: dict[str, Any] = {"layers": {"conv_stem": (16, 12)}, "methods": ("vital",), "seeds": 1}


class Client:
    """One connection to a running server."""

    def __init__(self, port: int) -> None:
        self.port = port
        self._connection = http.client.HTTPConnection("127.0.0.1", port, timeout=10)

    def get(self, address: str, method: str = "GET", **headers: str) -> tuple[int, dict[str, str], bytes]:
        self._connection.request(method, address, headers=headers)
        answer = self._connection.getresponse()
        return answer.status, {name.lower(): value for name, value in answer.getheaders()}, answer.read()

    def close(self) -> None:
        self._connection.close()


def serving(path: Path) -> Iterator[Client]:
    with make_server(path, 0) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
        thread.start()
        client = Client(server.server_address[1])
        try:
            yield client
        finally:
            client.close()
            server.shutdown()
            thread.join()


@pytest.fixture(scope="module")
def atlas(tmp_path_factory: pytest.TempPathFactory) -> Root:
    return build_synthetic_atlas(str(tmp_path_factory.mktemp("serve") / "atlas"), **OPTIONS)


@pytest.fixture(scope="module")
def site(atlas: Root, tmp_path_factory: pytest.TempPathFactory) -> Root:
    folder = tmp_path_factory.mktemp("serve") / "site"
    write_site(folder, [atlas])
    (folder / ".git").mkdir()
    (folder / ".git" / "config").write_text("secret")
    (folder / "link.webp").symlink_to("/etc/hostname")
    return Root.open(str(folder))


@pytest.fixture(params=["atlas", "site"])
def client(request: pytest.FixtureRequest, atlas: Root, site: Root) -> Iterator[Client]:
    yield from serving((atlas if request.param == "atlas" else site).local_path)


def base(atlas: Root) -> str:
    return f"/atlases/synthetic/{atlas.read_json('atlas.json')['build_id']}"


def test_the_viewer_and_the_atlas_are_where_a_published_site_has_them(client: Client, atlas: Root) -> None:
    status, headers, body = client.get("/")
    assert (status, body) == (200, viewer_files()["index.html"].read_bytes())
    assert headers["content-type"] == "text/html; charset=utf-8"
    status, headers, body = client.get("/sites.json?fresh=1")
    assert (status, headers["cache-control"]) == (200, "no-cache")
    assert f'"{base(atlas)[1:]}"'.encode() in body
    for path in ("atlas.json", *(entry["path"] for entry in atlas.read_json("atlas.json")["files"])):
        status, headers, body = client.get(f"{base(atlas)}/{path}")
        assert (status, body) == (200, atlas.read_bytes(path))
        assert int(headers["content-length"]) == len(body)


@pytest.mark.parametrize(
    ("path", "mime"),
    [
        ("index.parquet", "application/vnd.apache.parquet"),
        ("atlas.json", "application/json"),
        ("sheets/conv_stem/0000.webp", "image/webp"),
        ("recipe.toml", "application/toml"),
    ],
)
def test_every_answer_has_its_type_and_the_safety_headers(client: Client, atlas: Root, path: str, mime: str) -> None:
    for address, status in ((f"{base(atlas)}/{path}", 200), ("/absent", 404)):
        answered, headers, _ = client.get(address)
        assert answered == status
        assert headers["content-security-policy"] == SECURITY_POLICY
        assert headers["x-content-type-options"] == "nosniff"
        if status == 200:
            assert headers["content-type"] == mime


def test_scripts_and_styles_have_types_a_browser_runs(client: Client) -> None:
    for path in viewer_files():
        status, headers, _ = client.get(f"/{path}")
        assert status == 200
        if path.endswith(".js"):
            assert headers["content-type"] == "text/javascript; charset=utf-8"
        if path.endswith(".css"):
            assert headers["content-type"] == "text/css; charset=utf-8"


def test_the_viewers_own_policy_is_the_same() -> None:
    page = viewer_files()["index.html"].read_text()
    (policy,) = re.findall(r'http-equiv="Content-Security-Policy"\s+content="([^"]+)"', page)
    assert policy == META_SECURITY_POLICY
    for directive in (
        "default-src 'none'",
        "script-src 'self'",
        "img-src 'self' blob:",
        "frame-ancestors 'none'",
    ):
        assert directive in SECURITY_POLICY


@pytest.mark.parametrize(
    ("requested", "start", "end"),
    [("bytes=0-3", 0, 4), ("bytes=5-", 5, None), ("bytes=-7", -7, None), ("bytes=0-999999999", 0, None)],
)
def test_a_range_gives_206_and_its_bytes(
    client: Client, atlas: Root, requested: str, start: int, end: int | None
) -> None:
    whole = atlas.read_bytes("index.parquet")
    status, headers, body = client.get(f"{base(atlas)}/index.parquet", Range=requested)
    assert (status, body) == (206, whole[start:end])
    first = start if start >= 0 else len(whole) + start
    assert headers["content-range"] == f"bytes {first}-{first + len(body) - 1}/{len(whole)}"


@pytest.mark.parametrize("requested", ["bytes=999999999-", "bytes=-0"])
def test_a_range_beyond_the_file_gives_416(client: Client, atlas: Root, requested: str) -> None:
    status, headers, body = client.get(f"{base(atlas)}/index.parquet", Range=requested)
    assert (status, body) == (416, b"")
    assert headers["content-range"] == f"bytes */{atlas.size_bytes('index.parquet')}"


@pytest.mark.parametrize(
    "requested", ["bytes=3-1", "bytes=-", "bytes=0-1,4-5", "pages=1-2", "bytes=a-b", "bytes=" + "9" * 40 + "-"]
)
def test_a_range_that_is_malformed_or_multiple_gives_everything(client: Client, atlas: Root, requested: str) -> None:
    status, _, body = client.get(f"{base(atlas)}/index.parquet", Range=requested)
    assert (status, body) == (200, atlas.read_bytes("index.parquet"))


def test_head_sends_the_headers_only_and_other_methods_are_refused(client: Client, atlas: Root) -> None:
    status, headers, body = client.get(f"{base(atlas)}/index.parquet", "HEAD")
    assert (status, body) == (200, b"")
    assert int(headers["content-length"]) == atlas.size_bytes("index.parquet")
    status, headers, _ = client.get("/sites.json", "POST")
    assert status == 501
    assert headers["content-security-policy"] == SECURITY_POLICY


@pytest.mark.parametrize(
    "address",
    [
        "/../../../../etc/passwd",
        "/%2e%2e/%2e%2e/etc/passwd",
        "/..%2f..%2fetc%2fpasswd",
        "//etc/passwd",
        "/atlases/../sites.json",
        "/atlases/synthetic/../../index.html",
        "/a\\..\\b",
        "/index.html%00.png",
        "/.git/config",
        "/.neuron-atlas-site",
        "/link.webp",
        "/atlases",
        "/atlases/",
        "/run/fragments",
        "/atlas.json/",
        "/%ff",
        "/CON:",
    ],
)
def test_nothing_else_is_served(client: Client, address: str) -> None:
    status, _, body = client.get(address)
    assert status in (400, 404)
    assert b"root:" not in body
    assert b"secret" not in body


def test_of_an_atlas_only_listed_files_are_served(atlas: Root) -> None:
    atlas.write_bytes("images/conv_stem/unlisted.webp", b"half-finished")
    (fragment, *_) = atlas.walk("run/fragments")
    for client in serving(atlas.local_path):
        for path in ("images/conv_stem/unlisted.webp", f"run/fragments/{fragment}"):
            assert client.get(f"{base(atlas)}/{path}")[0] == 404
            assert client.get(f"/{path}")[0] == 404
    atlas.remove("images/conv_stem/unlisted.webp")


def test_an_atlas_that_is_built_anew_shows_up(tmp_path: Path) -> None:
    root = build_synthetic_atlas(str(tmp_path), **OPTIONS)
    for client in serving(tmp_path):
        old = base(root)
        assert client.get(f"{old}/atlas.json")[0] == 200
        more = OPTIONS | {"seeds": 2}
        write_run(root, **more)
        build(root, **more)
        assert base(root)[1:].encode() in client.get("/sites.json")[2]
        assert client.get(f"{base(root)}/images/conv_stem/00000-vital-s1.webp")[0] == 200
        assert client.get(f"{old}/atlas.json")[0] == 404


def test_a_client_that_goes_away_does_no_harm(client: Client, atlas: Root, capfd: pytest.CaptureFixture) -> None:
    for _ in range(5):
        with socket.create_connection(("127.0.0.1", client.port)) as connection:
            reset = struct.pack("ii", 1, 0)  # close with RST, in the middle of the answer
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, reset)
            connection.sendall(f"GET {base(atlas)}/sheets/conv_stem/0000.webp HTTP/1.1\r\nHost: x\r\n\r\n".encode())
    assert client.get("/")[0] == 200
    assert "Traceback" not in capfd.readouterr().err


def test_only_this_machine_is_served(site: Root) -> None:
    with make_server(site.local_path, 0) as server:
        assert server.server_address[0] == "127.0.0.1"


def test_what_cannot_be_served_is_said(tmp_path: Path, site: Root) -> None:
    with pytest.raises(ValueError, match=r"neither atlas.json nor sites.json.*make demo"):
        make_server(tmp_path, 0)
    with pytest.raises(ValueError, match="local folders only"):
        make_server("memory://serve", 0)
    with make_server(site.local_path, 0) as server, pytest.raises(ValueError, match=r"is taken.*--port"):
        make_server(site.local_path, server.server_address[1])
