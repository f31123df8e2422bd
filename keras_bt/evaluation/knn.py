"""Weighted k-nearest-neighbour classification by cosine similarity.

The protocol of Wu et al. 2018 (arXiv 1805.01978, section 3.4), as used by DINO: no training, no
hyperparameter worth searching, so the number is a property of the features alone.
"""

import numpy as np
from threadpoolctl import threadpool_limits

# More candidates than neighbours are kept by the float32 search, so that rounding cannot push a
# true neighbour out where similarities lie close together.
_SPARE_CANDIDATES = 16
# Similarities that agree to so many decimals are a tie; float64 itself errs by about 1e-16.
_TIE_DECIMALS = 12
_SELECT_COLUMNS = 512
_REFINE_BYTES = 64 * 2**20
# Multiply-adds (about 0.2 s of one core) from which several threads are worth their hand-over;
# where the cores have other work they spend more time waiting for each other.
_THREADED_WORK = 1e10


def nearest_neighbours(train_features, queries, k, *, query_chunk_size=1024, train_chunk_size=4096):
    """Finds the k training vectors of highest cosine similarity to each query, exactly.

    A float32 search over chunks keeps a running best of k + 16 candidates per query; these are
    compared again in float64. Where float32 rounding might have hidden a neighbour (many nearly
    equal similarities, as in collapsed features), the query is searched again in float64. The
    result is therefore that of a float64 search, whatever the chunk sizes. Similarities equal to
    12 decimals are ties, and the lowest training index wins. A vector of zeros has similarity 0
    to everything.

    Memory beside the inputs and the result: with q = query_chunk_size, t = train_chunk_size and
    d the width, at most about `8*q*t + 8*d*(q + t) + 80*q*(k + 512)` bytes + 64 MiB, whatever the
    number of training vectors and queries; 240 MiB for the defaults at d = 2048 and k = 200. The
    inputs may be memory-mapped (`np.load(..., mmap_mode="r")`).

    Time: 2*n*m*d floating-point operations, in NumPy's matrix product.

    Args:
        train_features: Floats (n, d), float32 for speed.
        queries: Floats (m, d).
        k: Number of neighbours, 1 to n.
        query_chunk_size: Queries compared at once.
        train_chunk_size: Training vectors compared at once.

    Returns:
        `(similarities, indices)`: float64 (m, k) and int64 (m, k), most similar first.

    Raises:
        ValueError: If shapes do not fit, k is out of range, or a feature is not finite.
    """
    train_features, queries = np.asanyarray(train_features), np.asanyarray(queries)
    _check_features(train_features, queries)
    n, m = len(train_features), len(queries)
    if not 1 <= k <= n:
        raise ValueError(
            f"k must be between 1 and the number of training features ({n}). Received: k={k}."
        )
    if query_chunk_size < 1 or train_chunk_size < 1:
        raise ValueError(
            "query_chunk_size and train_chunk_size must be at least 1. Received: "
            f"query_chunk_size={query_chunk_size}, train_chunk_size={train_chunk_size}."
        )
    similarities, indices = np.empty((m, k)), np.empty((m, k), np.int64)
    work = n * m * train_features.shape[1]
    with threadpool_limits(limits=1 if work < _THREADED_WORK else None):
        for start in range(0, m, query_chunk_size):
            rows = slice(start, start + query_chunk_size)
            similarities[rows], indices[rows] = _search(
                train_features, queries[rows], k, train_chunk_size
            )
    return similarities, indices


def knn_predict(
    train_features,
    train_labels,
    queries,
    k=20,
    temperature=0.07,
    num_classes=None,
    **chunk_sizes,
):
    """Classifies queries by a weighted vote of their k nearest training vectors.

    With s_i the cosine similarity of neighbour i, class c gets the share of the votes

        p_c = Σ_{i: y_i = c} exp(s_i / T) / Σ_i exp(s_i / T)

    Ties: of equally similar training vectors the lowest index is nearer, of equal shares the
    lowest class wins.

    Example, with two classes on two axes:

        >>> train = np.array([[1.0, 0.0], [0.0, 1.0]])
        >>> knn_predict(train, np.array([0, 1]), np.array([[2.0, 0.1]]), k=1)[1]
        array([0])

    Args:
        train_features: Floats (n, d), float32 for speed.
        train_labels: Integers (n,), 0 to num_classes - 1, of at least two classes.
        queries: Floats (m, d).
        k: Number of neighbours, 1 to n.
        temperature: T, above 0.
        num_classes: Number of classes; by default the largest label plus 1.
        **chunk_sizes: As `nearest_neighbours`, which says how much memory is used.

    Returns:
        `(scores, labels)`: float32 (m, num_classes), the shares of the votes, and int64 (m,).

    Raises:
        ValueError: If labels are missing or of one class only, if k or the temperature is out of
            range, if shapes do not fit, or if a feature is not finite.
    """
    train_labels, num_classes = _check_labels(train_labels, len(train_features), num_classes)
    _check_temperature(temperature)
    similarities, indices = nearest_neighbours(train_features, queries, k, **chunk_sizes)
    return knn_vote(similarities, train_labels[indices], temperature, num_classes)


