"""Health of the representation while it trains, with warnings in plain words."""

import dataclasses
from typing import Any

import keras
import numpy as np
from keras import ops

from keras_bt.callbacks import advice
from keras_bt.callbacks.health import measure
from keras_bt.callbacks.periodic import Periodic
from keras_bt.messages import say
from keras_bt.model.backend import compiled
from keras_bt.model.barlow_twins import BarlowTwins
from keras_bt.objectives import cross_correlation
from keras_bt.typing import Metrics

_BATCH = 256  # images per forward pass


@dataclasses.dataclass(frozen=True)
class Look:
    """Features and embeddings of the views at one moment of training, float32.

    Attributes:
        epochs: number of finished epochs.
        features: (2n, f), the features of view A's images, then of view B's.
        za: (n, d), the embeddings of view A.
        zb: (n, d), the embeddings of view B.
    """

    epochs: int
    features: np.ndarray
    za: np.ndarray
    zb: np.ndarray

    @property
    def embeddings(self) -> np.ndarray:
        """The embeddings (2n, d) of view A, then of view B."""
        return np.concatenate([self.za, self.zb])

    @property
    def correlation(self) -> np.ndarray:
        """The matrix C (d, d)."""
        return np.asarray(cross_correlation(self.za, self.zb))


class Diagnostics(Periodic):
    """Measures the health of a `BarlowTwins` model as it trains, and warns when it is poor.

    It measures on fixed views in inference mode, after every `every`-th epoch and the last one.
    Adds the fields of `keras_bt.callbacks.health.Health` to `logs`, so the progress bar, History,
    `MetricsLog` and TensorBoard show them (the latter two must come later in the list of
    callbacks). Epochs without a look lack them.

    Warns once per `fit` about each of: embeddings that are the same for every image, dimensions
    that all say the same, dead dimensions, and, with the objective of Barlow Twins, a loss that has
    stopped falling far above the floor. The loss is watched every epoch. In the first steps of
    training, until BatchNormalization's moving statistics fit the weights (30 steps at a momentum
    of 0.9), only embeddings that are constant up to rounding are warned about.

    Training is unaffected: no variable and no random state is touched.

    >>> layers = [keras.Input((16, 16, 3)), keras.layers.Flatten(), keras.layers.Dense(16)]
    >>> twins = keras_bt.BarlowTwins(keras.Sequential(layers), projector)
    >>> twins.compile("sgd")
    >>> diagnostics = Diagnostics(next(iter(views)))
    >>> history = twins.fit(views, epochs=2, callbacks=[diagnostics], shuffle=False, verbose=0)
    >>> history.history["dead_dimensions"]
    [0.0, 0.0]
    >>> 0 < diagnostics.health.embedding_spread <= 1
    True

    A look takes a forward pass of 2n images and the singular values of a (2n, d) matrix.

    Args:
        views: a batch such as `fit` takes: (view_a, view_b), each (n, h, w, c), or crops for
            augmentation on the device. n ≥ 2; below 32 redundancy cannot be judged. Statistics
            are those of these n images, so numbers are comparable only for the same n.
        every: epochs between looks.

    Attributes:
        before: the `Look` taken before training.
        latest: the newest `Look`.
        health: the newest `Health`.

    Raises:
        ValueError: if `every` is less than one; when training begins, if the model is not a
            `BarlowTwins` or the views do not fit it.
    """

    def __init__(self, views: Any, every: int = 1):
        super().__init__(every)
        self._batch = views
        self._views: tuple[np.ndarray, ...] = ()

    def on_train_begin(self, logs: Metrics | None = None) -> None:
        """Makes the views, and checks that they fit the model."""
        if not isinstance(self.model, BarlowTwins):
            raise ValueError(
                f"Diagnostics needs a BarlowTwins model. Received: {type(self.model).__name__}."
            )
        if not self._views:
            # Once: crops are turned into views here, from the seeds in the batch.
            self._views = tuple(
                np.asarray(keras.ops.convert_to_numpy(view))
                for view in self.model.two_views(self._batch)
            )
            self._batch = None
        self._forward = _inference(self.model, self._views[0])
        self._excesses: list[float] = []
        self._said: set[str] = set()
        self._looked = False

    def on_epoch_begin(self, epoch: int, logs: Metrics | None = None) -> None:
        """Takes the look before training, whose first epoch is known here."""
        if not self._looked:
            self._looked = True
            self.before = self.latest = self._look(epoch)
            self._health_before = self.health = self._measure(self.before)

    def on_epoch_end(self, epoch: int, logs: Metrics | None = None) -> None:
        """Looks if a look is due; watches the loss every epoch."""
        logs = {} if logs is None else logs
        super().on_epoch_end(epoch, logs)
        if advice.knows_far(logs):
            self._excesses.append(float(logs["excess"]))
            floor = float(logs["loss"]) - self._excesses[-1]
            dim = self.model.embedding_dim
            self._say("plateau", advice.plateau(self._excesses, floor, dim))

    def look(self, epoch: int, logs: Metrics) -> None:
        """Measures, and warns if necessary."""
        self.latest = self._look(epoch + 1)
        self.health = health = self._measure(self.latest)
        logs.update(dataclasses.asdict(health))
        n, d = self.latest.za.shape
        settled = self._statistics_have_settled()
        constant = advice.constant(health, settled)
        self._say("constant", constant)
        if constant or not settled:  # a constant embedding is redundant and dead as well
            return
        weight = getattr(self.model.objective, "redundancy_weight", None)
        self._say("redundant", advice.redundant(health, self._health_before, n, d, weight))
        self._say("dead", advice.dead(health, self.latest.features.shape[1], d))

    def _look(self, epochs):
        parts = []
        for view in self._views:
            starts = range(0, len(view), _BATCH)
            outputs = [self._forward(view[start : start + _BATCH]) for start in starts]
            parts += [np.concatenate(part) for part in zip(*outputs, strict=True)]
        features_a, za, features_b, zb = parts
        return Look(epochs, np.concatenate([features_a, features_b]), za, zb)

    def _statistics_have_settled(self):
        """Tells whether the initial 0 and 1 weigh less than 5% in the moving statistics."""
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
        return measure(look.features, look.za, look.zb, self.model.objective)

    def _say(self, kind, text):
        if text is None or kind in self._said:
            return
        self._said.add(kind)
        # Starts with a new line, as Keras' own callbacks do: its progress bar has not ended its
        # line, and is drawn again below.
        say(f"\nWarning: {text}")


def _inference(model, view):
    def forward(images):
        features, z = model.represent(images, training=False)
        return ops.cast(features, "float32"), ops.cast(z, "float32")

    return compiled(forward, model, view)
