"""Base class of callbacks that measure accuracy while a backbone trains."""

import math

import numpy as np

from keras_bt.callbacks.labelled_subset import LabelledSubset
from keras_bt.callbacks.periodic import Periodic
from keras_bt.typing import Metrics


class OnlineAccuracy(Periodic):
    """Adds an accuracy, measured on the backbone's features, to `logs`.

    Args:
        subset: the labeled images; may be shared with other callbacks.
        every: epochs between looks.

    Raises:
        ValueError: if `every` is less than one.
    """

    name: str  # of the entry in `logs`

    def __init__(self, subset: LabelledSubset, every: int = 1):
        super().__init__(every)
        self.subset = subset

    def on_epoch_begin(self, epoch: int, logs: Metrics | None = None) -> None:
        """Drops the features, which training is about to change."""
        self.subset.forget()

    def look(self, epoch: int, logs: Metrics) -> None:
        """Measures the accuracy: NaN if features are not finite."""
        # Any model but a BarlowTwins is itself the backbone.
        backbone = getattr(self.model, "backbone", self.model)
        train, train_labels, test, test_labels = self.subset.features(backbone)
        finite = np.isfinite(train).all() and np.isfinite(test).all()
        logs[self.name] = (
            self.accuracy(train, train_labels, test, test_labels) if finite else math.nan
        )

    def on_train_end(self, logs: Metrics | None = None) -> None:
        """Frees the memory."""
        self.subset.forget()

    def accuracy(
        self,
        train_features: np.ndarray,
        train_labels: np.ndarray,
        test_features: np.ndarray,
        test_labels: np.ndarray,
    ) -> float:
        """Returns the test accuracy, 0 to 1, of a classifier fitted on the training features."""
        raise NotImplementedError
