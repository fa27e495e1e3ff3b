"""An atlas in a headless Chromium over a throttled link: first image, bytes, repaints, heap, layout shift, audits.

    python -m benchmarks.atlas_browser ATLAS [--repeats 3] [--lighthouse COMMAND] [--axe AXE_MIN_JS] [--npm FOLDER]

ATLAS is the folder of a built atlas; `big_atlas.py` makes one of 100,000 neurons. It is served by a plain static server
(no Range, no compression), the link throttled to 10 Mbit/s and 40 ms by Chromium itself. Lighthouse and axe-core come
from npm and are installed outside this project: `npm install lighthouse axe-core` in a folder of their own, then
`--lighthouse FOLDER/node_modules/.bin/lighthouse --axe FOLDER/node_modules/axe-core/axe.min.js`. axe is run through the
debugger, which the page's Content-Security-Policy does not bind; the page's own policy stays as it is. `--npm FOLDER`
has html-validate and stylelint (with stylelint-config-recommended) look at the pages and styles of a small site.
"""

import json
import os
import statistics
import subprocess
import tempfile
from pathlib import Path
from typing import Final

from playwright.sync_api import Browser, CDPSession, sync_playwright

from benchmarks.common.browser import chromium_path, read_manifest, serving, visiting
from benchmarks.common.data import drawn_captions
from benchmarks.common.program import make_parser, print_header
from pipeline.atlas.site.site import slug_of, write_site
from pipeline.atlas.site.site_parts import SiteForm
from pipeline.io.root import Root
from tests.support.synthetic_atlas import build_synthetic_atlas

WATCHER: Final = """
window.seen = { first: 0, shift: 0, longest: 0 }
new PerformanceObserver((list) => {
  for (const entry of list.getEntries()) if (!entry.hadRecentInput) window.seen.shift += entry.value
}).observe({ type: 'layout-shift', buffered: true })
new PerformanceObserver((list) => {
  for (const entry of list.getEntries()) window.seen.longest = Math.max(window.seen.longest, entry.duration)
}).observe({ type: 'longtask', buffered: true })
const look = () => {
  const shown = [...document.querySelectorAll('.tile img, .stage img')].some((i) => i.complete && i.naturalWidth > 0)
  if (shown) requestAnimationFrame(() => setTimeout(() => { window.seen.first = performance.now() }))
  else requestAnimationFrame(look)
}
look()
"""
# From the event that the reader makes to the frame that shows other results.
REPAINT: Final = """([selector, type, value]) => new Promise((resolve) => {
  const target = document.querySelector(selector)
  const count = document.querySelector('.result-count')
  const gallery = document.querySelector('.gallery')
  const started = performance.now()
  const observer = new MutationObserver(() => {
    observer.disconnect()
    requestAnimationFrame(() => setTimeout(() => resolve(performance.now() - started)))
  })
  observer.observe(gallery, { childList: true })
  if (type === 'click') target.click()
  else {
    target.value = value
    target.dispatchEvent(new Event(type, { bubbles: true }))
  }
})"""


