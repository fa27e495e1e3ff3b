"""The activation pass of a tar shard against statistics computed image by image from stored features."""

from collections.abc import Iterator
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from pipeline.activations import collect as collect_module
from pipeline.activations.accumulators.class_topk import ClassTopK
from pipeline.activations.accumulators.histogram import Histogram
from pipeline.activations.accumulators.topk import TopK
from pipeline.activations.collect import NonFiniteActivationError, collect
from pipeline.data.shards import ErrorBudget, Sample, SkippedSample, sample_id
from pipeline.io.images import decode_image
from pipeline.models.capture import features_of
from tests.support.tiny_collect import (
    LAYERS,
    NUM_CLASSES,
    SIZE_PX,
    TinyNet,
    features_of_all,
    png,
    tiny_collect,
    tiny_model,
    tiny_samples,
)

SAMPLES = tiny_samples(10)
IDS = np.array([sample_id(3, index) for index in range(10)])
LABELS = np.array([-1 if sample.label is None else sample.label for sample in SAMPLES])


@pytest.mark.parametrize("batch_size", [1, 3, 64])
@pytest.mark.parametrize("activation", ["max", "mean"])
def test_collect_equals_one_pass_over_all_features(batch_size: int, activation: str) -> None:
    shard_statistics = tiny_collect(SAMPLES, 3, batch_size=batch_size, activation=activation)
    assert list(shard_statistics.layers) == [*LAYERS, "fc"]
    for layer, statistics in shard_statistics.layers.items():
        features = features_of_all(SAMPLES, layer).double()
        per_image = features.amax(2) if activation == "max" else features.mean(2)
        per_image = per_image.float().numpy()
        side = round(features.shape[2] ** 0.5)
        position = np.stack(np.divmod(features.argmax(2).numpy(), side), axis=2)

        assert statistics.moments.count == features.shape[0] * features.shape[2]
        values = features.transpose(0, 1).flatten(1)
        np.testing.assert_allclose(statistics.moments.mean, values.mean(1), rtol=1e-6)
        np.testing.assert_allclose(statistics.moments.variance, values.var(1, correction=0), rtol=1e-5)
        np.testing.assert_array_equal(statistics.moments.minimum, values.amin(1))
        np.testing.assert_array_equal(statistics.moments.maximum, values.amax(1))
        np.testing.assert_allclose(statistics.activation_moments.mean, per_image.mean(0), rtol=1e-6)
        np.testing.assert_array_equal(statistics.activation_moments.maximum, per_image.max(0))

        histogram = Histogram.of(per_image)
        np.testing.assert_array_equal(statistics.histogram.counts, histogram.counts)
        np.testing.assert_array_equal(statistics.histogram.exponent, histogram.exponent)
        topk = TopK.of(per_image, IDS, position, 4)
        for name, array in topk.arrays().items():
            np.testing.assert_array_equal(statistics.topk.arrays()[name], array)


def test_classes_and_sample_rows() -> None:
    shard_statistics = tiny_collect(SAMPLES, 3)
    logits = features_of_all(SAMPLES, "fc")[..., 0].numpy()
    for name, array in ClassTopK.of(logits, LABELS, IDS, 4).arrays().items():
        np.testing.assert_array_equal(shard_statistics.classes.arrays()[name], array)
    assert shard_statistics.num_samples == 10
    assert [row["sample"] for row in shard_statistics.samples] == IDS.tolist()
    row = shard_statistics.samples[5]
    assert row == {
        "sample": IDS[5],
        "key": "photo-5",
        "tar_shard": "a.tar",
        "offset": SAMPLES[5].offset,
        "size": SAMPLES[5].size,
        "label": -1,
        "top1": logits[5].argmax(),
        "top1_logit": logits[5].max(),
    }


def test_comoments_pair_activations_with_channel_means() -> None:
    shard_statistics = tiny_collect(SAMPLES)
    unit = features_of_all(SAMPLES, "block").amax(2).numpy()
    channel = features_of_all(SAMPLES, "stem").mean(2).numpy()
    expected = np.corrcoef(unit.T, channel.T)[: unit.shape[1], unit.shape[1] :]
    np.testing.assert_allclose(shard_statistics.layers["block"].comoments["stem"].correlation(), expected, atol=1e-6)
    assert not tiny_collect(SAMPLES, feature_layers=()).layers["block"].comoments


