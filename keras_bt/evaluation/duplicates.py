"""Groups of near-duplicates among any number of images, by the cosine similarity of their features.

All pairs are compared, block by block, and nothing is kept of a block but which images belong
together, so that memory grows with the number of images and not with that of pairs.
"""

import dataclasses

import numpy as np
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components
from threadpoolctl import threadpool_limits

from keras_bt.evaluation.checks import checked_features
from keras_bt.evaluation.neighbours import unit_vectors
from keras_bt.messages import progress_bar

_BLOCK = 2048  # vectors compared with as many others at once
_HITS = 2**20  # pairs looked at together
# Multiply-adds above which several threads are worth their overhead, as in `neighbours`.
_THREADED_WORK = 1e10


@dataclasses.dataclass(frozen=True, eq=False)
class NearDuplicates:
    """Which of n images are near-duplicates of which.

    Attributes:
        groups: int64 (n,), the number of each image's group, from 0 in the order of their first
            images; -1 for images that are like no other.
        nearest: int64 (n,), the most similar other image; -1 for images that are in no group.
        similarities: float32 (n,), the cosine similarity to it; 0 for images that are in no group.
        to_first: float32 (n,), that to the first image of the group; likewise.
    """

    groups: np.ndarray
    nearest: np.ndarray
    similarities: np.ndarray
    to_first: np.ndarray


def near_duplicates(
    features: np.ndarray, similarity: float, progress: bool = False
) -> NearDuplicates:
    """Finds the groups of images that are connected by pairs of near-duplicates.

    Images i and j are a pair if

        x_i · x_j / (|x_i| |x_j|) ≥ similarity

    for features x; groups are the connected components of the graph of all pairs. In a series of
    pictures each of which is like the next, the first and the last are in one group, however little
    they are like each other: `to_first` tells. Computed in float32, so pairs within about 1e-6 of
    the threshold may be decided either way. A vector of zeros is like no other.

    >>> features = np.array([[1, 0], [0, 1], [1, 0.1], [0, 2], [-1, 0]])
    >>> found = near_duplicates(features, similarity=0.9)
    >>> found.groups, found.nearest
    (array([ 0,  1,  0,  1, -1]), array([ 2,  3,  0,  1, -1]))

    Memory besides the features, which may be memory-mapped: about 100*n + 50_000*d bytes + 40 MB
    and, where a large part of all pairs are similar, 150 MB more; it does not grow with the number
    of pairs. Time: n*n*d floating-point operations, half a matrix product; docs/features.md has
    figures.

    Args:
        features: floats (n, d), whitened for a threshold that means something
            (`keras_bt.evaluation.whitening`).
        similarity: the threshold, above 0 and at most 1.
        progress: whether to show a progress bar, counted in blocks of pairs.

    Returns:
        The groups.

    Raises:
        ValueError: if the shape does not fit, a feature is not finite, or the threshold is out of
            range.
    """
    (features,) = checked_features(features=features)
    if not 0 < similarity <= 1:
        raise ValueError(
            f"similarity must be above 0 and at most 1. Received: similarity={similarity}."
        )
    # Copies with features equal to the last bit need not reach 1 in float32.
    threshold = np.float32(similarity - 1e-6)
    n, d = features.shape
    nearest = np.full(n, -1, np.int64)
    similarities = np.zeros(n, np.float32)
    components = _Components(n)
    starts = range(0, n, _BLOCK)
    with (
        threadpool_limits(limits=1 if n * n * d < _THREADED_WORK else None),
        progress_bar(shown=progress, total=len(starts) * (len(starts) + 1) // 2, unit="block") as b,
    ):
        for first in starts:
            unit = unit_vectors(features[first : first + _BLOCK], np.float32)
            for second in range(first, n, _BLOCK):
                other = unit
                if second != first:
                    other = unit_vectors(features[second : second + _BLOCK], np.float32)
                similar = unit @ other.T
                if second == first:
                    np.fill_diagonal(similar, -2)
                hits = np.flatnonzero(similar >= threshold)
                if len(hits):
                    _keep_best(similar, first, second, nearest, similarities, threshold)
                    for start in range(0, len(hits), _HITS):
                        rows, columns = divmod(hits[start : start + _HITS], similar.shape[1])
                        components.join(rows + first, columns + second)
                b.update()
    groups, firsts = components.numbered()
    to_first = np.zeros(n, np.float32)
    members = np.flatnonzero(groups >= 0)
    for start in range(0, len(members), _BLOCK):
        some = members[start : start + _BLOCK]
        pair = (unit_vectors(features[rows], np.float32) for rows in (some, firsts[groups[some]]))
        to_first[some] = np.einsum("nd,nd->n", *pair)
    return NearDuplicates(groups, nearest, np.minimum(similarities, 1), np.minimum(to_first, 1))


def _keep_best(similar, first, second, nearest, similarities, threshold):
    """Notes the best partner of each row, and of each column, where it is a near-duplicate."""
    for start, other, axis in ((first, second, 1), (second, first, 0)):
        best = similar.argmax(axis=axis)
        value = np.take_along_axis(similar, np.expand_dims(best, axis), axis).squeeze(axis)
        end = start + len(best)
        # A later partner that is no better than an earlier one does not replace it.
        better = np.flatnonzero((value >= threshold) & (value > similarities[start:end]))
        nearest[start + better] = other + best[better]
        similarities[start + better] = value[better]


class _Components:
    """Connected components of a graph that is seen edge by edge, in memory linear in its nodes."""

    def __init__(self, n):
        self._labels = np.arange(n)
        self._edges, self._count = [], 0

    def join(self, one, other):
        """Adds edges between nodes."""
        one, other = self._labels[one], self._labels[other]
        new = one != other
        if not new.any():
            return
        n = len(self._labels)
        edges = np.unique(np.minimum(one, other)[new] * n + np.maximum(one, other)[new])
        self._edges.append(edges)
        self._count += len(edges)
        if self._count > n:
            self._merge()

    def _merge(self):
        n = len(self._labels)
        one, other = divmod(np.concatenate([np.empty(0, np.int64), *self._edges]), n)
        graph = coo_array((np.ones(len(one), np.int8), (one, other)), shape=(n, n))
        _, joined = connected_components(graph, directed=False)
        self._labels = joined[self._labels].astype(np.int64)
        self._edges, self._count = [], 0

    def numbered(self):
        """Returns the group of each node, -1 if it is alone, and the first node of each group."""
        self._merge()
        _, first, inverse, count = np.unique(
            self._labels, return_index=True, return_inverse=True, return_counts=True
        )
        several = np.flatnonzero(count > 1)
        several = several[np.argsort(first[several])]
        numbers = np.full(len(first), -1)
        numbers[several] = np.arange(len(several))
        return numbers[inverse], first[several]
