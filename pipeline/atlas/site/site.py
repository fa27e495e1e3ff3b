"""Publish atlases: the viewer plus any number of atlases as one static folder.

    OUT/index.html, *.js, *.css, …                 the viewer
    OUT/sites.json                                 the list of atlases; the commit
    OUT/atlases/<slug>/<build_id>/atlas.json, …    the files that atlas.json lists, nothing else; images in archives if
                                                   the site is packed (`packing`)
    OUT/atlases.html, cards/…, neurons/…           static pages (`site_parts`); written after the commit

The build id is in the path, so no cache can mix two builds of one atlas. Publishing again adds or replaces atlases and
keeps the others; replaced builds are removed once sites.json no longer names them.
"""

import hashlib
import re
import unicodedata
from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, Final

from atlas_viewer import published_bytes, viewer_files
from pipeline.atlas.format.manifest import Manifest, manifest_bytes, manifest_problems
from pipeline.atlas.format.schema import SITE_SCHEMA_VERSION
from pipeline.atlas.site.host_limits import SiteReport
from pipeline.atlas.site.packing import PACKED_FOLDERS, PACKS_FOLDER, is_packed_path, packed_files
from pipeline.atlas.site.site_parts import PLAIN, SiteForm, write_static_parts
from pipeline.errors import UserError
from pipeline.io.root import Root

MARKER: Final = ".neuron-atlas-site"  # written first: this folder is ours, even if the first publication was killed
# What a folder that becomes a site may already contain: the clone of a Pages branch, say.
_NEUTRAL_NAMES: Final = frozenset({".git", ".gitignore", ".gitattributes", ".nojekyll", "CNAME"})
_COPIERS: Final = 8

_BUILD_ID = re.compile(r"[0-9a-f]{16}")
_SLUG = re.compile(r"[a-z0-9]+(-[a-z0-9]+)*")


def write_site(out: str | Path | Root, atlases: Sequence[Root], form: SiteForm = PLAIN) -> SiteReport:
    """Publish built atlases into the folder (or bucket) `out`.

    Args:
        out: the site; other atlases in it stay.
        atlases: added, or replace older builds.
        form: neuron pages and embedding tables are made for every atlas of the site, or removed.

    Raises:
        UserError: `out` holds something that is not a site of ours; an atlas is not built, is damaged, or
            shares its name with another one of this call. Then nothing that was published before changes.
    """
    root = out if isinstance(out, Root) else Root.open(str(out))
    if not atlases:
        raise UserError("no atlas to publish: give at least one folder that holds an atlas.json")
    published = _published_atlases(root)
    new: dict[str, tuple[Root, dict[str, Any]]] = {}
    for source in atlases:
        atlas = read_atlas(source)
        slug = slug_of(atlas["name"])
        if slug in new:
            raise UserError(
                f"{source.url} and {new[slug][0].url} are both named {slug!r}: change `name` in one of the "
                "recipes and build again"
            )
        new[slug] = (source, atlas)

    if form.neuron_pages_url is not None:
        _refuse_packed(entry for slug, entry in published.items() if slug not in new)

    root.write_json(MARKER, {"schema": SITE_SCHEMA_VERSION})
    for slug, (source, atlas) in new.items():
        _copy_atlas(source, atlas, root, atlas_folder(slug, atlas), packed=form.packed)
        published[slug] = site_entry(slug, atlas, packed=form.packed)
    for path, file in viewer_files().items():
        root.write_bytes(path, published_bytes(file))
    root.write_bytes(".nojekyll", b"")  # GitHub Pages: serve the files as they are
    root.write_json("sites.json", sites_json(published.values()))
    write_static_parts(root, sites_json(published.values())["atlases"], form)
    for slug, (_, atlas) in new.items():
        _remove_replaced(root, slug, atlas, packed=form.packed)
    sizes = {path: root.size_bytes(path) for path in root.walk() if not path.startswith(".git/")}
    return SiteReport.of(
        root.url,
        tuple(sorted(published)),
        sizes,
        is_packed=form.packed,
        has_neuron_pages=form.neuron_pages_url is not None,
    )


def read_atlas(source: Root) -> Manifest:
    """atlas.json of a built atlas.

    Raises:
        UserError: there is none, or it is not what `build` writes.
    """
    if not source.exists("atlas.json"):
        raise UserError(f"{source.url}: no atlas.json; build the atlas first with `neuron-atlas build RECIPE`")
    atlas = source.read_json("atlas.json")
    for problem in manifest_problems(atlas):
        raise UserError(f"{source.url}/atlas.json: {problem}; build the atlas again")
    return atlas


