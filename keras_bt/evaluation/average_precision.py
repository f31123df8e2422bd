"""Average precision, as defined by PASCAL VOC 2007 and by later years."""

import numpy as np
from sklearn.metrics import precision_recall_curve

INTERPOLATIONS = ("11-point", "area")


def average_precision(
    scores: np.ndarray, labels: np.ndarray, interpolation: str = "11-point"
) -> float:
    """Computes the average precision of one class.

    Examples are ranked by descending score. With p(k) and r(k) the precision and recall of the k
    highest-ranked examples, and p̂(r) = max {p(k) : r(k) ≥ r}, or 0 if no k has that recall,

        "11-point":  AP = 1/11 Σ p̂(t),  t = 0, 0.1, … 1
        "area":      AP = ∫ p̂(r) dr,  r from 0 to 1

    The first is VOC 2007's (Everingham et al. 2010, "The PASCAL Visual Object Classes (VOC)
    Challenge", section 4.2; `VOCevalcls.m` of its devkit), the second that of VOC 2010 and after.
    scikit-learn's `average_precision_score` is a third: the area under p itself, without the max.

    Examples of equal score enter together: only those k count that end a run of ties. So the
    result depends on scores and labels alone, whereas the devkit leaves ties in the order of its
    files.

    >>> scores, labels = np.array([0.9, 0.8, 0.7, 0.6]), np.array([1, 0, 1, 0])
    >>> round(average_precision(scores, labels, "area"), 3)  # (1/1 + 2/3) / 2
    0.833

    Args:
        scores: floats (n,), the higher, the more likely the class is present.
        labels: integers (n,): 1 present, 0 absent, -1 not counted.
        interpolation: "11-point" or "area".

    Returns:
        Average precision, 0 to 1.

    Raises:
        ValueError: if shapes do not fit, a label is none of the three, no label is 1, a counted
            score is not finite, or the interpolation is neither of the two.
    """
    scores, labels = np.asarray(scores, np.float64), np.asarray(labels)
    if scores.ndim != 1 or scores.shape != labels.shape:
        raise ValueError(
            "scores and labels must hold one entry per example, both of shape (n,). "
            f"Received: shapes {scores.shape} and {labels.shape}."
        )
    if interpolation not in INTERPOLATIONS:
        raise ValueError(
            f"interpolation must be {' or '.join(INTERPOLATIONS)}. Received: {interpolation!r}."
        )
    check_labels(labels)
    scores, positive = scores[labels >= 0], labels[labels >= 0] == 1
    if not positive.any():
        raise ValueError(
            "Average precision is defined only if an example is positive (label 1). "
            f"Received: {len(positive)} examples that count, none of them positive."
        )
    # From recall 1 down to 0; the last is not of the data but added by scikit-learn.
    precision, recall, _ = precision_recall_curve(positive, scores)
    recall, best = recall[:-1], np.maximum.accumulate(precision[:-1])  # p̂ at these recalls
    if interpolation == "area":
        return float(-np.sum(np.diff(recall, append=0) * best))
    # Equal fractions are equal floats, so that 3 of 10 reaches 3 / 10.
    thresholds = np.arange(11)[:, None] / 10
    return float(np.mean(best[(recall >= thresholds).sum(axis=1) - 1]))


def check_labels(labels: np.ndarray) -> None:
    """Raises ValueError unless every label is 1, 0 or -1."""
    wrong = ~np.isin(labels, (-1, 0, 1))
    if wrong.any():
        raise ValueError(
            "Labels must be 1 (present), 0 (absent) or -1 (not counted). "
            f"Received: {np.asarray(labels)[wrong][0]}."
        )
