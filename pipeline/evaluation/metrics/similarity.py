"""Cosine similarity of embeddings, the perceptual similarity of the metrics that compare single images."""

import numpy as np


def cosine(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Cosine of each row of `a` with each row of `b`, in [−1, 1]; 0 with a vector of zeros.

    Args:
        a: [N, D].
        b: [M, D].

    Returns:
        float64 [N, M].
    """
    return _unit(a) @ _unit(b).T


def _unit(rows: np.ndarray) -> np.ndarray:
    rows = np.asarray(rows, dtype=np.float64)
    norms = np.linalg.norm(rows, axis=1, keepdims=True)
    return np.divide(rows, norms, out=np.zeros_like(rows), where=norms > 0)