def main() -> None:
    parser = make_parser(__doc__)
    parser.add_argument("atlas", type=Path)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--lighthouse", help="the program, for its audits")
    parser.add_argument("--axe", type=Path, help="axe.min.js, for its rules")
    parser.add_argument("--npm", type=Path, help="the folder with node_modules, for the validators of HTML and CSS")
    arguments = parser.parse_args()
    chromium = chromium_path()
    manifest = read_manifest(arguments.atlas)
    layer = manifest["layers"][len(manifest["layers"]) // 2]["name"]
    slug = slug_of(manifest["name"])
    gallery, neuron = f"#/atlas/{slug}", f"#/atlas/{slug}/{layer}/10"
    views = {
        "gallery": gallery,
        "gallery, small tiles": f"{gallery}?size=small",
        "gallery of a layer": f"{gallery}?layer={layer}",
        "gallery, sorted": f"{gallery}?sort=-activation_percentile",
        "neuron": neuron,
    }
    with serving(arguments.atlas, manifest) as base, sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=chromium, args=["--no-sandbox", "--disable-quic"])
        print_header(
            f"{manifest['counts']['neurons']:,} neurons",
            f"Chromium {browser.version}",
            f"10 Mbit/s, 40 ms, median of {arguments.repeats}",
        )
        print(f"{'first visit':<20}{'image s':>10}{'MB then':>9}{'MB in all':>10}{'CLS':>7}{'longest task ms':>17}")
        for name, address in views.items():
            found = [first_visit(browser, base + address) for _ in range(arguments.repeats)]
            seconds, then, total, shift, longest = (statistics.median(values) for values in zip(*found, strict=True))
            print(f"{name:<20}{seconds:>10.2f}{then:>9.2f}{total:>10.2f}{shift:>7.3f}{longest:>17.0f}", flush=True)
        typed = statistics.median(first_search(browser, base + gallery) for _ in range(arguments.repeats))
        print(f"search typed once the first visualization is there, until its results: {typed:.0f} ms")
        print(f"\n{'event to repaint':<28}{'ms':>6}{'of':>20}")
        report_repaints(browser, base + gallery, arguments.repeats)
        if arguments.axe:
            seen = {"gallery": gallery, "neuron": neuron, "compare": f"#/compare/{slug}?n={layer}:10"}
            if manifest.get("neighbors", {}).get("map"):
                seen["map"] = f"#/map/{slug}"
            report_rules(browser, base, seen, arguments.axe.read_text())
        browser.close()
        if arguments.lighthouse:
            report_audits(arguments.lighthouse, chromium, base, {"gallery": gallery, "neuron": neuron})
    if arguments.npm:
        report_validity(arguments.npm.resolve())


def first_visit(browser: Browser, address: str) -> tuple[float, float, float, float, float]:
    """Seconds to the first visualization, MB until then, MB until all is quiet, layout shift, longest task in ms."""
    with visiting(browser, throttled=True, script=WATCHER) as (page, session, received):
        starts: list[float] = []
        session.on("Network.requestWillBeSent", lambda event: starts.append(event["timestamp"]))
        page.goto(address)
        page.wait_for_function("() => window.seen.first > 0", timeout=120_000)
        page.wait_for_load_state("networkidle", timeout=120_000)
        page.wait_for_timeout(500)
        seen = page.evaluate("window.seen")
        seconds = seen["first"] / 1000
        then = sum(size for moment, size in received if moment <= starts[0] + seconds)
        return seconds, then / 1e6, sum(size for _, size in received) / 1e6, seen["shift"], seen["longest"]


def first_search(browser: Browser, address: str) -> float:
    """ms from typing, before the index and the labels were asked for, to the results, over the throttled link."""
    with visiting(browser, throttled=True, script=WATCHER) as (page, _session, _received):
        page.goto(address)
        page.wait_for_function("() => window.seen.first > 0", timeout=120_000)
        page.focus("#search")
        milliseconds: float = page.evaluate(REPAINT, ["#search", "input", "tari"])
        return milliseconds


def report_repaints(browser: Browser, address: str, repeats: int) -> None:
    """What a reader does on the gallery, until the frame that shows it; and the heap afterwards."""
    actions = {
        "search: a label": ("#search", "input", "ta"),
        "search: a rarer label": ("#search", "input", "tari"),
        "search: a caption's words": ("#search", "input", " ".join(drawn_captions(1)[0].split()[:3])),
        "search: a condition": ("#search", "input", "activation_ratio>1.4"),
        "search: emptied": ("#search", "input", ""),
        "sort by percentile": ("#sort", "change", "activation_percentile"),
        "the other way round": (".result-controls .button", "click", ""),
        "sort by label": ("#sort", "change", "label"),
        "filter: weak": ("input[type=checkbox][data-keep=status-weak]", "click", ""),
        "filter: all again": ("input[type=checkbox][data-keep=status-weak]", "click", ""),
        "filter: the last layer": (".filter-layers a:last-child", "click", ""),
        "filter: all layers": (".filter-layers a:first-child", "click", ""),
    }
    times: dict[str, list[float]] = {name: [] for name in actions}
    counts: dict[str, str] = {}
    heaps: dict[str, list[float]] = {"after load": [], "after all this": [], "the same, collected": []}
    for _ in range(repeats):
        with visiting(browser, throttled=False, script=WATCHER) as (page, session, _received):
            page.goto(address)
            page.wait_for_function("() => window.seen.first > 0", timeout=120_000)
            page.wait_for_load_state("networkidle", timeout=120_000)
            page.wait_for_timeout(1000)
            heaps["after load"].append(heap_mb(session))
            page.focus("#search")  # the index and the labels are fetched now
            page.wait_for_load_state("networkidle", timeout=120_000)
            page.wait_for_timeout(1000)
            for name, action in actions.items():
                times[name].append(page.evaluate(REPAINT, list(action)))
                counts[name] = page.locator(".result-count").inner_text()
                page.wait_for_timeout(150)
            heaps["after all this"].append(heap_mb(session))
            session.send("HeapProfiler.collectGarbage")
            heaps["the same, collected"].append(heap_mb(session))
    for name, values in times.items():
        print(f"{name:<28}{statistics.median(values):>6.0f}{counts[name].removesuffix(' neurons'):>30}")
    for name, values in heaps.items():
        print(f"JS heap {name:<20}{statistics.median(values):>6.0f} MB")


