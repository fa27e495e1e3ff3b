"""Make the demo's tar shards: the script that made the files beside it, kept so that they can be made again.

    python jobs/demo_data/make_shards.py PHOTOGRAPHS

PHOTOGRAPHS is a folder with `manifest.csv` (columns file, caption, category, imagenet, licence, author,
source, package, version) and the JPEGs it names. Only those are taken whose license asks for no more than
to name the author: public domain, CC0, CC-BY. Written are `shards/*.tar`, whose bytes depend on nothing but
the photographs, and `ATTRIBUTION.md`.
"""

import argparse
import csv
import hashlib
import re
from pathlib import Path

from pipeline.data.shards import NewSample, unique_slugs, write_tar_shards
from pipeline.errors import UserError
from pipeline.io.images import decode_image
from pipeline.io.root import Root

NAME = "neuron-atlas-demo"
SAMPLES_PER_SHARD = 64
MAX_TOTAL_BYTES = 8_000_000
ALLOWED_LICENSE = re.compile(r"public-domain( \(NASA\))?|CC0-1\.0|CC-BY-[0-9.]+")
KEY_CHARACTERS = 48

_HEADER = """# The demo's photographs

The pictures in `shards/` were taken from packages of Debian's `main`. Each is in the public domain or under a
[CC0](https://creativecommons.org/publicdomain/zero/1.0/) or CC-BY license
([2.0](https://creativecommons.org/licenses/by/2.0/), [3.0](https://creativecommons.org/licenses/by/3.0/),
[4.0](https://creativecommons.org/licenses/by/4.0/)). Changes made: cropped, resized, transparency laid over a
flat color, saved as JPEG. This file is written by `make_shards.py`.

| key | caption | author | license | source |
| --- | --- | --- | --- | --- |
"""


def main() -> None:
    """Read the photographs folder named on the command line and write shards and attribution."""
    parser = argparse.ArgumentParser(description="Make the demo's tar shards from a folder of photographs.")
    parser.add_argument("photographs", type=Path, help="folder with manifest.csv")
    parser.add_argument("--out", type=Path, default=Path(__file__).parent, help="folder of this script")
    arguments = parser.parse_args()
    num_samples, num_bytes = make_shards(arguments.photographs, arguments.out)
    print(f"{num_samples} photographs, {num_bytes / 1e6:.2f} MB")


def make_shards(photographs: Path, out: Path) -> tuple[int, int]:
    """Write `out/shards/*.tar` and `out/ATTRIBUTION.md`; return the number of photographs and of bytes.

    Raises:
        UserError: no photograph may be taken, one cannot be decoded, or the shards come out too large.
    """
    with open(photographs / "manifest.csv", encoding="utf-8", newline="") as file:
        rows = [row for row in csv.DictReader(file) if ALLOWED_LICENSE.fullmatch(row["licence"])]
    if not rows:
        raise UserError(f"{photographs / 'manifest.csv'} lists no photograph of an allowed license")
    rows.sort(key=lambda row: row["file"])
    keys = unique_slugs(_short(row["caption"]) for row in rows)
    samples = [_sample(key, row, photographs) for key, row in zip(keys, rows, strict=True)]
    # By hash, so that each shard is a mixture and not of one kind.
    samples.sort(key=lambda sample: hashlib.sha256(sample.key.encode()).digest())
    num_shards = -(-len(samples) // SAMPLES_PER_SHARD)
    root = Root.open(str(out / "shards"))
    shards, num_samples = write_tar_shards(
        samples, root, name=NAME, max_samples=-(-len(samples) // num_shards), max_bytes=MAX_TOTAL_BYTES
    )
    num_bytes = sum(root.size_bytes(shard) for shard in shards)
    if num_bytes > MAX_TOTAL_BYTES:
        raise UserError(f"the shards hold {num_bytes} bytes, expected at most {MAX_TOTAL_BYTES}")
    table = "".join(_attribution_row(sample) for sample in sorted(samples, key=lambda sample: sample.key))
    Root.open(str(out)).write_text("ATTRIBUTION.md", _HEADER + table)
    return num_samples, num_bytes


def _short(caption: str) -> str:
    """Return a caption as words for a key: lower case, none twice, no long numbers."""
    words = re.findall(r"\w+", caption.lower().replace("'", ""))
    short = ""
    for word in dict.fromkeys(words):
        if re.fullmatch(r"[0-9]{5,}", word):
            continue
        if short and len(short) + 1 + len(word) > KEY_CHARACTERS:
            break
        short = f"{short} {word}".strip()
    return short


def _sample(key: str, row: dict[str, str], photographs: Path) -> NewSample:
    image = (photographs / row["file"]).read_bytes()
    decode_image(image)
    classes = [int(index) for index in row["imagenet"].split()]
    description = {
        "caption": row["caption"],
        "category": row["category"],
        "imagenet": classes,
        "license": row["licence"],
        "author": row["author"],
        "source": row["source"],
        "package": f"{row['package']} {row['version']}",
    }
    return NewSample(key=key, suffix="jpg", image=image, label=classes[0] if classes else None, description=description)


def _attribution_row(sample: NewSample) -> str:
    described = sample.description
    source = f"<{described['source']}>" if described["source"] else f"Debian package {described['package']}"
    cells = (sample.key, described["caption"], described["author"], described["license"], source)
    return "| " + " | ".join(str(cell).replace("|", r"\|") for cell in cells) + " |\n"


if __name__ == "__main__":
    main()
