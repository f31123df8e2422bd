"""Plots of training and of what it has learned."""

from keras_bt.plots.evaluation import (
    NothingMeasuredError,
    accuracies,
    confusion_matrix,
    measures,
    neighbours,
    spectrum,
    table,
)
from keras_bt.plots.training import correlation, feature_map, loss_curve, view_pairs

__all__ = [
    "NothingMeasuredError",
    "accuracies",
    "confusion_matrix",
    "correlation",
    "feature_map",
    "loss_curve",
    "measures",
    "neighbours",
    "spectrum",
    "table",
    "view_pairs",
]
