"""Which few images stand for all: an order in which to label them."""

import numpy as np

from keras_bt.evaluation.checks import checked_features

_ROWS = 256  # compared at once: their differences should stay in the processor's cache


def farthest_first(features: np.ndarray, k: int, first: int | None = None) -> np.ndarray:
    """Chooses k rows that cover all rows: each next one is the farthest from those chosen.

        i_1 = argmin_i ‖x_i − μ‖,   i_{t+1} = argmax_i min_{s ≤ t} ‖x_i − x_{i_s}‖

    with μ the mean. No k rows leave every row less than half as far from its nearest chosen row as
    these do. Among rows equally far, the first is taken. The order is that of choosing, so that
    fewer rows are the beginning of more.

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
    (features,) = checked_features(features=features)
    n = len(features)
    if not 1 <= k <= n:
        raise ValueError(f"k must be between 1 and the number of features ({n}). Received: k={k}.")
    if first is None:
        first = int(np.argmin(_squared_distances(features, features.mean(axis=0, dtype=float))))
    elif not 0 <= first < n:
        raise ValueError(f"first must be a row, 0 to {n - 1}. Received: first={first}.")
    chosen = np.empty(k, np.int64)
    chosen[0] = first
    nearest = np.full(n, np.inf, np.float32)  # squared distance of each row to those chosen
    for t in range(1, k):
        np.minimum(nearest, _squared_distances(features, features[chosen[t - 1]]), out=nearest)
        nearest[chosen[t - 1]] = -1  # never again, even where all that is left are copies
        chosen[t] = np.argmax(nearest)
    return chosen


def _squared_distances(features, center):
    """Returns ‖x_i − center‖², float32 (n,).

    Not as ‖x‖² − 2 x·c + ‖c‖², which float32 rounds to something else for each of two equal rows.
    """
    center = np.asarray(center, np.float32)
    squared = np.empty(len(features), np.float32)
    for start in range(0, len(features), _ROWS):
        rows = slice(start, start + _ROWS)
        difference = np.asarray(features[rows], np.float32) - center
        np.einsum("nd,nd->n", difference, difference, out=squared[rows])
    return squared
