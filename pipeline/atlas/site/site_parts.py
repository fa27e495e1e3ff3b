"""The parts of a site that follow from its atlases: data cards, pages without JavaScript, tables for other programs.

They are made from the site itself after sites.json is written, so that they always fit it. Parts that a publication does
not ask for again are removed.
"""

from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any, Final

from pipeline.atlas.format.manifest import Manifest
from pipeline.atlas.format.schema import INDEX_PATH, LABELS_PATH
from pipeline.atlas.site.data_card import card_files
from pipeline.atlas.site.embedding_table import embedding_command, embedding_path, embedding_table, has_map
from pipeline.atlas.site.neuron_pages import PAGES_FOLDER, ROBOTS_MARK, layer_page_path, neuron_pages, sitemap_files
from pipeline.atlas.site.static_pages import check_base_url
from pipeline.errors import UserError
from pipeline.io.parquet import parse_table
from pipeline.io.root import Root

Entry = Mapping[str, Any]  # of sites.json

_WRITERS: Final = 8
_PAGES_AT_ONCE: Final = 512


@dataclass(frozen=True, kw_only=True)
class SiteForm:
    """What a site has beside the viewer, the atlases and their data cards.

    Attributes:
        packed: the images of the newly published atlases are in archives (`packing`).
        neuron_pages_url: address of the site, if every neuron is to have a page of its own (`neuron_pages`).
        embedding_table: every atlas has a table for Embedding Atlas (`embedding_table`).
    """

    packed: bool = False
    neuron_pages_url: str | None = None
    embedding_table: bool = False

    def __post_init__(self) -> None:
        if self.packed and self.neuron_pages_url is not None:
            raise UserError(
                "--pack and --neuron-pages exclude each other: a page per neuron is a file per neuron, and without "
                "JavaScript it cannot show a visualization out of an archive; leave one of them out"
            )
        if self.neuron_pages_url is not None:
            check_base_url(self.neuron_pages_url)


PLAIN: Final = SiteForm()


def write_static_parts(root: Root, entries: Sequence[Entry], form: SiteForm) -> None:
    """Write cards, pages and tables of all atlases of a site, and remove those of an earlier form of it.

    Args:
        root: the site; its atlases are in place.
        entries: of sites.json.
        form: the requested parts.
    """
    atlases: list[tuple[Entry, Manifest]] = [
        (entry, root.read_json(f"{entry['path']}/atlas.json")) for entry in entries
    ]
    written: set[str] = set()
    if form.neuron_pages_url is not None:
        written = _write_neuron_pages(root, atlases, check_base_url(form.neuron_pages_url))
    first_pages = {
        entry["slug"]: layer_page_path(entry["slug"], manifest["layers"][0]["name"])
        for entry, manifest in atlases
        if form.neuron_pages_url is not None and manifest["layers"]
    }
    commands = {
        entry["slug"]: embedding_command(entry["slug"], has_map=has_map(manifest))
        for entry, manifest in atlases
        if form.embedding_table
    }
    cards = card_files(atlases, neuron_pages=first_pages, embedding_commands=commands)
    if form.embedding_table:
        for entry, manifest in atlases:
            folder = root.join(entry["path"])
            cards[embedding_path(entry["slug"])] = embedding_table(manifest, _index(folder), folder.read_bytes)
    for path, data in cards.items():
        root.write_bytes(path, data)
    for part in ("cards", "embedding", PAGES_FOLDER):
        for name in root.walk(part):
            if f"{part}/{name}" not in written and f"{part}/{name}" not in cards:
                root.remove(f"{part}/{name}")
    for name in root.list():
        if name.startswith("sitemap") and name.endswith(".xml") and name not in written:
            root.remove(name)
    if "robots.txt" not in written and _is_our_robots(root):
        root.remove("robots.txt")


def _write_neuron_pages(root: Root, atlases: Iterable[tuple[Entry, Manifest]], base_url: str) -> set[str]:
    """Write a page per neuron and per layer, and the sitemaps; return all their paths."""
    paths: list[str] = []
    with ThreadPoolExecutor(_WRITERS) as pool:
        for entry, manifest in atlases:
            batch: list[tuple[str, bytes]] = []
            for page in neuron_pages(entry, manifest, _index(root.join(entry["path"])), base_url):
                batch.append(page)
                paths.append(page[0])
                if len(batch) == _PAGES_AT_ONCE:
                    list(pool.map(lambda found: root.write_bytes(*found), batch))
                    batch = []
            list(pool.map(lambda found: root.write_bytes(*found), batch))
    slugs = [entry["slug"] for entry, _ in atlases]
    maps = sitemap_files(base_url, ["", "atlases.html", *(f"cards/{slug}.html" for slug in slugs), *paths])
    if root.exists("robots.txt") and not _is_our_robots(root):
        del maps["robots.txt"]  # somebody else's, who may name the sitemap in it
    for path, data in maps.items():
        root.write_bytes(path, data)
    return {*paths, *maps}


def _is_our_robots(root: Root) -> bool:
    return root.exists("robots.txt") and root.read_bytes("robots.txt").startswith(ROBOTS_MARK.encode())


def _index(folder: Root) -> list[dict[str, Any]]:
    """Rows of index.parquet of an atlas, with `top_labels` and `top_captions` as text."""
    columns = parse_table(folder.read_bytes(INDEX_PATH), source=f"{folder.url}/{INDEX_PATH}")
    labels = parse_table(folder.read_bytes(LABELS_PATH), source=f"{folder.url}/{LABELS_PATH}")
    for name in ("top_labels", "top_captions"):
        columns[name] = ["; ".join(found) for found in labels[name]]
    return [dict(zip(columns, values, strict=True)) for values in zip(*columns.values(), strict=True)]
