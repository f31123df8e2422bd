"""Exact nearest-neighbor search by cosine similarity, in a stated amount of memory.

Our own, because scikit-learn's `NearestNeighbors` copies all training features, which may be larger
than memory, and does not order ties: for 200,000 × 2048 features and 2,000 queries it took 32 s of
CPU against 30 to 35 and 3.7 GiB at its peak against 2.3, of which 1.9 are files that the system can
release (metric="cosine"; "euclidean" on unit vectors took 43 s and 1.7 GiB of memory).
"""

import numpy as np
from threadpoolctl import threadpool_limits

from keras_bt.evaluation.checks import checked_features
from keras_bt.messages import progress_bar

# The float32 search keeps more candidates than neighbors, so that rounding cannot push out a true
# neighbor where similarities are close together.
_SPARE_CANDIDATES = 16
# Similarities that agree to this many decimals tie; the error of float64 is about 1e-16.
_TIE_DECIMALS = 12
# Vectors compared at once.
_QUERIES, _TRAINING = 1024, 4096
_SELECT_COLUMNS = 512
_REFINE_BYTES = 64 * 2**20
# Multiply-adds (about 0.2 s of one core) above which several threads are worth their overhead; on
# busy cores they spend more time waiting for each other.
_THREADED_WORK = 1e10


def nearest_neighbours(
    train_features: np.ndarray,
    queries: np.ndarray,
    k: int,
    progress: bool = False,
) -> tuple[np.ndarray, np.ndarray]:
    """Finds the k training vectors of highest cosine similarity to each query, exactly.

    A float32 search over chunks keeps the best k + 16 candidates per query, which are then compared
    in float64. Where float32 rounding might have hidden a neighbor (many nearly equal similarities,
    as with collapsed features), the query is searched again in float64. The result is therefore
    that of a float64 search. Similarities equal to 12 decimals tie, and the lowest training index
    wins. A vector of zeros has similarity 0 to everything.

    >>> training = np.array([[1.0, 0.0], [0.0, 1.0], [1.0, 1.0]])
    >>> similarities, indices = nearest_neighbours(training, np.array([[3.0, 0.0]]), k=2)
    >>> similarities.round(3), indices
    (array([[1. , 0.707]]), array([[0, 2]]))

    Memory besides the inputs and the result: with q = 1024 queries and t = 4096 training vectors of
    width d at once, at most about `8*q*t + 8*d*(q + t) + 80*q*(k + 512)` bytes + 64 MiB; 240 MiB at
    d = 2048 and k = 200. The inputs may be memory-mapped (`np.load(..., mmap_mode="r")`): the part
    that the system keeps in memory then counts as the process's, but is released when needed
    elsewhere.

    Time: 2*n*m*d floating-point operations, in NumPy's matrix product.

    Args:
        train_features: floats (n, d), float32 for speed.
        queries: floats (m, d).
        k: number of neighbors, 1 to n.
        progress: whether to show a progress bar, counted in queries.

    Returns:
        `(similarities, indices)`: float64 (m, k) and int64 (m, k), most similar first.

    Raises:
        ValueError: if shapes do not fit, k is out of range, or a feature is not finite.
    """
    train_features, queries = checked_features(train_features=train_features, queries=queries)
    n, m = len(train_features), len(queries)
    if not 1 <= k <= n:
        raise ValueError(
            f"k must be between 1 and the number of training features ({n}). Received: k={k}."
        )
    similarities, indices = np.empty((m, k)), np.empty((m, k), np.int64)
    threads = 1 if n * m * train_features.shape[1] < _THREADED_WORK else None
    with (
        threadpool_limits(limits=threads),
        progress_bar(shown=progress, total=m, unit="query") as bar,
    ):
        for start in range(0, m, _QUERIES):
            rows = slice(start, start + _QUERIES)
            similarities[rows], indices[rows] = _search(train_features, queries[rows], k)
            bar.update(len(similarities[rows]))
    return similarities, indices


def _search(train, queries, k):
    """Finds exact neighbors of one chunk of queries: float32 search, float64 comparison."""
    kept = min(k + _SPARE_CANDIDATES, len(train))
    found, candidates = _running_best(train, queries, kept, np.float32)
    similarities, indices = _refine(train, queries, candidates, k)
    if kept == len(train):
        return similarities, indices
    # What the search left out is at most as similar as its worst candidate, plus the rounding error
    # of float32 inner products of unit vectors: on the order of sqrt(d) times machine epsilon, with
    # a constant above 4 practically impossible (Higham and Mary 2019).
    error = 4 * np.sqrt(train.shape[1] + 1) * np.finfo(np.float32).eps
    unsettled = found.min(axis=1) + error >= similarities[:, -1]
    if unsettled.any():
        queries = queries[unsettled]
        _, candidates = _running_best(train, queries, k, np.float64)
        similarities[unsettled], indices[unsettled] = _refine(train, queries, candidates, k)
    return similarities, indices


