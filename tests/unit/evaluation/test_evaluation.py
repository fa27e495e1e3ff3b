"""Evaluation without a run: comparison images, the status, stored predictions, evaluators, the text of the summary."""

from itertools import pairwise
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

from pipeline.activations.accumulators.topk import NO_SAMPLE
from pipeline.atlas.format.schema import column_notes, extra_score_columns, indexed_scores
from pipeline.atlas.format.scores import (
    METRICS,
    SUMMARY_SCHEMA,
    code,
    number,
    scores_tables,
    scores_text,
    summary_problems,
)
from pipeline.evaluation.comparison_images import choose_minimally_activating, choose_random_sample, choose_top_images
from pipeline.evaluation.metrics.path_similarity import PathCorrelations, shared_scale_similarities
from pipeline.evaluation.predict import alignment_distances, model_columns
from pipeline.evaluation.predictions import EvaluatorRecord, PredictionFolder, evaluator_key
from pipeline.evaluation.scores import ActivationRange, status_of
from pipeline.io.root import Root
from pipeline.models import FeatureLayer
from pipeline.neurons import evaluator_slug
from pipeline.recipe.evaluate import EvaluateSection, EvaluatorChoice
from pipeline.recipe.recipe import Recipe, RecipeError
from pipeline.synthesis.methods.presets import preset
from pipeline.synthesis.methods.vital_target import plan_alignment, reference_target
from tests.support.tiny_networks import tiny_model
from tests.support.tiny_run import tiny_recipe


def statistics_of(
    activations: list[float], samples: list[int], *, lowest: float = 0.0, highest: float | None = None
) -> Any:
    """Stands in for the statistics of one layer with one unit: its kept images, best first."""
    topk = SimpleNamespace(
        activation=np.array([activations], np.float32),
        sample=np.array([samples]),
        num_kept=lambda unit: sum(sample != NO_SAMPLE for sample in samples),
    )
    top = max(activations) if highest is None else highest
    moments = SimpleNamespace(minimum=np.array([lowest]), maximum=np.array([top]))
    return SimpleNamespace(topk=lambda layer: topk, activation_moments=lambda layer: moments)


# ---- dataset images ----


def test_a_larger_random_sample_contains_the_smaller_one() -> None:
    samples = np.arange(0, 200, 2)
    chosen = [choose_random_sample(samples, count, 3) for count in (5, 20, 100, 1000)]
    assert [len(members) for members in chosen] == [5, 20, 100, 100]
    for smaller, larger in pairwise(chosen):
        assert set(smaller) <= set(larger) <= set(samples.tolist())
    assert list(chosen[1]) == sorted(set(chosen[1]))
    assert choose_random_sample(samples, 20, 3) == chosen[1] != choose_random_sample(samples, 20, 4)


def test_top_images_are_the_most_activating_without_references() -> None:
    statistics = statistics_of([9.0, 8, 7, 6, 0, -np.inf], [4, 11, 2, 7, 5, NO_SAMPLE])
    assert choose_top_images(statistics, "x", 0, frozenset({11}), 2) == (4, 2)
    assert choose_top_images(statistics, "x", 0, frozenset({11}), 9) == (4, 2, 7)  # 5 activates it as little as any
    assert choose_top_images(statistics, "x", 0, frozenset({4, 11, 2, 7}), 9) == ()


def test_minimally_activating_images_are_the_lowest_and_ties_are_drawn() -> None:
    samples, activations = [10, 11, 12, 13, 14, 15], np.array([0.0, 5, 0, 1, 0, 0])
    assert choose_minimally_activating(samples, activations, frozenset({10}), 4, 0)[-1] == 13
    drawn = {choose_minimally_activating(samples, activations, frozenset({10}), 2, seed) for seed in range(30)}
    assert {sample for two in drawn for sample in two} == {12, 14, 15}
    assert choose_minimally_activating(samples, activations, frozenset(samples), 2, 0) == ()


# ---- the status ----


