"""Verification: do two images show the same thing? Decided by the distance of their embeddings.

A pair is accepted as the same if D ≤ t, with D = ‖u/‖u‖ − v/‖v‖‖ the distance of its normalized
embeddings, 0 to 2, and t a threshold. False accepts are the share of accepted pairs among those of
different things, false rejects the share of rejected pairs among those of the same thing.
"""

import dataclasses

import numpy as np

from keras_bt.data.pairs import Pairs
from keras_bt.evaluation.checks import checked_features, checked_labels
from keras_bt.evaluation.neighbours import unit_vectors

FALSE_ACCEPTS = (0.01, 0.001)  # at which true accepts are told
_DRAWS = 100  # of the bootstrap
_ROWS = 1024  # compared at once
_MOST_COMPARISONS = 200_000  # with references


@dataclasses.dataclass(frozen=True)
class Verification:
    """How well distances tell pairs of the same thing from pairs of different things.

    Deviations are those of 100 bootstrap draws of the pairs of either kind. They take pairs to be
    independent; as an image is in several, the true ones are somewhat larger.

    Attributes:
        same_pairs: number of pairs that show the same thing.
        different_pairs: number of pairs that show different things.
        auc: area under the ROC curve, the probability that a pair of the same thing is nearer than
            one of different things (ties count half); 0.5 by chance.
        auc_deviation: its deviation.
        eer: equal error rate, at which false accepts and false rejects are the same share; between
            two points of the ROC curve on the straight line that joins them.
        eer_deviation: its deviation.
        true_accepts: a share of false accepts → the largest share of true accepts with no more of
            them; None where a single pair is a larger share (with fewer than 1,000 different pairs
            for 0.001).
        true_accepts_deviation: their deviations, likewise.
        threshold: t, or None if there was none; then the following are None too.
        accuracy: share of all pairs for which D ≤ t gives the right answer.
        accuracy_deviation: its deviation.
        false_accepts: share of the different pairs, at the threshold.
        false_rejects: share of the same pairs, at the threshold.
    """

    same_pairs: int
    different_pairs: int
    auc: float
    auc_deviation: float
    eer: float
    eer_deviation: float
    true_accepts: dict[float, float | None]
    true_accepts_deviation: dict[float, float | None]
    threshold: float | None = None
    accuracy: float | None = None
    accuracy_deviation: float | None = None
    false_accepts: float | None = None
    false_rejects: float | None = None


def distances(embeddings: np.ndarray, pairs: Pairs) -> np.ndarray:
    """Computes the distance of the normalized embeddings of each pair.

    Memory: that of the result, and of 2 × 1024 embeddings in float64.

    >>> pairs = Pairs(np.array([0, 0]), np.array([1, 2]), np.array([True, False]))
    >>> distances(np.array([[1.0, 0.0], [5.0, 0.0], [0.0, 0.1]]), pairs).round(3)
    array([0.   , 1.414])

    Args:
        embeddings: floats (images, d); may be memory-mapped. One of zeros has no direction: its
            distance is 0 to another such and 1 to all others.
        pairs: n pairs of these images.

    Returns:
        float64 (n,), 0 to 2.

    Raises:
        ValueError: if embeddings are not of this shape or not finite, or a pair names an image that
            is not there.
    """
    (embeddings,) = checked_features(embeddings=embeddings)
    for numbers in (pairs.first, pairs.second):
        if len(numbers) and not 0 <= numbers.min() <= numbers.max() < len(embeddings):
            raise ValueError(
                f"Pairs must be of the {len(embeddings):,} images that have embeddings. "
                f"Received: images {numbers.min()} to {numbers.max()}."
            )
    found = np.empty(len(pairs))
    for rows in _parts(len(pairs)):
        first, second = (
            unit_vectors(embeddings[of[rows]], np.float64) for of in (pairs.first, pairs.second)
        )
        found[rows] = np.linalg.norm(first - second, axis=1)
    return found


