"""Path similarity: rank correlations against pandas and by hand, and the scale from other to same."""

import numpy as np
import pandas as pd
import pytest

from pipeline.evaluation.metrics.path_similarity import path_correlations, shared_scale_similarities


def activations(rows: int, *, seed: int, channels: int = 9) -> np.ndarray:
    """Channel means with ties, as after a ReLU."""
    return np.random.default_rng(seed).normal(size=(rows, channels)).clip(0).astype(np.float32)


def spearman(x: np.ndarray, y: np.ndarray) -> float:
    return float(pd.DataFrame({"x": x, "y": y}).corr(method="spearman").iloc[0, 1])


def similarity(made: np.ndarray, same: np.ndarray, other: np.ndarray) -> float:
    """Path similarity of one visualization of one unit at one layer."""
    correlations = path_correlations({"a": made}, {"a": same}, {"a": other})
    return float(shared_scale_similarities([correlations], [correlations])[0])


def test_correlations_are_those_of_pandas() -> None:
    made, same, other = activations(1, seed=0)[0], activations(4, seed=1), activations(3, seed=2)
    found = path_correlations({"a": made}, {"a": same}, {"a": other})
    assert found.layers == ("a",)
    assert found.made[0] == pytest.approx(np.mean([spearman(made, s) for s in same]))
    assert found.same[0] == pytest.approx(np.mean([spearman(same[i], same[j]) for i in range(4) for j in range(i)]))
    assert found.other[0] == pytest.approx(np.mean([spearman(s, o) for s in same for o in other]))


def test_path_similarity_by_hand() -> None:
    """ρ = 1 − 6 Σ d² / (n (n² − 1)): one swap of neighbors among four is 0.8, a reversal −1."""
    rising, swapped, falling = np.array([1, 2, 3, 4]), np.array([10, 30, 20, 40]), np.array([7, 5, 3, 1])
    same, other = np.stack([rising, swapped]), falling[None]
    visualization = np.array([2, 1, 4, 3])
    to_rising, to_swapped = 1 - 6 * 4 / 60, 1 - 6 * 10 / 60  # differences of ranks: 1 1 1 1, and 1 2 2 1
    lowest, highest = np.mean([-1, -0.8]), 0.8
    expected = ((to_rising + to_swapped) / 2 - lowest) / (highest - lowest)
    assert similarity(visualization, same, other) == pytest.approx(expected)


def test_one_is_a_dataset_image_of_the_unit_and_zero_one_of_another() -> None:
    """Dataset images put in the visualization's place score 1 and 0 on average: leave one out."""
    rng = np.random.default_rng(0)
    ours, theirs = rng.normal(size=50), rng.normal(size=50)
    same, other = (base + 0.5 * rng.normal(size=(30, 50)) for base in (ours, theirs))
    as_unit = [similarity(same[i], np.delete(same, i, axis=0), other) for i in range(len(same))]
    as_other = [similarity(other[i], same, np.delete(other, i, axis=0)) for i in range(len(other))]
    assert np.mean(as_unit) == pytest.approx(1, abs=0.02)
    assert np.mean(as_other) == pytest.approx(0, abs=0.02)
    assert similarity(ours, same, other) > 1  # nearer to each than they are to each other


def test_monotone_changes_of_an_image_do_not_count() -> None:
    made, same, other = activations(1, seed=0)[0], activations(4, seed=1), activations(3, seed=2)
    plain = path_correlations({"a": made}, {"a": same}, {"a": other})
    changed = path_correlations({"a": np.exp(made)}, {"a": 3 * same}, {"a": other**3})
    for one, two in ((plain.made, changed.made), (plain.same, changed.same), (plain.other, changed.other)):
        assert one == pytest.approx(two)


def test_layers_keep_their_order_and_their_differences_are_summed() -> None:
    rng = np.random.default_rng(0)
    base, noise = rng.normal(size=20), rng.normal(size=(4, 20))
    alike, unlike = base + 0.1 * noise, rng.normal(size=(4, 20))
    made, same = {"late": base, "early": base}, {"early": alike, "late": alike}
    other = {"early": alike[:2] + 0.5 * noise[2:], "late": unlike}
    found = path_correlations(made, same, other)
    assert found.layers == ("late", "early")
    expected = (found.made - found.other).sum() / (found.same - found.other).sum()
    assert shared_scale_similarities([found], [found])[0] == pytest.approx(expected)


def test_constant_activations_and_single_dataset_images_give_nan() -> None:
    same, other = activations(4, seed=1), activations(3, seed=2)
    assert np.isnan(similarity(np.zeros(9), same, other))
    alone = path_correlations({"a": same[0]}, {"a": same[:1]}, {"a": other})
    assert np.isnan(alone.same[0])
    assert np.isnan(shared_scale_similarities([alone], [alone])[0])
    assert np.isnan(similarity(same[0], same[1:], other[:0]))
