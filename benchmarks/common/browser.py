"""A headless Chromium, a plain static server with one atlas, and a page that records what it receives."""

import contextlib
import functools
import http.server
import json
import shutil
import tempfile
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

from playwright.sync_api import Browser, CDPSession, Page

from atlas_viewer import published_bytes, viewer_files
from pipeline.atlas.site.site import atlas_folder, site_entry, sites_json, slug_of

LINK: Final = {"latency": 40, "downloadThroughput": 10e6 / 8, "uploadThroughput": 10e6 / 8}  # ms, bytes/s
WINDOW: Final = {"width": 1280, "height": 800}


def chromium_path() -> str:
    """The browser on this machine's path."""
    return shutil.which("chromium") or shutil.which("google-chrome") or "chromium"


def read_manifest(atlas: Path) -> dict[str, Any]:
    """`atlas.json` of a built atlas."""
    return json.loads((atlas / "atlas.json").read_text())


class PlainHandler(http.server.SimpleHTTPRequestHandler):
    """Files as they are: no ranges, no compression, no cache."""

    protocol_version = "HTTP/1.1"

    def handle(self) -> None:
        with contextlib.suppress(ConnectionError):  # a browser that leaves in the middle
            super().handle()

    def log_message(self, format: str, *args: Any) -> None:
        pass


@contextlib.contextmanager
def serving(atlas: Path, manifest: dict[str, Any]) -> Iterator[str]:
    """The address of a site with this atlas. Its files are linked, not copied."""
    with tempfile.TemporaryDirectory() as name:
        site = Path(name)
        for path, file in viewer_files().items():
            (site / path).parent.mkdir(parents=True, exist_ok=True)
            (site / path).write_bytes(published_bytes(file))
        slug = slug_of(manifest["name"])
        folder = site / atlas_folder(slug, manifest)
        folder.parent.mkdir(parents=True)
        folder.symlink_to(atlas.resolve(), target_is_directory=True)
        (site / "sites.json").write_text(json.dumps(sites_json([site_entry(slug, manifest)])))
        handler = functools.partial(PlainHandler, directory=name)
        with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
            threading.Thread(target=server.serve_forever, daemon=True).start()
            yield f"http://127.0.0.1:{server.server_address[1]}/"
            server.shutdown()


@contextlib.contextmanager
def visiting(
    browser: Browser, *, throttled: bool, script: str
) -> Iterator[tuple[Page, CDPSession, list[tuple[float, int]]]]:
    """A page with an empty cache and an initial script, its debugger, and (timestamp, bytes) of what it receives."""
    context = browser.new_context(viewport=WINDOW)
    page = context.new_page()
    page.add_init_script(script)
    session = context.new_cdp_session(page)
    session.send("Network.enable")
    if throttled:
        session.send("Network.emulateNetworkConditions", {"offline": False, **LINK})
    received: list[tuple[float, int]] = []
    session.on("Network.dataReceived", lambda event: received.append((event["timestamp"], event["encodedDataLength"])))
    session.on(
        "Network.responseReceived",
        lambda event: received.append((event["timestamp"], int(event["response"]["encodedDataLength"]))),
    )
    yield page, session, received
    context.close()
