"""A small static page for every neuron, on request: for link previews, search engines and readers without JavaScript.

    neurons/<slug>/<layer>/<unit>.html   visualization, label, scores, OpenGraph and Twitter tags, link to the viewer
    neurons/<slug>/<layer>/index.html    the neurons of a layer, as links
    sitemap.xml, robots.txt              every page; in several files above MAX_URLS

Addresses have no build id, so that links last. A page's canonical address is its own: the viewer's addresses of neurons
differ only behind the '#', which search engines drop. Pure.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, Final
from urllib.parse import quote

from pipeline.atlas.format.manifest import Manifest
from pipeline.atlas.site.static_pages import html_text, one_line, page
from pipeline.neurons import layer_file_name

Entry = Mapping[str, Any]  # an atlas in sites.json
Row = Mapping[str, Any]  # of index.parquet, with `top_labels` and `top_captions` as text

PAGES_FOLDER: Final = "neurons"
MAX_URLS: Final = 50_000  # of one sitemap: sitemaps.org protocol 0.9
ROBOTS_MARK: Final = "# Written by neuron-atlas"

_UP: Final = "../../../"  # from a page to the site's root
_SITEMAP_HEAD: Final = '<?xml version="1.0" encoding="UTF-8"?>\n'
_SITEMAP_NAMESPACE: Final = 'xmlns="http://www.sitemaps.org/schemas/sitemap/0.9"'


def neuron_page_path(slug: str, layer: str, unit: int) -> str:
    """Where the page of one neuron lies in a site."""
    return f"{PAGES_FOLDER}/{slug}/{layer_file_name(layer)}/{int(unit)}.html"


def layer_page_path(slug: str, layer: str) -> str:
    """Where the list of a layer's neurons lies in a site."""
    return f"{PAGES_FOLDER}/{slug}/{layer_file_name(layer)}/index.html"


def neuron_pages(entry: Entry, manifest: Manifest, rows: Sequence[Row], base_url: str) -> Iterator[tuple[str, bytes]]:
    """(path, bytes) of the pages of one atlas: of each neuron, and of each layer.

    Args:
        entry: of sites.json.
        manifest: its atlas.json.
        rows: of its index.parquet, in order.
        base_url: address of the site, ending in "/".
    """
    by_layer: dict[str, list[Row]] = {layer["name"]: [] for layer in manifest["layers"]}
    for row in rows:
        by_layer[row["layer"]].append(row)
    for layer, neurons in by_layer.items():
        yield layer_page_path(entry["slug"], layer), _layer_page(entry, manifest, layer, neurons, list(by_layer))
        for place, row in enumerate(neurons):
            before = neurons[place - 1] if place else None
            after = neurons[place + 1] if place + 1 < len(neurons) else None
            yield (
                neuron_page_path(entry["slug"], layer, row["unit"]),
                _neuron_page(entry, manifest, row, (before, after), base_url),
            )


def sitemap_files(base_url: str, paths: Iterable[str]) -> dict[str, bytes]:
    """Path → bytes of the sitemaps and robots.txt.

    Args:
        base_url: address of the site, ending in "/".
        paths: of all pages in the site; "" is its beginning.
    """
    urls = [html_text(base_url + path) for path in paths]
    parts = [urls[start : start + MAX_URLS] for start in range(0, len(urls), MAX_URLS)]
    robots = f"{ROBOTS_MARK}\nUser-agent: *\nAllow: /\nSitemap: {base_url}sitemap.xml\n".encode()
    if len(parts) <= 1:
        return {"sitemap.xml": _sitemap("urlset", "url", urls), "robots.txt": robots}
    names = [f"sitemap-{number:04d}.xml" for number in range(1, len(parts) + 1)]
    files = {name: _sitemap("urlset", "url", part) for name, part in zip(names, parts, strict=True)}
    files["sitemap.xml"] = _sitemap("sitemapindex", "sitemap", [html_text(base_url + name) for name in names])
    return files | {"robots.txt": robots}


