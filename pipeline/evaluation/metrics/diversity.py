"""Diversity: how different the pictures of one neuron are that grew from different seeds."""

import numpy as np

from pipeline.evaluation.metrics.similarity import cosine


def diversity(embeddings: np.ndarray) -> float:
    """Mean cosine distance, 1 − cos, over the pairs of a neuron's pictures: 0 for equal pictures, at most 2.

    A method whose pictures differ only in noise stays near 0; different facets of a neuron raise it. It says nothing of
    quality: noise that a judge does see is diverse too.

    Args:
        embeddings: [S, D] of the pictures, by a named judge, one per seed.

    Returns:
        NaN for fewer than two pictures.
    """
    first, second = np.triu_indices(len(embeddings), 1)
    return float((1 - cosine(embeddings, embeddings)[first, second]).mean()) if len(first) else float("nan")
