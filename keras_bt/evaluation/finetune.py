"""Fine-tuning a backbone with few labels: the semi-supervised protocol of the paper.

The backbone and a new linear head are trained together, BatchNormalization in training mode, by
stochastic gradient descent with a rate for each of the two.

```python
with strategy.scope():
    model = classifier(backbone, classes=10)
    schedule = rate_schedule("cosine", rate=0.5, epochs=20, steps_per_epoch=steps)
    compile_classifier(model, schedule, backbone_ratio=0.005 / 0.5)
model.fit(batches, epochs=20, steps_per_epoch=steps, validation_data=test_batches)
```

Source: section 3.2 of Barlow Twins, "Semi-supervised training", and `evaluate.py` of its code.
"""

import math

import keras
from keras import ops

from keras_bt.model.batch_normalization import prepare_batch_normalization
from keras_bt.strategy import current_replicas

EPOCHS = 20
# (backbone, head): those of the published code's README go with its cosine, the paper's with steps.
PUBLISHED_RATES = {"cosine": (0.005, 0.5), "step": (0.002, 0.5)}
SCHEDULES = tuple(PUBLISHED_RATES)
_DROP = 0.2
_DROPS_AFTER = (12 / 20, 16 / 20)  # of the epochs


@keras.saving.register_keras_serializable("keras_bt")
class TwoRateSGD(keras.optimizers.Optimizer):
    """Stochastic gradient descent with momentum, and a rate of its own for the backbone.

    For every variable w with gradient g, at the head's rate ε,

        m ← μ m + g
        w ← w − r m,     r = ε for the head, backbone_ratio · ε for all others.

    The rate stays outside the momentum, as in PyTorch and in `LARS`: when it drops, the whole step
    drops. (`keras.optimizers.SGD` has it inside and would go on for some ten steps.)

    Args:
        learning_rate: float or `LearningRateSchedule`, the rate ε of the head.
        backbone_ratio: float ≥ 0, the backbone's rate over that of the head; 1 for one rate.
        momentum: float in [0, 1), μ.
        head: string, name of the layer that is the head, see `head_of`.
        name: string.
        **kwargs: those of `keras.optimizers.Optimizer`.

    Raises:
        ValueError: if an argument is out of range; in `build`, if no variable is the head's.
    """

    def __init__(
        self,
        learning_rate=0.5,
        backbone_ratio=0.01,
        momentum=0.9,
        head="head",
        name="two_rate_sgd",
        **kwargs,
    ):
        for label, value, good in (
            ("backbone_ratio", backbone_ratio, 0 <= backbone_ratio < math.inf),
            ("momentum", momentum, 0 <= momentum < 1),
        ):
            if not good:
                raise ValueError(f"{label} is out of range. Received: {label}={value}.")
        super().__init__(learning_rate=learning_rate, name=name, **kwargs)
        self.backbone_ratio = backbone_ratio
        self.momentum = momentum
        self.head = head

    def build(self, variables):
        """Creates a momentum for each of `variables` and decides which rate it has."""
        if self.built:
            return
        super().build(variables)
        self.momenta = self.add_optimizer_variables(variables, "momentum")
        # Here, for `update_step` gets TensorFlow's variables, which do not know their path.
        of_head = [variable.path.startswith(f"{self.head}/") for variable in variables]
        if not any(of_head):
            raise ValueError(
                f"A layer named {self.head!r} must be among those to train. Received: "
                f"{', '.join(variable.path for variable in variables[:3])}, …"
            )
        self._ratios = [1.0 if is_head else self.backbone_ratio for is_head in of_head]

    def update_step(self, gradient, variable, learning_rate):
        """Updates one variable in place."""
        index = self._get_variable_index(variable)
        m, ratio = self.momenta[index], self._ratios[index]
        self.assign(m, self.momentum * m + ops.cast(gradient, variable.dtype))
        self.assign_sub(variable, ratio * ops.cast(learning_rate, variable.dtype) * m)

    def get_config(self):
        """Returns the constructor's arguments."""
        return super().get_config() | {
            "backbone_ratio": self.backbone_ratio,
            "momentum": self.momentum,
            "head": self.head,
        }


