"""Unit embeddings: which dataset images activate a neuron, as a short vector.

Two neurons are similar if the same dataset images activate them, whatever their layers. The statistics store has the k
top-activating images of each neuron, so embeddings need no forward pass:

    w(i, s) = max(0, a(i, s) − m(i)) / (a(i, best) − m(i))     how far dataset image s lifts neuron i above its mean
    x(i, s) = w(i, s) · (ln((1 + N) / (1 + n(s))) + 1)         less for dataset images that activate many neurons
    X       = rows x(i), each of length 1                      [N neurons, S dataset images], sparse
    X      ≈ U Σ Vᵀ, truncated                                 embedding(i) = row i of U Σ, of length 1

a: activation, m: mean activation over the data set, n(s): neurons that have s among their top-activating images.

w does not change if a neuron's activations are shifted or scaled, so logits and the outputs of a ReLU compare. The
second factor is the smoothed inverse document frequency of text retrieval (Salton & Buckley, Information Processing &
Management 1988; the smoothing is scikit-learn's). The truncation is latent semantic analysis (Deerwester et al., JASIS
1990): two neurons for one thing may share few top-activating images, but both share some with a third. The factors come
from the randomized method of Halko, Martinsson & Tropp (SIAM Review 2011). scikit-learn's TruncatedSVD would need three
times the memory at 100,000 neurons, because its basis has S rows (benchmarks/neighbors.py).

Shapes: N neurons, k top-activating images, S dataset images, R dimensions.
"""

from dataclasses import dataclass
from typing import Final

import numpy as np
from scipy.sparse import csc_array
from threadpoolctl import threadpool_limits

NUM_DIMENSIONS: Final = 64  # of an embedding; an atlas of fewer neurons or dataset images has fewer
_OVERSAMPLING: Final = 16  # further columns of the random projection; Halko et al. advise 5 to 10
# An embedding of which the truncation keeps less is noise: the neuron shares its images with hardly any other.
_MIN_LENGTH: Final = 1e-3
_BLOCK_COLUMNS: Final = 1 << 16  # dataset images multiplied at once: 42 MB beside a basis of 80 columns
_POWER_ITERATIONS: Final = 2  # Halko et al., 4.5: enough for slowly falling singular values
NO_SAMPLE: Final = -1


@dataclass(frozen=True, kw_only=True, eq=False)
class TopImages:
    """The top-activating images of N neurons, best first.

    Attributes:
        activation: float [N, k].
        sample: int64 [N, k], NO_SAMPLE in slots without a dataset image.
        mean: float [N], mean activation over the data set.
    """

    activation: np.ndarray
    sample: np.ndarray
    mean: np.ndarray


def top_image_weights(top_images: TopImages) -> np.ndarray:
    """w above, float64 [N, k] in 0–1; all zeros for a (dead) neuron that no dataset image lifts above its mean."""
    activation = np.where(top_images.sample == NO_SAMPLE, -np.inf, top_images.activation.astype(np.float64))
    lift = np.maximum(0.0, activation - top_images.mean[:, None])
    best = lift.max(axis=1, keepdims=True, initial=0.0)
    return np.divide(lift, best, out=np.zeros_like(lift), where=best > 0)


def unit_embeddings(top_images: TopImages, *, num_dimensions: int = NUM_DIMENSIONS, seed: int = 0) -> np.ndarray:
    """Unit embeddings, float32 [N, R] with R ≤ num_dimensions: rows of length 1, or of zeros.

    Rows of zeros belong to neurons without top-activating images, or that share none with other neurons. The sign of
    each dimension makes its largest entry positive. Equal top-activating images give equal bytes, whatever the number
    of threads.
    """
    matrix = _weighted(top_images)
    num_dimensions = min(num_dimensions, *matrix.shape)
    if num_dimensions == 0:
        return np.zeros((len(top_images.mean), 0), np.float32)
    with threadpool_limits(1):  # the order of additions in a product depends on the number of threads
        left = _left_factors(matrix, num_dimensions, seed)
    peak = left[np.abs(left).argmax(axis=0), np.arange(num_dimensions)]
    left *= np.where(peak < 0, -1.0, 1.0)
    length = np.linalg.norm(left, axis=1, keepdims=True)
    return np.divide(left, length, out=np.zeros_like(left), where=length > _MIN_LENGTH).astype(np.float32)


def _weighted(top_images: TopImages) -> csc_array:
    """X, float64 [N, S]."""
    weight = top_image_weights(top_images)
    rows, slots = np.nonzero(weight)
    samples, columns = np.unique(top_images.sample[rows, slots], return_inverse=True)
    num_neurons = len(weight)
    frequency = np.bincount(columns, minlength=len(samples))
    rarity = np.log((1 + num_neurons) / (1 + frequency)) + 1
    values = weight[rows, slots] * rarity[columns]
    norms = np.sqrt(np.bincount(rows, weights=values**2, minlength=num_neurons))
    return csc_array((values / norms[rows], (rows, columns)), shape=(num_neurons, len(samples)))


def _left_factors(matrix: csc_array, num_dimensions: int, seed: int) -> np.ndarray:
    """The first columns of U Σ, float64 [N, R].

    Subspace iteration on X Xᵀ with a basis of N rows; the usual one also has a basis of S rows, 0.8 GB for ImageNet.
    Here only a block of dataset images is multiplied at once. Float64, because X Xᵀ has the squares of the singular
    values.
    """
    num_neurons, num_samples = matrix.shape
    blocks = [matrix[:, first : first + _BLOCK_COLUMNS] for first in range(0, num_samples, _BLOCK_COLUMNS)]

    def times_gram(basis: np.ndarray) -> np.ndarray:
        product = np.zeros_like(basis)
        for block in blocks:
            product += block @ (block.T @ basis)
        return product

    num_columns = min(num_dimensions + _OVERSAMPLING, num_neurons, num_samples)
    basis = np.random.default_rng(seed).standard_normal((num_neurons, num_columns))
    for _ in range(1 + _POWER_ITERATIONS):
        basis, _ = np.linalg.qr(times_gram(basis))
    projected = basis.T @ times_gram(basis)
    squares, rotation = np.linalg.eigh((projected + projected.T) / 2)  # ascending
    squares, rotation = squares[::-1][:num_dimensions], rotation[:, ::-1][:, :num_dimensions]
    return (basis @ rotation) * np.sqrt(squares.clip(min=0))