@pytest.mark.parametrize(
    ("activation", "percentile", "status", "said"),
    [
        (6.0, 99.5, "ok", ()),
        (5.0, 99.5, "ok", ()),  # as its top-activating dataset images do
        (4.99, 99.5, "weak", ("4.99", "the 3 top-activating images", "have 5 on average")),
        (6.0, 98.0, "weak", ("more than 98.0 %", "at least 99 % are required")),
        (float("nan"), float("nan"), "weak", ("nan",)),
    ],
)
def test_a_visualization_has_to_activate_as_top_images_do(
    activation: float, percentile: float, status: str, said: tuple[str, ...]
) -> None:
    activation_range = ActivationRange.of(statistics_of([7.0, 5, 3, 2, 1], [1, 2, 3, 4, 5]), "x", 0, 3)
    assert (activation_range.num_top, activation_range.top_mean) == (3, 5.0)
    found, reason = status_of(activation, percentile, activation_range, weak_percentile=99.0)
    assert found == status
    assert all(words in reason for words in said)
    assert bool(reason) == (status != "ok")


def test_fewer_dataset_images_than_references_are_all_of_them() -> None:
    statistics = statistics_of([4.0, 2, -np.inf], [1, 2, NO_SAMPLE])
    activation_range = ActivationRange.of(statistics, "x", 0, 50)
    assert (activation_range.num_top, activation_range.top_mean) == (2, 3.0)


@pytest.mark.parametrize(
    ("lowest", "highest", "is_dead"),
    [
        (0.0, 0.0, True),  # behind a ReLU, never above 0
        (0.7, 0.7, True),
        (0.7, 0.7 * (1 + 1e-6), True),  # constant, but for the order of sums in another batch
        (-3.0, -3.0 * (1 - 1e-6), True),
        (0.0, 1e-9, False),  # small, but alive
        (-3.0, -2.0, False),  # always negative, and it varies
        (0.7, 0.7001, False),
    ],
)
def test_a_unit_of_constant_activation_is_dead(lowest: float, highest: float, is_dead: bool) -> None:
    activation_range = ActivationRange(lowest=lowest, highest=highest, top_mean=highest, num_top=1)
    status, reason = status_of(99.0, 100.0, activation_range, weak_percentile=99.0)
    assert (status == "dead") == is_dead
    assert not is_dead or f"{highest:.4g} on every image" in reason


# ---- predictions ----


def test_predictions_come_back_and_count_only_when_committed(tmp_path: Path) -> None:
    root = Root.open(tmp_path)
    random_sample, visualizations = (
        PredictionFolder(root, "evaluator", "random_sample"),
        PredictionFolder(root, "evaluator", "visualizations"),
    )
    rows = [{"id": sample, "embedding": np.array([sample, 0.5]), "logits": np.arange(3.0)} for sample in (3, 8)]
    random_sample.commit("a", rows, {9: "not an image"})
    random_sample.commit("b", [rows[0] | {"id": 20}])
    keys = [("fc", 1, "vital", 0), ("fc", 2, "vital", 0)]
    visualizations.commit("c", [{"id": key, "alignment_distance": 0.25} for key in keys])
    assert random_sample.committed() == {3, 8, 9, 20}
    assert visualizations.committed() == set(keys)
    assert random_sample.problems() == {9: "not an image"}
    found = random_sample.read(["embedding"], {8, 9, 20, 21})
    embeddings = {sample: prediction["embedding"].tolist() for sample, prediction in found.items()}
    assert embeddings == {8: [8, 0.5], 20: [3, 0.5]}
    assert visualizations.read(["alignment_distance"], keys[1:])[keys[1]]["alignment_distance"].tolist() == [0.25]

    # A worker that is killed before its commit leaves this.
    root.remove("run/evaluation/evaluator/random_sample/b.json")
    assert random_sample.committed() == {3, 8, 9}
    assert random_sample.names() == ["a"]
    assert random_sample.read(["embedding"], {20}) == {}


