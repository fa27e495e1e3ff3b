"""Publish atlases: the viewer plus any number of atlases as one static folder.

    OUT/index.html, *.js, *.css, …                 the viewer
    OUT/sites.json                                 which atlases there are; written last, the commit
    OUT/atlases/<slug>/<build_id>/atlas.json, …    the files that atlas.json lists, nothing else

The build id is in the path, so no cache can mix two builds of one atlas. Publishing again adds or replaces
atlases and keeps the others; the replaced builds are removed only once sites.json no longer names them.
"""

import hashlib
import re
import unicodedata
from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from pipeline.atlas.manifest import Manifest, manifest_problems
from pipeline.atlas.schema import SITE_SCHEMA_VERSION
from pipeline.storage import Root

MARKER: Final = ".neuron-atlas-site"  # written first: this folder is ours, even if the first publication was cut short
# What may already lie in a folder that becomes a site: the clone of a Pages branch, say.
_NEUTRAL_NAMES: Final = frozenset({".git", ".gitignore", ".gitattributes", ".nojekyll", "CNAME"})
_COPIERS: Final = 8

_BUILD_ID = re.compile(r"[0-9a-f]{16}")
_SLUG = re.compile(r"[a-z0-9]+(-[a-z0-9]+)*")


@dataclass(frozen=True, kw_only=True)
class HostLimit:
    """What a static host allows (as documented by the hosts in 2025), and what to do about it."""

    host: str
    max_site_bytes: int | None = None
    max_file_bytes: int | None = None
    max_files: int | None = None


HOST_LIMITS: Final = (
    HostLimit(host="GitHub Pages", max_site_bytes=1_000_000_000, max_file_bytes=100 << 20),
    HostLimit(host="GitLab Pages (gitlab.com)", max_site_bytes=1 << 30, max_files=200_000),
    HostLimit(host="Cloudflare Pages (free)", max_file_bytes=25 << 20, max_files=20_000),
)


@dataclass(frozen=True, kw_only=True)
class SiteReport:
    """What was published: sizes, and for each host that would refuse it a warning with its remedy."""

    url: str
    slugs: tuple[str, ...]
    num_files: int
    size_bytes: int
    largest_file: str
    largest_file_bytes: int

    def warnings(self) -> list[str]:
        """One line per host whose limits the site exceeds."""
        lines = []
        for limit in HOST_LIMITS:
            over = []
            if limit.max_site_bytes is not None and self.size_bytes > limit.max_site_bytes:
                over.append(f"{_megabytes(self.size_bytes)} of {_megabytes(limit.max_site_bytes)} allowed")
            if limit.max_file_bytes is not None and self.largest_file_bytes > limit.max_file_bytes:
                over.append(
                    f"{self.largest_file} has {_megabytes(self.largest_file_bytes)} "
                    f"of {_megabytes(limit.max_file_bytes)} allowed"
                )
            if limit.max_files is not None and self.num_files > limit.max_files:
                over.append(f"{self.num_files:,} of {limit.max_files:,} files allowed")
            if over:
                lines.append(
                    f"too large for {limit.host} ({'; '.join(over)}): publish to an object store (S3, R2, "
                    "GCS), fewer layers or seeds per site, or without example pictures"
                )
        return lines

    def __str__(self) -> str:
        return "\n".join(self.lines())

    def lines(self) -> list[str]:
        """The report as text."""
        size = f"{self.num_files:,} files, {_megabytes(self.size_bytes)}"
        return [f"{self.url}: {', '.join(self.slugs)}; {size}", *self.warnings()]


def write_site(out: str | Path | Root, atlases: Sequence[Root]) -> SiteReport:
    """Publish built atlases into the folder (or bucket) `out`.

    Raises:
        ValueError: `out` holds something that is not a site of ours; an atlas is not built, is damaged, or
            shares its name with another one of this call. Nothing that was published before is changed then.
    """
    root = out if isinstance(out, Root) else Root.open(str(out))
    if not atlases:
        raise ValueError("no atlas to publish: give at least one folder that holds an atlas.json")
    published = _published_atlases(root)
    new: dict[str, tuple[Root, dict[str, Any]]] = {}
    for source in atlases:
        atlas = read_atlas(source)
        slug = slug_of(atlas["name"])
        if slug in new:
            raise ValueError(
                f"{source.url} and {new[slug][0].url} are both named {slug!r}: change `name` in one of the "
                "recipes and build again"
            )
        new[slug] = (source, atlas)

    root.write_json(MARKER, {"schema": SITE_SCHEMA_VERSION})
    for slug, (source, atlas) in new.items():
        _copy_atlas(source, atlas, root, atlas_folder(slug, atlas))
        published[slug] = site_entry(slug, atlas)
    for path, file in _viewer_files().items():
        root.write_bytes(path, file.read_bytes())
    root.write_bytes(".nojekyll", b"")  # GitHub Pages: serve the files as they are
    root.write_json("sites.json", sites_json(published.values()))
    for slug, (_, atlas) in new.items():
        for name in root.list(f"atlases/{slug}"):
            if name != atlas["build_id"] and _BUILD_ID.fullmatch(name):
                root.remove(f"atlases/{slug}/{name}")
    return _report(root, sorted(published))


