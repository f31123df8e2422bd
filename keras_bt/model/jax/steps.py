"""Steps on JAX: functions of a state, which Keras compiles for all devices at once.

Under `keras.distribution.DataParallel` the batch lies in parts on the devices, but a step computes
with the whole of it: XLA divides the work and adds up what has to be. So there is one replica, and
its share of the loss is the loss.
"""

from typing import Any

import jax
import keras
from keras import ops

from keras_bt.model.finite import all_finite
from keras_bt.objectives import OneReplica
from keras_bt.typing import Tensor

# The values of trainable, of other, of the optimizer's and of the metrics' variables.
State = tuple[list[Tensor], ...]


class Steps(keras.Model):
    """A base class for `keras_bt.model.exact_steps.ExactSteps`, which explains its methods."""

    def train_step(self, state: State, data: Any) -> tuple[dict[str, Tensor], State]:
        """Takes a step on a batch: the loss, its gradient, one update.

        Raises:
            ValueError: for a batch that the model does not take.
        """
        weights, others, optimizer, metrics = state
        batch = self._batch(data)

        def scaled_loss(weights):
            known = self._mapping(weights, others)
            known += zip(self.optimizer.variables, optimizer, strict=True)
            with keras.StatelessScope(known, collect_losses=True) as scope:
                loss, parts = self._share(batch, OneReplica(), training=True)
                scaled = self.optimizer.scale_loss(loss)
            moved = [scope.get_current_value(v) for v in self.non_trainable_variables]
            return scaled, (loss, parts, moved)

        step = jax.value_and_grad(scaled_loss, has_aux=True)
        (_, (loss, parts, moved)), gradients = step(weights)
        finite = all_finite([loss, *gradients]) == 1
        if self._skips:
            # The optimizer takes no step if one gradient is not finite.
            gradients[0] = ops.where(finite, gradients[0], float("nan"))
            moved = [ops.where(finite, *pair) for pair in zip(moved, others, strict=True)]
        weights, optimizer = self.optimizer.stateless_apply(optimizer, gradients, weights)
        logs, metrics = self._recorded(metrics, parts, finite)
        return logs, (weights, moved, optimizer, metrics)

    def test_step(self, state: State, data: Any) -> tuple[dict[str, Tensor], State]:
        """Computes loss and metrics of a batch in inference mode; errors as `train_step`."""
        weights, others, metrics = state
        with keras.StatelessScope(self._mapping(weights, others), collect_losses=True):
            _, parts = self._share(self._batch(data), OneReplica(), training=False)
        logs, metrics = self._recorded(metrics, parts, True)
        return logs, (weights, others, metrics)

    def _mapping(self, weights, others):
        """Pairs the model's variables with their values."""
        return [
            *zip(self.trainable_variables, weights, strict=True),
            *zip(self.non_trainable_variables, others, strict=True),
        ]

    def _recorded(self, metrics, parts, finite):
        """Returns the logs of a step, and what the metrics' variables become by it."""
        known = zip(self.metrics_variables, metrics, strict=True)
        with keras.StatelessScope(known) as scope:
            logs = self._record(parts, finite)
        return logs, [scope.get_current_value(v) for v in self.metrics_variables]

    def _symbolic_build(self, iterator=None, data_batch=None):
        """Builds the optimizer; unlike Keras, without drawing a batch if the model is built."""
        if not self.built:
            super()._symbolic_build(iterator, data_batch)
        elif self.optimizer is not None and not self.optimizer.built:
            self.optimizer.build(self.trainable_variables)


def at_least(least: int, images: Tensor, message: str) -> Tensor:
    """Returns images, or raises ValueError with this message if there are fewer than `least`."""
    if images.shape[0] < least:
        raise ValueError(message)
    return images


def is_known(variable: keras.Variable) -> bool:
    """Returns whether a variable has a value now, not only when a compiled function runs."""
    return not isinstance(variable.value, jax.core.Tracer)


def steps_per_execution(wanted: int, strategy: Any) -> int:
    """Returns how many steps Keras can execute at once: `wanted`, on any number of devices.

    Args:
        wanted: steps per execution.
        strategy: where training runs.
    """
    return wanted