@pytest.mark.parametrize("layer", ["fc", "stage2"])
def test_alignment_distance_is_the_sort_matching_loss_per_layer_over_the_variance(layer: str) -> None:
    """Against NumPy in float64; the seed of relevance is tested where it is made, so intermediate units go without."""
    model = tiny_model()
    images = torch.randn(3, 3, 32, 32, generator=torch.Generator().manual_seed(1))
    layers = [FeatureLayer(layer="stage1", weight=1.0), FeatureLayer(layer="stem", weight=0.25)]
    plan = plan_alignment(model, layer, preset("published"), rule="none", feature_layers=layers)
    target = reference_target(model, plan, 1, images)
    rng = np.random.default_rng(0)
    visualizations = [rng.integers(0, 256, (32, 32, 3), dtype=np.uint8) for _ in range(2)]
    recipe = tiny_recipe("a.tar", "out")
    distances = alignment_distances(model, recipe, plan, [1, 1], [target, target], visualizations)

    def sorted_features(inputs: torch.Tensor, name: str) -> np.ndarray:
        with model.capture([name]) as features, torch.no_grad():
            model.module(inputs)
        return np.sort(features[name].flatten(2).double().numpy(), axis=2)

    expected = np.zeros(2)
    inputs = torch.stack([model.preprocessing.to_tensor(visualization) for visualization in visualizations])
    for name, weight in (("stage1", 1.0), ("stem", 0.25)):
        quantile = sorted_features(images, name).mean(axis=0)
        squared = (sorted_features(inputs, name) - quantile) ** 2
        expected += weight * squared.mean(axis=(1, 2)) / quantile.var() / 1.25
    np.testing.assert_allclose(distances, expected, rtol=1e-4)


def test_model_columns_are_channel_means_and_the_activations_of_all_units() -> None:
    model, recipe = tiny_model(), tiny_recipe("a.tar", "out", 'targets.feature_layers=["stage1", "stage3"]')
    inputs = torch.randn(2, 3, 32, 32, generator=torch.Generator().manual_seed(1))
    columns = model_columns(model, inputs, recipe, ["stage2", "fc"])
    with model.capture(["stage1", "stage2", "fc"]) as features, torch.no_grad():
        model.module(inputs)
    assert set(columns) == {"means/stage1", "means/stage3", "activation/stage2", "activation/fc"}
    expected = features["stage1"].double().numpy().mean(axis=(2, 3))
    np.testing.assert_allclose(columns["means/stage1"], expected, rtol=1e-5)
    assert np.array_equal(columns["activation/stage2"], features["stage2"].numpy().max(axis=(2, 3)))
    assert np.array_equal(columns["activation/fc"], features["fc"].numpy())


def test_path_similarities_on_a_shared_scale_average_to_the_ratio_of_averages() -> None:
    def correlations(made: float, same: float, other: float) -> PathCorrelations:
        parts = {"made": [made, 0.0], "same": [same, 0.5], "other": [other, 0.5]}
        return PathCorrelations(layers=("a", "b"), **{name: np.array(part) for name, part in parts.items()})

    visualizations = [correlations(0.6, 0.7, 0.2), correlations(0.3, 0.21, 0.2)]  # the second one's own scale is 0.01
    values = shared_scale_similarities(visualizations, visualizations)
    # (made − other, summed over both layers) over the mean of 0.5 and 0.01
    np.testing.assert_allclose(values, [(0.4 - 0.5) / 0.255, (0.1 - 0.5) / 0.255])
    averages = (np.mean([0.6, 0.3]) + 0.0 - 0.2 - 0.5) / (np.mean([0.7, 0.21]) + 0.5 - 0.2 - 0.5)
    assert values.mean() == pytest.approx(averages)
    assert np.isnan(shared_scale_similarities(visualizations, [correlations(0, 0.1, 0.2)])).all()
    assert len(shared_scale_similarities([], [])) == 0


# ---- evaluators in recipes ----

HOSTILE = "timm:a|b`<script>.é"


