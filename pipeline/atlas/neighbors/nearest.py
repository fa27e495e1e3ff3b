"""The nearest neighbors of each neuron by their unit embeddings: `neighbors/<layer>.parquet`.

The search is exact: 100,000 neurons take less than a minute (benchmarks/neighbors.py), so no approximate index is
needed.

Shapes: N neurons, R dimensions, k neighbors.
"""

from collections.abc import Iterator, Sequence
from itertools import groupby
from typing import Any, Final

import numpy as np
from sklearn.neighbors import NearestNeighbors

NUM_NEIGHBORS: Final = 12  # a row of thumbnails on the neuron page
NO_NEIGHBOR: Final = -1
# Beyond four decimals the order of two neighbors is rounding error of the factorization; equal ones go by place.
SIMILARITY_DECIMALS: Final = 4

# One row per neuron with an embedding, by unit; the lists best first, of equal lengths.
NEIGHBORS_SCHEMA: Final[dict[str, str]] = {
    "unit": "int32",
    "neighbor_layers": "list<string>",
    "neighbor_units": "list<int32>",
    "cosine_similarities": "list<float32>",  # of the unit embeddings
}


def nearest_neighbors(unit_embedding: np.ndarray, k: int = NUM_NEIGHBORS) -> tuple[np.ndarray, np.ndarray]:
    """The k neurons with the highest cosine to each: (index int64 [N, k], cosine float32 [N, k]), best first.

    Neurons with an embedding of zeros neither have neighbors nor are neighbors; empty slots hold NO_NEIGHBOR and NaN.
    Only positive cosines count.

    Args:
        unit_embedding: float32 [N, R], rows of length 1 or of zeros.
        k: neighbors of each.
    """
    num_neurons = len(unit_embedding)
    index = np.full((num_neurons, k), NO_NEIGHBOR, np.int64)
    cosine = np.full((num_neurons, k), np.nan, np.float32)
    (members,) = np.nonzero(unit_embedding.any(axis=1))
    kept = min(k, len(members) - 1)
    if kept < 1:
        return index, cosine
    search = NearestNeighbors(n_neighbors=kept, algorithm="brute").fit(unit_embedding[members])
    distances, places = search.kneighbors()  # of each to the others
    values = np.round(1 - distances**2 / 2, SIMILARITY_DECIMALS)  # |x − y|² = 2 − 2 cos of vectors of length 1
    order = np.lexsort((places, -values), axis=-1)
    values, places = np.take_along_axis(values, order, 1), np.take_along_axis(places, order, 1)
    index[members, :kept] = np.where(values > 0, members[places], NO_NEIGHBOR)
    cosine[members, :kept] = np.where(values > 0, values, np.nan)
    return index, cosine


def neighbor_rows(
    neurons: Sequence[tuple[str, int]], index: np.ndarray, cosine: np.ndarray
) -> Iterator[tuple[str, list[dict[str, Any]]]]:
    """(layer, rows of NEIGHBORS_SCHEMA) of every layer, in the order of `neurons`.

    Args:
        neurons: (layer, unit) of all N, by layer, then unit.
        index: of the neighbors, int64 [N, k], from `nearest_neighbors`.
        cosine: float32 [N, k].
    """
    start = 0
    for layer, members in groupby(neurons, key=lambda neuron: neuron[0]):
        rows = []
        for place, (_, unit) in enumerate(members, start):
            near = index[place][index[place] != NO_NEIGHBOR].tolist()
            start += 1
            if near:
                rows.append(
                    {
                        "unit": unit,
                        "neighbor_layers": [neurons[neighbor][0] for neighbor in near],
                        "neighbor_units": [neurons[neighbor][1] for neighbor in near],
                        "cosine_similarities": cosine[place][: len(near)].tolist(),
                    }
                )
        yield layer, rows
