"""The paper's linear evaluation: a linear classifier on a frozen backbone, trained by SGD.

>>> batches = tf.data.Dataset.from_tensor_slices((features, labels)).batch(4)
>>> linear = linear_classifier(features.shape[1], classes=3)  # in `strategy.scope()`, if any
>>> summarize(train(linear, batches, batches, rates=[0.3, 0.2, 0.1]))["top1"]
1.0

In place of the length of the features, `linear_classifier` takes a backbone, and `train` then takes
images: slower than features extracted once, but with augmentation.

Source: section 3.1 of Barlow Twins, "Linear evaluation", and `evaluate.py` of its code.
"""

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from keras_bt.evaluation.finetune import compile_classifier, copy_of, linear_head
from keras_bt.typing import Tensor

RATE = 0.3  # for a batch of 256 or any other size: it is not scaled
WEIGHT_DECAY = 1e-6


def linear_classifier(
    features: int | keras.Model,
    classes: int,
    weight_decay: float = WEIGHT_DECAY,
    seed: int = 0,
) -> keras.Model:
    """Builds a linear classifier of features, or of images through a frozen copy of a backbone.

    The copy is always in inference mode: BatchNormalization uses its moving statistics, nothing is
    dropped. Only the linear layer learns: kernel N(0, 0.01), zero biases, cross-entropy, SGD

        g ← ∂L/∂w + β w,   m ← μ m + g,   w ← w − rate · m

    with μ = 0.9 and weight decay β on kernel and bias alike, as in PyTorch. Here β w is the
    gradient of an L2 penalty of β/2, because Keras' own weight decay is not part of g.

    Call it inside `strategy.scope()` if there is a strategy.

    Args:
        features: length of the features, or a functional or sequential backbone (b, h, w, c) →
            (b, d).
        classes: number of classes, at least 2.
        weight_decay: β ≥ 0.
        seed: seed of the kernel.

    Returns:
        A compiled model, (b, d) or (b, h, w, c) → logits float32 (b, classes), with the metrics
        `top1` and, from six classes on, `top5`. The linear layer is its last.

    Raises:
        ValueError: if there are fewer than two classes, `weight_decay` is negative or not a number,
            or the backbone cannot be copied.
    """
    if not 0 <= weight_decay < math.inf:
        raise ValueError(f"weight_decay must be a number ≥ 0. Received: {weight_decay}.")
    if isinstance(features, int):
        inputs = vectors = keras.Input((features,), name="features")
    else:
        frozen = Frozen(copy_of(features), name="backbone")
        inputs = keras.Input(features.input_shape[1:], name="images")
        vectors = frozen(inputs)
    penalty = keras.regularizers.L2(weight_decay / 2)
    decay = {"kernel_regularizer": penalty, "bias_regularizer": penalty}
    head = linear_head(classes, "linear_classifier", seed, **decay)
    model = keras.Model(inputs, head(vectors), name="linear_evaluation")
    compile_classifier(model, RATE, backbone_ratio=1.0)
    return model


@keras.saving.register_keras_serializable("keras_bt")
class Frozen(keras.layers.Layer):
    """A model that never learns: its weights are not trainable, and it infers even in `fit`.

    `model.trainable = False` alone would leave Dropout active in `fit`, and so would
    `model(images, training=False)` in a functional model, which `fit` overrides.

    Args:
        model: the model.
        **kwargs: those of `keras.layers.Layer`.
    """

    def __init__(self, model: keras.Model, **kwargs: Any):
        super().__init__(**kwargs)
        self.model = model
        self.model.trainable = False

    def call(self, images: Tensor) -> Tensor:
        """Runs the model on images in inference mode."""
        return self.model(images, training=False)

    def get_config(self) -> dict[str, Any]:
        """Returns the constructor's arguments."""
        return super().get_config() | {"model": keras.saving.serialize_keras_object(self.model)}

    @classmethod
    def from_config(cls, config: dict[str, Any]) -> "Frozen":
        """Builds the layer from what `get_config` returned."""
        return cls(keras.saving.deserialize_keras_object(config.pop("model")), **config)


def train(
    model: keras.Model,
    batches: tf.data.Dataset,
    test: tf.data.Dataset,
    rates: Sequence[float],
    steps_per_epoch: int | None = None,
    first_epoch: int = 0,
    callbacks: Iterable[keras.callbacks.Callback] = (),
    verbose: int | str = 0,
) -> dict[str, list[float]]:
    """Trains a model from `linear_classifier` and tests it after every epoch.

    Args:
        model: the classifier.
        batches: (images, labels) or (features, labels): endless, such as from
            `keras_bt.data.labelled_views` and `labelled_features`, or one epoch.
        test: the same, finite, such as from `keras_bt.data.evaluation_batches`.
        rates: one learning rate per epoch, which sets the number of epochs, such as from
            `keras_bt.evaluation.finetune.epoch_rates`.
        steps_per_epoch: steps per epoch, for endless batches.
        first_epoch: epochs already done, which `rates` and the callbacks' epoch numbers include.
        callbacks: see `fit`.
        verbose: see `fit`.

    Returns:
        The `history` of Keras for the epochs trained by this call: `val_top1`, share of test images
        whose class has the highest logit; `val_top5`, whose class is among the five highest, from
        six classes on; and others.
    """
    set_rate = keras.callbacks.LearningRateScheduler(lambda epoch, _: float(rates[epoch]))
    history = model.fit(
        batches,
        initial_epoch=first_epoch,
        epochs=len(rates),
        steps_per_epoch=steps_per_epoch,
        validation_data=test,
        shuffle=False,  # the batches are shuffled already
        callbacks=[set_rate, *callbacks],
        verbose=verbose,
    )
    return history.history


def summarize(history: Mapping[str, Sequence[float]]) -> dict[str, Any]:
    """Summarizes the test accuracies of all epochs as JSON values.

    Args:
        history: `val_top1` and, if measured, `val_top5` after each epoch, 0 to 1.

    Returns:
        `top1` and `top5` after the last epoch; `best_top1` and `best_top5`, chosen over all epochs
        independently, as in the published code; `best_epoch`, the first with that `best_top1`, from
        1; and the number of `epochs`. Top-5 is None if not measured. The best are chosen on the
        test set, the last are not.
    """
    top1, top5 = history["val_top1"], history.get("val_top5")
    return {
        "top1": top1[-1],
        "top5": top5 and top5[-1],
        "best_top1": max(top1),
        "best_top5": top5 and max(top5),
        "best_epoch": int(np.argmax(top1)) + 1,
        "epochs": len(top1),
    }
