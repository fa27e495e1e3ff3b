"""Feature maps reduced over positions: every order of memory gives what NumPy finds in float64."""

from collections.abc import Callable

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from pipeline.activations.accumulators import reduction
from pipeline.activations.accumulators.reduction import summarize


def of_tokens(maps: Tensor) -> Tensor:
    """The maps as patch tokens behind a class token."""
    tokens = torch.full((maps.shape[0], 1 + maps.shape[2], maps.shape[1]), torch.inf)
    tokens[:, 1:] = maps.transpose(1, 2)
    return tokens.transpose(1, 2)[..., 1:]


# [B, U, N] → the same values in another order of memory.
ORDERS: dict[str, Callable[[Tensor], Tensor]] = {
    "rows": Tensor.contiguous,
    "columns": lambda maps: maps.transpose(1, 2).contiguous().transpose(1, 2),
    "tokens": of_tokens,
    "every second row": lambda maps: maps.repeat_interleave(2, dim=2)[..., ::2],
}


@st.composite
def feature_maps(draw: st.DrawFn) -> Tensor:
    """Maps of few values, with ties and silent units among them; widths that fill vectors of columns and do not."""
    shape = draw(st.tuples(st.integers(0, 5), st.sampled_from([1, 3, 16, 24, 32, 40]), st.sampled_from([1, 6, 49, 64])))
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    maps = rng.integers(-3, 3, shape).astype(np.float32)
    if draw(st.booleans()):
        maps = np.maximum(maps - draw(st.integers(0, 3)), 0)  # a ReLU with a bias: most maps are the same everywhere
    return torch.from_numpy(maps)


@pytest.mark.parametrize("order", ORDERS)
@settings(deadline=None)
@given(maps=feature_maps(), block_bytes=st.sampled_from([1, 10_000, 1 << 20]))
def test_any_order_of_memory_is_reduced_to_what_numpy_finds(order: str, maps: Tensor, block_bytes: int) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(reduction, "CPU_BLOCK_BYTES", block_bytes)
        summary = summarize(ORDERS[order](maps))
    values = maps.double().numpy()
    assert summary.num_positions == values.shape[2]
    np.testing.assert_array_equal(summary.maximum, values.max(axis=2))
    np.testing.assert_array_equal(summary.minimum, values.min(axis=2))
    np.testing.assert_array_equal(summary.peak, values.argmax(axis=2))
    np.testing.assert_allclose(summary.mean, values.mean(axis=2), atol=1e-6)
    np.testing.assert_allclose(summary.m2, values.var(axis=2) * values.shape[2], atol=1e-4)
    kinds = (summary.mean, summary.m2, summary.minimum, summary.maximum, summary.peak)
    assert [array.dtype for array in kinds] == [np.float64, np.float64, np.float32, np.float32, np.int64]


@pytest.mark.parametrize("order", ORDERS)
@pytest.mark.parametrize("bad", [float("nan"), float("inf"), float("-inf")])
def test_one_value_that_is_not_finite_makes_the_mean_so(order: str, bad: float) -> None:
    maps = torch.zeros(2, 16, 6)
    maps[1, 3, 4] = bad
    finite = np.isfinite(summarize(ORDERS[order](maps)).mean)
    assert np.argwhere(~finite).tolist() == [[1, 3]]