def heap_mb(session: CDPSession) -> float:
    return session.send("Runtime.getHeapUsage")["usedSize"] / 1e6


def report_rules(browser: Browser, base: str, views: dict[str, str], axe: str) -> None:
    """Violations that axe-core finds, light and dark."""
    for name, address in views.items():
        for scheme in ("light", "dark"):
            with visiting(browser, throttled=False, script=WATCHER) as (page, session, _received):
                page.emulate_media(color_scheme=scheme)
                page.goto(base + address)
                page.locator("#content h1").wait_for(state="attached", timeout=120_000)
                page.wait_for_load_state("networkidle", timeout=120_000)
                session.send("Runtime.evaluate", {"expression": axe})
                answer = session.send(
                    "Runtime.evaluate",
                    {"expression": "axe.run().then(r => r)", "awaitPromise": True, "returnByValue": True},
                )
                found = answer["result"]["value"]
                rules = [f"{rule['id']} ({len(rule['nodes'])})" for rule in found["violations"]]
                print(f"axe-core {name}, {scheme}: {len(found['passes'])} rules passed, violations: {rules or 'none'}")


def report_audits(lighthouse: str, chromium: str, base: str, views: dict[str, str]) -> None:
    """Lighthouse's four scores, with its own throttling of a desktop (10 Mbit/s, 40 ms) and of a phone (1.6 Mbit/s)."""
    for name, address in views.items():
        for preset in ("desktop", "phone"):
            command = [lighthouse, base + address, "--quiet", "--output=json", "--output-path=stdout"]
            command += ["--chrome-flags=--headless=new --no-sandbox --disable-quic"]
            command += ["--only-categories=performance,accessibility,best-practices,seo"]
            command += ["--preset=desktop"] if preset == "desktop" else []
            done = subprocess.run(
                command, capture_output=True, text=True, check=True, env=os.environ | {"CHROME_PATH": chromium}
            )
            report = json.loads(done.stdout)
            scores = {key: round(100 * (found["score"] or 0)) for key, found in report["categories"].items()}
            missed = [
                key
                for key, audit in report["audits"].items()
                if audit["score"] is not None and audit["score"] < 0.9 and audit["scoreDisplayMode"] != "informative"
            ]
            print(
                f"Lighthouse {report['lighthouseVersion']} {name}, {preset}: {scores}; below 90: {missed}", flush=True
            )


def report_validity(npm: Path) -> None:
    """What validators say of the pages and styles of a published site with a page per neuron."""
    programs = npm / "node_modules" / ".bin"
    rules = {
        ".htmlvalidate.json": {
            "extends": ["html-validate:recommended"],
            "rules": {"doctype-style": "off", "long-title": "off"},
        },  # titles are data
        ".stylelintrc.json": {
            "extends": [str(npm / "node_modules" / "stylelint-config-recommended")],
            "rules": {"no-descending-specificity": None},
        },
    }
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        for path, value in rules.items():
            (folder / path).write_text(json.dumps(value))
        atlas = build_synthetic_atlas(str(folder / "atlas"), neighbors=True, captions=True)
        write_site(Root.open(str(folder / "site")), [atlas], SiteForm(neuron_pages_url="https://example.org/"))
        for program, kind in (("html-validate", "html"), ("stylelint", "css")):
            files = sorted(str(path) for path in (folder / "site").rglob(f"*.{kind}"))
            done = subprocess.run([programs / program, *files], cwd=folder, capture_output=True, text=True)
            print(f"{program}: {len(files)} files, {'valid' if done.returncode == 0 else done.stdout + done.stderr}")


if __name__ == "__main__":
    main()
