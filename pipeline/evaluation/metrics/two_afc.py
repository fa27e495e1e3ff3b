"""Machine interpretability: whether a unit's visualizations tell which dataset images activate it, asked of a machine."""

import numpy as np

from pipeline.evaluation.metrics.similarity import cosine


def machine_interpretability(made: np.ndarray, high: np.ndarray, low: np.ndarray) -> float:
    """The fraction of 2-AFC tasks that a machine solves with a unit's visualizations as the explanation, in [0, 1].

    A task shows one dataset image that activates the unit strongly and one that does so weakly, and asks which one the
    explanation stands for. The machine takes the one more similar to the visualizations: the mean cosine of its
    embedding with theirs. Every pair of the dataset images is a task and a tie counts half, so the score is the area
    under the ROC curve of that similarity: 1 if each strong dataset image is nearer than each weak one, 0.5 by chance,
    below 0.5 if the visualizations mislead.

    Zimmermann et al. ask a machine the task of human studies (Borowski et al., ICLR 2021). What is theirs: the task, a
    perceptual similarity averaged over the explanation's visualizations, and the choice by the difference of the two
    dataset images' values. What differs here:

    - the similarity is the cosine in the space of a named evaluator, not DreamSim, whose weights are one more download;
    - the explanation is the unit's synthetic visualizations; theirs are the unit's 9 top-activating dataset images, *and* 9 of
      the minimally activating, whose similarity they subtract. A visualization of what does not activate a unit is not
      made;
    - a task is right or wrong; they average a sigmoid of the difference, whose slope suits one similarity. Cosines of
      different evaluators have no common scale;
    - all pairs of the dataset images given are tasks, instead of 20 drawn ones.

    So the values are comparable between methods under one evaluator, and not with published ones.

    Args:
        made: [M, D] embeddings of the unit's visualizations, M ≥ 1.
        high: [Q, D] embeddings of dataset images that activate it strongly.
        low: [Q', D] embeddings of dataset images that activate it weakly. None of the dataset images may have been a
            reference of the visualizations, or the score also measures copying.

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
