"""The data card of an atlas and how to cite it: model, data, methods, scores, limits, license and versions. Pure.

atlases.html          the atlases of a site with their tables to download; needs no JavaScript
cards/<slug>.html     the card as a page           cards/<slug>.md   the same as Markdown
cards/<slug>.cff      Citation File Format 1.2.0   cards/<slug>.bib  BibTeX
README.md             the cards behind the front matter of a Hugging Face static Space
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from pipeline.atlas.site.embedding_table import embedding_path
from pipeline.atlas.format.manifest import Manifest
from pipeline.atlas.format.schema import STATUSES
from pipeline.atlas.site.static_pages import (
    bibtex_text,
    html_facts,
    html_link,
    html_page,
    html_text,
    isolated,
    markdown_text,
    one_line,
    yaml_text,
)

Entry = Mapping[str, Any]  # what sites.json says about an atlas

LIMITS: Final = (
    "A visualization is synthesized until the model sees in it what it sees in the neuron’s reference dataset images. It shows "
    "what the neuron responds to; it does not prove that the neuron responds to nothing else, nor that the model uses "
    "it the way the visualization suggests.",
    "Activations, percentiles and dataset images come from one data set; another one would give others.",
    "Scores are measured by programs. Where people were asked, the answers are not part of this atlas.",
    "A neuron without a good visualization is listed with its status (weak, dead, failed or skipped) and the reason.",
)
_PARTS: Final = ("head.json", "index", "parts")
_DATASET_IMAGES: Final = (
    "The atlas shows dataset images of the data set. They remain their owners’; the license of the atlas is not theirs."
)
_VITAL_BIBTEX: Final = """\
@inproceedings{gorgun2025vital,
  title     = {{VITAL}: More Understandable Feature Visualization through Distribution Alignment and Relevant
               Information Flow},
  author    = {G{\\"o}rg{\\"u}n, Ada and Schiele, Bernt and Fischer, Jonas},
  booktitle = {Proceedings of the IEEE/CVF International Conference on Computer Vision (ICCV)},
  year      = {2025},
  note      = {arXiv:2503.22399}
}
"""
_VITAL_CFF: Final = """\
references:
  - type: conference-paper
    title: "VITAL: More Understandable Feature Visualization through Distribution Alignment and Relevant
      Information Flow"
    authors:
      - family-names: "Görgün"
        given-names: "Ada"
      - family-names: "Schiele"
        given-names: "Bernt"
      - family-names: "Fischer"
        given-names: "Jonas"
    year: 2025
    conference:
      name: "IEEE/CVF International Conference on Computer Vision (ICCV)"
    identifiers:
      - type: other
        value: "arXiv:2503.22399"
