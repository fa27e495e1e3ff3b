"""The map: every neuron of an atlas on a plane, close to those that the same dataset images activate. `map.parquet`.

The layout is t-SNE (van der Maaten & Hinton, JMLR 2008) of the unit embeddings with the interpolated gradient of
Linderman et al. (Nature Methods 2019) from openTSNE (Poličar, Stražar & Zupan, JSS 2024): deterministic for a seed,
without a compiler at run time, and fast enough for 100,000 neurons. It is the extra `map`; without it an atlas has no
map.

Neurons are stored along a Morton curve: neighbors on the map are neighbors in the table, so that a few sheets of 256
thumbnails each (`map_sheets`) hold what a window shows.

Shapes: N neurons, R dimensions.
"""

import importlib.util
from importlib.metadata import version
from typing import Final

import numpy as np

from pipeline.errors import UserError

MAP_SIDE: Final = 1 << 16  # places per axis: finer than a pixel up to a zoom of 80 in a window of 800 px
# One row per neuron on the map; x and y in 0–65535, y downwards, one scale for both.
MAP_SCHEMA: Final[dict[str, str]] = {"layer": "string", "unit": "int32", "x": "int32", "y": "int32"}
# Along the curve the differences are small, and a dictionary of up to 65,536 places is longer than the places.
MAP_ENCODINGS: Final = dict.fromkeys(("unit", "x", "y"), "DELTA_BINARY_PACKED")

MIN_NEURONS: Final = 3  # fewer give no map
_PERPLEXITY: Final = 30.0  # openTSNE's default; it must stay below a third of the neurons
_FFT_FROM: Final = 5000  # below, Barnes-Hut is faster than the interpolation grid


def layout_name() -> str:
    """What makes the layout, with its version, or "" if it is not installed."""
    return f"t-SNE (openTSNE {version('openTSNE')})" if importlib.util.find_spec("openTSNE") else ""


def layout(unit_embedding: np.ndarray, *, seed: int = 0, num_threads: int = 1) -> np.ndarray:
    """Places on the plane, float64 [N, 2], in no particular unit; equal unit embeddings give equal places.

    Args:
        unit_embedding: float32 [N, R], rows of length 1; at least MIN_NEURONS.
        seed: of the randomness in the neighbor search.
        num_threads: at most so many are used.

    Raises:
        ModuleNotFoundError: openTSNE is not installed.
    """
    from openTSNE import TSNE  # the extra `map`

    num_neurons = len(unit_embedding)
    if num_neurons < MIN_NEURONS:
        raise UserError(f"{num_neurons} neurons, at least {MIN_NEURONS} are needed for a layout")
    embedding = TSNE(
        perplexity=min(_PERPLEXITY, (num_neurons - 1) / 3),
        metric="euclidean",  # of unit vectors: the order of the cosine
        negative_gradient_method="fft" if num_neurons >= _FFT_FROM else "bh",
        random_state=seed % 2**32,
        n_jobs=num_threads,
    ).fit(unit_embedding)
    return np.asarray(embedding, np.float64)


def quantize(places: np.ndarray) -> np.ndarray:
    """Places [N, 2] as int32 [N, 2] in 0–MAP_SIDE−1, centered, the longer side filled, proportions kept."""
    low, high = places.min(axis=0), places.max(axis=0)
    side = float((high - low).max()) or 1.0
    unit = (places - (low + high) / 2) / side + 0.5
    return np.clip(np.round(unit * (MAP_SIDE - 1)), 0, MAP_SIDE - 1).astype(np.int32)


def morton_order(xy: np.ndarray) -> np.ndarray:
    """Order of places int32 [N, 2] along the Morton curve: the bits of x and y in turn; ties by index. int64 [N]."""
    code = _spread_bits(xy[:, 0]) | (_spread_bits(xy[:, 1]) << np.uint64(1))
    return np.argsort(code, kind="stable")


def _spread_bits(values: np.ndarray) -> np.ndarray:
    """Sixteen bits with a zero after each: uint64 [N]."""
    spread = values.astype(np.uint64)
    for shift, mask in ((8, 0x00FF00FF), (4, 0x0F0F0F0F), (2, 0x33333333), (1, 0x55555555)):
        spread = (spread | (spread << np.uint64(shift))) & np.uint64(mask)
    return spread
