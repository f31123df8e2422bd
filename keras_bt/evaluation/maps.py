"""All images at once: their places on a map, and the clusters that they form."""

import warnings
from typing import NamedTuple

import numpy as np
from sklearn.cluster import KMeans
from sklearn.decomposition import PCA
from sklearn.exceptions import ConvergenceWarning
from sklearn.manifold import TSNE
from threadpoolctl import threadpool_limits

from keras_bt.evaluation.checks import checked_features

METHODS = ("tsne", "pca")
# Directions of features that a map and clusters are made of. On Fashion-MNIST the 10 nearest in 50
# directions tell the class of 81% of images, in all 256 of 82%.
DIRECTIONS = 50
# With 1000 steps a map of Fashion-MNIST takes twice as long; the 10 nearest on it tell the class of
# 80% of images as after 500.
_STEPS = 500
_PERPLEXITY = 30.0
# Of fewer images, the threads of t-SNE mostly wait for each other.
_THREADED_IMAGES = 5000
# Multiply-adds above which several threads are worth their overhead, as in `neighbours`.
_THREADED_WORK = 1e10


def image_map(features: np.ndarray, method: str = "tsne", seed: int = 0) -> np.ndarray:
    """Places images on a plane, similar ones near each other.

    `tsne` keeps neighbors together (van der Maaten & Hinton 2008, "Visualizing Data using t-SNE",
    from scikit-learn's Barnes-Hut approximation of perplexity 30, which begins with the first two
    principal components): look at what is near what, not at distances between groups. `pca` is
    these two components alone: the widest view, in which groups overlap.

    >>> features = np.random.default_rng(0).standard_normal((40, 8))
    >>> image_map(features).shape
    (40, 2)

    Time of t-SNE: about 6 ms of a core per image; `pca` takes seconds. The same features, seed and
    number of threads give the same map.

    Args:
        features: floats (n, d); for similarity by cosine, whitened and divided by their lengths. Of
            more than 50 dimensions, the 50 strongest directions are used: see `strongest`.
        method: `tsne` or `pca`. Of fewer than 8 images, t-SNE has nothing to say, and it is `pca`.
        seed: seed of t-SNE.

    Returns:
        float32 (n, 2).

    Raises:
        ValueError: if the shape does not fit, a feature is not finite, or there is no such method.
    """
    if method not in METHODS:
        raise ValueError(f"method must be one of {', '.join(METHODS)}. Received: {method}.")
    features = strongest(features, DIRECTIONS)
    n, _ = features.shape
    plane = np.zeros((n, 2), np.float32)
    first = strongest(features, 2)
    plane[:, : first.shape[1]] = first
    if method == "pca" or n < 8 or not np.ptp(plane):
        return plane
    plane *= 1e-4 / max(plane[:, 0].std(), 1e-30)  # as scikit-learn begins
    perplexity = min(_PERPLEXITY, (n - 1) / 3)
    tsne = TSNE(init=plane, perplexity=perplexity, max_iter=_STEPS, random_state=seed)
    with threadpool_limits(limits=1 if n < _THREADED_IMAGES else None):
        return tsne.fit_transform(features)


def strongest(features: np.ndarray, count: int) -> np.ndarray:
    """Projects features onto their strongest directions, the first principal components.

    >>> features = np.array([[0.0, 1.0, 0.0], [0.0, 9.0, 1.0], [0.0, 5.0, 0.5]])
    >>> abs(strongest(features, 1)).round(2).tolist()
    [[4.03...], [4.03...], [0.0]]

    Args:
        features: floats (n, d).
        count: number of directions.

    Returns:
        float32 (n, min(count, d, n)), of mean 0.

    Raises:
        ValueError: if the shape does not fit or a feature is not finite.
    """
    (features,) = checked_features(features=features)
    n, d = features.shape
    if not np.ptp(features, axis=0).any():  # of no variance there are no shares
        return np.zeros((n, min(count, n, d)), np.float32)
    solver = "covariance_eigh" if n > d else "full"  # both exact, unlike the default for many
    with threadpool_limits(limits=1 if n * d * min(n, d) < _THREADED_WORK else None):
        pca = PCA(min(count, n, d), svd_solver=solver)
        return pca.fit_transform(np.asarray(features, np.float64)).astype(np.float32)


class Clusters(NamedTuple):
    """Groups of images.

    Attributes:
        of: int64 (n,), the number of each image's cluster; the largest is 0.
        typical: list of int64 (up to `most_typical`,), for each cluster the images nearest to its
            center, nearest first.
    """

    of: np.ndarray
    typical: list[np.ndarray]


def clusters(features: np.ndarray, k: int, seed: int = 0, most_typical: int = 10) -> Clusters:
    """Groups images by k-means, in their 50 strongest directions.

    Of plain features: whitened ones, which are best for the nearest neighbors, have every direction
    count alike, and ten clusters of 20,000 images of Fashion-MNIST then say 0.51 about the classes
    instead of 0.66 (normalized mutual information; docs/features.md).

    >>> found = clusters(np.array([[0.0], [1.0], [2.0], [50.0], [52.0]]), k=2, most_typical=1)
    >>> found.of, [one.tolist() for one in found.typical]
    (array([0, 0, 0, 1, 1]), [[1], [3]])

    Time: about 2*n*k*d operations for each of some 50 passes, with d = 50 at most.

    Args:
        features: floats (n, d); for similarity by cosine, of mean 0 and divided by their lengths.
        k: number of clusters, 1 to n. There are fewer if fewer features differ.
        seed: seed of the first centers.
        most_typical: number of typical images of each.

    Raises:
        ValueError: if the shape does not fit, k is out of range, or a feature is not finite.
    """
    features = strongest(features, DIRECTIONS)
    n, d = features.shape
    if not 1 <= k <= n:
        raise ValueError(f"There must be 1 to {n} clusters, as many as images. Received: {k}.")
    threads = 1 if n * k * d < _THREADED_WORK else None
    with warnings.catch_warnings(), threadpool_limits(limits=threads):
        warnings.simplefilter("ignore", ConvergenceWarning)  # fewer features differ
        means = KMeans(k, n_init=1, random_state=seed).fit(features)
    numbers, of = np.unique(means.labels_, return_inverse=True)
    by_size = np.argsort(-np.bincount(of), kind="stable")
    of = np.argsort(by_size)[of]
    centers = means.cluster_centers_[numbers[by_size]]
    far = np.linalg.norm(features - centers[of], axis=1)
    order = np.lexsort((far, of))
    starts = np.searchsorted(of[order], np.arange(len(numbers)))
    ends = np.append(starts[1:], n)
    typical = [order[s : min(s + most_typical, e)] for s, e in zip(starts, ends, strict=True)]
    return Clusters(of, typical)


def default_cluster_count(n: int, classes: int = 0) -> int:
    """Returns how many clusters to look at: as many as classes, or about √(n/2), 2 to 50.

    >>> default_cluster_count(20_000, classes=10), default_cluster_count(200)
    (10, 10)
    >>> default_cluster_count(1_000_000), default_cluster_count(3)
    (50, 2)
    """
    return min(n, 100, classes) if classes > 1 else min(n, 50, max(2, round((n / 2) ** 0.5)))
