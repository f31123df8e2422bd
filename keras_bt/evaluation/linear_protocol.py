"""The paper's linear evaluation: a linear classifier on a frozen backbone, trained by SGD.

```python
with strategy.scope():
    model = linear_classifier(backbone, classes=10)
result = train(model, batches, test_batches, cosine_rates(0.3, epochs=100), steps_per_epoch)
```

In place of the backbone `linear_classifier` takes the length of its features, and `train` then
takes features in place of images: extracted once, they give what the backbone gives, faster but
without augmentation.

Source: section 3.1 of Barlow Twins, "Linear evaluation", and `evaluate.py` of its code.
"""

import dataclasses
import math

import keras
import numpy as np

from keras_bt.evaluation.finetune import CrossEntropy, TwoRateSGD, epoch_rates, in_top_k

EPOCHS = 100
RATE = 0.3  # for a batch of 256 and any other: it is not scaled
WEIGHT_DECAY = 1e-6


@dataclasses.dataclass(frozen=True)
class LinearResult:
    """Test accuracies after each epoch, 0 to 1.

    Attributes:
        top1: After each epoch.
        top5: After each epoch; None for five classes or fewer, where it would say nothing.
    """

    top1: tuple[float, ...]
    top5: tuple[float, ...] | None

    @classmethod
    def of(cls, history):
        """Reads them from a dict of lists, such as the `history` of Keras' `History`."""
        top5 = history.get("val_top5")
        return cls(tuple(map(float, history["val_top1"])), top5 and tuple(map(float, top5)))

    def summary(self):
        """What is reported: a dict of JSON values.

        Returns:
            `top1` and `top5` after the last epoch, `best_top1` and `best_top5` of all epochs, each
            for itself as the published code has it, and `best_epoch`, the first with that
            `best_top1`, from 1. The best are chosen on the test set; the last are not.
        """
        return {
            "top1": self.top1[-1],
            "top5": self.top5 and self.top5[-1],
            "best_top1": max(self.top1),
            "best_top5": self.top5 and max(self.top5),
            "best_epoch": int(np.argmax(self.top1)) + 1,
            "epochs": len(self.top1),
        }


def linear_classifier(features, classes, weight_decay=WEIGHT_DECAY, momentum=0.9, seed=0):
    """A linear classifier of features, or of images through a frozen copy of a backbone.

    The backbone is in inference mode whatever is done to the classifier: BatchNormalization uses
    its moving statistics, nothing is dropped, no weight changes. The one that is passed in stays
    as it is. Only the linear layer learns: kernel N(0, 0.01), zero biases, cross-entropy, SGD

        g ← ∂L/∂w + β w,   m ← μ m + g,   w ← w − rate · m

    with the weight decay β on kernel and bias alike, and the rate outside the momentum, as in
    PyTorch. Here β w is the gradient of an L2 penalty of β/2, for Keras' own weight decay is not
    part of g.

    To be called inside `strategy.scope()` where there is a strategy.

    Args:
        features: The length of the features, or a functional or sequential Keras model
            (b, h, w, c) → (b, d).
        classes: Number of classes, at least 2.
        weight_decay: β.
        momentum: μ.
        seed: Of the kernel.

    Returns:
        A compiled `keras.Model`, (b, d) or (b, h, w, c) → logits float32 (b, classes), with the
        metrics `top1` and, from six classes on, `top5`. The linear layer is its last one.

    Raises:
        ValueError: There are fewer than two classes, weight_decay is negative or no number, or the
            backbone cannot be copied.
    """
    if classes < 2:
        raise ValueError(f"There must be at least two classes. Received: classes={classes}.")
    if not 0 <= weight_decay < math.inf:
        raise ValueError(f"weight_decay must be a number ≥ 0. Received: {weight_decay}.")
    if isinstance(features, int):
        inputs = vectors = keras.Input((features,), name="features")
    else:
        frozen = _frozen_copy(features)
        inputs = keras.Input(features.input_shape[1:], name="images")
        vectors = frozen(inputs)
    penalty = keras.regularizers.L2(weight_decay / 2)
    head = keras.layers.Dense(
        classes,
        kernel_initializer=keras.initializers.RandomNormal(stddev=0.01, seed=seed),
        kernel_regularizer=penalty,
        bias_regularizer=penalty,
        dtype="float32",  # under every precision policy
        name="linear_classifier",
    )
    model = keras.Model(inputs, head(vectors), name="linear_evaluation")
    ks = (1, 5) if classes > 5 else (1,)
    model.compile(
        TwoRateSGD(RATE, backbone_ratio=1.0, momentum=momentum, head=head.name),
        loss=CrossEntropy(),
        metrics=[keras.metrics.MeanMetricWrapper(in_top_k, name=f"top{k}", k=k) for k in ks],
    )
    return model


