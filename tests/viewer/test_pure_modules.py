"""The viewer's pure modules, tested in JavaScript: `node --test` over the *.test.mjs files of this folder."""

import os
import shutil
import subprocess
from pathlib import Path

import pytest

from pipeline.io.parquet import table_bytes

FOLDER = Path(__file__).resolve().parent
NODE = shutil.which("node")
TIMEOUT_S = 120


@pytest.fixture(scope="module")
def table(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small table as the pipeline writes it, for data.test.mjs to read."""
    rows = [
        {
            "layer": "conv_stem" if unit < 150 else "blocks.5",
            "unit": unit,
            "loss": None if unit % 2 else unit / 2,
            "keys": [f"k{unit}", "<b>ü🦆"] if unit != 3 else [],
            "values": [0.5, float(unit)],
        }
        for unit in range(300)
    ]
    schema = {"layer": "string", "unit": "int32", "loss": "float32", "keys": "list<string>", "values": "list<float32>"}
    path = tmp_path_factory.mktemp("table") / "table.parquet"
    path.write_bytes(table_bytes(rows, schema))
    return path


@pytest.mark.skipif(NODE is None, reason="Node is not installed (any version from 20 on runs these tests)")
@pytest.mark.parametrize("file", sorted(path.name for path in FOLDER.glob("*.test.mjs")))
def test_pure_modules(file: str, table: Path) -> None:
    assert NODE is not None
    result = subprocess.run(
        [NODE, "--test", "--test-reporter=tap", str(FOLDER / file)],
        capture_output=True,
        text=True,
        timeout=TIMEOUT_S,
        env={**os.environ, "VIEWER_TEST_TABLE": str(table)},
        check=False,
    )
    assert result.returncode == 0, result.stdout + result.stderr
    assert "# skipped 0" in result.stdout, result.stdout