def epoch_rates(schedule, rate, epochs=EPOCHS):
    """The rate of each epoch.

    Of epoch e = 0, 1, … it is

        rate · (1 + cos(π e / epochs)) / 2     for "cosine", the published code's,
        rate · 0.2^drops                       for "step", the paper's, with drops after epochs 12
                                               and 16 of 20 (after 60% and 80% of any other number).

    >>> [round(rate, 3) for rate in epoch_rates("cosine", 0.5, epochs=4)]
    [0.5, 0.427, 0.25, 0.073]

    Args:
        schedule: "cosine" or "step".
        rate: float ≥ 0, that of the first epoch.
        epochs: int, epochs in all.

    Returns:
        list of floats, one per epoch.

    Raises:
        ValueError: for another schedule, a rate that is no number ≥ 0, or no epochs.
    """
    if schedule not in SCHEDULES:
        raise ValueError(
            f"schedule must be one of {', '.join(SCHEDULES)}. Received: schedule={schedule!r}."
        )
    if not 0 <= rate < math.inf:
        raise ValueError(f"rate must be a number ≥ 0. Received: rate={rate}.")
    if epochs < 1:
        raise ValueError(f"epochs must be at least 1. Received: epochs={epochs}.")
    if schedule == "cosine":
        return [rate * (1 + math.cos(math.pi * e / epochs)) / 2 for e in range(epochs)]
    drops = [round(share * epochs) for share in _DROPS_AFTER]
    return [rate * _DROP ** sum(e >= drop for drop in drops) for e in range(epochs)]


def rate_schedule(schedule, rate, epochs, steps_per_epoch):
    """The same as a schedule for an optimizer: constant within each epoch.

    Args:
        schedule: "cosine" or "step", see `epoch_rates`.
        rate: float ≥ 0, that of the first epoch.
        epochs: int, epochs in all.
        steps_per_epoch: int.

    Returns:
        A `keras.optimizers.schedules.LearningRateSchedule`, constant after the last epoch.

    Raises:
        ValueError: as `epoch_rates`.
    """
    rates = epoch_rates(schedule, rate, epochs)
    # Steps count from 0, and Keras counts the boundary itself to what lies before it. An epoch
    # after the last one serves for the case of a single epoch, which would have no boundary.
    boundaries = [(e + 1) * steps_per_epoch - 1 for e in range(epochs)]
    return keras.optimizers.schedules.PiecewiseConstantDecay(boundaries, [*rates, rates[-1]])


@keras.saving.register_keras_serializable("keras_bt")
class CrossEntropy(keras.losses.Loss):
    """The mean cross-entropy of the global batch, from logits and whole-number labels.

    Each replica returns the sum over its images divided by the number of all images; the sum over
    replicas, which is what optimizers apply, is the true gradient also where the last batch of an
    epoch does not divide evenly among replicas. (Keras' own takes the mean of the replicas' means.)

    Args:
        name: string.
        **kwargs: those of `keras.losses.Loss`.
    """

    def __init__(self, name="cross_entropy", **kwargs):
        kwargs["reduction"] = "sum"  # a share must not be divided again
        super().__init__(name=name, **kwargs)

    def call(self, labels, logits):
        """Returns this replica's share of the loss of labels (b,) and logits (b, classes)."""
        labels = ops.reshape(ops.cast(labels, "int64"), (-1,))
        images = keras.losses.sparse_categorical_crossentropy(labels, logits, from_logits=True)
        count = ops.cast(ops.shape(logits)[0], images.dtype)
        return ops.sum(images) / current_replicas().sum(count)