def read_atlas(source: Root) -> Manifest:
    """atlas.json of a built atlas.

    Raises:
        ValueError: there is none, or it is not what `build` writes.
    """
    if not source.exists("atlas.json"):
        raise ValueError(f"{source.url}: no atlas.json; build the atlas first with `neuron-atlas build RECIPE`")
    atlas = source.read_json("atlas.json")
    for problem in manifest_problems(atlas):
        raise ValueError(f"{source.url}/atlas.json: {problem}; build the atlas again")
    return atlas


def slug_of(name: str) -> str:
    """A name as it stands in addresses: lower-case ASCII letters, digits and single dashes.

    Raises:
        ValueError: nothing is left of the name.
    """
    plain = unicodedata.normalize("NFKD", name).encode("ascii", "ignore").decode().lower()
    slug = re.sub(r"[^a-z0-9]+", "-", plain).strip("-")[:80].strip("-")
    if not slug:
        raise ValueError(f"name {name!r}: expected at least one letter a–z or digit; it becomes part of the address")
    return slug


def atlas_folder(slug: str, atlas: Mapping[str, Any]) -> str:
    """Where an atlas lies in a site."""
    return f"atlases/{slug}/{atlas['build_id']}"


def site_entry(slug: str, atlas: Mapping[str, Any]) -> dict[str, Any]:
    """What sites.json says about one atlas."""
    return {
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
    """Raise ValueError unless `slug` and `path` of an entry of sites.json fit each other and are safe."""
    slug, path = (entry.get("slug"), entry.get("path")) if isinstance(entry, dict) else (None, None)
    parts = path.split("/") if isinstance(path, str) else []
    if (
        not isinstance(slug, str)
        or not _SLUG.fullmatch(slug)
        or parts[:2] != ["atlases", slug]
        or len(parts) != 3
        or not _BUILD_ID.fullmatch(parts[2])
    ):
        raise ValueError(f"slug {slug!r} with path {path!r}, expected 'atlases/<slug>/<build id>'")


def _viewer_files() -> dict[str, Path]:
    from atlas_viewer import viewer_files  # beside the house, not a floor of it: imported where it is needed

    return viewer_files()


def _published_atlases(root: Root) -> dict[str, dict[str, Any]]:
    """Entries of the site that already lies in `root`, by slug.

    Raises:
        ValueError: the folder holds something else.
    """
    names = set(root.list())
    if not names - _NEUTRAL_NAMES:
        return {}
    if MARKER not in names and not root.exists(MARKER):
        raise ValueError(
            f"{root.url}: not empty and not a site of neuron-atlas (no {MARKER} in it); give a new folder "
            "or empty this one yourself"
        )
    if not root.exists("sites.json"):
        return {}
    sites = root.read_json("sites.json")
    entries = sites.get("atlases") if isinstance(sites, dict) else None
    if not isinstance(entries, list):
        raise ValueError(f"{root.url}/sites.json: no list `atlases`; remove the site and publish it again")
    for entry in entries:
        check_site_entry(entry)
    return {entry["slug"]: entry for entry in entries}


def _copy_atlas(source: Root, atlas: Mapping[str, Any], root: Root, folder: str) -> None:
    """Copy the listed files, each compared with its sha256 on the way, and atlas.json last."""

    def copy(entry: Mapping[str, Any]) -> None:
        data = source.read_bytes(entry["path"])
        if hashlib.sha256(data).hexdigest() != entry["sha256"]:
            raise ValueError(
                f"{source.url}/{entry['path']}: not the file that atlas.json lists (sha256 differs); "
                "see `neuron-atlas validate`, then build again"
            )
        root.write_bytes(f"{folder}/{entry['path']}", data)

    with ThreadPoolExecutor(_COPIERS) as pool:
        for future in [pool.submit(copy, entry) for entry in atlas["files"]]:
            try:
                future.result()
            except BaseException:
                pool.shutdown(wait=True, cancel_futures=True)
                raise
    root.write_json(f"{folder}/atlas.json", atlas)


def _report(root: Root, slugs: Sequence[str]) -> SiteReport:
    sizes = {path: root.size_bytes(path) for path in root.walk() if not path.startswith(".git/")}
    largest = max(sizes, key=lambda path: sizes[path])
    return SiteReport(
        url=root.url,
        slugs=tuple(slugs),
        num_files=len(sizes),
        size_bytes=sum(sizes.values()),
        largest_file=largest,
        largest_file_bytes=sizes[largest],
    )


def _megabytes(size_bytes: int) -> str:
    return f"{size_bytes / 1e6:,.1f} MB"
