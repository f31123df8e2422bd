"""Linear support vector machines on frozen features, one per class: the VOC07 protocol."""

import dataclasses
import os
import warnings
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor

import numpy as np
from sklearn.exceptions import ConvergenceWarning
from sklearn.model_selection import GridSearchCV, StratifiedKFold
from sklearn.preprocessing import normalize
from sklearn.svm import LinearSVC
from threadpoolctl import threadpool_limits

from keras_bt.evaluation.average_precision import INTERPOLATIONS, average_precision, check_labels
from keras_bt.evaluation.checks import checked_features
from keras_bt.messages import progress_bar

# Those searched by VISSL for a ResNet-50.
COSTS = (0.01, 0.1, 1.0, 2.0, 5.0, 10.0, 15.0, 20.0, 50.0, 100.0, 1000.0)
FOLDS = 3
_POSITIVE_WEIGHT = 2.0
_MAX_ITERATIONS = 2000
_MOST_THREADS = 8
# What a thread needs per number of the training features: copies of the folds, and 16 bytes of
# liblinear's. All threads together stay within 4 GiB, if one does.
_BYTES_PER_NUMBER = 30
_MEMORY = 4 * 2**30


@dataclasses.dataclass(frozen=True)
class SvmResult:
    """Test results of the support vector machines.

    Attributes:
        mean_average_precision: VOC 2007's, 0 to 1, over the classes that are not excluded.
        average_precisions: of each class; None if it is excluded.
        mean_area: the mean with interpolation="area", which published code prints.
        chosen_c: cost chosen for each class; None if it is excluded.
        excluded: numbers of the classes that cannot be measured.
        converged: whether all chosen machines converged.
    """

    mean_average_precision: float
    average_precisions: tuple[float | None, ...]
    mean_area: float
    chosen_c: tuple[float | None, ...]
    excluded: tuple[int, ...]
    converged: bool


def svm_probe(
    train_features: np.ndarray,
    train_labels: np.ndarray,
    test_features: np.ndarray,
    test_labels: np.ndarray,
    costs: float | Sequence[float] | None = None,
    seed: int = 0,
    progress: bool = False,
) -> SvmResult:
    """Fits a linear support vector machine per class and measures its average precision.

    The protocol of Goyal et al. 2019 ("Scaling and Benchmarking Self-Supervised Visual
    Representation Learning") as implemented by its successor VISSL and used by the Barlow Twins
    paper (appendix C.1): features of length 1; for every class the machine that minimizes

        ½ ‖w‖² + ½ b² + C Σᵢ aᵢ max(0, 1 − yᵢ (w·xᵢ + b))²,  aᵢ = 2 for positives, 1 for others

    with the C of the best average precision (scikit-learn's), averaged over three cross-validation
    folds, the smallest among equally good ones; then refitted on all training features. Three
    things differ from VISSL: the folds, with equal shares of positives, are drawn by `seed` instead
    of cut in the order of the data; the primal problem is solved, which has the same solution but
    is faster and needs no randomness; and examples labeled -1 are left out of the training of that
    class, where VISSL treats them as negatives.

    A class is excluded if it has fewer than three positive or three other training examples, too
    few for cross-validation, or no positive test example.

    Memory: the features as float64, and for every thread 30 bytes per number of the training
    features. There is one thread per core, at most eight, and fewer if they would need more than
    4 GiB. Time: 5 minutes of one core for VOC07 and features of width 2048.

    >>> present = np.eye(3, dtype=int).repeat(4, axis=0)  # four images of each of three classes
    >>> svm_probe(present, present, present, present, costs=1.0).mean_average_precision
    1.0

    Args:
        train_features: floats (n, d).
        train_labels: integers (n, classes): 1 present, 0 absent, -1 not counted.
        test_features: floats (m, d).
        test_labels: integers (m, classes), likewise.
        costs: values of C to choose from, one or several; by default those of `COSTS`.
        seed: seed of the folds.
        progress: whether to show a progress bar, counted in classes.

    Returns:
        The test results.

    Raises:
        ValueError: if shapes do not fit, a feature is not finite, a label is none of the three, a
            cost is not above 0, or all classes are excluded.
    """
    train_features, test_features = (
        normalize(features.astype(np.float64), copy=False)
        for features in checked_features(train_features=train_features, test_features=test_features)
    )
    train_labels, test_labels = np.asarray(train_labels), np.asarray(test_labels)
    for name, labels, n in (
        ("train_labels", train_labels, len(train_features)),
        ("test_labels", test_labels, len(test_features)),
    ):
        if labels.ndim != 2 or len(labels) != n:
            raise ValueError(
                f"{name} must have shape ({n}, classes), one row per feature. "
                f"Received: shape {labels.shape}."
            )
        check_labels(labels)
    if train_labels.shape[1] != test_labels.shape[1]:
        raise ValueError(
            "train_labels and test_labels must have the same width. "
            f"Received: widths {train_labels.shape[1]} and {test_labels.shape[1]}."
        )
    candidates: list[float] = np.unique(COSTS if costs is None else costs).tolist()
    if not candidates or not all(0 < c < np.inf for c in candidates):
        raise ValueError(f"costs must be numbers above 0. Received: {candidates}.")
    positives, others = ((train_labels == value).sum(axis=0) for value in (1, 0))
    enough = (positives >= FOLDS) & (others >= FOLDS) & (test_labels == 1).any(axis=0)
    included = np.flatnonzero(enough).tolist()
    if not included:
        raise ValueError(
            "At least one class must have three positive and three other training examples and "
            f"a positive test example. Received: {train_labels.shape[1]} classes, none with these."
        )

    def probe(label):
        counted = train_labels[:, label] >= 0
        search = _search(candidates, seed)
        search.fit(train_features[counted], train_labels[counted, label] == 1)
        scores, truth = search.decision_function(test_features), test_labels[:, label]
        precision, area = (average_precision(scores, truth, form) for form in INTERPOLATIONS)
        converged = search.best_estimator_.n_iter_ < _MAX_ITERATIONS
        return precision, area, search.best_params_["C"], converged

    affordable = _MEMORY // (_BYTES_PER_NUMBER * train_features.size)
    threads = min(os.cpu_count() or 1, _MOST_THREADS, max(affordable, 1), len(included))
    # `SvmResult.converged` reports fits that end early, instead of scikit-learn's warning.
    with warnings.catch_warnings(), threadpool_limits(1), ThreadPoolExecutor(threads) as pool:
        warnings.simplefilter("ignore", ConvergenceWarning)
        fits = pool.map(probe, included)
        bar = progress_bar(fits, shown=progress, total=len(included), unit="class")
        rows = dict(zip(included, bar, strict=True))
    precisions, areas, _, converged = zip(*rows.values(), strict=True)
    classes = range(train_labels.shape[1])
    return SvmResult(
        mean_average_precision=float(np.mean(precisions)),
        average_precisions=tuple(rows[c][0] if c in rows else None for c in classes),
        mean_area=float(np.mean(areas)),
        chosen_c=tuple(rows[c][2] if c in rows else None for c in classes),
        excluded=tuple(c for c in classes if c not in rows),
        converged=all(converged),
    )


def _search(costs, seed):
    machine = LinearSVC(
        dual=False,
        class_weight={True: _POSITIVE_WEIGHT, False: 1.0},
        max_iter=_MAX_ITERATIONS,
    )
    folds = StratifiedKFold(FOLDS, shuffle=True, random_state=seed)
    return GridSearchCV(machine, {"C": costs}, scoring="average_precision", cv=folds)
