"""What Keras 3.15 lacks for `fit` with several replicas and workers, in one place.

Under `MultiWorkerMirroredStrategy` Keras' trainer fails twice: before the first step, where it
averages a batch over workers to build the model from, and after each step, where it averages logs
along an axis that numbers do not have. And with several replicas its loop over the steps of one
execution fails ("You must feed a value for placeholder"), and `LossScaleOptimizer` looks for an
overflow on the first replica only. `tests/keras_bt/test_replicas.py` says when Keras can do
without a part of this module.
"""

import tensorflow as tf
from keras import ops

from keras_bt.strategy import worker_count


class FitsOnSeveralWorkers:
    """A base class, before `keras.Model`, of models that are built when they are made."""

    def _maybe_symbolic_build(self, iterator=None, data_batch=None):
        """Keras takes a batch to build model and optimizer from; a built model needs none."""
        if not self.built:
            super()._maybe_symbolic_build(iterator, data_batch)
        elif not self.optimizer.built:
            with self.distribute_strategy.scope():
                self.optimizer.build(self.trainable_variables)


def as_logs(logs):
    """Makes what `train_step` returns such that Keras can average it over replicas.

    Args:
        logs: dict of scalar tensors, the same on all replicas.
    """
    if worker_count(tf.distribute.get_strategy()) == 1:
        return logs
    return {name: ops.expand_dims(value, 0) for name, value in logs.items()}


def steps_per_execution(wanted, strategy):
    """How many steps Keras can execute at once: as many as wanted, or one on several replicas.

    Args:
        wanted: int.
        strategy: `tf.distribute.Strategy`. On a TPU, where the loop is most wanted, the failure
            was not looked for; what is wanted stays.
    """
    if strategy.num_replicas_in_sync == 1 or isinstance(strategy, tf.distribute.TPUStrategy):
        return wanted
    return 1


def skip_everywhere_unless(finite, gradients):
    """Makes `LossScaleOptimizer` skip the step on all replicas.

    It looks at the local gradients of the first one; where that skips and the others do not, or
    the other way round, their weights drift apart.

    Args:
        finite: bool scalar, the same on all replicas: whether the step may be taken.
        gradients: list of tensors or None.

    Returns:
        The gradients, the first of them NaN if the step is to be skipped.
    """
    first = next(i for i, g in enumerate(gradients) if g is not None)
    spoilt = ops.where(finite, gradients[first], float("nan"))
    return [*gradients[:first], spoilt, *gradients[first + 1 :]]
