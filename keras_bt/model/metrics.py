"""Metrics over steps, some of which may have been left out."""

import keras
from keras import ops


class MeanOverSteps(keras.metrics.Mean):
    """The mean over the steps of an epoch; NaN where there were none, which 0 would hide."""

    def result(self):
        """Returns the mean, a scalar."""
        return ops.where(self.count > 0, super().result(), float("nan"))


class SkippedSteps(keras.metrics.Metric):
    """Counts the steps that were left out, on all replicas or on none.

    `keras.metrics.Sum` would add up what the replicas count, or show a part of it, according to
    when it is read.
    """

    def __init__(self, name="skipped_steps"):
        super().__init__(name=name)
        self._count = self.add_variable((), "zeros", aggregation="mean", name="count")

    def update_state(self, skipped):
        """Adds 1.0 for a step that was left out, 0.0 for one that was not."""
        self._count.assign_add(skipped)

    def result(self):
        """Returns the number of steps, a float scalar."""
        return ops.cast(self._count, self.dtype)
