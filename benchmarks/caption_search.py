"""What captions cost the search box: bytes of labels.parquet, time to unpack it, time of a search, memory; in Node.

    python -m benchmarks.caption_search [--neurons 100000]

Drawn: neurons with five labels each of 1,000 classes and with four captions each, as many as labels.parquet has of a
row, of 50,000 dataset images or of as many as there are captions (the worst case). A caption is 11 words of 4,000, the
more frequent ones more often (Zipf), 60 characters as in COCO. "In groups" is the file with a dictionary for every
8,192 rows, as `build` writes it without captions. "Prepare" numbers the texts and makes what a search looks through;
`selectRows` looks through all neurons, median of 9, and the neurons found.
"""

import argparse
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Final

import numpy as np

from pipeline.atlas.format.schema import LABELS_SCHEMA, TOP_CAPTIONS
from pipeline.io.parquet import join_tables, table_bytes

NUM_CLASSES: Final = 1000
NUM_LABELS: Final = 5
NUM_WORDS: Final = 4000
WORDS_PER_CAPTION: Final = 11
NEURONS_PER_LAYER: Final = 2000
VIEWER: Final = Path(__file__).parents[1] / "atlas_viewer"

_SCRIPT: Final = """
import { readFileSync } from 'node:fs'
const [viewer, path, queries] = [process.argv[2], process.argv[3], JSON.parse(process.argv[4])]
const { decodeTable, packLabels } = await import(`${viewer}/data/tables.js`)
const { prepareTexts, selectRows } = await import(`${viewer}/data/search.js`)
const { emptyList } = await import(`${viewer}/base/route.js`)
const data = readFileSync(path)
gc()
const before = process.memoryUsage()
let start = performance.now()
let table = await decodeTable(data.buffer.slice(data.byteOffset, data.byteOffset + data.length), path)
const decodeMs = performance.now() - start
start = performance.now()
const labels = packLabels(table.columns.top_labels, table.columns.top_captions)
prepareTexts(labels)
const prepareMs = performance.now() - start
const { layer, unit } = table.columns
const n = table.numRows
table = null
const columns = { layer, unit: Int32Array.from(unit), status: Array(n).fill('ok'), label: Array(n).fill('') }
const index = { numRows: n, labels, columns }
const ms = (query) => {
  const start = performance.now()
  const found = selectRows(index, { ...emptyList(), query }).length
  return [performance.now() - start, found]
}
const [firstMs] = ms(queries[0])
await new Promise((resolve) => setTimeout(resolve, 50))
gc()
const after = process.memoryUsage()
const heapMb = (after.heapUsed + after.arrayBuffers - before.heapUsed - before.arrayBuffers) / 1e6
const searches = queries.map((query) => {
  const tried = Array.from({ length: 9 }, () => ms(query)).sort((a, b) => a[0] - b[0])
  return tried[4]
})
console.log(JSON.stringify({ decodeMs, prepareMs, firstMs, heapMb, searches }))
"""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--neurons", type=int, default=100_000)
    arguments = parser.parse_args()
    node = shutil.which("node")
    if node is None:
        sys.exit("this benchmark needs Node on the PATH")
    version = subprocess.run([node, "--version"], capture_output=True, text=True, check=True).stdout.strip()
    print(f"Node {version}, {os.cpu_count()} cores, load {os.getloadavg()[0]:.1f}, {time.strftime('%Y-%m-%d')}")
    print(f"{arguments.neurons} neurons\n")
    print("| captions | in groups, MB | as written, MB | decode ms | prepare ms | first search ms | held MB |", end="")
    print(" frequent word | rare | none |")
    print("|---|---|---|---|---|---|---|---|---|---|")
    words = _words(np.random.default_rng(0))
    queries = [words[20], words[NUM_WORDS - 50], "qqqq"]
    with tempfile.TemporaryDirectory() as folder:
        script = Path(folder) / "measure.mjs"
        script.write_text(_SCRIPT)
        for name, num_dataset_images in (("none", 0), ("of 50,000 dataset images", 50_000), ("all different", None)):
            path = Path(folder) / "labels.parquet"
            tables = _labels_tables(arguments.neurons, num_dataset_images)
            in_groups = len(join_tables(tables, LABELS_SCHEMA))
            path.write_bytes(join_tables(tables, LABELS_SCHEMA, one_group=num_dataset_images != 0))
            command = [node, "--expose-gc", str(script), VIEWER.as_uri(), str(path), json.dumps(queries)]
            found = json.loads(subprocess.run(command, capture_output=True, text=True, check=True).stdout)
            searches = " | ".join(f"{ms:.1f} ms, {count}" for ms, count in found["searches"])
            sizes = f"{in_groups / 1e6:.2f} | {path.stat().st_size / 1e6:.2f}"
            times = f"{found['decodeMs']:.0f} | {found['prepareMs']:.0f} | {found['firstMs']:.1f}"
            print(f"| {name} | {sizes} | {times} | {found['heapMb']:.1f} | {searches} |", flush=True)


def _words(generator: np.random.Generator) -> list[str]:
    """Distinct made-up words without the letter q, 4.5 letters on average."""
    letters = np.array(list("abcdefghijklmnoprstuvwxyz"))
    found: dict[str, None] = {}
    while len(found) < NUM_WORDS:
        found["".join(generator.choice(letters, size=generator.integers(2, 8)))] = None
    return list(found)


def drawn_captions(count: int) -> list[str]:
    """Captions of so many dataset images."""
    words = _words(np.random.default_rng(0))
    rank = np.arange(1, NUM_WORDS + 1)
    chance = (1 / rank) / (1 / rank).sum()
    drawn = np.random.default_rng(1).choice(NUM_WORDS, size=(count, WORDS_PER_CAPTION), p=chance)
    return [" ".join(words[word] for word in row) for row in drawn]


def _labels_tables(num_neurons: int, num_dataset_images: int | None) -> list[tuple[str, bytes]]:
    """The parts of labels.parquet that `build` makes, layer by layer; `num_dataset_images` None for one to a caption."""
    generator = np.random.default_rng(2)
    count = num_neurons * TOP_CAPTIONS if num_dataset_images is None else num_dataset_images
    captions = drawn_captions(count)
    tables = []
    for start in range(0, num_neurons, NEURONS_PER_LAYER):
        size = min(NEURONS_PER_LAYER, num_neurons - start)
        labels = generator.integers(NUM_CLASSES, size=(size, NUM_LABELS))
        if num_dataset_images is None:
            chosen = np.arange(start * TOP_CAPTIONS, (start + size) * TOP_CAPTIONS).reshape(size, TOP_CAPTIONS)
        else:
            chosen = generator.integers(max(1, count), size=(size, TOP_CAPTIONS if count else 0))
        layer = f"blocks.{start // NEURONS_PER_LAYER}"
        rows = [
            {
                "layer": layer,
                "unit": unit,
                "top_labels": [f"class number {label}" for label in dict.fromkeys(labels[unit].tolist())],
                "top_captions": [captions[place] for place in chosen[unit]],
            }
            for unit in range(size)
        ]
        tables.append((layer, table_bytes(rows, LABELS_SCHEMA)))
    return tables


if __name__ == "__main__":
    main()
