"""What Keras 3.15 lacks for `fit` with several workers, in one place.

Under `MultiWorkerMirroredStrategy` Keras' trainer fails twice: before the first step, where it
averages a batch over workers to build the model from, and after each step, where it averages logs
along an axis that numbers do not have. `tests/test_several_workers.py` fails when Keras can do
without this module.
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