def test_an_evaluator_is_a_name_or_a_table_and_comes_back_from_toml() -> None:
    recipe = tiny_recipe(
        "a.tar",
        "out",
        'evaluate.held_out_models=["timm:resnet18", {name="torchvision:squeezenet1_1", weights="s.safetensors"}]',
        'evaluate.clip={name="open_clip:ViT-B-32", weights="clip.pt"}',
    )
    evaluators = [(evaluator.name, evaluator.weights) for evaluator in recipe.evaluate.evaluators]
    assert evaluators == [
        ("timm:resnet18", "pretrained"),
        ("torchvision:squeezenet1_1", "s.safetensors"),
        ("open_clip:ViT-B-32", "clip.pt"),
    ]
    assert Recipe.from_toml(recipe.to_toml()) == recipe
    keys = [evaluator_key(evaluator) for evaluator in recipe.evaluate.evaluators]
    assert keys[0].startswith("timm_resnet18-")
    assert len(set(keys)) == 3
    assert evaluator_key(EvaluatorChoice(name="timm:resnet18", weights="other.pth")) != keys[0]


@pytest.mark.parametrize(
    ("override", "said"),
    [
        ('evaluate.held_out_models=["timm:a-b", "timm:a.b"]', ["timm:a-b", "timm:a.b", "accuracy_top1_timm_a_b"]),
        ('evaluate.held_out_models=["timm:a", "timm:a"]', ["timm:a", "both"]),
        (f'evaluate.held_out_models=["timm:{"a" * 200}"]', ["at most 80", "205"]),
        ('evaluate.held_out_models=[{name="timm:a", weight="x"}]', ["weight", "no such key", "weights"]),
        ("evaluate.held_out_models=[3]", ["evaluate.held_out_models", "3", "timm:"]),
        ('evaluate.clip="open_clip:ViT-B-32"', ["evaluate.clip", "a table", "weights"]),
        ('evaluate.clip={name="open_clip:ViT-B-32"}', ["evaluate.clip.weights", "missing"]),
        ('evaluate.clip={name="timm:resnet18", weights="x"}', ["evaluate.clip.name", "open_clip:ViT-B-32"]),
        ("evaluate.num_dataset_images=1", ["evaluate.num_dataset_images", "at least 2"]),
        ("evaluate.num_top_images=0", ["evaluate.num_top_images", "at least 1"]),
    ],
)
def test_an_evaluator_that_cannot_be_is_refused_by_name(override: str, said: list[str]) -> None:
    with pytest.raises(RecipeError) as refused:
        tiny_recipe("a.tar", "out", override)
    assert all(words in str(refused.value) for words in said), refused.value


def test_a_hostile_name_stays_in_its_place() -> None:
    (evaluator,) = EvaluateSection(held_out_models=(HOSTILE,)).evaluators
    assert evaluator.slug == evaluator_slug(HOSTILE) == "timm_a_b_script"
    column = f"accuracy_top1_{evaluator.slug}"
    assert extra_score_columns([column]) == indexed_scores([column]) == {column: "float32"}
    assert evaluator_key(evaluator).replace("-", "").replace("_", "").isalnum()
    assert code(HOSTILE) == "`timm:a/b'<script>.é`"  # a code span: no markup inside, and one end
    notes = column_notes([column, "two_afc"], [record("model", "timm:own"), record("held-out", HOSTILE)])
    assert HOSTILE in notes[column]["meaning"]
    assert HOSTILE in notes["two_afc"]["meaning"]


def record(role: str, name: str) -> dict[str, Any]:
    slug = "model" if role == "model" else evaluator_slug(name)
    full = EvaluatorRecord(
        key=slug, slug=slug, role=role, name=name, weights="w.pth", weights_sha256="0" * 64, num_classes=5
    )
    return full.published()


