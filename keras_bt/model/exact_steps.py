"""Steps that are the same on several devices as on one, for models that compute shares of a loss.

A step itself, `train_step`, differs between backends: see `keras_bt.model.tensorflow.steps` and
`keras_bt.model.jax.steps`. What a model is asked for, and what is made of it, does not.
"""

from typing import Any

import keras
from keras import ops

from keras_bt.model.backend import Steps
from keras_bt.model.metrics import MeanOverSteps, SkippedSteps


class ExactSteps(Steps):
    """A base class for models that bring their own loss and metrics.

    A subclass names its metrics with `_track`, and defines `_networks`, `_batch`, `_share` and
    `_measured`.
    """

    def _track(self, *names):
        """Creates the metrics, in the order of what `_measured` returns, the loss first."""
        self._trackers = [MeanOverSteps(name=name) for name in names]
        self._skipped = SkippedSteps()

    def _networks(self):
        """Returns the models whose moving statistics a step updates."""
        raise NotImplementedError

    def _batch(self, data):
        """Unpacks what `fit` passes to a step, and checks it."""
        raise NotImplementedError

    def _share(self, batch, replicas, training):
        """Computes this replica's shares of the loss and of what the metrics are made of.

        Returns:
            The share of the loss, and a list of parts: float scalars whose sums over replicas are
            those of the global batch.
        """
        raise NotImplementedError

    def _measured(self, parts):
        """Computes the metrics from the parts, given their sums over replicas.

        Returns:
            A list of (value, weight) of this step, one for each name given to `_track`.
        """
        raise NotImplementedError

    def _leaves_out_skipped(self):
        """Tells whether the means over steps are without those that were skipped."""
        return True

    def compile(
        self, optimizer: str | keras.optimizers.Optimizer = "rmsprop", **kwargs: Any
    ) -> None:
        """Configures training; a loss or metrics are refused with a ValueError."""
        for name in ("loss", "metrics", "weighted_metrics", "loss_weights"):
            if kwargs.get(name) is not None:
                raise ValueError(
                    f"{type(self).__name__} brings its own loss and metrics. "
                    f"Received: {name}={kwargs[name]}."
                )
        super().compile(optimizer=optimizer, **kwargs)

    def compile_from_config(self, config: dict[str, Any]) -> None:
        """Compiles as `get_compile_config` recorded; called when a model is loaded."""
        self.compile(**keras.saving.deserialize_keras_object(config))
        self.optimizer.build(self.trainable_variables)

    @property
    def metrics(self) -> list[keras.metrics.Metric]:
        """The metrics that `fit` and `evaluate` report and reset: means over steps, and a count."""
        return [*self._trackers, self._skipped] if self._skips else self._trackers

    @property
    def _skips(self):
        """Whether the optimizer skips steps with an overflow, as in float16."""
        optimizer = getattr(self, "optimizer", None)  # none before `compile`
        return isinstance(optimizer, keras.optimizers.LossScaleOptimizer)

    def _record(self, parts, finite):
        """Updates and returns the metrics, given the sums of the parts over replicas."""
        measured = self._measured(parts)
        if self._skips:
            self._skipped.update_state(ops.where(finite, 0.0, 1.0))
            if self._leaves_out_skipped():
                measured = [[ops.where(finite, x, 0.0) for x in pair] for pair in measured]
        else:
            loss, weight = measured[0]
            measured[0] = ops.where(finite, loss, float("nan")), weight
        for tracker, (value, weight) in zip(self._trackers, measured, strict=True):
            tracker.update_state(value, sample_weight=weight)
        return {metric.name: metric.result() for metric in self.metrics}


def vector_length(model: keras.Model, role: str) -> int:
    """Returns the length of a model's output, checking that it is one vector per image.

    Args:
        model: a built model.
        role: what it is, for messages.

    Raises:
        ValueError: if it is not built, or returns something else.
    """
    if not isinstance(model, keras.Model) or not model.built:
        raise ValueError(f"The {role} must be a built keras.Model. Received: {model!r}.")
    shape = model.output_shape
    if not isinstance(shape, tuple) or len(shape) != 2 or not isinstance(shape[-1], int):
        raise ValueError(
            f"The {role} must return one vector per image, a shape (None, length). "
            f"Received: a model whose output shape is {shape}."
            + (" Its pooling may be missing." if isinstance(shape, tuple) else "")
        )
    return shape[-1]
