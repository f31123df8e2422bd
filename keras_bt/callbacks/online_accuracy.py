"""What the callbacks that measure accuracy while training have in common."""

import math

import numpy as np

from keras_bt.callbacks.periodic import Periodic


class OnlineAccuracy(Periodic):
    """Puts an accuracy, measured on the backbone's features, into `logs`.

    Args:
        subset: `LabelledSubset`, may be shared with other callbacks.
        every: int, epochs between looks.

    Raises:
        ValueError: if `every` is less than one.
    """

    name = None  # of the entry in the logs

    def __init__(self, subset, every=1):
        super().__init__(every)
        self.subset = subset

    def on_epoch_begin(self, epoch, logs=None):
        """The features are going to change."""
        self.subset.forget()

    def look(self, epoch, logs):
        """Measures; NaN for features that are not finite."""
        # Of a BarlowTwins model the backbone, of any other model what it returns.
        backbone = getattr(self.model, "backbone", self.model)
        train, train_labels, test, test_labels = self.subset.features(backbone)
        finite = np.isfinite(train).all() and np.isfinite(test).all()
        logs[self.name] = (
            self.accuracy(train, train_labels, test, test_labels) if finite else math.nan
        )

    def on_train_end(self, logs=None):
        """Frees the memory."""
        self.subset.forget()

    def accuracy(self, train_features, train_labels, test_features, test_labels):
        """Accuracy on the test features, 0 to 1, of a classifier of the training features."""
        raise NotImplementedError
