"""Linear probes: multinomial logistic regression on features, with all labels or a few."""

import dataclasses
import warnings

import numpy as np
from sklearn.exceptions import ConvergenceWarning
from sklearn.linear_model import LogisticRegression
from sklearn.preprocessing import StandardScaler
from threadpoolctl import threadpool_limits

from keras_bt.data.subsets import balanced_indices
from keras_bt.evaluation.checks import checked_features, checked_labels

# scikit-learn's C, the inverse of the L2 penalty, for standardized features. Searched upward.
SEARCH_C = (1e-4, 1e-3, 1e-2, 1e-1, 1.0, 10.0)
# For few labels, where no search is possible. On handwritten digits with 5 labels per class,
# accuracy changes by less than 0.01 from 0.1 to 100, for raw pixels and learned features alike.
FEW_LABEL_C = 1.0
_MAX_ITERATIONS = 2000
# Multiply-adds per iteration above which several threads are worth their overhead. Below, they
# spend their time waiting for each other: 8 s against 0.1 s was measured for 1,400 x 128 features
# on two busy cores, and 80 s against 6 s for 60,000 x 512.
_THREADED_WORK = 1e9
_PATIENCE = 2  # fits without an improvement


@dataclasses.dataclass(frozen=True)
class ProbeResult:
    """Test results of a logistic probe.

    Attributes:
        top1: accuracy, 0 to 1.
        top5: share of test images whose class is among the five most likely; None for 5 classes or
            fewer, where it would say nothing.
        chosen_c: scikit-learn's C (inverse L2 penalty on standardized features) of the final fit.
        converged: whether the final fit met its tolerance within 2000 iterations.
        search: `(C, accuracy on the held-out part)` for each C tried; empty without a search.
        predictions: int64 (m,), the predicted class of each test image.
    """

    top1: float
    top5: float | None
    chosen_c: float
    converged: bool
    search: tuple[tuple[float, float], ...]
    predictions: np.ndarray = dataclasses.field(repr=False, compare=False)


def logistic_probe(
    train_features: np.ndarray,
    train_labels: np.ndarray,
    test_features: np.ndarray,
    test_labels: np.ndarray,
    regularization: float | None = None,
    seed: int = 0,
) -> ProbeResult:
    """Fits a multinomial logistic regression on frozen features and tests it.

    Features are standardized with the training features' mean and deviation. C is searched on a
    held-out fifth of every class of the *training* set, from strong to weak regularization, each
    fit starting from the last, until two in a row are no better than the best; among equally good
    ones, the strongest wins. The final fit uses all training features. With one image per class
    nothing can be held out, and C is 1.

    Time with ten classes: about 0.1 s for 1,400 x 128 features, 5 to 15 s for 60,000 x 512, on one
    core. Time and memory grow with n * d * classes: for ImageNet-sized data use
    `keras_bt.evaluation.linear_protocol` instead.

    >>> separable = np.eye(3).repeat(10, axis=0)  # three classes on three axes
    >>> classes = np.arange(3).repeat(10)
    >>> logistic_probe(separable, classes, separable, classes, regularization=1.0)
    ProbeResult(top1=1.0, top5=None, chosen_c=1.0, converged=True, search=())

    Args:
        train_features: floats (n, d).
        train_labels: integers (n,), of at least two classes.
        test_features: floats (m, d).
        test_labels: integers (m,). A class without training images counts as wrong.
        regularization: scikit-learn's C, the *inverse* L2 penalty; None to search 1e-4, 1e-3, … 10.
        seed: seed of the held-out part.

    Returns:
        The test results.

    Raises:
        ValueError: if labels are missing or of one class only, shapes do not fit, a feature is not
            finite, or C is not above 0.
    """
    train_features, test_features = checked_features(
        train_features=train_features, test_features=test_features
    )
    train_labels = checked_labels(train_labels, len(train_features), "train_labels")
    test_labels = checked_labels(test_labels, len(test_features), "test_labels")
    if regularization is not None and not 0 < regularization < np.inf:
        raise ValueError(
            f"regularization must be None or a number above 0. Received: {regularization}."
        )

    train_features, test_features = _standardize(train_features, test_features)
    work = train_features.size * len(np.unique(train_labels))
    with threadpool_limits(limits=1 if work < _THREADED_WORK else None):
        chosen_c, search = regularization, ()
        if chosen_c is None:
            chosen_c, search = _search(train_features, train_labels, seed)
        classifier = _fit(train_features, train_labels, _classifier(chosen_c))
    scores = classifier.decision_function(test_features)
    if scores.ndim == 1:  # of two classes, scikit-learn returns only the second one's score
        scores = np.stack([-scores, scores], axis=1)
    classes = classifier.classes_
    # Position of each test label among the classes; -1 for one that was never trained.
    position = np.searchsorted(classes, test_labels).clip(max=len(classes) - 1)
    position = np.where(classes[position] == test_labels, position, -1)
    return ProbeResult(
        top1=top_k_accuracy(scores, position, 1),
        top5=top_k_accuracy(scores, position, 5) if len(classes) > 5 else None,
        chosen_c=chosen_c,
        converged=bool(classifier.n_iter_.max() < _MAX_ITERATIONS),
        search=search,
        predictions=classes[scores.argmax(axis=1)],
    )


