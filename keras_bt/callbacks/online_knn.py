"""Nearest-neighbor accuracy while a backbone trains."""

import numpy as np

from keras_bt.callbacks.labelled_subset import LabelledSubset
from keras_bt.callbacks.online_accuracy import OnlineAccuracy
from keras_bt.evaluation.knn import knn_accuracy


class OnlineKNN(OnlineAccuracy):
    """Adds `knn_accuracy` to `logs`: weighted nearest neighbors by cosine similarity.

    Nothing is fitted, so the accuracy depends on the features alone. It is that of
    `keras_bt.evaluation.knn.knn_accuracy` on a subset of the images.

    >>> layers = [keras.Input((16, 16, 3)), keras.layers.Flatten(), keras.layers.Dense(16)]
    >>> twins = keras_bt.BarlowTwins(keras.Sequential(layers), projector)
    >>> twins.compile("sgd")
    >>> subset = LabelledSubset.of(train, test, image_size=16)
    >>> callbacks = [OnlineKNN(subset, k=1)]
    >>> history = twins.fit(views, epochs=2, callbacks=callbacks, shuffle=False, verbose=0)
    >>> history.history["knn_accuracy"]  # here the test images are the training images
    [1.0, 1.0]

    Args:
        subset: the labeled images; may be shared with other callbacks.
        every: epochs between looks; there is always one after the last epoch.
        k: number of neighbors; at most all training images are used.
        temperature: T of the votes, above 0.

    Raises:
        ValueError: if `every`, `k` or `temperature` is out of range.
    """

    name = "knn_accuracy"

    def __init__(
        self, subset: LabelledSubset, every: int = 1, k: int = 20, temperature: float = 0.07
    ):
        super().__init__(subset, every)
        if k < 1 or not temperature > 0:
            raise ValueError(
                "k must be at least 1 and temperature above 0. "
                f"Received: k={k}, temperature={temperature}."
            )
        self.k = k
        self.temperature = temperature

    def accuracy(
        self,
        train_features: np.ndarray,
        train_labels: np.ndarray,
        test_features: np.ndarray,
        test_labels: np.ndarray,
    ) -> float:
        """Returns `knn_accuracy`."""
        k = min(self.k, len(train_features))
        return knn_accuracy(
            train_features, train_labels, test_features, test_labels, k, self.temperature
        )
