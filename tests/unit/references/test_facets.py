"""Facets: clusters of references, one target for each, in one store."""

from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline import add_concepts
from pipeline.activations.store import StatisticsStore
from pipeline.io.root import Root
from pipeline.models import Model
from pipeline.references.build import build_targets, plan_targets, prepare_targets
from pipeline.references.facets import channel_vectors, cluster
from pipeline.references.store import committed_targets, read_references, read_targets
from pipeline.synthesis.methods.vital_target import reference_target
from tests.support.tiny_networks import tiny_model
from tests.support.tiny_targets import random_images, targets_recipe, tiny_reader, write_tiny_store


@pytest.fixture(scope="module")
def model() -> Model:
    return tiny_model()


@pytest.fixture
def root(tmp_path: Path, model: Model) -> Root:
    return write_tiny_store(tmp_path, model, random_images({"a": 6, "b": 2}))


def groups(sizes: list[int], *, spread: float = 0.05, seed: int = 0) -> tuple[torch.Tensor, list[int]]:
    """Vectors around orthogonal directions, of any lengths, in a random order; and the group of each."""
    rng = np.random.default_rng(seed)
    group = rng.permutation(np.repeat(np.arange(len(sizes)), sizes))
    vectors = (np.eye(len(sizes), 8)[group] + spread * rng.normal(size=(len(group), 8))) * rng.uniform(
        0.5, 50, (len(group), 1)
    )
    return torch.tensor(vectors), group.tolist()


@settings(max_examples=30, deadline=None)
@given(st.lists(st.integers(1, 6), min_size=1, max_size=4), st.integers(0, 10**6))
def test_groups_of_like_directions_are_found_and_ordered_by_their_best(sizes: list[int], seed: int) -> None:
    vectors, group = groups(sizes, seed=seed)
    activations = np.random.default_rng(seed).normal(size=len(group)).tolist()
    found = cluster(vectors, activations, len(sizes))
    assert sorted(i for members in found for i in members) == list(range(len(group)))
    assert all(members == sorted(members) for members in found)
    assert all(len({group[i] for i in members}) == 1 for members in found)
    best = [max(activations[i] for i in members) for members in found]
    assert best == sorted(best, reverse=True)
    assert found == cluster(vectors, activations, len(sizes))  # deterministic


def test_clusters_are_a_fixed_point_of_spherical_k_means() -> None:
    vectors = torch.tensor(np.random.default_rng(0).normal(size=(40, 5)))
    found = cluster(vectors, [0.0] * 40, 4)
    directions = vectors / vectors.norm(dim=1, keepdim=True)
    centers = torch.stack([directions[members].sum(dim=0) for members in found])
    nearest = (directions @ (centers / centers.norm(dim=1, keepdim=True)).T).argmax(dim=1)
    assert [sorted(members) for members in found] == [(nearest == i).nonzero().flatten().tolist() for i in range(4)]


def test_there_are_no_more_clusters_than_directions() -> None:
    vectors = torch.tensor([[1.0, 0.0], [2.0, 0.0], [0.0, 3.0]])
    assert cluster(vectors, [1.0, 2.0, 3.0], 3) == [[2], [0, 1]]
    assert cluster(vectors[:2], [1.0, 2.0], 2) == [[0, 1]]
    assert cluster(vectors, [1.0, 2.0, 3.0], 1) == [[0, 1, 2]]


def test_as_many_clusters_as_directions_are_one_each() -> None:
    vectors = torch.tensor(np.random.default_rng(0).normal(size=(12, 2)))
    assert sorted(cluster(vectors, [0.0] * 12, 12)) == [[i] for i in range(12)]


def test_classes_are_clustered_by_the_input_of_the_classifier_and_units_by_their_layer(model: Model) -> None:
    images = torch.randn(5, 3, 32, 32)
    with model.capture(["stage3", "stage2", "fc"]) as features, torch.no_grad():
        model.module(images)
    torch.testing.assert_close(channel_vectors(model, "stage2", images), features["stage2"].mean(dim=(2, 3)))
    torch.testing.assert_close(channel_vectors(model, "fc", images), features["stage3"].mean(dim=(2, 3)))


def test_concepts_are_clustered_by_the_layer_they_lie_in() -> None:
    model = tiny_model()
    add_concepts(model, "one", layer="stage2", directions=torch.randn(1, 12))
    images = torch.randn(4, 3, 32, 32)
    torch.testing.assert_close(channel_vectors(model, "concepts.one", images), channel_vectors(model, "stage2", images))