def few_label_probe(
    train_features: np.ndarray,
    train_labels: np.ndarray,
    test_features: np.ndarray,
    test_labels: np.ndarray,
    labels_per_class: int = 5,
    draws: int = 10,
    seed: int = 0,
) -> list[float]:
    """Fits logistic probes on a few labels per class, drawn several times.

    Each draw takes random training images of every class and uses these alone, including for
    standardization. C is fixed, because five labels per class are too few to split for a search.

    Args:
        train_features: floats (n, d).
        train_labels: integers (n,), of at least two classes.
        test_features: floats (m, d).
        test_labels: integers (m,).
        labels_per_class: training images drawn from each class.
        draws: number of draws. Draw i is the same whatever their number.
        seed: seed of the draws: the same seed draws the same images for other features.

    Returns:
        The accuracy of each draw, 0 to 1.

    Raises:
        ValueError: as for `logistic_probe`, and if a class has too few images.
    """
    train_labels = checked_labels(train_labels, len(train_features), "train_labels")
    accuracies = []
    for draw in range(draws):
        chosen = balanced_indices(train_labels, labels_per_class, seed=(seed, draw))
        result = logistic_probe(
            train_features[chosen],
            train_labels[chosen],
            test_features,
            test_labels,
            regularization=FEW_LABEL_C,
        )
        accuracies.append(result.top1)
    return accuracies


def top_k_accuracy(scores: np.ndarray, labels: np.ndarray, k: int) -> float:
    """Measures the share of examples whose class is among the k highest scores.

    Among equal scores, the lower class ranks higher, as in `argmax`. (In scikit-learn's
    `top_k_accuracy_score` the higher one does, it refuses classes without a column, and it sorts:
    for 50,000 × 1000 scores, 2.9 s and 380 MiB against 0.5 s and 140 MiB.)

    >>> top_k_accuracy(np.array([[0.5, 0.3, 0.2], [0.5, 0.3, 0.2]]), np.array([1, 2]), k=2)
    0.5

    Args:
        scores: floats (n, classes).
        labels: integers (n,), columns of `scores`; -1 is never correct.
        k: number of guesses.

    Returns:
        Accuracy, 0 to 1.
    """
    labels = np.asarray(labels)
    own = np.take_along_axis(scores, np.maximum(labels, 0)[:, None], axis=1)
    lower_class = np.arange(scores.shape[1]) < labels[:, None]
    rank = np.sum((scores > own) | ((scores == own) & lower_class), axis=1)
    return float(np.mean((rank < k) & (labels >= 0)))


def _standardize(train, test):
    """Scales training features to mean 0 and deviation 1, and test features by the same map."""
    scaler = StandardScaler().fit(train)
    train, test = scaler.transform(train), scaler.transform(test)
    # A deviation this small is rounding of a constant feature. Scaled up to 1, it would be noise in
    # training and arbitrarily large in the test set. Zeros in training get no weight.
    train[:, np.sqrt(scaler.var_) <= 1e-6 * np.abs(scaler.mean_)] = 0
    return train, test


def _classifier(c):
    return LogisticRegression(C=c, max_iter=_MAX_ITERATIONS, warm_start=True)


def _fit(features, labels, classifier):
    with warnings.catch_warnings():  # `ProbeResult.converged` says it
        warnings.simplefilter("ignore", ConvergenceWarning)
        return classifier.fit(features, labels)


def _search(features, labels, seed):
    """Chooses C on a held-out fifth of each class; returns it and the accuracies measured.

    `GridSearchCV` neither starts a fit from the last nor stops early: on 10,000 × 512 features of
    ten classes it took 0.63 s instead of 0.37 s.
    """
    held_out = _held_out(labels, seed)
    if not held_out.any():  # one image per class: nothing to measure on
        return FEW_LABEL_C, ()
    results: list[tuple[float, float]] = []
    best = 0
    classifier = _classifier(SEARCH_C[0])
    for place, c in enumerate(SEARCH_C):
        _fit(features[~held_out], labels[~held_out], classifier.set_params(C=c))
        results.append((c, classifier.score(features[held_out], labels[held_out])))
        if results[place][1] > results[best][1]:
            best = place
        if place == best + _PATIENCE:
            break
    return SEARCH_C[best], tuple(results)


def _held_out(labels, seed):
    """Marks a random fifth of each class, at least one in a class of two or more."""
    random = np.random.default_rng(seed)
    held_out = np.zeros(len(labels), bool)
    for label in np.unique(labels):
        members = random.permutation(np.flatnonzero(labels == label))
        held_out[members[: max(len(members) // 5, min(1, len(members) - 1))]] = True
    return held_out
