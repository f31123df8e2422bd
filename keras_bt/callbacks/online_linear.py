"""Linear-probe accuracy while a backbone trains."""

from keras_bt.callbacks.labelled_subset import Features, LabelledSubset
from keras_bt.callbacks.online_accuracy import OnlineAccuracy
from keras_bt.evaluation.linear import logistic_probe


class OnlineLinear(OnlineAccuracy):
    """Adds `linear_accuracy` to `logs`: a logistic regression on the backbone's features.

    At every look it is fitted from scratch to convergence, on standardized features copied to
    memory. Unlike a classifier trained alongside the backbone, it has no learning rate to choose,
    does not lag behind, and cannot send gradients into the backbone.

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

    def accuracy(self, features: Features) -> float:
        """Returns the top-1 accuracy of `logistic_probe`."""
        return logistic_probe(*features, regularization=self.regularization).top1