def test_each_facet_has_the_target_of_its_own_references(model: Model, root: Root) -> None:
    recipe = targets_recipe(facets=2)
    statistics = StatisticsStore.open(root)
    plan = plan_targets(recipe, model, "stage2")
    assert plan.facets == 2
    prepare_targets(root, model, plan)
    rows = build_targets(root, recipe, model, statistics, plan, [2, 1])
    assert [(row["unit"], row["facet"]) for row in rows] == [(2, 0), (2, 1), (1, 0), (1, 1)]
    assert {row["num_facets"] for row in rows} == {2}
    assert committed_targets(root, "stage2") == {1, 2}
    reader = tiny_reader(model)
    for unit in (1, 2):  # of which rows would meet if facets had none of their own
        keys = []
        for facet in range(2):
            target, row = read_targets(root, plan, [unit], facet)[unit]
            assert read_references(root, "stage2", facet)[unit] == row
            assert row["num_references"] == len(row["reference_keys"]) > 0
            images = reader.images(statistics.top_images_of(row["reference_samples"]))
            expected = reference_target(model, plan, unit, images)
            for name, layer in expected.layers.items():
                assert torch.equal(target.layers[name].quantile, layer.quantile)
            assert target.goal_activation == max(row["reference_activations"])
            keys += row["reference_keys"]
        best = [top_image.key for top_image in statistics.top_images("stage2", unit, 4)]
        assert sorted(keys) == sorted(best)  # the same references as without facets, divided
        assert read_references(root, "stage2")[unit]["reference_keys"][0] == best[0]


def test_one_facet_is_stored_as_if_there_were_none(tmp_path: Path, model: Model) -> None:
    stored = []
    for name, targets in (("plain", {}), ("one", {"facets": 1})):
        root = write_tiny_store(tmp_path / name, model, random_images({"a": 6}))
        recipe = targets_recipe(**targets)
        plan = plan_targets(recipe, model, "stage2")
        prepare_targets(root, model, plan)
        build_targets(root, recipe, model, StatisticsStore.open(root), plan, [0, 1])
        assert "facets" not in root.read_json("run/targets/stage2.json")
        stored.append({path: root.read_bytes(path) for path in root.walk() if path.startswith("run/targets")})
    assert stored[0] == stored[1]
    assert any(path.endswith("/c/1/0/0") for path in stored[0])  # row 1 is unit 1
    assert targets_recipe().fingerprint("targets") == targets_recipe(facets=1).fingerprint("targets")


def test_a_facet_without_references_is_skipped_with_the_reason(tmp_path: Path, model: Model) -> None:
    # Three images: the minimally activating one is no reference.
    root = write_tiny_store(tmp_path, model, random_images({"a": 3}))
    recipe = targets_recipe(facets=3)
    plan = plan_targets(recipe, model, "stage2")
    prepare_targets(root, model, plan)
    rows = build_targets(root, recipe, model, StatisticsStore.open(root), plan, [0])
    assert [row["status"] for row in rows] == ["ok", "ok", "skipped"]
    assert rows[2]["status_reason"] == ("the 2 references of this unit form only 2 clusters: facet 2 has none")
    assert (rows[2]["num_references"], rows[2]["reference_keys"]) == (0, [])
    target, row = read_targets(root, plan, [0], 2)[0]
    assert (target, row["status"]) == (None, "skipped")


def test_all_facets_of_a_dead_unit_are_dead(model: Model, root: Root) -> None:
    statistics = StatisticsStore.open(root)
    statistics.activation_moments("stage2").minimum[7] = statistics.topk("stage2").activation[7, 0]
    recipe = targets_recipe(facets=2)
    plan = plan_targets(recipe, model, "stage2")
    prepare_targets(root, model, plan)
    rows = build_targets(root, recipe, model, statistics, plan, [7])
    assert [(row["status"], row["facet"]) for row in rows] == [("dead", 0), ("dead", 1)]


def test_a_store_of_other_facets_is_refused(model: Model, root: Root) -> None:
    prepare_targets(root, model, plan_targets(targets_recipe(facets=2), model, "stage2"))
    for facets, there, requested in ((3, "2", "3"), (1, "2", "None")):
        with pytest.raises(ValueError, match=rf"another facets: \[{there}\] there, \[{requested}\] requested"):
            prepare_targets(root, model, plan_targets(targets_recipe(facets=facets), model, "stage2"))