def test_notes_are_of_the_columns_that_are_there() -> None:
    evaluators = [record("model", "timm:own"), record("held-out", "timm:a"), record("held-out", "timm:b")]
    notes = column_notes(["two_afc", "two_afc_timm_b", "kid_timm_a"], evaluators)
    assert "timm:a" in notes["two_afc"]["meaning"]
    assert "timm:b" in notes["two_afc_timm_b"]["meaning"]
    assert notes["kid_timm_a"]["meaning"].startswith("kid timm a")
    assert "path_similarity" not in notes
    assert "timm:own" in column_notes(["two_afc"], evaluators[:1])["two_afc"]["meaning"]


# ---- the summary's table and text ----


def summary_row(**changes: Any) -> dict[str, Any]:
    row: dict[str, Any] = {"method": "vital", "layer": "", "kind": "class", "metric": "fid", "evaluator": "model"}
    return {**row, "value": 2.0, "low": None, "high": None, "num_visualizations": 12} | changes


def test_sound_rows_have_no_problem() -> None:
    rows = [summary_row(), summary_row(metric="two_afc", low=1.0, high=3.0), summary_row(method="dataset_images")]
    assert set(rows[0]) == set(SUMMARY_SCHEMA)
    assert list(summary_problems(rows, methods=["vital"], layers=["fc"])) == []


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"method": "magic"}, "method 'magic'"),
        ({"layer": "nowhere"}, "layer 'nowhere'"),
        ({"kind": "outer"}, "kind 'outer'"),
        ({"metric": "beauty"}, "no such metric"),
        ({"value": None}, "not a number"),
        ({"value": float("inf")}, "not a number"),
        ({"low": 2.5, "high": 3.0}, "outside its interval"),
        ({"low": 1.0}, "outside its interval"),
        ({"num_visualizations": -1}, "num_visualizations is -1"),
    ],
)
def test_unsound_rows_are_named(changes: dict[str, Any], said: str) -> None:
    (problem,) = summary_problems([summary_row(**changes)], methods=["vital"], layers=["fc"])
    assert said in problem


def test_a_row_twice_is_a_problem() -> None:
    (problem,) = summary_problems([summary_row()] * 2, methods=["vital"], layers=[])
    assert problem == "row 1 (fid): occurs twice"


def test_the_text_has_a_line_per_metric_and_evaluator_and_a_column_per_method() -> None:
    rows = [
        summary_row(value=1234.5),
        summary_row(method="pixel", value=0.000012),
        summary_row(metric="accuracy_top1", evaluator="timm_a", value=0.5, low=0.25, high=0.75),
        summary_row(metric="num_ok", evaluator="", value=11.0),
        summary_row(layer="fc", metric="two_afc"),  # of one layer: in the table only
    ]
    text = scores_text(rows, methods=["pixel", "vital"], facts=["A fact."], left_out=["CLIP: none named."])
    table = [line for line in text.splitlines() if line.startswith("|")]
    assert table == [
        "| metric | evaluator | pixel | vital |",
        "|---|---|---|---|",
        "| `num_ok` |  | – | 11 |",
        "| `accuracy_top1` | `timm_a` | – | 0.5 [0.25, 0.75] |",
        "| `fid` | `model` | 1.20e-05 | 1234 |",
    ]
    assert scores_tables(rows, ["pixel", "vital"]) in text
    assert "- A fact." in text
    assert "- CLIP: none named." in text
    assert f"- `fid` (≥ 0, lower is better): {METRICS['fid'][2]}." in text


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (0, "0"),
        (0.12345, "0.123"),
        (-0.5, "-0.5"),
        (99.96, "100"),
        (-429.4, "-429"),
        (7446.2, "7446"),
        (2e-5, "2.00e-05"),
    ],
)
def test_numbers_are_short(value: float, text: str) -> None:
    assert number(value) == text


def test_predictions_record_their_columns(tmp_path):
    folder = PredictionFolder(Root.open(tmp_path), "model", "random_sample")
    folder.commit("new", [{"id": 1, "activation/fc": np.zeros(2)}], {2: "no image"})
    assert folder.committed() == {1, 2}
    assert folder.committed(["activation/fc"]) == {1, 2}
    assert folder.committed(["activation/stem"]) == {2}
