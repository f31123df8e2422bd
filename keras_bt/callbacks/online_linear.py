"""Accuracy of a linear probe while a backbone trains."""

from keras_bt.callbacks.online_accuracy import OnlineAccuracy
from keras_bt.evaluation.linear import logistic_probe


class OnlineLinear(OnlineAccuracy):
    """Puts `linear_accuracy` into `logs`: a logistic regression on the backbone's features.

    It is fitted from scratch at every look, to the end, on standardized features that were read
    out into memory. Unlike a classifier trained beside the backbone it has no rate to choose, does
    not lag behind, and cannot send gradients into the backbone.

    >>> subset = LabelledSubset.of(train, test, image_size=32)
    >>> model.fit(views, callbacks=[OnlineKNN(subset), OnlineLinear(subset), metrics_log])

    Args:
        subset: `LabelledSubset`, may be shared with other callbacks.
        every: int, epochs between looks; the last epoch is looked at in any case.
        regularization: float > 0, scikit-learn's C, the *inverse* L2 penalty. It is not searched,
            so that the numbers of all epochs can be compared and a look takes little time.

    Raises:
        ValueError: if `every` or `regularization` is out of range.
    """

    name = "linear_accuracy"

    def __init__(self, subset, every=1, regularization=0.01):
        super().__init__(subset, every)
        if not 0 < regularization < float("inf"):
            raise ValueError(
                "regularization must be a number above 0. "
                f"Received: regularization={regularization}."
            )
        self.regularization = float(regularization)

    def accuracy(self, train_features, train_labels, test_features, test_labels):
        """See `logistic_probe`."""
        result = logistic_probe(
            train_features,
            train_labels,
            test_features,
            test_labels,
            regularization=self.regularization,
        )
        return result.top1
