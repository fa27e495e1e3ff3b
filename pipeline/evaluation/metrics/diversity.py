"""Diversity: how much the visualizations of one neuron differ between seeds."""

import numpy as np

from pipeline.evaluation.metrics.similarity import cosine


def diversity(embeddings: np.ndarray) -> float:
    """Mean cosine distance, 1 − cos, over the pairs of a neuron's visualizations: 0 for equal ones, at most 2.

    A method whose visualizations differ only in noise stays near 0; different facets of a neuron raise it. It does
    not measure quality: noise to which an evaluator is sensitive is diverse too.

    Args:
        embeddings: [S, D] of the visualizations, by a named evaluator, one per seed.

    Returns:
        NaN for fewer than two visualizations.
    """
    first, second = np.triu_indices(len(embeddings), 1)
    return float((1 - cosine(embeddings, embeddings)[first, second]).mean()) if len(first) else float("nan")
