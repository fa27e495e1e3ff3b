"""What a neuron answers to, as a short vector: its signature, made of its natural top-activating images alone.

Two neurons are similar if the same dataset images activate them, whatever their layers. The statistics store knows the
k dataset images that activate each neuron most, so every atlas has unit embeddings, at no cost in forward passes:

    w(i, s) = max(0, a(i, s) − m(i)) / (a(i, best) − m(i))     how far dataset image s lifts neuron i above its mean
    x(i, s) = w(i, s) · (ln((1 + N) / (1 + n(s))) + 1)         less for dataset images that activate many neurons
    X       = rows x(i), each of length 1                      [N neurons, S dataset images], sparse
    X      ≈ U Σ Vᵀ, truncated                                 signature(i) = row i of U Σ, of length 1

a: activation, m: mean activation over the data set, n(s): neurons that have s among their top-activating images.

Why so. w does not change if a neuron's activations are shifted or scaled, so logits and the outputs of a ReLU compare.
The second factor is the smoothed inverse document frequency of text retrieval (Salton & Buckley, Information Processing
& Management 1988; the smoothing is scikit-learn's). The truncation is latent semantic analysis (Deerwester et al.,
JASIS 1990): with many dataset images two neurons for one thing have few top-activating images in common, but both share
some with a third. The factors come from the randomized method of Halko, Martinsson & Tropp (SIAM Review 2011), in
torch.

Shapes: N neurons, k top-activating images, S dataset images, R dimensions.
"""

import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

import numpy as np

if TYPE_CHECKING:
    import torch

NUM_DIMENSIONS: Final = 64  # of a signature; an atlas of fewer neurons or dataset images has fewer
_OVERSAMPLING: Final = 16  # further columns of the random projection; Halko et al. advise 5 to 10
# A neuron of which the truncation keeps less shares its dataset images with hardly any other: what is left is noise.
_MIN_LENGTH: Final = 1e-3
_BLOCK_COLUMNS: Final = 1 << 16  # dataset images multiplied at once: 42 MB beside a basis of 80 columns
_POWER_ITERATIONS: Final = 2  # Halko et al., 4.5: enough for slowly falling singular values
NO_SAMPLE: Final = -1


@dataclass(frozen=True, kw_only=True, eq=False)
class TopImages:
    """The dataset images that activate N neurons most, best first.

    Attributes:
        activation: float [N, k].
        sample: int64 [N, k], NO_SAMPLE in slots without a dataset image.
        mean: float [N], mean activation over the data set.
    """

    activation: np.ndarray
    sample: np.ndarray
    mean: np.ndarray


def top_image_weights(top_images: TopImages) -> np.ndarray:
    """w above, float64 [N, k] in 0–1; a neuron that no dataset image lifts above its mean (a dead one) has only zeros."""
    activation = np.where(top_images.sample == NO_SAMPLE, -np.inf, top_images.activation.astype(np.float64))
    lift = np.maximum(0.0, activation - top_images.mean[:, None])
    best = lift.max(axis=1, keepdims=True, initial=0.0)
    return np.divide(lift, best, out=np.zeros_like(lift), where=best > 0)


def unit_embeddings(top_images: TopImages, *, num_dimensions: int = NUM_DIMENSIONS, seed: int = 0) -> np.ndarray:
    """Signatures, float32 [N, R] with R ≤ num_dimensions: rows of length 1, or of zeros.

    Zeros stand for neurons without top-activating images, or with none that other neurons have.

    Equal top-activating images give equal unit embeddings on one machine. The sign of each dimension is the one that
    makes its largest entry positive.
    """
    rows, columns, values, shape = _weighted(top_images)
    num_dimensions = min(num_dimensions, *shape)
    if num_dimensions == 0:
        return np.zeros((len(top_images.mean), 0), np.float32)
    left = _left_factors(rows, columns, values, shape, num_dimensions, seed)
    peak = left[np.abs(left).argmax(axis=0), np.arange(num_dimensions)]
    left *= np.where(peak < 0, -1.0, 1.0)
    length = np.linalg.norm(left, axis=1, keepdims=True)
    return np.divide(left, length, out=np.zeros_like(left), where=length > _MIN_LENGTH).astype(np.float32)


