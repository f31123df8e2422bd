"""Nearest-neighbor accuracy while a backbone trains."""

from keras_bt.callbacks.online_accuracy import OnlineAccuracy
from keras_bt.evaluation.knn import knn_accuracy


class OnlineKNN(OnlineAccuracy):
    """Puts `knn_accuracy` into `logs`: weighted nearest neighbors by cosine similarity.

    Nothing is fitted, so the number is a property of the features alone. It is that of
    `keras_bt.evaluation.knn.knn_accuracy` on a subset of the images.

    >>> subset = LabelledSubset.of(train, test, image_size=32)
    >>> model.fit(views, callbacks=[OnlineKNN(subset), metrics_log])

    Args:
        subset: `LabelledSubset`, may be shared with other callbacks.
        every: int, epochs between looks; the last epoch is looked at in any case.
        k: int, neighbors; cut to the number of training images.
        temperature: float > 0, of the votes.

    Raises:
        ValueError: if `every`, `k` or the temperature is out of range.
    """

    name = "knn_accuracy"

    def __init__(self, subset, every=1, k=20, temperature=0.07):
        super().__init__(subset, every)
        if k < 1 or not temperature > 0:
            raise ValueError(
                "k must be at least 1 and temperature above 0. "
                f"Received: k={k}, temperature={temperature}."
            )
        self.k = k
        self.temperature = temperature

    def accuracy(self, train_features, train_labels, test_features, test_labels):
        """See `knn_accuracy`."""
        k = min(self.k, len(train_features))
        return knn_accuracy(
            train_features, train_labels, test_features, test_labels, k, self.temperature
        )
