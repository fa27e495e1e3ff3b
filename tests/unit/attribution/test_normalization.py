import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from pipeline.attribution.normalization import channel_importance, normalize_relevance


@given(seed=st.integers(0, 1000), channels=st.integers(1, 5), space=st.sampled_from([(4, 3), (7,)]))
def test_normalized_relevance_spans_zero_to_one_in_every_channel(seed, channels, space):
    raw = torch.randn(2, channels, *space, generator=torch.Generator().manual_seed(seed))
    normalized = normalize_relevance(raw).flatten(2)
    torch.testing.assert_close(normalized.amin(2), torch.zeros(2, channels))
    torch.testing.assert_close(normalized.amax(2), torch.ones(2, channels))
    assert torch.equal(normalized.argsort(2), raw.flatten(2).argsort(2))


def test_normalized_relevance_of_known_values():
    raw = torch.tensor([[[[1.0, 2.0], [5.0, 3.0]], [[4.0, 4.0], [4.0, 4.0]]]])
    expected = torch.tensor([[[[0.0, 0.25], [1.0, 0.5]], [[0.0, 0.0], [0.0, 0.0]]]])
    torch.testing.assert_close(normalize_relevance(raw), expected)


def test_importance_is_the_mean_over_references_of_normalized_peaks():
    # Peaks over space: reference 0 → (1, 3, 2), reference 1 → (4, 0, 4).
    raw = torch.tensor([0.3, -2.0, -0.5]).view(1, 3, 1, 1).repeat(2, 1, 2, 2)
    raw[0, :, 0, 1] = torch.tensor([1.0, 3.0, 2.0])
    raw[1, :, 1, 0] = torch.tensor([4.0, 0.0, 4.0])
    expected = (torch.tensor([0.0, 1.0, 0.5]) + torch.tensor([1.0, 0.0, 1.0])) / 2
    torch.testing.assert_close(channel_importance(raw), expected)


def test_importance_merges_over_references_as_a_mean():
    raw = torch.rand(5, 4, 3, 3)
    merged = (2 * channel_importance(raw[:2]) + 3 * channel_importance(raw[2:])) / 5
    torch.testing.assert_close(channel_importance(raw), merged)


@pytest.mark.parametrize("function", [normalize_relevance, channel_importance])
def test_maps_without_space_are_refused(function):
    with pytest.raises(ValueError, match=r"\(2, 3\)"):
        function(torch.rand(2, 3))
