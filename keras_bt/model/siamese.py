"""The Siamese network: one network that embeds both images of a pair, trained on labeled pairs."""

import math
from typing import Any

import keras
from keras import ops

from keras_bt.model.backend import is_known, prepare_batch_normalization
from keras_bt.model.exact_steps import ExactSteps, vector_length
from keras_bt.objectives.pairs import contrastive_losses, cosine_losses, pair_distances
from keras_bt.typing import Tensor

FORMS = ("contrastive", "cosine")


@keras.saving.register_keras_serializable("keras_bt")
class Siamese(ExactSteps):
    """A Siamese network as a Keras model, trained with plain `compile` and `fit` on pairs.

    `fit` and `evaluate` take batches (image_a, image_b, same), with 1 for two images of the same
    thing and 0 for others; `predict` and calls take images and return their embeddings z, at
    length 1. A pair is accepted as the same if the distance of its embeddings, 0 to 2, does not
    exceed a threshold, which is chosen after training and saved with the model.

    >>> model = Siamese(backbone)
    >>> model.compile(optimizer="adam")
    >>> pairs = tf.data.Dataset.from_tensors((images[:4] / 255, images[4:8] / 255, [1, 0, 1, 0]))
    >>> history = model.fit(pairs, epochs=2, shuffle=False, verbose=0)
    >>> list(history.history)
    ['distance_different', 'distance_same', 'loss']
    >>> distances = model.distance(images[:4] / 255, images[4:8] / 255)
    >>> model.calibrate(0.5)  # such as from `keras_bt.evaluation.verification.choose_threshold`
    >>> accepted = model.same(images[:4] / 255, images[4:8] / 255)
    >>> bool(tf.reduce_all(accepted == (distances <= 0.5)))
    True

    Metrics: `loss`, and the mean distance of pairs of the same thing and of others,
    `distance_same` and `distance_different`. They are exact means over the pairs.

    Both images of all pairs pass the network in one batch, whose statistics BatchNormalization
    uses. Set `backbone.trainable = False` to train the head alone: BatchNormalization of the
    backbone then keeps its moving statistics. Under `strategy.scope()` with several replicas,
    training is the same as on one device, see `BarlowTwins`.

    Args:
        backbone: a built model, (b, h, w, c) → (b, features).
        head: a built model, (b, features) → (b, d); None if the features are the embedding.
        margin: m of the contrastive loss, the distance from which different things are left alone.
            Embeddings of length 1 are 2 apart at most.
        form: the loss, "contrastive" or "cosine", see `keras_bt.objectives.pairs`.
        **kwargs: those of `keras.Model`.

    Raises:
        ValueError: if a model is not built or does not return one vector per image; if the two do
            not fit together; if the margin or the form is out of range, or a margin is given with
            the cosine form, to which it would not apply.
    """

    def __init__(
        self,
        backbone: keras.Model,
        head: keras.Model | None = None,
        margin: float = 1.0,
        form: str = "contrastive",
        **kwargs: Any,
    ):
        super().__init__(**kwargs)
        features = vector_length(backbone, "backbone")
        self.embedding_dim = features if head is None else vector_length(head, "head")
        if head is not None and head.input_shape[-1] != features:
            raise ValueError(
                "The head must take what the backbone returns. Received: a backbone with "
                f"{features} features, a head for {head.input_shape[-1]}."
            )
        if form not in FORMS:
            raise ValueError(f"form must be one of {', '.join(FORMS)}. Received: form={form!r}.")
        if not 0 < margin <= 2:
            raise ValueError(
                "margin must be > 0 and at most 2, the largest distance of embeddings of length 1. "
                f"Received: margin={margin}."
            )
        if form == "cosine" and margin != 1.0:
            raise ValueError(
                f"The cosine form has no margin. Received: margin={margin}, form='cosine'."
            )
        self.backbone, self.head = backbone, head
        prepare_batch_normalization(*self._networks())
        self.margin, self.form = margin, form
        # Not a number until it is chosen.
        self._threshold = self.add_weight(
            shape=(),
            initializer=keras.initializers.Constant(math.nan),
            dtype="float32",
            trainable=False,
            name="threshold",
        )
        self._track("loss", "distance_same", "distance_different")
        self.built = True  # both parts are

    def call(self, images: Tensor, training: bool | None = None) -> Tensor:
        """Returns the embeddings, at least float32 (b, d) of length 1, of images (b, h, w, c)."""
        features = self.backbone(images, training=training)
        z = features if self.head is None else self.head(features, training=training)
        dtype = keras.backend.result_type("float32", z.dtype)
        return ops.normalize(ops.cast(z, dtype), axis=1)

    def distance(self, image_a: Tensor, image_b: Tensor) -> Tensor:
        """Returns the distance of each pair, ‖z_a − z_b‖ from 0 to 2.

        Args:
            image_a: (b, h, w, c), as for training.
            image_b: the same number of images.

        Returns:
            At least float32 (b,).
        """
        return pair_distances(self(image_a, training=False), self(image_b, training=False))

    def same(self, image_a: Tensor, image_b: Tensor) -> Tensor:
        """Tells of each pair whether it is accepted: whether the distance is at most `threshold`.

        In a `tf.function` the threshold is that of the moment at which it is called; while none has
        been chosen, no pair is accepted there.

        Args:
            image_a: (b, h, w, c), as for training.
            image_b: the same number of images.

        Returns:
            bool (b,).

        Raises:
            ValueError: if no threshold has been chosen, outside of a `tf.function`.
        """
        if is_known(self._threshold) and self.threshold is None:
            raise ValueError(
                "A threshold must be chosen before pairs are accepted: model.calibrate(threshold). "
                "Received: none."
            )
        distance = self.distance(image_a, image_b)
        return distance <= ops.cast(self._threshold, distance.dtype)  # never, if that is NaN

    @property
    def threshold(self) -> float | None:
        """The distance up to which pairs are accepted; None until it is chosen."""
        threshold = float(self._threshold)
        return None if math.isnan(threshold) else threshold

    def calibrate(self, threshold: float) -> None:
        """Sets the distance up to which pairs are accepted; it is saved with the model.

        Args:
            threshold: 0 to 2, chosen on pairs that the network was not trained on, see
                `keras_bt.evaluation.verification.choose_threshold`.

        Raises:
            ValueError: if it is out of range.
        """
        if not 0 <= threshold <= 2:
            raise ValueError(
                "threshold must be a distance of embeddings of length 1, from 0 to 2. "
                f"Received: threshold={threshold}."
            )
        self._threshold.assign(threshold)

    def compile(
        self, optimizer: str | keras.optimizers.Optimizer = "rmsprop", **kwargs: Any
    ) -> None:
        """Configures training. The loss is that of the form, so only the optimizer is open.

        Args:
            optimizer: any Keras optimizer.
            **kwargs: those of `keras.Model.compile`, except losses and metrics.

        Raises:
            ValueError: for a loss or metrics, and if there is nothing to train.
        """
        if not self.trainable_variables:
            raise ValueError(
                "There must be weights to train: a head, or a backbone that is trainable. "
                "Received: neither."
            )
        super().compile(optimizer=optimizer, **kwargs)

    def _networks(self):
        return (self.backbone,) if self.head is None else (self.backbone, self.head)

    def _batch(self, data):
        return _triple(data)

    def _share(self, batch, replicas, training):
        """Computes this replica's shares of the loss and of what the metrics are made of.

        Returns:
            The share of the loss, and those of [its sum over pairs, regularizers, distances of
            pairs of the same thing, of others, number of the former, of the latter].
        """
        image_a, image_b, same = batch
        both = self(ops.concatenate([image_a, image_b]), training=training)
        za, zb = ops.split(both, 2)
        y = ops.cast(ops.reshape(same, (-1,)), za.dtype)
        if self.form == "cosine":
            losses = cosine_losses(za, zb, y)
        else:
            losses = contrastive_losses(za, zb, y, self.margin)
        distances = pair_distances(za, zb)
        pairs = ops.cast(ops.shape(y)[0], y.dtype)
        penalty = sum(self.losses) if self.losses else 0.0  # a backbone's own regularizers
        penalty = ops.cast(penalty, y.dtype) / replicas.count
        total, alike = ops.sum(losses), ops.sum(y)
        of_same, of_others = ops.sum(y * distances), ops.sum((1 - y) * distances)
        share = total / replicas.sum(pairs) + penalty
        return share, [total, penalty, of_same, of_others, alike, pairs - alike]

    def _measured(self, parts):
        """Computes the means over the pairs of the global batch, weighted by their number."""
        total, penalty, of_same, of_others, alike, unlike = parts
        pairs = alike + unlike
        return [
            (total / pairs + penalty, pairs),
            (of_same / ops.maximum(alike, 1.0), alike),
            (of_others / ops.maximum(unlike, 1.0), unlike),
        ]

    def get_config(self) -> dict[str, Any]:
        """Returns the constructor's arguments, with the models serialized."""
        head = None if self.head is None else keras.saving.serialize_keras_object(self.head)
        return super().get_config() | {
            "backbone": keras.saving.serialize_keras_object(self.backbone),
            "head": head,
            "margin": self.margin,
            "form": self.form,
        }

    @classmethod
    def from_config(
        cls, config: dict[str, Any], custom_objects: dict[str, Any] | None = None
    ) -> "Siamese":
        """Builds the model from the result of `get_config`."""
        parts = {
            name: keras.saving.deserialize_keras_object(config[name], custom_objects)
            for name in ("backbone", "head")
            if config[name] is not None
        }
        return cls(**(config | parts))


def _triple(data):
    """Unpacks a batch, which `fit` takes for inputs, targets and weights."""
    image_a, image_b, same = keras.utils.unpack_x_y_sample_weight(data)
    if image_b is None or same is None:
        raise ValueError(
            "Training data must be batches (image_a, image_b, same), with 1 for two images of the "
            f"same thing. Received: {len(data) if isinstance(data, (tuple, list)) else 1} arrays."
        )
    return image_a, image_b, same
