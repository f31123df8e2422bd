"""Plots of training and of what it has learned."""

from keras_bt.plots.evaluation import (
    NothingMeasuredError,
    confusion_matrix,
    measures,
    neighbours,
    spectrum,
)
from keras_bt.plots.galleries import picture_rows
from keras_bt.plots.projector import embedding_projector
from keras_bt.plots.runs import accuracies, table
from keras_bt.plots.training import correlation, feature_map, loss_curve, view_pairs
from keras_bt.plots.verification import distance_histograms, roc_curves, worst_mistakes

__all__ = [
    "NothingMeasuredError",
    "accuracies",
    "confusion_matrix",
    "correlation",
    "distance_histograms",
    "embedding_projector",
    "feature_map",
    "loss_curve",
    "measures",
    "neighbours",
    "picture_rows",
    "roc_curves",
    "spectrum",
    "table",
    "view_pairs",
    "worst_mistakes",
]
