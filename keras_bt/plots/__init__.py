"""Plots of training and of what it has learned."""

from keras_bt.plots.evaluation import (
    NothingMeasuredError,
    confusion_matrix,
    measures,
    neighbours,
    spectrum,
)
from keras_bt.plots.training import correlation, feature_map, loss_curve, view_pairs

__all__ = [
    "NothingMeasuredError",
    "confusion_matrix",
    "correlation",
    "feature_map",
    "loss_curve",
    "measures",
    "neighbours",
    "spectrum",
    "view_pairs",
]
