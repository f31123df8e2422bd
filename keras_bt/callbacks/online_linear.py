"""Linear-probe accuracy while a backbone trains."""

import numpy as np

from keras_bt.callbacks.labelled_subset import LabelledSubset
from keras_bt.callbacks.online_accuracy import OnlineAccuracy
from keras_bt.evaluation.linear import logistic_probe


class OnlineLinear(OnlineAccuracy):
    """Adds `linear_accuracy` to `logs`: a logistic regression on the backbone's features.

    At every look it is fitted from scratch to convergence, on standardized features copied to
    memory. Unlike a classifier trained alongside the backbone, it has no learning rate to choose,
    does not lag behind, and cannot send gradients into the backbone.

    >>> layers = [keras.Input((16, 16, 3)), keras.layers.Flatten(), keras.layers.Dense(16)]
    >>> twins = keras_bt.BarlowTwins(keras.Sequential(layers), projector)
    >>> twins.compile("sgd")
    >>> subset = LabelledSubset.of(train, test, image_size=16)
    >>> callbacks = [OnlineLinear(subset, regularization=100)]
    >>> history = twins.fit(views, epochs=2, callbacks=callbacks, shuffle=False, verbose=0)
    >>> history.history["linear_accuracy"]  # here the test images are the training images
    [1.0, 1.0]

    Args:
        subset: the labeled images; may be shared with other callbacks.
        every: epochs between looks; there is always one after the last epoch.
        regularization: scikit-learn's C, the *inverse* L2 penalty, above 0. It is not searched, so
            that epochs can be compared and a look takes little time.

    Raises:
        ValueError: if `every` or `regularization` is out of range.
    """

    name = "linear_accuracy"

    def __init__(self, subset: LabelledSubset, every: int = 1, regularization: float = 0.01):
        super().__init__(subset, every)
        if not 0 < regularization < float("inf"):
            raise ValueError(
                "regularization must be a number above 0. "
                f"Received: regularization={regularization}."
            )
        self.regularization = float(regularization)

    def accuracy(
        self,
        train_features: np.ndarray,
        train_labels: np.ndarray,
        test_features: np.ndarray,
        test_labels: np.ndarray,
    ) -> float:
        """Returns the top-1 accuracy of `logistic_probe`."""
        result = logistic_probe(
            train_features,
            train_labels,
            test_features,
            test_labels,
            regularization=self.regularization,
        )
        return result.top1