def reference_distances(
    embeddings: np.ndarray, labels: np.ndarray, references: int, seed: int = 0
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Compares images with several references of every class, as a new signature with known ones.

    Of each class that has more images, `references` are drawn. Every other image of these classes
    is compared with the references of every class, which gives k distances, of which the smallest
    (nearest) and the mean are returned. Where these would be more than 200,000 comparisons
    with a class, a random part of the images is compared.

    >>> embeddings = np.array([[1.0, 0.0], [1.0, 0.0], [1.0, 0.0], [0.0, 1.0], [0.0, 2.0]])
    >>> nearest, mean, same = reference_distances(embeddings, [7, 7, 7, 9, 9], references=1)
    >>> nearest.round(2), same  # two images of class 7, then one of class 9, with each class
    (array([0.  , 1.41, 0.  , 1.41, 1.41, 0.  ]), array([ True, False,  True, False, False,  True]))

    Args:
        embeddings: floats (n, d); may be memory-mapped.
        labels: integers (n,), the class of each image.
        references: k, number of references of each class.
        seed: seed of the draw.

    Returns:
        nearest: float64 (m,), m comparisons of an image with a class.
        mean: float64 (m,), the mean of the k distances, which are those of `distances`.
        same: bool (m,), whether the image is of that class.

    Raises:
        ValueError: if shapes do not fit, or fewer than two classes have more than k images.
    """
    (embeddings,) = checked_features(embeddings=embeddings)
    labels = checked_labels(labels, len(embeddings), "labels")
    if references < 1:
        raise ValueError(f"references must be at least 1. Received: {references}.")
    random = np.random.default_rng(seed)
    classes, counts = np.unique(labels, return_counts=True)
    classes = classes[counts > references]
    if len(classes) < 2:
        raise ValueError(
            f"Comparing with {references} reference{'s' if references > 1 else ''} needs two "
            f"classes with more images than that. Received: {len(classes)} of them."
        )
    shuffled = [random.permutation(np.flatnonzero(labels == c)) for c in classes]
    known = np.array([images[:references] for images in shuffled])  # (classes, k)
    queries = np.sort(np.concatenate([images[references:] for images in shuffled]))
    most = max(1, _MOST_COMPARISONS // len(classes))
    if len(queries) > most:
        queries = np.sort(random.choice(queries, most, replace=False))
    # k of (classes, d)
    known_units = [unit_vectors(embeddings[images], np.float64) for images in known.T]
    nearest, mean = np.empty((2, len(queries), len(classes)))
    for rows in _parts(len(queries)):
        units = unit_vectors(embeddings[queries[rows]], np.float64)
        # ‖u − v‖² = 2 − 2 u·v, but an embedding of zeros is not of length 1.
        found = np.array([_between(units, others) for others in known_units])
        nearest[rows], mean[rows] = found.min(axis=0), found.mean(axis=0)
    same = labels[queries][:, None] == classes
    return nearest.ravel(), mean.ravel(), same.ravel()


def roc(
    distances: np.ndarray, same: np.ndarray, weights: np.ndarray | None = None
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Computes the ROC curve: false and true accepts at every threshold.

    Args:
        distances: floats (n,).
        same: bool (n,).
        weights: floats (n,), how often each pair counts; by default once.

    Returns:
        false_accepts: float64 (k + 1,), from 0 to 1, where distances have k different values.
        true_accepts: float64 (k + 1,), likewise.
        thresholds: float64 (k + 1,), -infinity and these values, ascending.

    Raises:
        ValueError: as `verify`.
    """
    distances, same = _checked(distances, same)
    order = np.argsort(distances)
    curve = _Curve(distances[order], same[order])
    weights = np.ones(len(same)) if weights is None else np.asarray(weights, np.float64)[order]
    return *curve.rates(weights), np.append(-np.inf, distances[order][curve.ends])


def area_under(false_accepts: np.ndarray, true_accepts: np.ndarray) -> float:
    """Returns the area under a ROC curve that `roc` returned, by trapezoids."""
    return float(np.sum(np.diff(false_accepts) * (true_accepts[1:] + true_accepts[:-1]) / 2))


def equal_error_rate(false_accepts: np.ndarray, true_accepts: np.ndarray) -> float:
    """Returns where a ROC curve that `roc` returned has as many false accepts as false rejects."""
    gap = 1 - true_accepts - false_accepts  # false rejects less false accepts: from 1 down to -1
    after = int(np.argmax(gap <= 0))
    share = gap[after - 1] / (gap[after - 1] - gap[after])
    step = false_accepts[after] - false_accepts[after - 1]
    return float(false_accepts[after - 1] + share * step)


def verify(distances: np.ndarray, same: np.ndarray, threshold: float | None = None) -> Verification:
    """Measures how well distances tell the same from different things.

    >>> found = verify([0.1, 0.2, 0.3, 0.4], [True, True, False, True], threshold=0.25)
    >>> round(found.auc, 3), found.accuracy, found.false_accepts, found.true_accepts
    (0.667, 0.75, 0.0, {0.01: None, 0.001: None})

    Args:
        distances: floats (n,), of pairs; any measure that is smaller for the same thing.
        same: bool (n,), whether a pair shows the same thing.
        threshold: t, chosen on other pairs (`choose_threshold`); a pair is accepted if D ≤ t.

    Returns:
        The figures.

    Raises:
        ValueError: if shapes do not fit, a distance is not finite, or all pairs are of one kind.
    """
    distances, same = _checked(distances, same)
    order = np.argsort(distances)
    distances, same = distances[order], same[order]
    curve = _Curve(distances, same)
    right = None if threshold is None else (distances <= threshold) == same
    alike, unlike = np.flatnonzero(same), np.flatnonzero(~same)

    def figures(weights):
        false, true = curve.rates(weights)
        at = [true[np.searchsorted(false, rate, side="right") - 1] for rate in FALSE_ACCEPTS]
        accuracy = 0.0 if right is None else np.average(right, weights=weights)
        return [area_under(false, true), equal_error_rate(false, true), accuracy, *at]

    random = np.random.default_rng(0)
    drawn = []
    for _ in range(_DRAWS):
        weights = np.zeros(len(same))
        for kind in (alike, unlike):
            weights[kind] = np.bincount(
                random.integers(len(kind), size=len(kind)), minlength=len(kind)
            )
        drawn.append(figures(weights))
    values, deviations = figures(np.ones(len(same))), np.std(drawn, axis=0, ddof=1)
    (auc, eer, accuracy, *at), (of_auc, of_eer, of_accuracy, *of_at) = values, deviations

    def told(rates):
        enough = [len(unlike) * rate >= 1 for rate in FALSE_ACCEPTS]
        return {
            rate: float(value) if fine else None
            for rate, value, fine in zip(FALSE_ACCEPTS, rates, enough, strict=True)
        }

    found = Verification(
        len(alike),
        len(unlike),
        auc=float(auc),
        auc_deviation=float(of_auc),
        eer=float(eer),
        eer_deviation=float(of_eer),
        true_accepts=told(at),
        true_accepts_deviation=told(of_at),
    )
    if threshold is None or right is None:
        return found
    return dataclasses.replace(
        found,
        threshold=float(threshold),
        accuracy=float(accuracy),
        accuracy_deviation=float(of_accuracy),
        false_accepts=float(1 - right[unlike].mean()),
        false_rejects=float(1 - right[alike].mean()),
    )


def choose_threshold(distances: np.ndarray, same: np.ndarray) -> float:
    """Chooses the threshold at which false accepts and false rejects come nearest to each other.

    It lies halfway between two neighboring distances that differ, so that no pair is on it. Where
    two such places are equally good, it is the lower one, which accepts less. It is never below the
    smallest nor above the largest distance: accepting all or nothing is the worst of all. Only if
    all distances are equal is it this distance.

    >>> choose_threshold([0.1, 0.2, 0.3, 0.8, 0.5, 0.9], [True, True, True, True, False, False])
    0.4

    Args:
        distances: floats (n,), of pairs other than those to be judged by it.
        same: bool (n,), whether a pair shows the same thing.

    Returns:
        t, for D ≤ t.

    Raises:
        ValueError: as `verify`.
    """
    false, true, values = roc(distances, same)
    if len(values) == 2:
        return float(values[1])
    # Without both ends, at which nothing or everything is accepted. argmin: the lower of two.
    best = 1 + int(np.argmin(np.abs(1 - true - false)[1:-1].round(12)))
    below, above = values[best : best + 2]
    middle = below + (above - below) / 2
    return float(middle if middle < above else below)  # of two neighbors in float64


class _Curve:
    """Where the ROC curve of sorted distances has its points: after the last of equal ones."""

    def __init__(self, distances, same):
        self.same = same
        self.ends = np.flatnonzero(np.diff(distances, append=np.inf))

    def rates(self, weights):
        """Returns false and true accepts of pairs that count so often, from 0 to 1."""
        counts = (np.cumsum(np.where(kind, weights, 0)) for kind in (~self.same, self.same))
        return tuple(np.append(0, count[self.ends]) / count[-1] for count in counts)


def _checked(distances, same):
    distances, same = np.asarray(distances, np.float64), np.asarray(same, bool)
    if distances.ndim != 1 or distances.shape != same.shape:
        raise ValueError(
            "distances and same must hold one entry per pair, both of shape (n,). "
            f"Received: shapes {distances.shape} and {same.shape}."
        )
    if not np.isfinite(distances).all():
        raise ValueError("distances must be finite. Received: NaN or infinity.")
    if same.all() or not same.any():
        raise ValueError(
            "Verification needs pairs that show the same thing and pairs that show different "
            f"things. Received: {same.sum():,} and {(~same).sum():,}."
        )
    return distances, same


def _between(units, others):
    """Returns the distances of (m, d) from (c, d), (m, c), all of length 1 or 0."""
    squares = (units**2).sum(axis=1)[:, None] + (others**2).sum(axis=1)
    return np.sqrt(np.maximum(squares - 2 * units @ others.T, 0))


def _parts(count):
    """Yields slices of `_ROWS` rows each."""
    for start in range(0, count, _ROWS):
        yield slice(start, start + _ROWS)
