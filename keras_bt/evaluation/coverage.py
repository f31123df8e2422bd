"""Which few images stand for all: an order in which to label them."""

import warnings

import numpy as np
from sklearn.cluster import KMeans
from sklearn.exceptions import ConvergenceWarning
from threadpoolctl import threadpool_limits

from keras_bt.evaluation.checks import checked_features

_ROWS = 256  # compared at once: their differences should stay in the processor's cache
_ROWS_OF_CLUSTERS = 4096
# Rows that k-means sees, but at least so many per cluster. The 100 images of Fashion-MNIST that it
# finds by 20,000 whitened features are worth as much as those by all 60,000.
_CLUSTERED, _PER_CLUSTER = 20_000, 20
# Multiply-adds of one pass above which several threads are worth their overhead.
_THREADED_WORK = 1e10


def typical_first(features: np.ndarray, k: int, seed: int = 0) -> np.ndarray:
    """Chooses k rows that are typical of those around them and together cover all rows.

    k-means finds k clusters, and the row nearest to the center of each is chosen. They are ordered
    by `farthest_first`, so that the beginning of the list, too, covers what it can.

    With labels for these rows alone, a linear probe does better than with random rows, and at least
    as well as with those of `farthest_first`, which takes the odd ones: docs/features.md has
    figures. Of images, take whitened features divided by their lengths.

    >>> grid = np.array([[0, 0], [0, 1], [0, 2], [9, 0], [9, 1], [9, 2]])
    >>> sorted(typical_first(grid, k=2).tolist())  # the middle of each side
    [1, 4]

    Memory: 4*s*d bytes for the s = max(20,000, 20*k) rows, drawn at random, that k-means sees, and
    16*n. Time: 2*s*k*d operations for each of at most 300 passes, and 2*n*k*d.

    Source: Hacohen, Dekel & Weinshall 2022 (arXiv 2202.02794), TypiClust, which takes the row in
    the densest place of each cluster. On digits and Fashion-MNIST that is worth the same.

    Args:
        features: floats (n, d), compared in float32; may be memory-mapped.
        k: number of rows, 1 to n.
        seed: seed of the rows that k-means sees and of the centers that it starts from.

    Returns:
        int64 (k,), different rows.

    Raises:
        ValueError: if the shape does not fit, k is out of range, or a feature is not finite.
    """
    features = _checked(features, k)
    n, d = features.shape
    seen = np.arange(n)
    if n > (most := max(_CLUSTERED, _PER_CLUSTER * k)):
        seen = np.sort(np.random.default_rng(seed).choice(n, most, replace=False))
    threads = 1 if len(seen) * k * d < _THREADED_WORK else None
    with warnings.catch_warnings(), threadpool_limits(limits=threads):
        # If fewer than k rows differ, there are fewer clusters, and what is missing is added below.
        warnings.simplefilter("ignore", ConvergenceWarning)
        clusters = KMeans(k, n_init=1, random_state=seed)
        clusters.fit(np.asarray(features[seen], np.float32))
        cluster, squared = np.empty(n, np.int32), np.empty(n, np.float32)
        for start in range(0, n, _ROWS_OF_CLUSTERS):
            rows = slice(start, start + _ROWS_OF_CLUSTERS)
            part = np.asarray(features[rows], np.float32)
            cluster[rows] = clusters.predict(part)
            squared[rows] = _squared_distances(part, clusters.cluster_centers_[cluster[rows]])
    nearest = np.argsort(squared, kind="stable")
    _, first_of_each = np.unique(cluster[nearest], return_index=True)
    typical = np.sort(nearest[first_of_each])
    typical = typical[farthest_first(features[typical], len(typical))]
    return _continued(features, k, typical)


def farthest_first(features: np.ndarray, k: int, first: int | None = None) -> np.ndarray:
    """Chooses k rows that cover all rows: each next one is the farthest from those chosen.

        i_1 = argmin_i ‖x_i − μ‖,   i_{t+1} = argmax_i min_{s ≤ t} ‖x_i − x_{i_s}‖

    with μ the mean. No other k rows have all rows within half the distance, or less, at which these
    have them. Among rows equally far, the first is taken. The order is that of choosing: fewer rows
    are the beginning of more.

    >>> farthest_first(np.array([[0.0], [1.0], [9.0], [4.0]]), k=3)
    array([3, 2, 0])

    For similarity by cosine, divide the features by their lengths before. Memory: n numbers besides
    the features. Time: 3*n*k*d floating-point operations.

    Source: Gonzalez 1985, "Clustering to minimize the maximum intercluster distance"; for choosing
    what to label, Sener & Savarese 2018 (arXiv 1708.00489), k-Center-Greedy.

    Args:
        features: floats (n, d), compared in float32; may be memory-mapped.
        k: number of rows, 1 to n.
        first: the row to begin with, 0 to n − 1; by default the one nearest to the mean.

    Returns:
        int64 (k,), different rows in the order chosen.

    Raises:
        ValueError: if the shape does not fit, k or `first` is out of range, or a feature is not
            finite.
    """
    features = _checked(features, k)
    n = len(features)
    if first is None:
        mean = features.mean(axis=0, dtype=np.float64)
        first = int(np.argmin(_squared_distances(features, mean)))
    elif not 0 <= first < n:
        raise ValueError(f"first must be a row, 0 to {n - 1}. Received: first={first}.")
    return _continued(features, k, np.array([first]))


def _checked(features, k):
    (features,) = checked_features(features=features)
    n = len(features)
    if not 1 <= k <= n:
        raise ValueError(f"k must be between 1 and the number of features ({n}). Received: k={k}.")
    return features


def _continued(features, k, chosen):
    """Adds to rows that are chosen the farthest ones, one by one, until they are k."""
    nearest = np.full(len(features), np.inf, np.float32)  # squared distance to those chosen
    chosen = list(chosen)
    for t in range(k):
        if t == len(chosen):
            chosen.append(np.argmax(nearest))
        if len(chosen) == k:
            break
        np.minimum(nearest, _squared_distances(features, features[chosen[t]]), out=nearest)
        nearest[chosen[t]] = -1  # never again, even where all that is left are copies
    return np.array(chosen, np.int64)


def _squared_distances(features, centers):
    """Returns ‖x_i − c‖², float32 (n,), for one center c (d,) or one for each row (n, d).

    Not as ‖x‖² − 2 x·c + ‖c‖², which float32 may round differently for two equal rows.
    """
    centers = np.broadcast_to(np.asarray(centers, np.float32), features.shape)
    squared = np.empty(len(features), np.float32)
    for start in range(0, len(features), _ROWS):
        rows = slice(start, start + _ROWS)
        difference = np.asarray(features[rows], np.float32) - centers[rows]
        np.einsum("nd,nd->n", difference, difference, out=squared[rows])
    return squared
