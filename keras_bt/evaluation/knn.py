"""Weighted k-nearest-neighbor classification by cosine similarity.

The protocol of Wu et al. 2018 (arXiv 1805.01978, section 3.4), as used by DINO: there is no
training and no hyperparameter worth searching, so the accuracy depends on the features alone.
"""

import dataclasses
from collections.abc import Sequence

import numpy as np

from keras_bt.evaluation.checks import checked_labels
from keras_bt.evaluation.linear import top_k_accuracy
from keras_bt.evaluation.neighbours import nearest_neighbours


def _vote(similarities, neighbour_labels, temperature, num_classes):
    """Returns each class's share of the votes, float32 (m, num_classes), and the winners (m,)."""
    scores = np.empty((len(similarities), num_classes), np.float32)
    labels = np.empty(len(similarities), np.int64)
    # In chunks, because bincount needs float64 votes for all classes at once.
    for start in range(0, len(similarities), 1024):
        rows = slice(start, start + 1024)
        s, y = np.asarray(similarities[rows], np.float64), neighbour_labels[rows]
        # Subtracting the largest similarity cancels in the shares and keeps exp from overflowing.
        weights = np.exp((s - s.max(axis=1, keepdims=True)) / temperature)
        query = np.arange(len(s))[:, None]
        votes = np.bincount(
            (query * num_classes + y).ravel(), weights.ravel(), len(s) * num_classes
        ).reshape(len(s), num_classes)
        scores[rows] = votes / weights.sum(axis=1, keepdims=True)
        labels[rows] = votes.argmax(axis=1)
    return scores, labels


def knn_accuracy(
    train_features: np.ndarray,
    train_labels: np.ndarray,
    test_features: np.ndarray,
    test_labels: np.ndarray,
    k: int = 20,
    temperature: float = 0.07,
) -> float:
    """Measures the top-1 accuracy, 0 to 1, for one k; see `knn_accuracies`."""
    data = (train_features, train_labels, test_features, test_labels)
    return knn_accuracies(*data, (k,), temperature)[k].top1


@dataclasses.dataclass(frozen=True)
class KnnAccuracy:
    """Test accuracies, 0 to 1.

    Attributes:
        top1: share of images whose class has the largest share of the votes.
        top5: share of images whose class has one of the five largest; None for 5 classes or fewer.
    """

    top1: float
    top5: float | None


def knn_accuracies(
    train_features: np.ndarray,
    train_labels: np.ndarray,
    test_features: np.ndarray,
    test_labels: np.ndarray,
    ks: Sequence[int] = (20, 200),
    temperature: float = 0.07,
    progress: bool = False,
) -> dict[int, KnnAccuracy]:
    """Classifies test images by a weighted vote of their k nearest training images.

    With s_i the cosine similarity of neighbor i, class c gets the share of the votes

        p_c = Σ_{i: y_i = c} exp(s_i / T) / Σ_i exp(s_i / T)

    Among equal shares, the lowest class wins. A class without votes is not a guess, even if fewer
    than five classes have votes. One search, for the largest k, serves all.

    Memory besides that of `nearest_neighbours`: with m test features, k the largest of `ks` and c
    classes, at most about `24*m*k + 4*m*c + 3*m*c` bytes: the neighbors with their classes, the
    shares of the votes, and which of them exceed that of the correct class. That is 0.6 GB for
    50,000 test features, k = 200 and 1000 classes.

    >>> knn_accuracies(features, labels, features, labels, ks=(1, 12))[1]
    KnnAccuracy(top1=1.0, top5=None)

    Args:
        train_features: floats (n, d), float32 for speed; may be memory-mapped.
        train_labels: integers (n,), from 0, of at least two classes.
        test_features: floats (m, d); may be memory-mapped.
        test_labels: integers (m,). A class without training images counts as wrong.
        ks: numbers of neighbors, each 1 to n.
        temperature: T, above 0.
        progress: whether to show a progress bar, counted in queries.

    Returns:
        Accuracies for each k.

    Raises:
        ValueError: if labels are missing or those to train with of one class only, k or the
            temperature is out of range, shapes do not fit, or a feature is not finite.
    """
    train_labels = checked_labels(train_labels, len(train_features), "train_labels")
    if not np.issubdtype(train_labels.dtype, np.integer) or train_labels.min() < 0:
        raise ValueError(
            "train_labels must be integers from 0. "
            f"Received: dtype {train_labels.dtype}, smallest {train_labels.min()}."
        )
    num_classes = int(train_labels.max()) + 1
    test_labels = checked_labels(test_labels, len(test_features), "test_labels")
    if not 0 < temperature < np.inf:
        raise ValueError(f"temperature must be above 0. Received: temperature={temperature}.")
    if not len(ks) or min(ks) < 1:
        raise ValueError(f"ks must be numbers of at least 1. Received: {list(ks)}.")
    similarities, indices = nearest_neighbours(train_features, test_features, max(ks), progress)
    neighbour_labels = train_labels.astype(np.int64)[indices]
    del indices
    accuracies = {}
    for k in ks:
        scores, predictions = _vote(
            similarities[:, :k], neighbour_labels[:, :k], temperature, num_classes
        )
        top5 = _top5(scores, test_labels) if num_classes > 5 else None
        accuracies[k] = KnnAccuracy(float(np.mean(predictions == test_labels)), top5)
    return accuracies


def _top5(scores, labels):
    known = np.where(labels < scores.shape[1], labels, 0)
    votes = np.take_along_axis(scores, known[:, None], axis=1)[:, 0]
    voted = (labels < scores.shape[1]) & (votes > 0)
    return top_k_accuracy(scores, np.where(voted, labels, -1), 5)