@keras.saving.register_keras_serializable("keras_bt")
def in_top_k(labels, logits, k):
    """Whether each image's class is among its k highest logits: 1 or 0.

    Of equal logits the lower class ranks higher, as in `argmax`; a NaN is never right.

    Args:
        labels: whole numbers (b,) or (b, 1).
        logits: floats (b, classes).
        k: int ≥ 1.

    Returns:
        float32 (b,).
    """
    labels = ops.reshape(ops.cast(labels, "int64"), (-1, 1))
    own = ops.take_along_axis(logits, labels, axis=1)
    lower_class = ops.arange(logits.shape[1], dtype="int64") < labels
    ahead = ops.logical_or(logits > own, ops.logical_and(logits == own, lower_class))
    rank = ops.sum(ops.cast(ahead, "int32"), axis=1)
    return ops.cast(ops.logical_and(rank < k, ops.isfinite(own[:, 0])), "float32")


def classifier(backbone, classes, from_scratch=False):
    """A copy of the backbone with a new linear head: images to logits.

    To be called inside `strategy.scope()` where there is a strategy; on several replicas
    BatchNormalization then uses the statistics of the global batch. Everything is trainable. The
    backbone that is passed in stays as it is.

    Args:
        backbone: built Keras model, (b, h, w, c) → (b, d); functional or sequential.
        classes: int ≥ 2.
        from_scratch: whether to leave the copy as its layers initialize themselves, instead of
            giving it the backbone's weights.

    Returns:
        A `keras.Model` (b, h, w, c) → float32 (b, classes). The head has a kernel N(0, 0.01) and
        zero biases; its name is `head_of(model)`.

    Raises:
        ValueError: if there are fewer than two classes, or the backbone cannot be copied.
    """
    if classes < 2:
        raise ValueError(f"There must be at least two classes. Received: classes={classes}.")
    try:
        copy = keras.models.clone_model(backbone)
        images = keras.layers.Input(copy.input_shape[1:], name="images")
        features = copy(images)
    except Exception as error:  # Keras raises nearly anything for a model of a class of one's own
        raise ValueError(
            "The backbone must be a functional or a sequential model. "
            f"Received: a {type(backbone).__name__} ({error})."
        ) from error
    if not from_scratch:
        copy.set_weights(backbone.get_weights())
    for layer in copy._flatten_layers():  # one by one: to set the model's own may change nothing
        layer.trainable = True
    head = keras.layers.Dense(
        classes,
        kernel_initializer=keras.initializers.RandomNormal(stddev=0.01),
        dtype="float32",  # under every precision policy
        name=_free_name(copy, "head"),
    )
    model = keras.Model(images, head(features), name="classifier")
    prepare_batch_normalization(model)
    return model


def _free_name(model, name):
    """The name, or with underscores until none of the model's variables is filed under it."""
    while any(variable.path.startswith(f"{name}/") for variable in model.variables):
        name += "_"
    return name


def head_of(model):
    """The name of the head of what `classifier` returned."""
    return model.layers[-1].name


def compile_classifier(model, learning_rate, backbone_ratio):
    """Compiles what `classifier` returned, with top-1 and, from six classes on, top-5 accuracy.

    Args:
        model: the classifier.
        learning_rate: float or `LearningRateSchedule`, the rate of the head.
        backbone_ratio: float ≥ 0, the backbone's rate over that of the head.
    """
    classes = model.output_shape[-1]
    ks = (1, 5) if classes > 5 else (1,)  # of five guesses among five classes one is always right
    model.compile(
        TwoRateSGD(learning_rate, backbone_ratio, head=head_of(model)),
        loss=CrossEntropy(),
        metrics=[keras.metrics.MeanMetricWrapper(in_top_k, name=f"top{k}", k=k) for k in ks],
    )


def without_training(model):
    """The classifier as it is saved: of core layers alone, so that plain Keras can load it."""
    return keras.Model(model.input, model.output, name=model.name)
