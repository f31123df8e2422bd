"""Linear probes: multinomial logistic regression on features, with all labels or a few."""

import dataclasses
import warnings

import numpy as np
from sklearn.exceptions import ConvergenceWarning
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import KFold, StratifiedKFold
from sklearn.preprocessing import StandardScaler
from threadpoolctl import threadpool_limits

from keras_bt.data.subsets import balanced_indices
from keras_bt.evaluation.checks import checked_features, checked_labels

# scikit-learn's C, the inverse of the L2 penalty, for standardized features. Searched upward.
SEARCH_C = (1e-4, 3e-4, 1e-3, 3e-3, 1e-2, 3e-2, 1e-1, 0.3, 1.0, 3.0, 10.0)
# For fewer images per class than can be searched with. Five labels per class lose at most 0.6
# points to the best C of all on digits and Fashion-MNIST, by pixels and by features of width 64 to
# 2048, and a search by cross-validation loses as much.
FEW_LABEL_C = 0.3
_LEAST_TO_SEARCH = 10
_FOLDS = 5
# Of more images than this, a single fold holds out enough to choose by.
_MOST_TO_CROSS_VALIDATE = 5000
_MAX_ITERATIONS = 2000
# Multiply-adds per iteration above which several threads are worth their overhead. Below, they
# spend their time waiting for each other: 8 s against 0.1 s was measured for 1,400 x 128 features
# on two busy cores, and 80 s against 6 s for 60,000 x 512.
_THREADED_WORK = 1e9


@dataclasses.dataclass(frozen=True)
class ProbeResult:
    """Test results of a logistic probe.

    Attributes:
        top1: accuracy, 0 to 1.
        top5: share of test images whose class is among the five most likely; None for 5 classes or
            fewer, where it would say nothing.
        chosen_c: scikit-learn's C (inverse L2 penalty on standardized features) of the final fit.
        converged: whether the final fit met its tolerance within 2000 iterations.
        search: `(C, mean log-loss of held-out images)` for each C tried; empty without a search.
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

    Features are standardized with the training features' mean and deviation. C is the one of the
    least log-loss in cross-validation on the *training* set, in five folds with equal shares of
    every class; with more than 5,000 images, in the first of these folds. The search goes from
    strong to weak regularization, each fit starting from the last, and ends when the log-loss no
    longer falls. With fewer than ten images in a class (the median of the classes) C is 0.3. The
    final fit uses all training features. With 5, 10 and 60 labels per class, the accuracy is within
    a point of that of the best fixed C (docs/evaluation.md).

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
        regularization: scikit-learn's C, the *inverse* L2 penalty; None to search 1e-4, 3e-4, … 10.
        seed: seed of the folds.

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

    train_features, test_features = _rotate(*_standardize(train_features, test_features))
    work = train_features.size * len(np.unique(train_labels))
    with threadpool_limits(limits=1 if work < _THREADED_WORK else None):
        chosen_c, search = regularization, ()
        if chosen_c is None:
            chosen_c, search = _search(train_features, train_labels, seed)
        classifier = _fit(train_features, train_labels, _classifier(chosen_c))
    classes = classifier.classes_
    scores, position = _scores(classifier, test_features), _position(classes, test_labels)
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
    regularization: float | None = None,
) -> list[float]:
    """Fits logistic probes on a few labels per class, drawn several times.

    Each draw takes random training images of every class and uses these alone, including for
    standardization and the choice of C.

    Args:
        train_features: floats (n, d).
        train_labels: integers (n,), of at least two classes.
        test_features: floats (m, d).
        test_labels: integers (m,).
        labels_per_class: training images drawn from each class.
        draws: number of draws. Draw i is the same whatever their number.
        seed: seed of the draws: the same seed draws the same images for other features.
        regularization: see `logistic_probe`.

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
            regularization,
            seed,
        )
        accuracies.append(result.top1)
    return accuracies