def _sitemap(kind: str, item: str, urls: Iterable[str]) -> bytes:
    lines = "".join(f"<{item}><loc>{url}</loc></{item}>\n" for url in urls)
    return f"{_SITEMAP_HEAD}<{kind} {_SITEMAP_NAMESPACE}>\n{lines}</{kind}>\n".encode()


def _neuron_page(
    entry: Entry, manifest: Manifest, row: Row, neighbors: tuple[Row | None, Row | None], base_url: str
) -> bytes:
    slug, layer, unit = entry["slug"], row["layer"], row["unit"]
    name = f"{layer}:{unit}"
    label = row["label"] or ""
    title = f"{one_line(label, 100)} · {name}" if label else name
    address = base_url + neuron_page_path(slug, layer, unit)
    image = f"{entry['path']}/{row['image_path']}" if row["image_path"] else ""
    alternative = f"Visualization synthesized to activate {one_line(label, 100) or 'the neuron'} ({name})"
    before, after = (neighbor["unit"] if neighbor is not None else None for neighbor in neighbors)
    return page(
        "neuron.html",
        title=f"{title} · {one_line(manifest['title'], 80)}",
        up=_UP,
        slug=slug,
        manifest=manifest,
        layer=layer,
        name=name,
        label=label,
        image=image,
        alternative=alternative,
        address=address,
        before=before,
        after=after,
        viewer=f"{_UP}index.html#/atlas/{quote(slug)}/{quote(layer, safe='')}/{unit}",
        items=_facts(manifest, row),
        **_previews(title, _description(manifest, row), address, base_url + image if image else "", alternative),
    )


def _facts(manifest: Manifest, row: Row) -> list[tuple[str, str]]:
    facts = [
        ("Status", row["status"]),
        ("Method", row["method"]),
        ("Labels of the dataset images", row["top_labels"]),
        ("Captions of the dataset images", row["top_captions"]),
    ]
    for column, note in manifest["columns"].items():
        value = row.get(column)
        if isinstance(value, int | float):
            unit = "" if note["unit"] in ("", "activation", "0/1") else f" {note['unit']}"
            facts.append((column.replace("_", " ").capitalize(), f"{value:.4g}{unit}. {note['meaning']}"))
    return [(term, value) for term, value in facts if value]


def _description(manifest: Manifest, row: Row) -> str:
    """One sentence or two for previews."""
    words = f"What neuron {row['layer']}:{row['unit']} of {one_line(manifest['model']['name'], 80)} responds to."
    labels = one_line(row["top_labels"] or row["top_captions"], 120)
    return f"{words} Dataset images that activate it: {labels}." if labels else words


def _previews(
    title: str, description: str, address: str, image: str, alternative: str
) -> dict[str, list[tuple[str, str]]]:
    """Tags of the Open Graph protocol (ogp.me) as `properties`, of Twitter cards as `names`."""
    image_properties = [("og:image", image), ("og:image:type", "image/webp"), ("og:image:alt", alternative)]
    image_names = [("twitter:image", image), ("twitter:image:alt", alternative)]
    return {
        "properties": [
            ("og:type", "article"),
            ("og:site_name", "Neuron Atlas"),
            ("og:title", title),
            ("og:description", description),
            ("og:url", address),
            *(image_properties if image else []),
        ],
        "names": [
            ("description", description),
            ("twitter:card", "summary"),
            ("twitter:title", title),
            ("twitter:description", description),
            *(image_names if image else []),
        ],
    }


def _layer_page(entry: Entry, manifest: Manifest, layer: str, rows: Sequence[Row], layers: Sequence[str]) -> bytes:
    return page(
        "layer.html",
        title=f"{layer} · {one_line(manifest['title'], 80)}",
        up=_UP,
        slug=entry["slug"],
        manifest=manifest,
        layer=layer,
        layers=[(name, layer_file_name(name)) for name in layers],
        neurons=[(row["unit"], _entry_text(row)) for row in rows],
    )


def _entry_text(row: Row) -> str:
    words = one_line(row["label"] or row["top_labels"] or row["top_captions"], 120)
    return f"{row['unit']}: {words}" if words else str(row["unit"])