def knn_vote(similarities, neighbour_labels, temperature, num_classes):
    """The vote of `knn_predict`, for neighbours already found.

    The first columns of a search with a large k are a search with a smaller one, so one call of
    `nearest_neighbours` serves several k.

    Args:
        similarities: Floats (m, k), most similar first.
        neighbour_labels: Integers (m, k), 0 to num_classes - 1.
        temperature: T, above 0.
        num_classes: Number of classes.

    Returns:
        `(scores, labels)` as `knn_predict`.

    Raises:
        ValueError: If the temperature is not above 0.
    """
    _check_temperature(temperature)
    scores = np.empty((len(similarities), num_classes), np.float32)
    labels = np.empty(len(similarities), np.int64)
    # By pieces, because bincount needs float64 votes for all classes at once.
    for start in range(0, len(similarities), 1024):
        rows = slice(start, start + 1024)
        s, y = np.asarray(similarities[rows], np.float64), neighbour_labels[rows]
        # Subtracting the largest similarity cancels in the share and keeps exp from overflowing.
        weights = np.exp((s - s.max(axis=1, keepdims=True)) / temperature)
        query = np.arange(len(s))[:, None]
        votes = np.bincount(
            (query * num_classes + y).ravel(), weights.ravel(), len(s) * num_classes
        ).reshape(len(s), num_classes)
        scores[rows] = votes / weights.sum(axis=1, keepdims=True)
        labels[rows] = votes.argmax(axis=1)
    return scores, labels


def knn_accuracy(
    train_features,
    train_labels,
    test_features,
    test_labels,
    k=20,
    temperature=0.07,
    **chunk_sizes,
):
    """Share of test images that `knn_predict` classifies rightly.

    Args:
        train_features: Floats (n, d), float32 for speed.
        train_labels: Integers (n,), from 0, of at least two classes.
        test_features: Floats (m, d).
        test_labels: Integers (m,). A class without training images counts as wrong.
        k: Number of neighbours, 1 to n.
        temperature: T, above 0.
        **chunk_sizes: As `nearest_neighbours`, which says how much memory is used.

    Returns:
        Top-1 accuracy, 0 to 1.

    Raises:
        ValueError: As `knn_predict`, and if the test labels are missing or do not fit.
    """
    if test_labels is None or np.shape(test_labels) != (len(test_features),):
        raise ValueError(
            f"test_labels must hold one class per test feature ({len(test_features)}). "
            f"Received: {_describe(test_labels)}."
        )
    _, predictions = knn_predict(
        train_features,
        train_labels,
        test_features,
        k,
        temperature,
        **chunk_sizes,
    )
    return float(np.mean(predictions == np.asarray(test_labels)))


def _search(train, queries, k, chunk_size):
    """Exact neighbours of one chunk of queries: float32 search, float64 comparison."""
    kept = min(k + _SPARE_CANDIDATES, len(train))
    found, candidates = _running_best(train, queries, kept, chunk_size, np.float32)
    similarities, indices = _refine(train, queries, candidates, k)
    if kept == len(train):
        return similarities, indices
    # Whatever the search left out is at most its worst candidate, plus the rounding error of
    # float32 inner products of unit vectors: of the order of sqrt(d) times the machine epsilon,
    # with a constant above 4 next to impossible (Higham and Mary 2019).
    error = 4 * np.sqrt(train.shape[1] + 1) * np.finfo(np.float32).eps
    unsettled = found.min(axis=1) + error >= similarities[:, -1]
    if unsettled.any():
        _, candidates = _running_best(train, queries[unsettled], k, chunk_size, np.float64)
        similarities[unsettled], indices[unsettled] = _refine(
            train, queries[unsettled], candidates, k
        )
    return similarities, indices


