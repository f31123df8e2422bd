"""Steps on TensorFlow: on several replicas the same as on one.

The gradient that the optimizer sums over replicas is that of the loss of the global batch if the
replicas' shares of the loss add up to it. The metrics are computed from sums over replicas as well.
"""

from typing import Any

import keras
import tensorflow as tf
from keras import ops

from keras_bt.model.finite import all_finite
from keras_bt.model.tensorflow.keras_fixes import (
    FitsOnSeveralWorkers,
    as_logs,
    skip_everywhere_unless,
)
from keras_bt.strategy.tensorflow import current_replicas
from keras_bt.typing import Tensor


class Steps(FitsOnSeveralWorkers):
    """A base class for `keras_bt.model.exact_steps.ExactSteps`, which explains its methods."""

    def train_step(self, data: Any) -> dict[str, Tensor]:
        """Takes a step on a batch: this replica's share of the loss, its gradient, one update.

        Raises:
            ValueError: for a batch that the model does not take.
        """
        replicas = current_replicas()
        batch = self._batch(data)
        moving = [v for network in self._networks() for v in network.non_trainable_weights]
        statistics = [(v, tf.identity(v)) for v in moving] if self._skips else []
        with tf.GradientTape() as tape:
            share, parts = self._share(batch, replicas, training=True)
            scaled_share = self.optimizer.scale_loss(share)
        variables = self.trainable_variables
        gradients = tape.gradient(scaled_share, variables)
        # If one replica skipped and others did not, their weights would drift apart.
        *parts, failures = ops.unstack(
            replicas.sum(ops.stack([*parts, 1 - all_finite([share, *gradients])]))
        )
        finite = failures == 0
        if self._skips:
            gradients = skip_everywhere_unless(finite, gradients)
            for variable, before in statistics:
                variable.assign(ops.where(finite, variable, before))
        self.optimizer.apply_gradients(zip(gradients, variables, strict=True))
        return as_logs(self._record(parts, finite))

    def test_step(self, data: Any) -> dict[str, Tensor]:
        """Computes loss and metrics of a batch in inference mode; errors as `train_step`."""
        replicas = current_replicas()
        _, parts = self._share(self._batch(data), replicas, training=False)
        return as_logs(self._record(ops.unstack(replicas.sum(ops.stack(parts))), True))


def at_least(least: int, images: Tensor, message: str) -> Tensor:
    """Returns images, or raises ValueError with this message if there are fewer than `least`.

    Where their number is known only when the step runs, that is an InvalidArgumentError.
    """
    if images.shape[0] is None:
        check = tf.debugging.Assert(tf.shape(images)[0] >= least, [message])
        with tf.control_dependencies([check]):
            return tf.identity(images)
    if images.shape[0] < least:
        raise ValueError(message)
    return images


def is_known(variable: keras.Variable) -> bool:
    """Returns whether a variable has a value now, not only when a `tf.function` runs."""
    return tf.executing_eagerly()
