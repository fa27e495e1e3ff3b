"""Facets: the references of a neuron in clusters of like images, each of which gets a visualization of its own.

A neuron may be activated by several unlike kinds of image. The mean quantile function of all its references then
describes none of them; one target per cluster shows each.

Shapes: R references, D channels.
References: Nguyen, Yosinski, Clune, Multifaceted Feature Visualization, 2016, arXiv 1602.03616 (clusters of the images
that activate a unit); Olah et al., Feature Visualization, Distill 2017, section Diversity; Dhillon, Modha, Machine
Learning 42, 2001 (spherical k-means); Nemhauser, Wolsey, Fisher, Mathematical Programming 14, 1978 (seeds by greedy
coverage).
"""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from pipeline.derived_layers.layer import feature_space
from pipeline.models import Model, features_of
from pipeline.models.capture import inputs_of

_BATCH_SIZE = 16  # images in one forward pass: bounds memory, changes nothing
_MAX_ITERATIONS = 100  # a bound for the case of cycling ties; dozens of references converge within ten
# Vectors of a higher cosine are one direction: single-precision features of equal images agree to about 1e-7.
_SAME_DIRECTION = 1 - 1e-6


def cluster(vectors: Tensor, activations: Sequence[float], num_clusters: int) -> list[list[int]]:
    """Deterministic spherical k-means: clusters of like direction, the one with the highest activation first.

    Each seed is the vector by which the similarity of all vectors to their nearest seed grows most. (The vector
    farthest from the seeds before, the usual deterministic choice, is often an outlier.) There are fewer clusters than
    requested if there are fewer directions. scikit-learn has no spherical k-means, and its seeds are random.

    Args:
        vectors: [R, D], R ≥ 1; only their directions matter.
        activations: one per vector, for the order of the clusters.
        num_clusters: at most so many, ≥ 1.

    Returns:
        The members of each cluster, ascending; every vector is in one of them, and none is empty.
    """
    directions = F.normalize(vectors.double(), dim=1)
    centers = directions[_seeds(directions, num_clusters)]
    labels = torch.full((len(vectors),), -1)
    for _ in range(_MAX_ITERATIONS):
        found = (directions @ centers.T).argmax(dim=1)
        if torch.equal(found, labels):
            break
        labels = found
        membership = F.one_hot(labels, len(centers)).double()
        centers = F.normalize(membership.T @ directions, dim=1)
    clusters = [(labels == index).nonzero().flatten().tolist() for index in range(len(centers))]
    clusters = [members for members in clusters if members]  # one may lose all its members to others
    return sorted(clusters, key=lambda members: (-max(activations[i] for i in members), members[0]))


def _seeds(directions: Tensor, count: int) -> list[int]:
    similarity = directions @ directions.T
    seeds = [int(similarity.sum(dim=1).argmax())]
    nearest = similarity[seeds[0]]
    while len(seeds) < count and nearest.min() < _SAME_DIRECTION:
        gain = (similarity - nearest).clamp(min=0).sum(dim=1)
        seeds.append(int(gain.masked_fill(nearest >= _SAME_DIRECTION, -1).argmax()))
        nearest = torch.maximum(nearest, similarity[seeds[-1]])
    return seeds


@torch.no_grad()
def channel_vectors(model: Model, layer: str, images: Tensor) -> Tensor:
    """The vectors that references are clustered by: the mean over positions of every channel at their neuron's layer.

    For a class these are the penultimate features, the input of the classifier: they separate the kinds of image within
    a class, which logits do not. For a concept direction or a combination it is the layer in which these lie.

    Args:
        model: of the neuron.
        layer: the neuron's layer.
        images: [R, 3, H, W] in the model's input space.

    Returns:
        [R, D] on the CPU, without class and register tokens.
    """
    is_class = layer == model.classifier_layer
    space = feature_space(model.module, layer)
    vectors = []
    for batch in images.to(model.device).split(_BATCH_SIZE):
        if is_class:
            assert model.head_layer is not None
            with inputs_of(model.module, model.head_layer) as entering:
                model.module(batch)
            features, num_prefix = entering[0], 0
        else:
            features, num_prefix = features_of(model.module, batch, [space])[space], model.num_prefix(space)
        positions = features.flatten(2) if features.ndim > 2 else features[..., None]
        vectors.append(positions[..., num_prefix:].mean(dim=2).cpu())
    return torch.cat(vectors)
