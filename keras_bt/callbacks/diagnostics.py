"""Is the representation healthy? Measured while it is trained, with warnings in plain words."""

import dataclasses

import keras
import numpy as np
import tensorflow as tf

from keras_bt.callbacks import advice
from keras_bt.callbacks.health import measure
from keras_bt.callbacks.periodic import Periodic
from keras_bt.model.barlow_twins import BarlowTwins
from keras_bt.objectives import cross_correlation


@dataclasses.dataclass(frozen=True)
class Look:
    """What a network makes of the views at some moment. Arrays are float32.

    Attributes:
        epochs: int, finished epochs.
        features: (2n, f), of all images of view A, then of view B.
        za: (n, d), embeddings of view A.
        zb: (n, d), of view B.
    """

    epochs: int
    features: np.ndarray
    za: np.ndarray
    zb: np.ndarray

    @property
    def embeddings(self):
        """(2n, d), of view A, then of view B."""
        return np.concatenate([self.za, self.zb])

    @property
    def correlation(self):
        """The matrix C, (d, d)."""
        return np.asarray(cross_correlation(self.za, self.zb))


class Diagnostics(Periodic):
    """Measures the health of a `BarlowTwins` model as it trains, and warns when it is bad.

    On fixed views, in inference mode, after every `every`-th epoch and the last. Put into `logs`,
    and so shown by the progress bar, kept by History and written by `MetricsLog` and TensorBoard
    (which must come later in the list of callbacks), are the numbers of
    `keras_bt.callbacks.health.Health`: `diagonal_mean`, `diagonal_rms`, `off_diagonal_mean`,
    `off_diagonal_rms`, `fixed_excess`, `embedding_spread`, `feature_rankme`, `embedding_rankme`,
    `dead_features` and `dead_dimensions`. In epochs without a look they are missing.

    Warnings are printed once per kind and `fit`: on embeddings that are the same for every image,
    on dimensions that all say the same, on dead dimensions, and on a loss that no longer moves
    far above the floor. The last is watched every epoch. In the first steps of training, until
    BatchNormalization's moving statistics fit the weights (30 steps with their momentum at 0.9),
    only embeddings that are constant to rounding are warned about.

    Nothing of the training changes: no variable, no random state.

    >>> pair = next(iter(views))
    >>> model.fit(views, epochs=10, callbacks=[Diagnostics(pair), MetricsLog("metrics.jsonl")])

    Time of a look: a forward pass of 2n images, and the singular values of a matrix (2n, d).

    Args:
        views: a batch as `fit` takes them: (view_a, view_b), each (n, h, w, c), or crops for
            augmentation on the device. n ≥ 2; below 32 redundancy cannot be judged. Statistics
            are those of these n images, so compare numbers of one n only.
        every: int, epochs between looks.
        batch_size: int, images per forward pass.

    Attributes:
        before: the `Look` before `fit` began to train.
        latest: the newest `Look`.
        health: the newest `Health`.

    Raises:
        ValueError: if `every` or `batch_size` is less than one; when training begins, if the model
            is no `BarlowTwins` or the views do not fit it.
    """

    def __init__(self, views, every=1, batch_size=256):
        super().__init__(every)
        if batch_size < 1:
            raise ValueError(f"batch_size must be at least 1. Received: batch_size={batch_size}.")
        self._batch = views
        self._views = None
        self._batch_size = batch_size
        self._traced = None

    def on_train_begin(self, logs=None):
        """Looks at the network as it is before training."""
        if not isinstance(self.model, BarlowTwins):
            raise ValueError(
                f"Diagnostics needs a BarlowTwins model. Received: {type(self.model).__name__}."
            )
        if self._views is None:
            # Once: of crops the views are drawn here, from the seeds that the batch brings.
            self._views = tuple(
                np.asarray(keras.ops.convert_to_numpy(view))
                for view in self.model.two_views(self._batch)
            )
            self._batch = None
        self._excesses, self._floor, self._said = [], None, set()
        self.before = self.latest = self._look(None)
        self._health_before = self.health = self._measure(self.before)

    def on_epoch_begin(self, epoch, logs=None):
        """Dates the first look."""
        if self.before.epochs is None:
            self.before = self.latest = dataclasses.replace(self.before, epochs=epoch)

    def on_epoch_end(self, epoch, logs=None):
        """Looks if it is due; watches the loss every epoch."""
        logs = {} if logs is None else logs
        super().on_epoch_end(epoch, logs)
        if "excess" in logs and "loss" in logs:
            self._excesses.append(float(logs["excess"]))
            floor = float(logs["loss"]) - self._excesses[-1]
            dim = self.model.embedding_dim
            self._say("plateau", advice.plateau(self._excesses, floor, dim))

    def look(self, epoch, logs):
        """Measures, and warns if need be."""
        self.latest = self._look(epoch + 1)
        self.health = health = self._measure(self.latest)
        logs.update(dataclasses.asdict(health))
        n, d = self.latest.za.shape
        settled = self._statistics_have_settled()
        constant = advice.constant(health, settled)
        self._say("constant", constant)
        if constant or not settled:  # a constant embedding is redundant and dead as well
            return
        weight = self.model.redundancy_weight
        self._say("redundant", advice.redundant(health, self._health_before, n, d, weight))
        self._say("dead", advice.dead(health, self.latest.features.shape[1], d))

    def _look(self, epochs):
        forward = self._forward()
        parts = []
        for view in self._views:
            starts = range(0, len(view), self._batch_size)
            outputs = [forward(view[start : start + self._batch_size]) for start in starts]
            parts += [np.concatenate(part) for part in zip(*outputs, strict=True)]
        features_a, za, features_b, zb = parts
        return Look(epochs, np.concatenate([features_a, features_b]), za, zb)

    def _forward(self):
        """The model in inference mode, traced once: images → features and embeddings, float32."""
        if self._traced is None or self._traced[0] is not self.model:
            model, view = self.model, self._views[0]

            @tf.function(input_signature=[tf.TensorSpec([None, *view.shape[1:]], view.dtype)])
            def forward(images):
                features = model.backbone(images, training=False)
                z = model.projector(features, training=False)
                return tf.cast(features, tf.float32), tf.cast(z, tf.float32)

            self._traced = model, forward
        return self._traced[1]

    def _statistics_have_settled(self):
        """Whether moving statistics have forgotten that they began at 0 and 1: to 5%."""
        networks = self.model.backbone, self.model.projector
        momenta = [
            layer.momentum
            for network in networks
            for layer in network._flatten_layers()
            if isinstance(layer, keras.layers.BatchNormalization)
        ]
        steps = int(keras.ops.convert_to_numpy(self.model.optimizer.iterations))
        return steps * (1 - max(momenta, default=0)) > 2.99  # 3, if 1 − 0.9 were 0.1

    def _measure(self, look):
        return measure(look.features, look.za, look.zb, self.model.redundancy_weight)

    def _say(self, kind, text):
        if text is None or kind in self._said:
            return
        self._said.add(kind)
        # Beginning a new line, as Keras' own callbacks do: the progress bar has not ended its line
        # and will draw itself again below.
        print(f"\nWarning: {text}", flush=True)
