"""Quick accuracies of a backbone, to compare with raw pixels and an untrained backbone."""

import dataclasses
from collections.abc import Mapping, Sequence

import numpy as np

from keras_bt.evaluation.knn import knn_accuracy
from keras_bt.evaluation.linear import few_label_probe, logistic_probe
from keras_bt.evaluation.whitening import Whitening, too_wide

FEW = 5  # labels per class


@dataclasses.dataclass(frozen=True)
class Accuracies:
    """Test accuracies of one kind of features, 0 to 1; None if there are too few labels.

    Attributes:
        knn: weighted nearest neighbors, k = 20 (or the number of training images).
        knn_whitened: the same of whitened features (`keras_bt.evaluation.whitening`); None if they
            are too wide for it.
        probe: linear probe with all labels of the training set.
        few_labels: linear probe with 5 labels per class, mean over ten draws of labels.
        few_labels_deviation: standard deviation over these draws.
    """

    knn: float
    knn_whitened: float | None
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
    """Measures features with four quick protocols.

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
    k = min(20, len(train_features))
    return Accuracies(
        knn=knn_accuracy(*data, k),
        knn_whitened=whitened_knn(*data, k),
        probe=logistic_probe(*data).top1,
        few_labels=float(np.mean(few)) if few else None,
        few_labels_deviation=float(np.std(few, ddof=1)) if few else None,
    )


def whitened_knn(
    train_features: np.ndarray,
    train_labels: np.ndarray,
    test_features: np.ndarray,
    test_labels: np.ndarray,
    k: int,
) -> float | None:
    """Measures nearest neighbors of whitened features.

    Args:
        train_features: floats (n, d).
        train_labels: integers (n,).
        test_features: floats (m, d).
        test_labels: integers (m,).
        k: neighbors that vote, at most n.

    Returns:
        Accuracy, 0 to 1; None if whitening takes minutes.
    """
    if too_wide(train_features):
        return None
    whiten = Whitening.fit(train_features)
    return knn_accuracy(whiten(train_features), train_labels, whiten(test_features), test_labels, k)


def table(accuracies: Mapping[str, Accuracies]) -> str:
    """Formats accuracies by name as a table for the terminal, in percent."""
    cells = [["", "kNN", "kNN, whitened", "probe, all labels", f"probe, {FEW} per class"]]
    for name, row in accuracies.items():
        few = percent(row.few_labels)
        if row.few_labels_deviation is not None:
            few += f" ± {percent(row.few_labels_deviation)}"
        cells.append([name, percent(row.knn), percent(row.knn_whitened), percent(row.probe), few])
    return "\n".join(columns(cells))


def columns(rows: Sequence[Sequence[str]]) -> list[str]:
    """Aligns cells in lines: the first column to the left, the others to the right, as wide as due.

    >>> for line in columns([["", "kNN"], ["raw pixels", "95.8"]]):
    ...     print("|", line)
    |              kNN
    | raw pixels  95.8
    """
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return [
        "  ".join([first.ljust(widths[0]), *map(str.rjust, others, widths[1:])]).rstrip()
        for first, *others in rows
    ]


def percent(accuracy: float | None) -> str:
    """Formats an accuracy in percent, None as a dash.

    >>> percent(0.875), percent(None)
    ('87.5', '–')
    """
    return "–" if accuracy is None else f"{100 * accuracy:.1f}"
