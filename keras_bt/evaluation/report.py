"""Quick accuracies of a backbone, to compare with raw pixels and an untrained backbone."""

import dataclasses
from collections.abc import Mapping

import numpy as np

from keras_bt.evaluation.knn import knn_accuracy
from keras_bt.evaluation.linear import few_label_probe, logistic_probe

FEW = 5  # labels per class


@dataclasses.dataclass(frozen=True)
class Accuracies:
    """Test accuracies of one kind of features, 0 to 1; None if there are too few labels.

    Attributes:
        knn: weighted nearest neighbors, k = 20 (or the number of training images).
        probe: linear probe with all labels of the training set.
        few_labels: linear probe with 5 labels per class, mean over ten draws of labels.
        few_labels_deviation: standard deviation over these draws.
    """

    knn: float
    probe: float
    few_labels: float | None
    few_labels_deviation: float | None


def measure(
    train_features: np.ndarray,
    train_labels: np.ndarray,
    test_features: np.ndarray,
    test_labels: np.ndarray,
    seed: int = 0,
) -> Accuracies:
    """Measures features with three quick protocols.

    Args:
        train_features: floats (n, d).
        train_labels: integers (n,).
        test_features: floats (m, d).
        test_labels: integers (m,).
        seed: seed of the draws of few labels: the same for all features to be compared.

    Returns:
        The accuracies.
    """
    data = (train_features, train_labels, test_features, test_labels)
    few = None
    if np.unique(train_labels, return_counts=True)[1].min() >= FEW:
        few = few_label_probe(*data, labels_per_class=FEW, seed=seed)
    return Accuracies(
        knn=knn_accuracy(*data, k=min(20, len(train_features))),
        probe=logistic_probe(*data).top1,
        few_labels=float(np.mean(few)) if few else None,
        few_labels_deviation=float(np.std(few, ddof=1)) if few else None,
    )


def table(accuracies: Mapping[str, Accuracies]) -> str:
    """Formats accuracies by name as a table for the terminal, in percent."""
    lines = [f"{'':24}{'kNN':>8}{'probe, all labels':>20}{'probe, 5 per class':>22}"]
    for name, row in accuracies.items():
        few = "–"
        if row.few_labels is not None and row.few_labels_deviation is not None:
            few = f"{100 * row.few_labels:.1f} ± {100 * row.few_labels_deviation:.1f}"
        lines.append(f"{name:24}{100 * row.knn:8.1f}{100 * row.probe:20.1f}{few:>22}")
    return "\n".join(lines)


def percent(accuracy: float | None) -> str:
    """Formats an accuracy in percent, None as a dash.

    >>> percent(0.875), percent(None)
    ('87.5', '–')
    """
    return "–" if accuracy is None else f"{100 * accuracy:.1f}"