def _weighted(top_images: TopImages) -> tuple[np.ndarray, np.ndarray, np.ndarray, tuple[int, int]]:
    """X as (row, column, value) of its entries by row, and its shape."""
    weight = top_image_weights(top_images)
    rows, slots = np.nonzero(weight)
    samples, columns = np.unique(top_images.sample[rows, slots], return_inverse=True)
    num_neurons = len(weight)
    frequency = np.bincount(columns, minlength=len(samples))
    rarity = np.log((1 + num_neurons) / (1 + frequency)) + 1
    values = weight[rows, slots] * rarity[columns]
    norms = np.sqrt(np.bincount(rows, weights=values**2, minlength=num_neurons))
    return rows, columns, values / norms[rows], (num_neurons, len(samples))


def _left_factors(
    rows: np.ndarray,
    columns: np.ndarray,
    values: np.ndarray,
    shape: tuple[int, int],
    num_dimensions: int,
    seed: int,
) -> np.ndarray:
    """The first columns of U Σ, float64 [N, R].

    Subspace iteration on X Xᵀ with a basis of N rows: the usual one goes on to a basis of S rows, which at ImageNet's
    size takes 0.4 GB a copy, and here only a block of dataset images is multiplied at once. Float64, because X Xᵀ has
    the squares of the singular values.
    """
    import torch

    num_neurons = shape[0]
    blocks = list(_blocks(rows, columns, values, shape))

    def times_gram(basis: "torch.Tensor") -> "torch.Tensor":
        product = torch.zeros_like(basis)
        for block, transposed in blocks:
            product += block @ (transposed @ basis)
        return product

    q = min(num_dimensions + _OVERSAMPLING, *shape)
    generator = torch.Generator().manual_seed(seed)
    basis = torch.randn(num_neurons, q, dtype=torch.float64, generator=generator)
    for _ in range(1 + _POWER_ITERATIONS):
        basis, _ = torch.linalg.qr(times_gram(basis))
    projected = basis.T @ times_gram(basis)
    squares, rotation = torch.linalg.eigh((projected + projected.T) / 2)  # ascending
    first = torch.arange(q - 1, q - 1 - num_dimensions, -1)
    factors: np.ndarray = ((basis @ rotation[:, first]) * squares[first].clamp(min=0).sqrt()).numpy()
    return factors


def _blocks(
    rows: np.ndarray, columns: np.ndarray, values: np.ndarray, shape: tuple[int, int]
) -> Iterator[tuple["torch.Tensor", "torch.Tensor"]]:
    """X cut into blocks of dataset images, each [N, S'] and transposed [S', N]."""
    by_column = np.lexsort((rows, columns))
    for first in range(0, shape[1], _BLOCK_COLUMNS):
        last = min(first + _BLOCK_COLUMNS, shape[1])
        start, stop = np.searchsorted(columns[by_column], (first, last))
        some = by_column[start:stop]
        some_rows, some_columns, some_values = rows[some], columns[some] - first, values[some]
        by_row = np.argsort(some_rows, kind="stable")
        yield (
            _csr(some_rows[by_row], some_columns[by_row], some_values[by_row], (shape[0], last - first)),
            _csr(some_columns, some_rows, some_values, (last - first, shape[0])),
        )


def _csr(rows: np.ndarray, columns: np.ndarray, values: np.ndarray, shape: tuple[int, int]) -> "torch.Tensor":
    """A sparse matrix from entries that are sorted by row."""
    import torch

    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Sparse CSR tensor support is in beta")
        return torch.sparse_csr_tensor(
            torch.from_numpy(np.searchsorted(rows, np.arange(shape[0] + 1)).astype(np.int32)),
            torch.from_numpy(columns.astype(np.int32)),
            torch.from_numpy(values),
            size=shape,
            check_invariants=False,
        )
