"""The attribution mask of each visualization."""

import numpy as np
import pytest

from jobs.stages.visualize_actor import mask


@pytest.mark.parametrize("shape", [(4, 6), (5, 7), (1, 1)])
def test_a_mask_has_half_the_size_in_the_alpha_channel(shape: tuple[int, int]) -> None:
    alpha = np.random.default_rng(0).random(shape)
    made = mask(alpha)
    assert made.shape == (-(-shape[0] // 2), -(-shape[1] // 2), 4)
    assert not made[..., :3].any()
    block = alpha[: min(2, shape[0]), : min(2, shape[1])]
    assert made[0, 0, 3] == pytest.approx(block.mean() * 255, abs=0.51)
    assert mask(np.ones(shape))[..., 3].min() == 255
