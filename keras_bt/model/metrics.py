"""Metrics over steps, some of which may have been skipped."""

import keras
from keras import ops

from keras_bt.typing import Tensor


class MeanOverSteps(keras.metrics.Mean):
    """The mean over the steps of an epoch; NaN if there were none, which 0 would hide."""

    def result(self) -> Tensor:
        """Returns the mean, a scalar."""
        return ops.where(self.count > 0, super().result(), float("nan"))


class SkippedSteps(keras.metrics.Metric):
    """The number of skipped steps; a step is skipped on all replicas or on none.

    `keras.metrics.Sum` would add up the counts of the replicas, or show a part of the sum,
    depending on when it is read.
    """

    def __init__(self, name: str = "skipped_steps"):
        super().__init__(name=name)
        self._count = self.add_variable((), "zeros", aggregation="mean", name="count")

    def update_state(self, skipped: Tensor) -> None:
        """Adds 1.0 for a step that was skipped, 0.0 for one that was taken."""
        self._count.assign_add(skipped)

    def result(self) -> Tensor:
        """Returns the number of skipped steps, a float scalar."""
        return ops.cast(self._count, self.dtype)