def slug_of(name: str) -> str:
    """A name as it stands in addresses: lower-case ASCII letters, digits and single dashes.

    Raises:
        UserError: nothing is left of the name.
    """
    plain = unicodedata.normalize("NFKD", name).encode("ascii", "ignore").decode().lower()
    slug = re.sub(r"[^a-z0-9]+", "-", plain).strip("-")[:80].strip("-")
    if not slug:
        raise UserError(f"name {name!r}: expected at least one letter a–z or digit; it becomes part of the address")
    return slug


def atlas_folder(slug: str, atlas: Mapping[str, Any]) -> str:
    """Where an atlas lies in a site."""
    return f"atlases/{slug}/{atlas['build_id']}"


def site_entry(slug: str, atlas: Mapping[str, Any], *, packed: bool = False) -> dict[str, Any]:
    """What sites.json says about one atlas; `packed` and `head` (it has a head.json) stand there only if true."""
    return {
        **({"packed": True} if packed else {}),
        "slug": slug,
        "title": atlas["title"],
        "path": atlas_folder(slug, atlas),
        "build_id": atlas["build_id"],
        "counts": atlas["counts"],
        "model": atlas["model"]["name"],
    }


def sites_json(entries: Iterable[Mapping[str, Any]]) -> dict[str, Any]:
    """sites.json of these entries, by slug."""
    return {"schema": SITE_SCHEMA_VERSION, "atlases": sorted(entries, key=lambda entry: entry["slug"])}


def check_site_entry(entry: Any) -> None:
    """Raise UserError unless `slug` and `path` of an entry of sites.json fit each other and are safe."""
    slug, path = (entry.get("slug"), entry.get("path")) if isinstance(entry, dict) else (None, None)
    parts = path.split("/") if isinstance(path, str) else []
    if (
        not isinstance(slug, str)
        or not _SLUG.fullmatch(slug)
        or parts[:2] != ["atlases", slug]
        or len(parts) != 3
        or not _BUILD_ID.fullmatch(parts[2])
    ):
        raise UserError(f"slug {slug!r} with path {path!r}, expected 'atlases/<slug>/<build id>'")


def _published_atlases(root: Root) -> dict[str, dict[str, Any]]:
    """Entries of the site that already lies in `root`, by slug.

    Raises:
        UserError: the folder holds something else.
    """
    names = set(root.list())
    if not names - _NEUTRAL_NAMES:
        return {}
    if MARKER not in names and not root.exists(MARKER):
        raise UserError(
            f"{root.url}: not empty and not a site of neuron-atlas (no {MARKER} in it); give a new folder "
            "or empty this one yourself"
        )
    if not root.exists("sites.json"):
        return {}
    sites = root.read_json("sites.json")
    entries = sites.get("atlases") if isinstance(sites, dict) else None
    if not isinstance(entries, list):
        raise UserError(f"{root.url}/sites.json: no list `atlases`; remove the site and publish it again")
    for entry in entries:
        check_site_entry(entry)
    return {entry["slug"]: entry for entry in entries}


def _refuse_packed(entries: Iterable[Mapping[str, Any]]) -> None:
    for entry in entries:
        if entry.get("packed"):
            raise UserError(
                f"the atlas {entry['slug']!r} of this site is packed, so its neurons can have no pages: publish it "
                "again without --pack, or leave out --neuron-pages"
            )


def _copy_atlas(source: Root, atlas: Mapping[str, Any], root: Root, folder: str, *, packed: bool) -> None:
    """Copy the listed files, each compared with its sha256 on the way, and atlas.json last."""
    listed = {entry["path"]: entry["sha256"] for entry in atlas["files"]}

    def read(path: str) -> bytes:
        data = source.read_bytes(path)
        if hashlib.sha256(data).hexdigest() != listed[path]:
            raise UserError(
                f"{source.url}/{path}: not the file that atlas.json lists (sha256 differs); "
                "see `neuron-atlas validate`, then build again"
            )
        return data

    plain = [path for path in listed if not (packed and is_packed_path(path))]
    with ThreadPoolExecutor(_COPIERS) as pool:
        for future in [pool.submit(lambda path: root.write_bytes(f"{folder}/{path}", read(path)), p) for p in plain]:
            try:
                future.result()
            except BaseException:
                pool.shutdown(wait=True, cancel_futures=True)
                raise
    if packed:
        for path, data in packed_files(filter(is_packed_path, listed), read):
            root.write_bytes(f"{folder}/{path}", data)
    root.write_bytes(f"{folder}/atlas.json", manifest_bytes(atlas))


def _remove_replaced(root: Root, slug: str, atlas: Mapping[str, Any], *, packed: bool) -> None:
    """Remove older builds of an atlas, and what the other form of this build left."""
    for name in root.list(f"atlases/{slug}"):
        if name != atlas["build_id"] and _BUILD_ID.fullmatch(name):
            root.remove(f"atlases/{slug}/{name}")
    for name in PACKED_FOLDERS if packed else (PACKS_FOLDER,):
        root.remove(f"{atlas_folder(slug, atlas)}/{name}")