def _running_best(train, queries, k, dtype):
    """Searches chunk by chunk, keeping the k best of each query in order of training index."""
    unit_queries = unit_vectors(queries, dtype)
    best = np.full((len(queries), k), -np.inf, dtype)
    best_index = np.zeros((len(queries), k), np.int64)
    for start in range(0, len(train), _TRAINING):
        similarity = unit_queries @ unit_vectors(train[start : start + _TRAINING], dtype).T
        for offset in range(0, similarity.shape[1], _SELECT_COLUMNS):
            columns = similarity[:, offset : offset + _SELECT_COLUMNS]
            if dtype == np.float64:
                np.round(columns, _TIE_DECIMALS, out=columns)
            # After the first columns very few beat the k-th best, so nearly all the work is this
            # comparison. Equals of the k-th best come later in the data and lose the tie.
            better = columns > best.min(axis=1, keepdims=True)
            rows = np.flatnonzero(better.any(axis=1))
            if rows.size:
                new, new_index = _compact(columns[rows], better[rows], start + offset)
                best[rows], best_index[rows] = _select(
                    np.concatenate([best[rows], new], axis=1),
                    np.concatenate([best_index[rows], new_index], axis=1),
                    k,
                )
    return best, best_index


def _compact(similarity, wanted, first_index):
    """Moves the wanted columns of each row to the left and pads with -inf."""
    row, column = np.nonzero(wanted)
    count = wanted.sum(axis=1)
    place = np.arange(len(row)) - np.repeat(np.cumsum(count) - count, count)
    compact = np.full((len(similarity), count.max()), -np.inf, similarity.dtype)
    index = np.zeros(compact.shape, np.int64)
    compact[row, place] = similarity[row, column]
    index[row, place] = first_index + column
    return compact, index


def _select(similarity, index, k):
    """Selects the k largest of each row, in unchanged order; the first of equal ones."""
    surplus = similarity.shape[1] - k
    kth = np.partition(similarity, surplus, axis=1)[:, surplus, None]
    chosen = similarity > kth
    equal = similarity == kth
    missing = k - chosen.sum(axis=1, keepdims=True)
    chosen |= equal & (np.cumsum(equal, axis=1, dtype=np.int32) <= missing)
    return similarity[chosen].reshape(-1, k), index[chosen].reshape(-1, k)


def _refine(train, queries, candidates, k):
    """Orders candidates by float64 similarity, ties by training index, and keeps k."""
    q, width = candidates.shape
    similarities, indices = np.empty((q, k)), np.empty((q, k), np.int64)
    step = max(1, _REFINE_BYTES // (width * train.shape[1] * 24))
    for start in range(0, q, step):
        rows = slice(start, start + step)
        unit_queries = unit_vectors(queries[rows], np.float64)
        unit_train = unit_vectors(train[candidates[rows]], np.float64)
        exact = np.einsum("qkd,qd->qk", unit_train, unit_queries).round(_TIE_DECIMALS)
        order = np.lexsort((candidates[rows], -exact))[:, :k]
        similarities[rows] = np.take_along_axis(exact, order, axis=1)
        indices[rows] = np.take_along_axis(candidates[rows], order, axis=1)
    return similarities, indices


def unit_vectors(vectors: np.ndarray, dtype: np.typing.DTypeLike) -> np.ndarray:
    """Divides vectors along the last axis by their length; zeros stay zeros.

    Args:
        vectors: floats (..., d), finite.
        dtype: floating-point type to compute in.

    Returns:
        A copy, of that shape and type, of vectors of length 1 or 0.
    """
    vectors = np.array(vectors, dtype)  # a copy, changed in place to avoid a second one
    # Dividing by the largest entry first keeps the squares of tiny and huge features in range.
    largest = np.maximum(vectors.max(axis=-1), -vectors.min(axis=-1))
    vectors /= np.where(largest > 0, largest, 1)[..., None]
    # At least 1 after that division, unless all entries are 0.
    vectors /= np.maximum(np.sqrt(np.einsum("...d,...d->...", vectors, vectors)), 0.5)[..., None]
    return vectors
