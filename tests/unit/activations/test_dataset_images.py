"""Dataset images read ahead: in order, several at once, decoded by as many as the worker has threads."""

import threading
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from pipeline.activations import dataset_images as dataset_images
from pipeline.activations.dataset_images import dataset_images_ahead
from pipeline.activations.store import TopImage
from pipeline.io.images import BadImage
from pipeline.references import reading
from pipeline.references.reading import ReferenceReader
from tests.support.tiny_collect import SIZE_PX, png, tiny_model


class Gauge:
    """How many are inside at once, at most, and how many came in all."""

    def __init__(self) -> None:
        self._lock, self._inside, self.most, self.total = threading.Lock(), 0, 0, 0

    def __enter__(self) -> None:
        with self._lock:
            self._inside += 1
            self.total += 1
            self.most = max(self.most, self._inside)
        time.sleep(0.01)

    def __exit__(self, *_: object) -> None:
        with self._lock:
            self._inside -= 1


def sample(path: Path, image: bytes, number: int) -> TopImage:
    file = path / f"{number}.png"
    file.write_bytes(image)
    return TopImage(
        sample=number,
        key=str(number),
        tar_shard=str(file),
        offset=0,
        size=len(image),
        label=-1,
        top1=-1,
        activation=0.0,
        position=(0, 0),
    )


@pytest.fixture
def samples(tmp_path: Path) -> list[TopImage]:
    return [sample(tmp_path, b"no image" if number == 5 else png(number), number) for number in range(24)]


@pytest.fixture
def gauges(monkeypatch: pytest.MonkeyPatch) -> tuple[Gauge, Gauge]:
    """Of the requests and of the decoders."""
    requests, decoding = Gauge(), Gauge()
    fetch, decode = dataset_images.read_image_bytes, dataset_images.decode_image

    def slow_fetch(*place: object) -> bytes:
        with requests:
            return fetch(*place)

    def slow_decode(data: bytes, **options: object) -> Image.Image:
        with decoding:
            return decode(data, **options)

    monkeypatch.setattr(dataset_images, "read_image_bytes", slow_fetch)
    monkeypatch.setattr(dataset_images, "decode_image", slow_decode)
    return requests, decoding


@pytest.mark.parametrize("threads", [1, 2])
def test_dataset_images_come_in_order_and_errors_come_in_their_turn(
    samples: list[TopImage], gauges: tuple[Gauge, Gauge], monkeypatch: pytest.MonkeyPatch, threads: int
) -> None:
    monkeypatch.setattr(torch, "get_num_threads", lambda: threads)
    found = list(dataset_images_ahead(samples, max_pixels=10**6, keep_alpha=False))
    assert [top_image for top_image, _ in found] == samples
    for top_image, dataset_image in found:
        if top_image.key == "5":
            assert isinstance(dataset_image, BadImage)
        else:
            alone = Image.open(top_image.tar_shard).convert("RGB")
            assert np.array_equal(np.asarray(dataset_image), np.asarray(alone))
    requests, decoding = gauges
    assert requests.most > 2
    assert decoding.most == threads


def test_a_file_that_is_gone_is_an_error_in_its_turn(samples: list[TopImage]) -> None:
    Path(samples[2].tar_shard).unlink()
    found = dataset_images_ahead(samples, max_pixels=10**6, keep_alpha=False)
    assert [next(found)[0].key for _ in range(2)] == ["0", "1"]
    with pytest.raises(FileNotFoundError, match=r"2\.png"):
        next(found)


def test_references_are_read_together_once_and_are_those_read_alone(
    samples: list[TopImage], gauges: tuple[Gauge, Gauge]
) -> None:
    model = tiny_model()
    good = [top_image for top_image in samples if top_image.key != "5"]
    alone = ReferenceReader(model, image_size_px=SIZE_PX, max_pixels=10**6)
    expected = torch.stack([model.preprocessing.to_tensor(alone.crop(top_image)) for top_image in good])
    requests, _ = gauges
    assert requests.most == 1
    together = ReferenceReader(model, image_size_px=SIZE_PX, max_pixels=10**6)
    assert torch.equal(together.images(good), expected)
    assert requests.most > 2
    before = requests.total
    assert torch.equal(together.images(good), expected)
    assert requests.total == before  # nothing is read again


def test_cached_references_are_not_displaced_by_those_that_are_read(
    samples: list[TopImage], gauges: tuple[Gauge, Gauge], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(reading, "_CACHED_IMAGES", 4)
    reader = ReferenceReader(tiny_model(), image_size_px=SIZE_PX, max_pixels=10**6)
    reader.images(samples[:4])
    requests, _ = gauges
    before = requests.total
    reader.images([samples[0], *samples[6:8]])
    assert requests.total == before + 2


def test_a_reference_that_is_no_image_any_more_is_named(samples: list[TopImage]) -> None:
    reader = ReferenceReader(tiny_model(), image_size_px=SIZE_PX, max_pixels=10**6)
    with pytest.raises(ValueError, match=r'reference "5" in .*5\.png'):
        reader.images(samples)