@keras.saving.register_keras_serializable("keras_bt")
class Frozen(keras.layers.Layer):
    """A model that never learns: none of its weights can be trained, and it infers even in `fit`.

    `model.trainable = False` alone would leave Dropout at work in `fit`, and so would
    `model(images, training=False)` in a functional model, which `fit` overrides.

    Args:
        model: The model.
        **kwargs: Those of `keras.layers.Layer`.
    """

    def __init__(self, model, **kwargs):
        super().__init__(**kwargs)
        self.model = model
        self.model.trainable = False

    def call(self, images):
        """What the model makes of images in inference mode."""
        return self.model(images, training=False)

    def compute_output_shape(self, input_shape):
        """The model's."""
        return self.model.compute_output_shape(input_shape)

    def get_config(self):
        """Returns the constructor's arguments."""
        return super().get_config() | {"model": keras.saving.serialize_keras_object(self.model)}

    @classmethod
    def from_config(cls, config):
        """Makes it of what `get_config` returned."""
        return cls(keras.saving.deserialize_keras_object(config.pop("model")), **config)


def _frozen_copy(backbone):
    try:
        copy = keras.models.clone_model(backbone)
    except Exception as error:  # Keras raises nearly anything for a model of a class of one's own
        raise ValueError(
            "The backbone must be a functional or a sequential model. "
            f"Received: a {type(backbone).__name__} ({error})."
        ) from error
    copy.set_weights(backbone.get_weights())
    return Frozen(copy, name="backbone")


def cosine_rates(rate, epochs):
    """A list of one rate per epoch: rate · (1 + cos(π e / epochs)) / 2 for e = 0, 1, ….

    Raises:
        ValueError: The rate is no number ≥ 0, or there are no epochs.
    """
    return epoch_rates("cosine", rate, epochs)


def step_rates(rate, epochs, milestones, factor=0.1):
    """A rate that is multiplied by `factor` after each of the given epochs.

    >>> step_rates(0.3, 5, milestones=(2, 4), factor=0.5)
    [0.3, 0.3, 0.15, 0.15, 0.075]

    Args:
        rate: Of the first epoch.
        epochs: Epochs in all.
        milestones: Numbers of epochs after which it drops, 1 to epochs − 1, increasing.
        factor: 0 to 1.

    Returns:
        A list of one rate per epoch.

    Raises:
        ValueError: An argument is out of range.
    """
    epoch_rates("cosine", rate, epochs)  # for its checks of both
    milestones = list(milestones)
    if milestones != sorted(set(milestones)) or not all(0 < m < epochs for m in milestones):
        raise ValueError(
            f"milestones must be increasing and from 1 to {epochs - 1}, for {epochs} epochs. "
            f"Received: {', '.join(map(str, milestones))}."
        )
    if not 0 <= factor <= 1:
        raise ValueError(f"factor must be from 0 to 1. Received: factor={factor}.")
    return [rate * factor ** sum(e >= m for m in milestones) for e in range(epochs)]


def train(
    model, batches, test, rates, steps_per_epoch=None, first_epoch=0, callbacks=(), verbose=0
):
    """Trains what `linear_classifier` returned and measures it after every epoch.

    Args:
        model: The classifier.
        batches: `tf.data.Dataset` of (images, labels), or of (features, labels): endless, such as
            `keras_bt.data.labelled_views` and `labelled_features`, or one epoch.
        test: Likewise, finite: `keras_bt.data.evaluation_batches`.
        rates: One learning rate per epoch; as many epochs are trained.
        steps_per_epoch: For endless batches.
        first_epoch: Epochs done before, in `rates` and in the numbers of callbacks.
        callbacks: Of `fit`.
        verbose: Of `fit`.

    Returns:
        A `LinearResult` of the epochs trained now.
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
    return LinearResult.of(history.history)
