"""The demo's committed dataset images: allowed licenses only, every image decodes, every author is named."""

import importlib.util
import json
import re
import tarfile
from pathlib import Path

import pytest

from jobs.commands.demo import demo_recipe
from pipeline.data.shards import Sample, iterate_samples
from pipeline.io.images import decode_image
from pipeline.io.root import expand_urls
from tests.support.paths import ROOT

DEMO = ROOT / "jobs" / "demo_data"
ALLOWED = {"public-domain", "public-domain (NASA)", "CC0-1.0", "CC-BY-2.0", "CC-BY-3.0", "CC-BY-4.0"}
URLS = expand_urls(f"{DEMO}/shards/neuron-atlas-demo-*.tar")


@pytest.fixture(scope="module")
def samples() -> list[Sample]:
    return [s for url in URLS for s in iterate_samples(url, num_classes=1000, on_skip=pytest.fail)]


@pytest.fixture(scope="module")
def descriptions() -> dict[str, dict]:
    found = {}
    for url in URLS:
        with tarfile.open(url) as tar:
            for member in tar:
                if member.name.endswith(".json"):
                    found[member.name.removesuffix(".json")] = json.load(tar.extractfile(member))
    return found


@pytest.fixture(scope="module")
def attribution() -> dict[str, list[str]]:
    lines = (DEMO / "ATTRIBUTION.md").read_text(encoding="utf-8").splitlines()
    rows = [re.split(r"(?<!\\)\|", line)[1:-1] for line in lines if line.startswith("| ")][2:]
    return {row[0].strip(): [cell.strip().replace(r"\|", "|") for cell in row[1:]] for row in rows}


def test_the_shards_are_small_and_numbered(samples):
    assert [Path(url).name for url in URLS] == [f"neuron-atlas-demo-{i:06d}.tar" for i in range(len(URLS))]
    assert sum(Path(url).stat().st_size for url in URLS) <= 8_000_000
    assert len(samples) == 248
    assert len({sample.key for sample in samples}) == len(samples)


def test_every_image_decodes(samples):
    for sample in samples:
        assert min(decode_image(sample.image).size) >= 256, sample.key


def test_captions_are_found_where_the_demo_looks_for_them(descriptions):
    key = demo_recipe("out").data.caption_key
    found = [s for url in URLS for s in iterate_samples(url, caption_key=key, num_classes=1000, on_skip=pytest.fail)]
    assert {sample.key: sample.caption for sample in found} == {k: d["caption"] for k, d in descriptions.items()}


def test_every_license_is_allowed(descriptions, samples):
    assert {sample.key for sample in samples} == set(descriptions)
    assert {described["license"] for described in descriptions.values()} <= ALLOWED


def test_every_image_is_attributed(descriptions, attribution):
    assert set(attribution) == set(descriptions)
    for key, (caption, author, license_name, source) in attribution.items():
        described = descriptions[key]
        assert (caption, author, license_name) == (
            described["caption"],
            described["author"],
            described["license"],
        )
        assert author, key
        assert (described["source"] or described["package"]) in source


def test_labels_are_the_first_of_the_given_classes(descriptions, samples):
    for sample in samples:
        classes = descriptions[sample.key]["imagenet"]
        assert sample.label == (classes[0] if classes else None), sample.key
    num_labeled = sum(sample.label is not None for sample in samples)
    assert 0 < num_labeled < len(samples)


def test_nothing_of_the_maker_is_in_the_shards():
    for url in URLS:
        with tarfile.open(url) as tar:
            headers = {(m.mtime, m.uid, m.gid, m.uname, m.gname, m.mode) for m in tar}
        assert headers == {(0, 0, 0, "", "", 0o644)}


def test_the_script_takes_allowed_licenses_only_and_repeats_its_bytes(tmp_path, samples):
    spec = importlib.util.spec_from_file_location("make_shards", DEMO / "make_shards.py")
    make_shards = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(make_shards)
    licenses = [
        *sorted(ALLOWED),
        "CC-BY-SA-4.0",
        "GPL-2.0",
        "BSD-3-clause",
        "no known restrictions",
        "CC-BY-NC-2.0",
    ]
    columns = "file,caption,category,imagenet,licence,author,source,package,version\n"
    rows = "".join(f"{i}.jpg,A cat,animal,281 282,{name},Me,,p,1\n" for i, name in enumerate(licenses))
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / "manifest.csv").write_text(columns + rows)
    for i, _ in enumerate(licenses):
        (tmp_path / "in" / f"{i}.jpg").write_bytes(samples[i].image)
    for out in ("one", "two"):
        num_samples, _ = make_shards.make_shards(tmp_path / "in", tmp_path / out)
        assert num_samples == len(ALLOWED)
    first, second = (tmp_path / out / "shards/neuron-atlas-demo-000000.tar" for out in ("one", "two"))
    assert first.read_bytes() == second.read_bytes()
    assert (tmp_path / "one/ATTRIBUTION.md").read_bytes() == (tmp_path / "two/ATTRIBUTION.md").read_bytes()
