"""What static hosts allow, and whether a site fits. Pure.

The limits are those that the hosts document (looked up in November 2026): GitHub Pages "usage limits" and GitHub's
100 MiB per file of a repository; GitLab.com "GitLab Pages settings"; Cloudflare Pages "limits", free plan; Hugging Face
"Repository limitations and recommendations" (recommended numbers; a file may have 50 GB).
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final


@dataclass(frozen=True, kw_only=True)
class HostLimit:
    """What one host allows; None where it names no limit."""

    host: str
    max_site_bytes: int | None = None
    max_file_bytes: int | None = None
    max_files: int | None = None
    max_files_per_folder: int | None = None


HOST_LIMITS: Final = (
    HostLimit(host="GitHub Pages", max_site_bytes=1_000_000_000, max_file_bytes=100 << 20),
    HostLimit(host="GitLab Pages (gitlab.com)", max_site_bytes=1 << 30, max_files=200_000),
    HostLimit(host="Cloudflare Pages (free)", max_file_bytes=25 << 20, max_files=20_000),
    HostLimit(
        host="Hugging Face static Space",
        max_file_bytes=50_000_000_000,
        max_files=100_000,
        max_files_per_folder=10_000,
    ),
    HostLimit(host="S3, R2, GCS, own web server"),
)


@dataclass(frozen=True, kw_only=True)
class SiteReport:
    """What was published, its size, which hosts accept it, and a remedy for the others."""

    url: str
    slugs: tuple[str, ...]
    num_files: int
    size_bytes: int
    largest_file: str
    largest_file_bytes: int
    fullest_folder: str
    fullest_folder_files: int
    is_packed: bool = False
    has_neuron_pages: bool = False

    @staticmethod
    def of(url: str, slugs: tuple[str, ...], sizes: Mapping[str, int], **forms: bool) -> "SiteReport":
        """The report on files given by path and size in bytes."""
        largest = max(sizes, key=lambda path: sizes[path])
        folders: dict[str, int] = {}
        for path in sizes:
            folder = path.rpartition("/")[0]
            folders[folder] = folders.get(folder, 0) + 1
        fullest = max(folders, key=lambda folder: folders[folder])
        return SiteReport(
            url=url,
            slugs=slugs,
            num_files=len(sizes),
            size_bytes=sum(sizes.values()),
            largest_file=largest,
            largest_file_bytes=sizes[largest],
            fullest_folder=fullest,
            fullest_folder_files=folders[fullest],
            **forms,
        )

    def warnings(self) -> list[str]:
        """One line per host whose limits the site exceeds, with the remedy."""
        lines = []
        for limit in HOST_LIMITS:
            over = self._exceeded(limit)
            if over:
                lines.append(f"too large for {limit.host} ({'; '.join(over.values())}): {self._remedy(set(over))}")
        return lines

    def table(self) -> list[str]:
        """The hosts with their limits, one line each; what the site exceeds is marked with "!"."""
        rows: list[tuple[str, ...]] = [("Host", "Site", "Files", "Largest file", "Folder", "Fits")]
        for limit in HOST_LIMITS:
            over = self._exceeded(limit)
            cells = [
                ("site", _megabytes(limit.max_site_bytes)),
                ("files", _count(limit.max_files)),
                ("file", _megabytes(limit.max_file_bytes)),
                ("folder", _count(limit.max_files_per_folder)),
            ]
            marked = [f"{text} !" if name in over else text for name, text in cells]
            rows.append((limit.host, *marked, "no" if over else "yes"))
        site = (
            *("This site", _megabytes(self.size_bytes), _count(self.num_files)),
            *(_megabytes(self.largest_file_bytes), _count(self.fullest_folder_files), ""),
        )
        rows.insert(1, site)
        widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
        return [
            "  ".join(
                [row[0].ljust(widths[0]), *(cell.rjust(width) for cell, width in zip(row[1:], widths[1:], strict=True))]
            )
            for row in rows
        ]

    def lines(self) -> list[str]:
        """The report as text."""
        size = f"{self.num_files:,} files, {_megabytes(self.size_bytes)}"
        return [f"{self.url}: {', '.join(self.slugs)}; {size}", "", *self.table(), "", *self.warnings()]

    def __str__(self) -> str:
        return "\n".join(self.lines()).rstrip("\n")

    def _exceeded(self, limit: HostLimit) -> dict[str, str]:
        """What is over a limit, in words, by "site", "files", "file" or "folder"."""
        over = {}
        if limit.max_site_bytes is not None and self.size_bytes > limit.max_site_bytes:
            over["site"] = f"{_megabytes(self.size_bytes)} of {_megabytes(limit.max_site_bytes)} allowed"
        if limit.max_file_bytes is not None and self.largest_file_bytes > limit.max_file_bytes:
            over["file"] = (
                f"{self.largest_file} has {_megabytes(self.largest_file_bytes)} "
                f"of {_megabytes(limit.max_file_bytes)} allowed"
            )
        if limit.max_files is not None and self.num_files > limit.max_files:
            over["files"] = f"{self.num_files:,} of {limit.max_files:,} files allowed"
        if limit.max_files_per_folder is not None and self.fullest_folder_files > limit.max_files_per_folder:
            over["folder"] = (
                f"{self.fullest_folder} has {self.fullest_folder_files:,} "
                f"of {limit.max_files_per_folder:,} files allowed in a folder"
            )
        return over

    def _remedy(self, over: set[str]) -> str:
        remedies = []
        if over & {"files", "folder"} and self.has_neuron_pages:
            remedies.append("leave out --neuron-pages (one file per neuron)")
        elif over & {"files", "folder"} and not self.is_packed:
            remedies.append("add --pack (a few archives per layer instead of single images)")
        if over & {"site", "file"} or not remedies:
            remedies.append(
                "publish to an object store (S3, R2, GCS), or fewer layers or seeds per site, or without dataset images"
            )
        return ", or ".join(remedies)


def _megabytes(size_bytes: int | None) -> str:
    return "–" if size_bytes is None else f"{size_bytes / 1e6:,.1f} MB"


def _count(number: int | None) -> str:
    return "–" if number is None else f"{number:,}"
