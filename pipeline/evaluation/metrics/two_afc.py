"""Two-alternative forced choice (2-AFC): do a unit's visualizations identify the dataset images that activate it?"""

import numpy as np

from pipeline.evaluation.metrics.similarity import cosine


def two_afc(made: np.ndarray, high: np.ndarray, low: np.ndarray) -> float:
    """The fraction of 2-AFC tasks that an evaluator solves with a unit's visualizations as the explanation, in [0, 1].

    This is the task of the Machine Interpretability Score (MIS; Zimmermann et al., NeurIPS 2024) with the cosine of a
    network's embeddings in place of the perceptual similarity. A task has one dataset image that activates the unit
    strongly and one that does so weakly; the choice is the one more similar to the visualizations, by the mean cosine
    of its embedding with theirs. Every pair of the dataset images is a task and a tie counts half, so the score is the
    area under the ROC curve of that similarity: 1 if each strong dataset image is nearer than each weak one, 0.5 by
    chance, below 0.5 if the visualizations mislead.

    The task comes from human studies (Borowski et al., ICLR 2021). Differences from MIS:

    - the similarity is the cosine in the space of a named evaluator, not DreamSim, whose weights are one more download;
    - the explanation is the unit's visualizations; that of MIS is the unit's 9 top-activating dataset images *and* 9
      minimally activating ones, whose similarity is subtracted. Visualizations of what does not activate a unit are not
      made;
    - a task is right or wrong; MIS averages a sigmoid of the difference, whose slope suits one similarity. Cosines of
      different evaluators have no common scale;
    - all pairs of the dataset images are tasks, instead of 20 drawn ones.

    So values of different methods under one evaluator are comparable, but not with published MIS values.

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
