"""Labels against the model's top-1 classes: what is found, and what is not taken for a mistake."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.evaluation.label_agreement import LabelPairs, compare_labels

K = 1000


def pairs(label, top1):
    return LabelPairs.of([{"label": np.asarray(label), "top1": np.asarray(top1)}])


def seen(true, *, accuracy=0.75, seed=0, num_classes=K):
    """Top-1 classes of a model that is right so often, else near the class or anywhere."""
    rng = np.random.default_rng(seed)
    true = np.asarray(true)
    near = np.clip(true + rng.integers(-2, 3, len(true)), 0, num_classes - 1)
    wrong = np.where(rng.random(len(true)) < 0.3, near, rng.integers(0, num_classes, len(true)))
    return np.where(rng.random(len(true)) < accuracy, true, wrong)


def classes(num_images, num_classes=K):
    return np.repeat(np.arange(num_classes), num_images)


@pytest.mark.parametrize(
    ("label", "true", "text"),
    [
        (classes(3) + 1, classes(3), "labels − 1 agree on 7"),
        (classes(3)[:-3], classes(3)[3:], "labels + 1 agree on 7"),
        # Twelve folders of four images, called by class numbers from 1.
        (np.repeat([2, 8, 283, 485, 601, 702], 8), np.repeat([1, 7, 282, 484, 600, 701], 8), "labels − 1 agree on 7"),
        (classes(3), np.array(sorted(range(K), key=str))[classes(3)], "sorted as text (0, 1, 10, 100, …) agree on 7"),
        (classes(3), np.array(sorted(range(1, 1001), key=str))[classes(3)] - 1, "from 1 sorted as text (1, 10, 100"),
        (classes(30, 12), np.array(sorted(range(12), key=str))[classes(30, 12)], "text (0, 1, 10, 11, …) agree on 7"),
        # Subfolders in sorted order: each label stands for some class.
        (np.repeat([0, 1, 2, 3], 10), np.repeat([1, 7, 282, 484], 10), "(0 → 1 'class 1', 1 → 7 'class 7', 2 → 282"),
        # A folder that is no class, in the middle of the list.
        (classes(3) + (classes(3) >= 600), classes(3), "labels − 1 (from class 60"),
    ],
)
def test_a_reading_that_fits_is_found(label, true, text):
    warning = compare_labels(pairs(label, seen(true)), K, [f"class {n}" for n in range(K)]).warning
    assert text in warning
    assert "not the model's class indices" in warning


def test_the_order_of_names_is_found():
    names = [f"{(n * 617) % K:03d}" for n in range(K)]
    by_name = np.array(sorted(range(K), key=names.__getitem__))
    assert (
        "sorted list of class names agree on"
        in compare_labels(pairs(classes(2), seen(by_name[classes(2)])), K, names).warning
    )


def test_labels_without_a_fitting_reading_leave_the_weights_as_a_cause():
    rng = np.random.default_rng(0)
    for top1 in (rng.integers(0, K, 3 * K), np.full(3 * K, 17)):  # random weights see anything, or one class
        found = compare_labels(pairs(classes(3), top1), K)
        assert found.hardly_agree
        assert found.better is None
        assert "random weights never agree" in found.warning
    assert "on 0 of 8 labeled images (0 %)" in compare_labels(pairs([5] * 8, [9] * 8), K).warning


@pytest.mark.parametrize("accuracy", [0.15, 0.5, 0.9])
@pytest.mark.parametrize("label", [classes(3), np.repeat([1, 7, 282], 20), np.full(40, 3), classes(400, 10)])
def test_a_model_that_knows_its_classes_is_believed(accuracy, label):
    num_classes = 10 if label.max() == 9 else K
    found = compare_labels(
        pairs(label, seen(label, accuracy=max(accuracy, 0.5 if len(label) < 100 else 0))), num_classes
    )
    assert found.warning == ""


def test_few_images_prove_nothing():
    assert compare_labels(pairs([1, 2], [3, 9]), K).warning == ""
    assert compare_labels(pairs([1, 2, 3, 4], [3, 2, 8, 9]), K).warning == ""
    assert compare_labels(pairs([], []), K).warning == ""
    assert compare_labels(pairs([-1, 4], [3, -1]), K).num_labeled == 0  # no label, or no classifier


@given(st.lists(st.lists(st.tuples(st.integers(-1, 4), st.integers(-1, 4)), max_size=6), max_size=4))
def test_groups_are_counted_as_one(groups):
    columns = [{"label": np.array([a for a, _ in g], int), "top1": np.array([b for _, b in g], int)} for g in groups]
    found = LabelPairs.of(columns)
    every = [pair for group in groups for pair in group]
    assert found.num_samples == len(every)
    counted = dict(zip(zip(found.label.tolist(), found.top1.tolist(), strict=True), found.count.tolist(), strict=True))
    assert counted == {pair: every.count(pair) for pair in set(every) if min(pair) >= 0}