"""


@dataclass(frozen=True, kw_only=True)
class Section:
    """A part of a card: paragraphs, then facts (term, value), all plain text."""

    heading: str
    paragraphs: Sequence[str] = ()
    facts: Sequence[tuple[str, str]] = ()


def card_files(
    atlases: Sequence[tuple[Entry, Manifest]],
    *,
    neuron_pages: Mapping[str, str] | None = None,
    embedding_commands: Mapping[str, str] | None = None,
) -> dict[str, bytes]:
    """Path in the site → bytes of the cards of its atlases, their citations, the list and the README.

    Args:
        atlases: of the whole site: entries of sites.json with their atlas.json.
        neuron_pages: slug → path of the first of an atlas's pages that need no JavaScript.
        embedding_commands: slug → command that opens its table for Embedding Atlas, run in the site's folder.
    """
    pages = neuron_pages or {}
    files = {
        "atlases.html": _list_page(atlases, pages),
        "README.md": readme(atlases).encode(),
    }
    for entry, manifest in atlases:
        slug = entry["slug"]
        sections = card_sections(manifest)
        files |= {
            f"cards/{slug}.html": _card_page(
                entry, manifest, sections, pages.get(slug), (embedding_commands or {}).get(slug)
            ),
            f"cards/{slug}.md": card_markdown(manifest, sections).encode(),
            f"cards/{slug}.cff": citation_cff(manifest).encode(),
            f"cards/{slug}.bib": citation_bibtex(slug, manifest).encode(),
        }
    return files


def card_sections(manifest: Manifest) -> list[Section]:
    """What the card of an atlas says."""
    model, provenance, counts = manifest["model"], manifest["provenance"], manifest["counts"]
    evaluators = [evaluator for evaluator in provenance.get("evaluators", ()) if isinstance(evaluator, Mapping)]
    versions = provenance["versions"]
    has_examples = any(entry["path"].startswith("examples/") for entry in manifest["files"])
    size_bytes = sum(entry["bytes"] for entry in manifest["files"])
    skipped = f", {provenance['num_skipped']} more could not be read" if provenance["num_skipped"] else ""
    return [
        Section(
            heading="Model",
            facts=_told(
                ("Name", model["name"]),
                ("Weights", model["weights"]),
                ("SHA-256 of the weights", model["weights_sha256"]),
                ("Input", f"{model['input_size_px']} × {model['input_size_px']} px"),
            ),
        ),
        Section(
            heading="Data",
            facts=_told(
                ("Dataset images looked at", f"{provenance['num_samples']}{skipped}"),
                ("Fingerprint", provenance["data_fingerprint"]),
                ("Dataset images in the atlas", "yes, as thumbnails" if has_examples else "no, keys only or none"),
            ),
        ),
        Section(
            heading="Contents",
            facts=_told(
                *((name.capitalize(), counts.get(name)) for name in ("neurons", *STATUSES)),
                ("Layers", len(manifest["layers"])),
                *(
                    (f"Layer {layer['name']}", f"{layer['num_neurons']} of {layer['num_units']} units")
                    for layer in manifest["layers"]
                ),
                ("Size", f"{len(manifest['files']):,} files, {size_bytes / 1e6:,.1f} MB"),
            ),
        ),
        Section(
            heading="Method",
            facts=_told(("Methods", ", ".join(manifest["methods"])), ("Source", provenance.get("method_citation"))),
        ),
        Section(
            heading="Scores",
            facts=_told(*((name, _meaning(note)) for name, note in manifest["columns"].items())),
        ),
        Section(
            heading="Evaluators",
            facts=_told(*((evaluator.get("role"), evaluator.get("name")) for evaluator in evaluators)),
        ),
        Section(heading="Limits", paragraphs=[*LIMITS, *([_DATASET_IMAGES] if has_examples else [])]),
        Section(
            heading="License and origin",
            facts=_told(
                ("License", manifest["license"] or "none stated: ask the makers before you reuse it"),
                ("Home page", manifest["homepage"]),
                ("Made", provenance["created"]),
                ("Build", manifest["build_id"]),
                ("Recipe", provenance["recipe_fingerprint"]),
                ("Commit", provenance["git_commit"]),
                *(versions.items() if isinstance(versions, Mapping) else ()),
            ),
        ),
    ]


def card_markdown(manifest: Manifest, sections: Sequence[Section]) -> str:
    """The card as Markdown."""
    lines = [f"# {markdown_text(manifest['title'])}", ""]
    for section in sections:
        if section.facts or section.paragraphs:
            lines += [f"## {section.heading}", ""]
            lines += [f"- {markdown_text(paragraph)}" for paragraph in section.paragraphs]
            lines += [f"- **{markdown_text(term)}**: {markdown_text(value)}" for term, value in section.facts]
            lines.append("")
    return "\n".join(lines)


def readme(atlases: Sequence[tuple[Entry, Manifest]]) -> str:
    """README.md of a site; its front matter makes a Hugging Face Space of the kind `static` show index.html."""
    titles = " · ".join(str(manifest["title"]) for _, manifest in atlases)
    front = ["---", f"title: {yaml_text(one_line(titles, 100))}", "sdk: static", "app_file: index.html", "---", ""]
    text = (
        "A static site made by neuron-atlas: open index.html through any web server. The tables are ordinary Parquet "
        "files; data.html tells how they are laid out.\n"
    )
    cards = [card_markdown(manifest, card_sections(manifest)) for _, manifest in atlases]
    return "\n".join([*front, text, *cards])


def citation_bibtex(slug: str, manifest: Manifest) -> str:
    """How to cite the atlas, and the method of its visualizations."""
    created = one_line(manifest["provenance"]["created"])
    fields = [
        ("title", f"{{{bibtex_text(manifest['title'])}}}"),
        ("year", created[:4] if created[:4].isdecimal() else ""),
        ("howpublished", bibtex_text(manifest["homepage"]) if "{" not in manifest["homepage"] else ""),
        ("note", bibtex_text(f"Neuron atlas of {manifest['model']['name']}, build {manifest['build_id']}")),
    ]
    lines = ",\n".join(f"  {name} = {{{value}}}" for name, value in fields if value)
    atlas = f"@misc{{neuron-atlas-{slug},\n{lines}\n}}\n"
    return f"{atlas}\n{_VITAL_BIBTEX}" if "vital" in manifest["methods"] else atlas


def citation_cff(manifest: Manifest) -> str:
    """CITATION.cff (Citation File Format 1.2.0) of the atlas. An atlas names no people: its makers are an entity."""
    created = one_line(manifest["provenance"]["created"])[:10]
    lines = [
        "cff-version: 1.2.0",
        'message: "If you use this atlas, please cite it, and the method of its visualizations."',
        "type: dataset",
        f"title: {yaml_text(manifest['title'])}",
        "authors:",
        f"  - name: {yaml_text('The makers of ' + one_line(manifest['title']))}",
        f"version: {yaml_text(manifest['build_id'])}",
        *([f"date-released: {created}"] if len(created) == 10 and created.replace("-", "").isdecimal() else []),
        f"abstract: {yaml_text('Feature visualizations of the neurons of ' + str(manifest['model']['name']))}",
    ]
    text = "\n".join(lines) + "\n"
    return text + (_VITAL_CFF if "vital" in manifest["methods"] else "")


def _card_page(
    entry: Entry, manifest: Manifest, sections: Sequence[Section], first_page: str | None, command: str | None
) -> bytes:
    slug = entry["slug"]
    parts = [
        f"<p>{html_link('../atlases.html', '← All atlases')}</p>",
        f"<h1>{isolated(manifest['title'])}</h1>",
        f'<p class="lead">Data card. {html_link("../index.html#/atlas/" + slug, "Browse the atlas")} (needs JavaScript)'
        + (f", or {html_link('../' + first_page, 'page by page')} without it" if first_page else "")
        + ".</p>",
    ]
    for section in sections:
        if not section.facts and not section.paragraphs:
            continue
        parts.append(f"<h2>{section.heading}</h2>")
        parts += [f"<p>{isolated(paragraph)}</p>" for paragraph in section.paragraphs]
        if section.facts:
            parts.append(html_facts([(one_line(term), isolated(value)) for term, value in section.facts]))
    parts += ["<h2>Tables</h2>", _tables(entry, manifest, "../")]
    if command:
        where = html_link("../" + embedding_path(slug), "a table of all neurons with their visualizations")
        parts.append(f"<p>For Apple’s Embedding Atlas, {where}, opened by <code>{html_text(command)}</code>.</p>")
    parts.append("<h2>Cite</h2>")
    parts += [f'<pre tabindex="0">{isolated(citation_bibtex(slug, manifest))}</pre>']
    files = [(f"{slug}.bib", "BibTeX"), (f"{slug}.cff", "CITATION.cff"), (f"{slug}.md", "this card as Markdown")]
    parts.append(f"<p>{' · '.join(html_link(path, text) for path, text in files)}</p>")
    return html_page(title=f"{one_line(manifest['title'])} · data card", body="\n".join(parts), up="../")


def _list_page(atlases: Sequence[tuple[Entry, Manifest]], pages: Mapping[str, str]) -> bytes:
    parts = [
        "<h1>The atlases of this site</h1>",
        '<p class="lead">Their tables are ordinary Parquet files; <a href="data.html">how the data is laid out</a> '
        "explains the columns. This page needs no JavaScript.</p>",
    ]
    for entry, manifest in atlases:
        slug = entry["slug"]
        links = [
            html_link(f"index.html#/atlas/{slug}", "browse (needs JavaScript)"),
            html_link(f"cards/{slug}.html", "data card"),
            *([html_link(pages[slug], "page by page")] if slug in pages else []),
        ]
        parts += [
            f"<h2>{isolated(manifest['title'])}</h2>",
            f"<p>{isolated(manifest['model']['name'])}, {isolated(manifest['counts'].get('neurons', '?'))} neurons: "
            f"{' · '.join(links)}</p>",
            _tables(entry, manifest, ""),
        ]
    return html_page(title="Atlases", body="\n".join(parts), up="")


def _tables(entry: Entry, manifest: Manifest, up: str) -> str:
    """Links to everything of an atlas that is no visualization, nor a part of another table for the viewer."""
    files = [("atlas.json", None)]
    files += [
        (file["path"], file["bytes"])
        for file in manifest["files"]
        if not file["path"].endswith(".webp") and file["path"].split("/")[0] not in _PARTS
    ]
    folder = up + entry["path"]
    items = [
        f"<li>{html_link(f'{folder}/{path}', path)}{'' if size is None else f' {size / 1e3:,.1f} kB'}</li>"
        for path, size in files
    ]
    return "<ul>\n" + "\n".join(items) + "\n</ul>"


def _told(*facts: tuple[object, object]) -> list[tuple[str, str]]:
    return [(str(term), str(value)) for term, value in facts if value not in (None, "")]


def _meaning(note: object) -> str:
    if not isinstance(note, Mapping):
        return ""
    unit = note.get("unit")
    return f"{note.get('meaning', '')}{f' ({unit})' if unit else ''}"
