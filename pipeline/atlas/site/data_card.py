"""The data card of an atlas and how to cite it: model, data, methods, scores, limits, license and versions. Pure.

atlases.html          the atlases of a site with their tables to download; needs no JavaScript
cards/<slug>.html     the card as a page           cards/<slug>.md   the same as Markdown
cards/<slug>.cff      Citation File Format 1.2.0   cards/<slug>.bib  BibTeX
README.md             the cards behind the front matter of a Hugging Face static Space
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from pipeline.atlas.format.manifest import Manifest
from pipeline.atlas.format.schema import STATUSES
from pipeline.atlas.site.embedding_table import embedding_path
from pipeline.atlas.site.static_pages import bibtex_text, markdown_text, one_line, page, yaml_text

Entry = Mapping[str, Any]  # an atlas in sites.json

LIMITS: Final = (
    "A visualization is synthesized until the model’s features of it match those of the neuron’s reference images. It "
    "shows what the neuron responds to; it does not prove that the neuron responds to nothing else, nor that the model "
    "uses it the way the visualization suggests.",
    "Activations, percentiles and dataset images come from one data set; another one would give others.",
    "Scores are measured by programs. Answers of people in a study are not part of this atlas.",
    "A neuron without a good visualization is listed with its status (weak, dead, failed or skipped) and the reason.",
)
_PARTS: Final = ("head.json", "index", "parts")
_DATASET_IMAGES: Final = (
    "The atlas shows dataset images. They remain their owners’; the license of the atlas does not apply to them."
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
        "atlases.html": page(
            "atlases.html",
            title="Atlases",
            up="",
            atlases=[_shown(entry, manifest, pages.get(entry["slug"])) for entry, manifest in atlases],
        ),
        "README.md": readme(atlases).encode(),
    }
    for entry, manifest in atlases:
        slug = entry["slug"]
        sections = card_sections(manifest)
        files |= {
            f"cards/{slug}.html": page(
                "card.html",
                title=f"{one_line(manifest['title'])} · data card",
                up="../",
                **_shown(entry, manifest, pages.get(slug)),
                sections=sections,
                bibtex=citation_bibtex(slug, manifest),
                embedding=embedding_path(slug),
                command=(embedding_commands or {}).get(slug),
            ),
            f"cards/{slug}.md": card_markdown(manifest, sections).encode(),
            f"cards/{slug}.cff": citation_cff(manifest).encode(),
            f"cards/{slug}.bib": citation_bibtex(slug, manifest).encode(),
        }
    return files


def card_sections(manifest: Manifest) -> list[Section]:
    """The sections of the card of an atlas."""
    model, provenance, counts = manifest["model"], manifest["provenance"], manifest["counts"]
    evaluators = [evaluator for evaluator in provenance.get("evaluators", ()) if isinstance(evaluator, Mapping)]
    versions = provenance["versions"]
    has_examples = any(entry["path"].startswith("examples/") for entry in manifest["files"])
    size_bytes = sum(entry["bytes"] for entry in manifest["files"])
    skipped = f", {provenance['num_skipped']} more could not be read" if provenance["num_skipped"] else ""
    return [
        Section(
            heading="Model",
            facts=_known(
                ("Name", model["name"]),
                ("Weights", model["weights"]),
                ("SHA-256 of the weights", model["weights_sha256"]),
                ("Input", f"{model['input_size_px']} × {model['input_size_px']} px"),
            ),
        ),
        Section(
            heading="Data",
            facts=_known(
                ("Dataset images", f"{provenance['num_samples']}{skipped}"),
                ("Labels", f"Warning: {warning}" if (warning := provenance.get("label_warning", "")) else ""),
                ("Fingerprint", provenance["data_fingerprint"]),
                ("Dataset images in the atlas", "yes, as thumbnails" if has_examples else "no, keys only or none"),
            ),
        ),
        Section(
            heading="Contents",
            facts=_known(
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
            facts=_known(("Methods", ", ".join(manifest["methods"])), ("Source", provenance.get("method_citation"))),
        ),
        Section(
            heading="Scores",
            facts=_known(*((name, _meaning(note)) for name, note in manifest["columns"].items())),
        ),
        Section(
            heading="Evaluators",
            facts=_known(*((evaluator.get("role"), evaluator.get("name")) for evaluator in evaluators)),
        ),
        Section(heading="Limits", paragraphs=[*LIMITS, *([_DATASET_IMAGES] if has_examples else [])]),
        Section(
            heading="License and origin",
            facts=_known(
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
        "files; data.html describes their columns.\n"
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


def _shown(entry: Entry, manifest: Manifest, first_page: str | None) -> dict[str, Any]:
    """What the templates show of an atlas; its `files` without images and without parts of tables for the viewer."""
    return {
        "slug": entry["slug"],
        "folder": entry["path"],
        "manifest": manifest,
        "first_page": first_page,
        "files": [
            file
            for file in manifest["files"]
            if not file["path"].endswith(".webp") and file["path"].split("/")[0] not in _PARTS
        ],
    }


def _known(*facts: tuple[object, object]) -> list[tuple[str, str]]:
    return [(str(term), str(value)) for term, value in facts if value not in (None, "")]


def _meaning(note: object) -> str:
    if not isinstance(note, Mapping):
        return ""
    unit = note.get("unit")
    return f"{note.get('meaning', '')}{f' ({unit})' if unit else ''}"
