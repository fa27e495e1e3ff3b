"""Machine interpretability: whether a unit's pictures tell which photographs excite it, asked of a machine."""

import numpy as np

from pipeline.evaluation.metrics.similarity import cosine


def machine_interpretability(made: np.ndarray, high: np.ndarray, low: np.ndarray) -> float:
    """The fraction of 2-AFC tasks that a machine solves with a unit's pictures as the explanation, in [0, 1].

    A task shows one photograph that excites the unit strongly and one that does so weakly, and asks which one the
    explanation stands for. The machine takes the one more similar to the pictures: the mean cosine of its embedding
    with theirs. Every pair of the photographs is a task and a tie counts half, so the score is the area under the ROC
    curve of that similarity: 1 if each strong photograph is nearer than each weak one, 0.5 by chance, below 0.5 if the
    pictures mislead.

    Zimmermann et al. ask a machine the task of human studies (Borowski et al., ICLR 2021). What is theirs: the task, a
    perceptual similarity averaged over the explanation's pictures, and the choice by the difference of the two
    photographs' values. What differs here:

    - the similarity is the cosine in the space of a named judge, not DreamSim, whose weights are one more download;
    - the explanation is the unit's synthetic pictures; theirs are the unit's 9 most exciting photographs, *and* 9 of
      the least exciting, whose similarity they subtract. A visualization of what does not excite a unit is not made;
    - a task is right or wrong; they average a sigmoid of the difference, whose slope suits one similarity. Cosines of
      different judges have no common scale;
    - all pairs of the photographs given are tasks, instead of 20 drawn ones.

    So the values are comparable between methods under one judge, and not with published ones.

    Args:
        made: [M, D] embeddings of the unit's pictures, M ≥ 1.
        high: [Q, D] embeddings of photographs that excite it strongly.
        low: [Q', D] embeddings of photographs that excite it weakly. None of the photographs may have been a reference
            of the pictures, or the score also measures copying.

    Returns:
        NaN if one of the three is empty.

    Reference: Zimmermann, Klindt, Brendel, "Measuring per-unit interpretability at scale without humans", NeurIPS
    2024 (preprint: "Measuring mechanistic interpretability at scale without humans"), section 3.
    """
    if not (len(made) and len(high) and len(low)):
        return float("nan")
    strong, weak = cosine(high, made).mean(axis=1), cosine(low, made).mean(axis=1)
    difference = strong[:, None] - weak[None, :]
    return float((np.sign(difference) / 2 + 0.5).mean())
