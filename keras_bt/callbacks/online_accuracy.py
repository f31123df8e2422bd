"""Accuracy while a backbone trains, of nearest neighbors and of a linear probe."""

import math

import numpy as np

from keras_bt.callbacks.labelled_subset import Features, LabelledSubset
from keras_bt.callbacks.periodic import Periodic
from keras_bt.evaluation.knn import knn_accuracy
from keras_bt.evaluation.linear import logistic_probe
from keras_bt.typing import Metrics


class OnlineAccuracy(Periodic):
    """Base class that adds an accuracy, measured on the backbone's features, to `logs`.

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
        every: epochs between looks; there is always one after the last epoch.

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


class OnlineKNN(OnlineAccuracy):
    """Adds `knn_accuracy` to `logs`: weighted nearest neighbors by cosine similarity.

    Nothing is fitted, so the accuracy depends on the features alone.

    Args:
        subset: see `OnlineAccuracy`.
        every: see `OnlineAccuracy`.
        k: number of neighbors; at most all training images are used.

    Raises:
        ValueError: if `every` or `k` is less than one.
    """

    name = "knn_accuracy"

    def __init__(self, subset: LabelledSubset, every: int = 1, k: int = 20):
        super().__init__(subset, every)
        if k < 1:
            raise ValueError(f"k must be at least 1. Received: k={k}.")
        self.k = k

    def accuracy(self, features: Features) -> float:
        """Returns `keras_bt.evaluation.knn.knn_accuracy`."""
        return knn_accuracy(*features, min(self.k, len(features[0])))


class OnlineLinear(OnlineAccuracy):
    """Adds `linear_accuracy` to `logs`: a logistic regression on the backbone's features.

    At every look it is fitted from scratch to convergence, on standardized features copied to
    memory. Unlike a classifier trained alongside the backbone, it has no learning rate to choose,
    does not lag behind, and cannot send gradients into the backbone.

    Args:
        subset: see `OnlineAccuracy`.
        every: see `OnlineAccuracy`.
        regularization: scikit-learn's C, the *inverse* L2 penalty, above 0. It is not searched, so
            that epochs can be compared and a look takes little time.

    Raises:
        ValueError: if `every` or `regularization` is out of range.
    """

    name = "linear_accuracy"

    def __init__(self, subset: LabelledSubset, every: int = 1, regularization: float = 0.01):
        super().__init__(subset, every)
        if not 0 < regularization < math.inf:
            raise ValueError(
                "regularization must be a number above 0. "
                f"Received: regularization={regularization}."
            )
        self.regularization = float(regularization)

    def accuracy(self, features: Features) -> float:
        """Returns the top-1 accuracy of `keras_bt.evaluation.linear.logistic_probe`."""
        return logistic_probe(*features, regularization=self.regularization).top1
