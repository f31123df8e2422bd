"""Base class of callbacks that measure accuracy while a backbone trains."""

import math

import numpy as np

from keras_bt.callbacks.labelled_subset import Features, LabelledSubset
from keras_bt.callbacks.periodic import Periodic
from keras_bt.typing import Metrics


class OnlineAccuracy(Periodic):
    """Adds an accuracy, measured on the backbone's features, to `logs`.

    >>> from keras_bt.callbacks.online_knn import OnlineKNN
    >>> from keras_bt.callbacks.online_linear import OnlineLinear
    >>> layers = [keras.Input((16, 16, 3)), keras.layers.Flatten(), keras.layers.Dense(16)]
    >>> twins = keras_bt.BarlowTwins(keras.Sequential(layers), projector)
    >>> twins.compile("sgd")
    >>> subset = LabelledSubset.of(train, test, image_size=16)
    >>> callbacks = [OnlineKNN(subset, k=1), OnlineLinear(subset, regularization=100)]
    >>> history = twins.fit(views, epochs=2, callbacks=callbacks, shuffle=False, verbose=0)
    >>> history.history["knn_accuracy"], history.history["linear_accuracy"]  # of training images
    ([1.0, 1.0], [1.0, 1.0])

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
        features = self.subset.features(backbone)
        finite = all(np.isfinite(part).all() for part in features)
        logs[self.name] = self.accuracy(features) if finite else math.nan

    def on_train_end(self, logs: Metrics | None = None) -> None:
        """Frees the memory."""
        self.subset.forget()

    def accuracy(self, features: Features) -> float:
        """Returns the test accuracy, 0 to 1, of a classifier fitted on the training features.

        Args:
            features: as `LabelledSubset.features` returns them.
        """
        raise NotImplementedError
