"""Sort matching against an independent float64 formula, and the partition into the cells of a spatial grid."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from pipeline.alignment.losses import sort_matching, sorted_target
from pipeline.alignment.sorting import argsort_rows, sort_values, sorted_distance
from pipeline.alignment.spatial_grid import partition


def formula(features: np.ndarray, target: np.ndarray, importance: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Loss [B] and gradient by explicit ranks, as the published code scatters the target to the features' places."""
    B, C, N = features.shape
    loss, gradient = np.zeros(B), np.zeros_like(features)
    for b in range(B):
        for c in range(C):
            for rank, place in enumerate(sorted(range(N), key=lambda i: features[b, c, i])):
                difference = features[b, c, place] - target[c, rank]
                loss[b] += importance[c] * difference**2 / (C * N)
                gradient[b, c, place] = 2 * importance[c] * difference / (C * N)
    return loss, gradient


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("threads", [1, 2])
@pytest.mark.parametrize("block_values", [2**17, 60, 1])  # all rows at once, a few, each alone
def test_loss_and_gradient_equal_the_formula(
    dtype: torch.dtype, threads: int, block_values: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("pipeline.alignment.sorting._BLOCK_VALUES", block_values)
    rng = np.random.default_rng(0)
    features, references = rng.normal(size=(3, 4, 17)), rng.normal(size=(5, 4, 17))
    target, importance = np.sort(references, axis=-1).mean(axis=0), rng.uniform(size=4)
    expected_loss, expected_gradient = formula(features, target, importance)

    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        images = torch.tensor(features, dtype=dtype, requires_grad=True)
        made_target = sorted_target(torch.tensor(references, dtype=dtype))
        loss = sort_matching(images, made_target, torch.tensor(importance, dtype=dtype))
        loss.sum().backward()
    finally:
        torch.set_num_threads(before)

    tolerance = 1e-12 if dtype is torch.float64 else 1e-5
    np.testing.assert_allclose(made_target.numpy(), target, rtol=tolerance, atol=tolerance)
    np.testing.assert_allclose(loss.detach().numpy(), expected_loss, rtol=tolerance)
    np.testing.assert_allclose(images.grad.numpy(), expected_gradient, rtol=tolerance, atol=tolerance)


def test_values_in_another_order_in_memory_are_sorted_along_the_last_axis(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pipeline.alignment.sorting._BLOCK_VALUES", 20)
    transposed, target = torch.randn(9, 7).t().requires_grad_(), torch.randn(7, 9).sort(dim=-1).values
    contiguous = transposed.detach().contiguous().requires_grad_()
    distances = [sorted_distance(values, target) for values in (transposed, contiguous)]
    gradients = [
        torch.autograd.grad(distance.sum(), values)[0]
        for distance, values in zip(distances, (transposed, contiguous), strict=True)
    ]
    assert torch.equal(*distances)
    assert torch.equal(*gradients)


def test_other_types_and_devices_take_the_general_sort() -> None:
    values = torch.randn(2, 3, 11).bfloat16().requires_grad_()
    ranked = sort_values(values)
    assert torch.equal(ranked, values.sort(dim=-1).values)
    ranked[..., -1].sum().backward()
    assert torch.equal(values.grad.float().sum(-1), torch.ones(2, 3))


def test_an_image_in_a_batch_has_the_loss_it_has_alone() -> None:
    features, target = torch.randn(4, 3, 20), torch.randn(4, 3, 20).sort(dim=-1).values
    together = sort_matching(features, target)
    alone = torch.cat([sort_matching(features[i : i + 1], target[i : i + 1]) for i in range(4)])
    assert torch.equal(together, alone)


def test_the_target_merges_over_shards_as_a_mean() -> None:
    features = torch.randn(7, 2, 9, dtype=torch.float64)
    merged = (sorted_target(features[:3]) * 3 + sorted_target(features[3:]) * 4) / 7
    torch.testing.assert_close(merged, sorted_target(features))


def test_features_equal_to_the_target_in_any_order_cost_nothing() -> None:
    features = torch.randn(1, 2, 16)
    shuffled = features[..., torch.randperm(16)]
    assert sort_matching(shuffled, sorted_target(features)).item() == 0


@settings(max_examples=40, deadline=None)
@given(st.integers(1, 5), st.integers(5, 13), st.integers(5, 13), st.data())
def test_cells_hold_every_value_of_their_part(grid: int, height: int, width: int, data: st.DataObject) -> None:
    image = torch.arange(height * width, dtype=torch.float32).view(1, 1, height, width)
    cells = partition(image, grid)
    assert cells.shape[:2] == (1, grid * grid)
    assert set(cells.flatten().tolist()) == set(image.flatten().tolist())  # nothing is lost, nothing invented
    y = data.draw(st.integers(0, grid - 1))
    x = data.draw(st.integers(0, grid - 1))
    top, bottom = round(y * height / grid), round((y + 1) * height / grid)
    left, right = round(x * width / grid), round((x + 1) * width / grid)
    assert set(cells[0, y * grid + x].tolist()) == set(image[0, 0, top:bottom, left:right].flatten().tolist())


def test_a_grid_that_divides_the_map_repeats_nothing() -> None:
    image = torch.randn(2, 3, 8, 12)
    assert torch.equal(partition(image, 4).flatten().sort().values, image.flatten().sort().values)


@pytest.mark.parametrize(("height", "width", "side", "k"), [(8, 12, 6, 2), (7, 7, 7, 1), (9, 5, 4, 3), (5, 5, 0, 1)])
def test_a_large_map_is_thinned_to_every_kth_row_and_column(height: int, width: int, side: int, k: int) -> None:
    image = torch.randn(2, 3, height, width)
    thinned = image[:, :, ::k, ::k]
    assert max(thinned.shape[2:]) <= (side or height)
    assert torch.equal(partition(image, 1, side), thinned.flatten(2))
    assert torch.equal(partition(image, 2, side), partition(thinned, 2))


@pytest.mark.parametrize(("grid", "side"), [(1, 0), (1, 4), (3, 0), (3, 4)])
def test_rows_are_channel_by_channel_and_the_gradient_finds_its_way_back(grid: int, side: int) -> None:
    features = torch.randn(2, 3, 7, 8, dtype=torch.float64, requires_grad=True)
    rows = partition(features, grid, side)
    for channel in range(3):
        alone = partition(features[:, [channel]], grid, side)
        assert torch.equal(rows[:, channel * grid**2 : (channel + 1) * grid**2], alone)
    channels_last = features.contiguous(memory_format=torch.channels_last)
    assert torch.equal(partition(channels_last, grid, side), rows)
    assert torch.autograd.gradcheck(lambda maps: partition(maps, grid, side), features)
    assert torch.autograd.gradcheck(lambda tokens: partition(tokens, grid, side), features.flatten(2))


def test_tokens_and_logits_have_no_cells() -> None:
    assert partition(torch.randn(2, 5, 7), 3, 2).shape == (2, 5, 7)
    assert partition(torch.randn(2, 5), 3, 2).shape == (2, 5, 1)


def test_shapes_that_do_not_fit_are_named() -> None:
    with pytest.raises(ValueError, match=r"\[2, 3, 8\] and \[3, 9\]"):
        sort_matching(torch.randn(2, 3, 8), torch.randn(3, 9))
    with pytest.raises(ValueError, match="R ≥ 1"):
        sorted_target(torch.empty(0, 3, 8))


@settings(max_examples=60, deadline=None)
@given(
    arrays(np.float32, (3, 9), elements=st.floats(-1000, 1000, width=32) | st.sampled_from([0.0, 1.0, np.inf, -np.inf]))
)
def test_packed_keys_sort_stably(rows: np.ndarray) -> None:
    rows = rows + np.float32(0)  # −0 becomes 0: the two are equal, and NumPy's stable sort leaves them in order
    np.testing.assert_array_equal(argsort_rows(rows), np.argsort(rows, axis=-1, kind="stable"))
