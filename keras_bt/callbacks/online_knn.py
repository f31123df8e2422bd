"""Nearest-neighbor accuracy while a backbone trains."""

from keras_bt.callbacks.labelled_subset import Features, LabelledSubset
from keras_bt.callbacks.online_accuracy import OnlineAccuracy
from keras_bt.evaluation.knn import knn_accuracy


class OnlineKNN(OnlineAccuracy):
    """Adds `knn_accuracy` to `logs`: weighted nearest neighbors by cosine similarity.

    Nothing is fitted, so the accuracy depends on the features alone. It is that of
    `keras_bt.evaluation.knn.knn_accuracy` on a subset of the images.

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

    def accuracy(self, features: Features) -> float:
        """Returns `knn_accuracy`."""
        return knn_accuracy(*features, min(self.k, len(features[0])), self.temperature)