def test_the_spectrum_is_that_of_the_images_in_zero_to_one() -> None:
    spectrum = tiny_collect(SAMPLES).spectrum
    assert spectrum.count == 10
    assert spectrum.magnitude.shape == (3, SIZE_PX, SIZE_PX // 2 + 1)
    pixels = torch.stack([tiny_model().preprocess(decode_image(sample.image)) for sample in SAMPLES]) * 0.25 + 0.5
    np.testing.assert_allclose(spectrum.magnitude[:, 0, 0], pixels.sum(dim=(2, 3)).mean(0), rtol=1e-5)


def test_a_layer_is_recorded_as_it_was_before_an_in_place_operation() -> None:
    assert features_of_all(SAMPLES, "stem").min() < 0  # or the ReLU after it would change nothing
    assert (tiny_collect(SAMPLES).layers["stem"].moments.minimum < 0).any()


class NormNet(TinyNet):
    """A BatchNorm behind each convolution, of which the second is folded into it, and not the first, which is asked."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.BatchNorm2d(6), nn.BatchNorm2d(8)
        generator = torch.Generator().manual_seed(1)
        for norm in (self.first, self.second):
            for tensor in (norm.weight.data, norm.bias.data, norm.running_mean, norm.running_var):
                tensor.copy_(0.5 + torch.rand(tensor.shape, generator=generator))  # type: ignore[union-attr]

    def forward(self, x: Tensor) -> Tensor:
        x = self.second(self.block(self.relu(self.first(self.stem(x)))))
        return self.fc(x.mean(dim=(2, 3)))


def test_statistics_are_those_of_the_network_as_it_is_though_a_folded_one_may_run() -> None:
    model = tiny_model(NormNet())
    layers = ["stem", "second"]
    found = collect(model, SAMPLES, shard_index=0, layers=layers, top_k=4, batch_size=4, budget=ErrorBudget(0.0))
    images = torch.stack([model.preprocess(decode_image(sample.image)) for sample in SAMPLES])
    for layer, features in features_of(model.module, images, layers).items():
        values = features.transpose(0, 1).flatten(1).double()
        moments = found.layers[layer].moments
        np.testing.assert_allclose(moments.mean, values.mean(1), rtol=1e-5, atol=1e-6)
        np.testing.assert_allclose(moments.variance, values.var(1, correction=0), rtol=1e-5)
        np.testing.assert_allclose(moments.maximum, values.amax(1), rtol=1e-5)


def test_an_undecodable_image_is_skipped_and_counted() -> None:
    broken = replace(SAMPLES[4], image=SAMPLES[4].image[:40])
    budget = ErrorBudget(0.5)
    shard_statistics = collect(
        tiny_model(),
        [*SAMPLES[:4], broken, *SAMPLES[5:]],
        shard_index=3,
        layers=LAYERS,
        top_k=4,
        batch_size=3,
        budget=budget,
    )
    assert (shard_statistics.num_samples, shard_statistics.num_skipped, budget.num_good) == (9, 1, 9)
    assert budget.skipped[0].key == "photo-4"
    assert IDS[4] not in [row["sample"] for row in shard_statistics.samples]
    good = tiny_collect([*SAMPLES[:4], *SAMPLES[5:]], 3, feature_layers=())
    for path, array in good.arrays().items():
        np.testing.assert_allclose(shard_statistics.arrays()[path], array, rtol=1e-9)


@pytest.mark.parametrize("batch_size", [4, 64])
def test_threads_that_decode_change_nothing(batch_size: int) -> None:
    samples = [replace(sample, image=sample.image[:40]) if i in (2, 7) else sample for i, sample in enumerate(SAMPLES)]
    alone, threaded = ErrorBudget(0.5), ErrorBudget(0.5)
    options = {"shard_index": 3, "layers": LAYERS, "feature_layers": ["stem"], "top_k": 4, "batch_size": batch_size}
    expected = collect(tiny_model(), samples, budget=alone, **options)
    shard_statistics = collect(tiny_model(), iter(samples), budget=threaded, decode_threads=3, **options)
    assert shard_statistics.samples == expected.samples
    assert (shard_statistics.num_samples, shard_statistics.num_skipped) == (8, 2)
    assert threaded.skipped == alone.skipped
    assert shard_statistics.data_fingerprint == expected.data_fingerprint
    for path, array in expected.arrays().items():
        np.testing.assert_array_equal(shard_statistics.arrays()[path], array)


@pytest.mark.parametrize("at_once", [1, 4])
def test_batches_put_together_give_what_one_gives(monkeypatch: pytest.MonkeyPatch, at_once: int) -> None:
    expected = tiny_collect(SAMPLES, 3, batch_size=len(SAMPLES))
    monkeypatch.setattr(collect_module, "IMAGES_AT_ONCE", at_once)
    shard_statistics = tiny_collect(SAMPLES, 3, batch_size=3)
    assert shard_statistics.samples == expected.samples
    assert shard_statistics.shards == expected.shards
    assert shard_statistics.num_samples == len(SAMPLES)
    assert shard_statistics.data_fingerprint == expected.data_fingerprint
    for path, array in expected.arrays().items():
        np.testing.assert_allclose(shard_statistics.arrays()[path], array, rtol=1e-6)


def test_threads_decode_the_next_batch_while_the_model_runs_and_no_more() -> None:
    model, asked = tiny_model(), []

    def stream() -> Iterator[Sample]:
        for number, sample in enumerate(SAMPLES):
            asked.append(number)
            yield sample

    at_work: list[int] = []
    model.module.register_forward_hook(lambda *_: at_work.append(len(asked)))
    collect(
        model,
        stream(),
        shard_index=0,
        layers=LAYERS,
        batch_size=3,
        budget=ErrorBudget(0.0),
        decode_threads=2,
    )
    assert at_work[-4:] == [6, 9, 10, 10]  # 3, 6 and 9 are in the model


def test_a_fault_of_the_preprocessing_is_no_bad_image(monkeypatch: pytest.MonkeyPatch) -> None:
    model = tiny_model()
    monkeypatch.setattr(model, "preprocess", lambda _image: 1 / 0)
    for decode_threads in (0, 2):
        with pytest.raises(ZeroDivisionError):
            collect(
                model,
                SAMPLES,
                shard_index=0,
                layers=LAYERS,
                budget=ErrorBudget(1.0),
                decode_threads=decode_threads,
            )


def test_skips_of_the_tar_shard_itself_count_too() -> None:
    budget = ErrorBudget(1.0)
    without_image = SkippedSample(key="x", tar_shard="a.tar", index=9, reason="no-image", detail="")

    def stream() -> Iterator[Sample]:
        yield SAMPLES[0]
        budget.add_skip(without_image)  # as iterate_samples does through on_skip
        yield SAMPLES[1]

    shard_statistics = collect(tiny_model(), stream(), shard_index=0, layers=LAYERS, budget=budget)
    assert (shard_statistics.num_samples, shard_statistics.num_skipped) == (2, 1)


def test_a_shard_without_good_samples_gives_empty_statistics() -> None:
    shard_statistics = tiny_collect([])
    assert shard_statistics.num_samples == 0
    whole = tiny_collect(SAMPLES, 1)
    merged = shard_statistics.merge(whole)
    for path, array in whole.arrays().items():
        np.testing.assert_array_equal(merged.arrays()[path], array)


class NaNNet(TinyNet):
    """Unit 2 of `block` is not a number."""

    def __init__(self) -> None:
        super().__init__()
        self.block.bias.data[2] = float("nan")


def test_a_numerical_fault_names_layer_and_unit() -> None:
    with pytest.raises(NonFiniteActivationError, match=r'layer "block" unit 2 .*"photo-0" of a\.tar'):
        collect(tiny_model(NaNNet()), SAMPLES, shard_index=0, layers=LAYERS, budget=ErrorBudget(1.0))


def test_an_image_whose_preprocessing_fails_is_bad_data(monkeypatch: pytest.MonkeyPatch) -> None:
    model = tiny_model()
    preprocess = model.preprocess
    calls = iter(range(10))

    def sometimes(image: object) -> Tensor:
        return preprocess(image) * (float("nan") if next(calls) == 2 else 1.0)

    monkeypatch.setattr(model, "preprocess", sometimes)
    budget = ErrorBudget(1.0)
    shard_statistics = collect(model, SAMPLES, shard_index=0, layers=LAYERS, batch_size=4, budget=budget)
    assert shard_statistics.num_samples == 9
    assert [(skip.key, skip.reason) for skip in budget.skipped] == [("photo-2", "not-finite")]


class TokenNet(nn.Module):
    """Tokens [B, T, C], as in a transformer."""

    def __init__(self) -> None:
        super().__init__()
        self.tokens = nn.Linear(3, 4)
        self.fc = nn.Linear(4, NUM_CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc(self.tokens(x.flatten(2).transpose(1, 2)).mean(1))


def test_tokens_and_logits_have_positions_on_one_row() -> None:
    torch.manual_seed(0)
    shard_statistics = collect(
        tiny_model(TokenNet()), SAMPLES, shard_index=0, layers=["tokens"], top_k=2, budget=ErrorBudget(0.0)
    )
    position = shard_statistics.layers["tokens"].topk.position
    assert (position[..., 0] == 0).all()
    assert 1 < position[..., 1].max() < SIZE_PX**2
    assert not shard_statistics.layers["fc"].topk.position.any()
    assert shard_statistics.layers["tokens"].moments.count == 10 * SIZE_PX**2


def test_the_fingerprint_names_the_images_and_labels_whatever_their_order() -> None:
    fingerprint = tiny_collect(SAMPLES).data_fingerprint
    assert tiny_collect(SAMPLES[::-1], 7, batch_size=4).data_fingerprint == fingerprint
    assert tiny_collect(SAMPLES[:9]).data_fingerprint != fingerprint
    for change in ({"image": png(99)}, {"label": 4}):
        assert tiny_collect([*SAMPLES[:9], replace(SAMPLES[9], **change)]).data_fingerprint != fingerprint


def test_one_tar_shard_is_not_merged_twice() -> None:
    shard_statistics = tiny_collect(SAMPLES[:2], 3)
    with pytest.raises(ValueError, match=r"\[3\] are in both"):
        shard_statistics.merge(tiny_collect(SAMPLES[2:4], 3))
    with pytest.raises(ValueError, match="different layers"):
        shard_statistics.merge(tiny_collect(SAMPLES[2:4], 4, layers=("stem",)))