def _running_best(train, queries, k, chunk_size, dtype):
    """Searches chunk after chunk, keeping the k best of each query in order of training index."""
    unit_queries = _unit(queries, dtype)
    best = np.full((len(queries), k), -np.inf, dtype)
    best_index = np.zeros((len(queries), k), np.int64)
    for start in range(0, len(train), chunk_size):
        similarity = unit_queries @ _unit(train[start : start + chunk_size], dtype).T
        for offset in range(0, similarity.shape[1], _SELECT_COLUMNS):
            columns = similarity[:, offset : offset + _SELECT_COLUMNS]
            if dtype == np.float64:
                np.round(columns, _TIE_DECIMALS, out=columns)
            # After the first columns very few beat the k-th best, so almost all the work is this
            # comparison. What equals the k-th best comes later in the data and loses the tie.
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
    """Moves the wanted columns of each row to the left and fills up with -inf."""
    row, column = np.nonzero(wanted)
    count = wanted.sum(axis=1)
    place = np.arange(len(row)) - np.repeat(np.cumsum(count) - count, count)
    compact = np.full((len(similarity), count.max()), -np.inf, similarity.dtype)
    index = np.zeros(compact.shape, np.int64)
    compact[row, place] = similarity[row, column]
    index[row, place] = first_index + column
    return compact, index


def _select(similarity, index, k):
    """The k largest of each row, in unchanged order; of equal ones the first."""
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
        unit_queries = _unit(queries[rows], np.float64)
        unit_train = _unit(train[candidates[rows]], np.float64)
        exact = np.einsum("qkd,qd->qk", unit_train, unit_queries).round(_TIE_DECIMALS)
        order = np.lexsort((candidates[rows], -exact))[:, :k]
        similarities[rows] = np.take_along_axis(exact, order, axis=1)
        indices[rows] = np.take_along_axis(candidates[rows], order, axis=1)
    return similarities, indices


def _unit(vectors, dtype):
    """Divides vectors along the last axis by their length; zeros stay zeros."""
    vectors = np.array(vectors, dtype)  # a copy, changed in place to hold no second one
    # Dividing by the largest entry first keeps the squares of tiny and huge features in range.
    largest = np.maximum(vectors.max(axis=-1), -vectors.min(axis=-1))
    vectors /= np.where(largest > 0, largest, 1)[..., None]
    # At least 1 after that division, unless all entries are 0.
    vectors /= np.maximum(np.sqrt(np.einsum("...d,...d->...", vectors, vectors)), 0.5)[..., None]
    return vectors


def _describe(labels):
    return "no labels" if labels is None else f"labels of shape {np.shape(labels)}"


def _check_features(train_features, queries):
    for name, features in (("train_features", train_features), ("queries", queries)):
        if features.ndim != 2 or 0 in features.shape:
            raise ValueError(
                f"{name} must have shape (number, d), neither of them 0. "
                f"Received: shape {features.shape}."
            )
    if train_features.shape[1] != queries.shape[1]:
        raise ValueError(
            "train_features and queries must be equally wide. "
            f"Received: widths {train_features.shape[1]} and {queries.shape[1]}."
        )
    for name, features in (("train_features", train_features), ("queries", queries)):
        # By pieces: isfinite of everything would need a quarter of the features' memory again.
        for start in range(0, len(features), 4096):
            finite = np.isfinite(features[start : start + 4096]).all(axis=1)
            if not finite.all():
                row = start + int(np.argmin(finite))
                raise ValueError(f"{name} must be finite. Received: NaN or infinity in row {row}.")


def _check_labels(labels, n, num_classes):
    if labels is None or np.shape(labels) != (n,):
        raise ValueError(
            f"train_labels must hold one class per training feature ({n}). "
            f"Received: {_describe(labels)}."
        )
    labels = np.asarray(labels)
    if not np.issubdtype(labels.dtype, np.integer) or labels.min() < 0:
        raise ValueError(
            "train_labels must be integers from 0. "
            f"Received: dtype {labels.dtype}, smallest {labels.min()}."
        )
    largest = int(labels.max())
    if labels.min() == largest:
        raise ValueError(
            f"train_labels must hold at least two classes. Received: only class {largest}."
        )
    if num_classes is None:
        num_classes = largest + 1
    if largest >= num_classes:
        raise ValueError(
            "train_labels must be below num_classes. "
            f"Received: num_classes={num_classes}, largest label {largest}."
        )
    return labels.astype(np.int64), num_classes


def _check_temperature(temperature):
    if not 0 < temperature < np.inf:
        raise ValueError(f"temperature must be above 0. Received: temperature={temperature}.")
