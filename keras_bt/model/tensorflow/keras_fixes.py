"""Fixes for `fit` in Keras 3.15 with several replicas and workers, in one place.

Under `MultiWorkerMirroredStrategy` Keras' trainer fails twice: before the first step, where it
averages a batch over workers to build the model from it, and after each step, where it averages
logs along an axis that scalars do not have. On several replicas its loop over the steps of one
execution fails ("You must feed a value for placeholder"), and `LossScaleOptimizer` looks for an
overflow on the first replica only. `tests/keras_bt/test_replicas.py` fails once Keras no longer
needs one of these fixes.
"""

from collections.abc import Sequence

import keras
import tensorflow as tf
from keras import ops

from keras_bt.strategy.tensorflow import worker_count
from keras_bt.typing import Tensor


class FitsOnSeveralWorkers(keras.Model):
    """A base class for models that are built in their constructor."""

    def _maybe_symbolic_build(self, iterator=None, data_batch=None):
        """Builds the optimizer; unlike Keras, without drawing a batch if the model is built."""
        if not self.built:
            super()._maybe_symbolic_build(iterator, data_batch)
        elif not self.optimizer.built:
            with self.distribute_strategy.scope():
                self.optimizer.build(self.trainable_variables)


def as_logs(logs: dict[str, Tensor]) -> dict[str, Tensor]:
    """Shapes the logs of a step such that Keras can average them over replicas.

    Args:
        logs: scalars by name, the same on all replicas.

    Returns:
        The logs, of shape (1,) where there are several workers.
    """
    if worker_count(tf.distribute.get_strategy()) == 1:
        return logs
    return {name: ops.expand_dims(value, 0) for name, value in logs.items()}


def steps_per_execution(wanted: int, strategy: tf.distribute.Strategy) -> int:
    """Returns how many steps Keras can execute at once: `wanted`, or one on several replicas.

    Args:
        wanted: steps per execution on one replica.
        strategy: where training runs. A TPU, which profits most from the loop, has not been tested
            for the failure; there it is `wanted`.
    """
    if strategy.num_replicas_in_sync == 1 or isinstance(strategy, tf.distribute.TPUStrategy):
        return wanted
    return 1


def skip_everywhere_unless(finite: Tensor, gradients: Sequence[Tensor | None]) -> list[Tensor]:
    """Makes `LossScaleOptimizer` skip a step on all replicas or on none.

    It looks at the local gradients of the first replica; if that skips and the others do not, or
    the other way round, their weights drift apart.

    Args:
        finite: bool scalar, the same on all replicas: whether to take the step.
        gradients: one per variable, None for variables without one.

    Returns:
        The gradients, the first of which is NaN if the step is to be skipped.
    """
    first = next(i for i, g in enumerate(gradients) if g is not None)
    spoilt = ops.where(finite, gradients[first], float("nan"))
    return [*gradients[:first], spoilt, *gradients[first + 1 :]]