def held_out_predictions(
    features: np.ndarray, labels: np.ndarray, regularization: float = FEW_LABEL_C, seed: int = 0
) -> np.ndarray:
    """Predicts the class of each image by a logistic probe fitted to others: five-fold.

    What it gets wrong is worth a look: an image that is unlike its class, or a wrong label.

    >>> features = np.eye(2).repeat(10, axis=0)
    >>> labels = np.arange(2).repeat(10)
    >>> labels[3] = 1  # a mistake
    >>> np.flatnonzero(held_out_predictions(features, labels) != labels)
    array([3])

    Args:
        features: floats (n, d).
        labels: integers (n,), of at least two classes.
        regularization: scikit-learn's C, see `logistic_probe`.
        seed: seed of the folds.

    Returns:
        int64 (n,).

    Raises:
        ValueError: as for `logistic_probe`, for example if there is one class only.
    """
    (features,) = checked_features(features=features)
    labels = checked_labels(labels, len(features), "labels")
    predictions = np.empty(len(labels), np.int64)
    # Not stratified: a class of a single image cannot be, and is allowed.
    for fitted, held_out in KFold(min(_FOLDS, len(labels)), shuffle=True, random_state=seed).split(
        features
    ):
        predictions[held_out] = logistic_probe(
            features[fitted], labels[fitted], features[held_out], labels[held_out], regularization
        ).predictions
    return predictions


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


def _rotate(train, test):
    """Turns features of more dimensions than images into the space that the images span.

    The weights lie in there, so the classifier is the same, but costs the less to fit the fewer
    images there are.
    """
    n, d = train.shape
    if n >= d:
        return train, test
    basis = np.linalg.qr(train.T).Q
    return train @ basis, test @ basis


def _classifier(c):
    return LogisticRegression(C=c, max_iter=_MAX_ITERATIONS, warm_start=True)


def _fit(features, labels, classifier):
    with warnings.catch_warnings():  # `ProbeResult.converged` says it
        warnings.simplefilter("ignore", ConvergenceWarning)
        return classifier.fit(features, labels)


def _scores(classifier, features):
    """Computes the logits, (n, classes)."""
    scores = classifier.decision_function(features)
    if scores.ndim == 1:  # of two classes, scikit-learn returns only what the second one has more
        scores = np.stack([np.zeros_like(scores), scores], axis=1)
    return scores


def _position(classes, labels):
    """Finds the place of each label among the sorted classes; -1 for one that was never trained."""
    position = np.searchsorted(classes, labels).clip(max=len(classes) - 1)
    return np.where(classes[position] == labels, position, -1)


def _search(features, labels, seed):
    """Chooses C by cross-validation; returns it and the mean log-loss of each C tried.

    Not by accuracy: of few images, many values of C classify equally many, and the best of them is
    one by chance. With 10 labels per class, choosing by it lost up to 1.1 points on the digits and
    0.6 on Fashion-MNIST against the best fixed C, and the log-loss at most 0.3.

    `GridSearchCV` neither starts a fit from the last nor stops early.
    """
    folds = _folds(labels, seed)
    if not folds:
        return FEW_LABEL_C, ()
    classifiers = [_classifier(SEARCH_C[0]) for _ in folds]
    best, results = np.inf, []
    for c in SEARCH_C:
        losses = []
        for classifier, (fitted, held_out) in zip(classifiers, folds, strict=True):
            _fit(features[fitted], labels[fitted], classifier.set_params(C=c))
            losses.append(_log_losses(classifier, features[held_out], labels[held_out]))
        results.append((c, float(np.mean(np.concatenate(losses)))))
        # If it stays the same, the last fit was good enough to be this one as well.
        if results[-1][1] >= best:
            break
        chosen, best = results[-1]
    return chosen, tuple(results)


def _log_losses(classifier, features, labels):
    """Computes −log p of each image's class; of classes that the classifier knows."""
    position = _position(classifier.classes_, labels)
    known = position >= 0
    scores = _scores(classifier, features[known])
    own = np.take_along_axis(scores, position[known, None], axis=1)[:, 0]
    return np.logaddexp.reduce(scores, axis=1) - own


def _folds(labels, seed):
    """Returns pairs of indices, to fit and to hold out; none if there are too few images."""
    if np.median(np.unique(labels, return_counts=True)[1]) < _LEAST_TO_SEARCH:
        return []
    with warnings.catch_warnings():  # of classes with fewer images than folds
        warnings.simplefilter("ignore", UserWarning)
        folds = StratifiedKFold(_FOLDS, shuffle=True, random_state=seed)
        pairs = list(folds.split(labels, labels))
    # The only image of the second class may be the one held out.
    pairs = [(fitted, held_out) for fitted, held_out in pairs if np.ptp(labels[fitted])]
    return pairs[:1] if len(labels) > _MOST_TO_CROSS_VALIDATE else pairs
