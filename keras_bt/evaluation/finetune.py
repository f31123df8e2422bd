"""Fine-tuning a backbone with few labels: the semi-supervised protocol of the paper.

The backbone and a new linear head are trained together, with BatchNormalization in training mode,
by stochastic gradient descent with a learning rate for each of the two.

>>> layers = [keras.Input((16, 16, 3)), keras.layers.Flatten(), keras.layers.Dense(16)]
>>> tuned = classifier(keras.Sequential(layers), classes=3)  # in `strategy.scope()`, if any
>>> schedule = rate_schedule(epoch_rates("cosine", 0.5, epochs=2), steps_per_epoch=2)
>>> compile_classifier(tuned, schedule, backbone_ratio=0.005 / 0.5)
>>> batches = keras_bt.data.evaluation_batches(train, image_size=16, batch_size=6)
>>> history = tuned.fit(batches, epochs=2, validation_data=batches, shuffle=False, verbose=0)
>>> [name for name in history.history if name.startswith("val")]
['val_loss', 'val_top1']

Source: section 3.2 of Barlow Twins, "Semi-supervised training", and `evaluate.py` of its code.
"""

import math
from collections.abc import Collection, Sequence
from typing import Any

import keras
import numpy as np
from keras import ops

from keras_bt.model.backend import prepare_batch_normalization
from keras_bt.strategy import current_replicas
from keras_bt.typing import Tensor

EPOCHS = 20
BATCH = 256
HEAD_RATE = 0.5
SCHEDULES = ("cosine", "step")
_DROPS_AFTER = (12 / 20, 16 / 20)  # of the epochs
# Chosen on held-out training images of Fashion-MNIST: docs/evaluation.md.
LEAST_STEPS = 300
_LEAST_BATCH, _STEPS_PER_EPOCH = 32, 8


def batch_for(images: int) -> int:
    """Chooses the batch size: the paper's 256, or less where an epoch would have few steps.

    With fewer than 2,048 images it is an eighth of them or, if that is less than 32, 16 to 32, such
    that the batches of an epoch are of nearly one size.

    >>> [batch_for(images) for images in (10, 100, 600, 12_811)]
    [10, 25, 75, 256]

    Args:
        images: number of training images, at least 1.
    """
    most = min(BATCH, max(_LEAST_BATCH, images // _STEPS_PER_EPOCH))
    return most if most == BATCH else math.ceil(images / math.ceil(images / most))


def epochs_for(images: int, batch_size: int) -> int:
    """Chooses the number of epochs: the paper's 20, or as many as make 300 steps.

    >>> epochs_for(12_811, 256), epochs_for(600, 75), epochs_for(100, 25)  # ImageNet's 1% first
    (20, 38, 75)

    Args:
        images: number of training images.
        batch_size: images per step.
    """
    return max(EPOCHS, math.ceil(LEAST_STEPS / math.ceil(images / batch_size)))


def backbone_rate_for(images: int, schedule: str) -> float:
    """Chooses the backbone's learning rate: the paper's, or a fifth of it for few images.

    >>> backbone_rate_for(12_811, "cosine"), backbone_rate_for(12_811, "step")
    (0.005, 0.002)
    >>> backbone_rate_for(100, "cosine")
    0.001

    Args:
        images: number of training images; below 2,048 are few, as for `batch_for`.
        schedule: "cosine", as in the published code, or "step", as in the paper.
    """
    published = {"cosine": 0.005, "step": 0.002}[schedule]
    return published if batch_for(images) == BATCH else published / 5


def head_rate_for(features: np.ndarray, classes: int) -> float:
    """Chooses the head's learning rate: the paper's 0.5, or less if the features are too large.

    Gradient descent with momentum μ is stable up to a rate of 2 (1 + μ) / λ, where λ is the largest
    eigenvalue of the loss's Hessian. For a new head, which gives all c classes the same
    probability, that is about E‖f‖² / c, because the features f of a ReLU network share a large
    mean. The rate is half of this limit at μ = 0.9,

        min(0.5, 2 c / E‖f‖²).

    It is 0.5 for the paper's 1000 classes, and for E‖f‖² = 1,000 and ten classes 0.02.

    >>> head_rate_for(np.full((3, 1000), 1.0), classes=10)
    0.02

    Args:
        features: floats (n, d) of some training images.
        classes: c, number of classes.

    Returns:
        The rate, to two significant digits.
    """
    square = float(np.mean(np.sum(np.square(features, dtype=np.float64), axis=1)))
    limit = 2 * classes / square if square > 0 else math.inf
    return float(f"{min(HEAD_RATE, limit):.2g}")


def rate_was_too_high(losses: Sequence[float], classes: int, finished: bool) -> bool:
    """Judges by the training losses of the epochs whether a learning rate was too high.

    The first epoch is left out: where it has few steps, its loss precedes the first updates. From
    the second on, ten times the loss of guessing is too much; at the end, a mean of the last
    quarter that is a tenth above guessing. About as good as guessing is also what too low a rate
    gives, or features that say nothing.

    >>> rate_was_too_high([2.4, 91.1], classes=10, finished=False)
    True
    >>> rate_was_too_high([91.1, 2.4, 0.9], classes=10, finished=True)
    False

    Args:
        losses: mean cross-entropy of each epoch so far.
        classes: number of classes.
        finished: whether the last epoch was the last of the training.
    """
    guessing, later = math.log(max(2, classes)), losses[1:]
    if not later:
        return False
    if later[-1] > 10 * guessing:
        return True
    return finished and float(np.mean(later[-max(1, len(later) // 4) :])) > 1.1 * guessing


@keras.saving.register_keras_serializable("keras_bt")
class TwoRateSGD(keras.optimizers.SGD):
    """Stochastic gradient descent with momentum and a separate learning rate for the backbone.

    For every variable w with gradient g, at the head's rate ε,

        m ← μ m + g
        w ← w − r m,     r = ε for the head, backbone_ratio · ε for all others.

    The rate stays outside the momentum, as in PyTorch and in `LARS`: when it drops, the whole step
    drops. (`keras.optimizers.SGD` has it inside, so old steps would go on for about ten more.)

    >>> body, head = keras.layers.Dense(1, name="body"), keras.layers.Dense(1, name="head")
    >>> for layer in (body, head):
    ...     layer.build((None, 1))
    >>> ones = [keras.ops.ones((1,))] * 2
    >>> TwoRateSGD(0.5, backbone_ratio=0.01).apply(ones, [body.bias, head.bias])
    >>> print(body.bias.numpy(), head.bias.numpy())  # zeros before
    [-0.005] [-0.5]

    Args:
        learning_rate: the head's rate ε.
        backbone_ratio: rate of the backbone divided by that of the head, ≥ 0; 1 for one rate.
        momentum: μ in (0, 1).
        head: name of the layer that is the head.
        name: the optimizer's name.
        **kwargs: those of `keras.optimizers.SGD`.

    Raises:
        ValueError: if an argument is out of range; in `build`, if no variable is the head's.
    """

    def __init__(
        self,
        learning_rate: float | keras.optimizers.schedules.LearningRateSchedule = 0.5,
        backbone_ratio: float = 0.01,
        momentum: float = 0.9,
        head: str = "head",
        name: str = "two_rate_sgd",
        **kwargs: Any,
    ):
        if not 0 <= backbone_ratio < math.inf:
            raise ValueError(f"backbone_ratio must be ≥ 0. Received: {backbone_ratio}.")
        super().__init__(learning_rate, momentum, name=name, **kwargs)
        self.backbone_ratio, self.head = backbone_ratio, head

    def build(self, variables: Sequence[keras.Variable]) -> None:
        """Creates a momentum for each of `variables` and chooses its rate."""
        if self.built:
            return
        super().build(variables)
        # Here, because `update_step` gets TensorFlow's variables, which do not know their path.
        of_head = [variable.path.startswith(f"{self.head}/") for variable in variables]
        if not any(of_head):
            raise ValueError(
                f"A layer named {self.head!r} must be among those to train. Received: "
                f"{', '.join(variable.path for variable in variables[:3])}, …"
            )
        self._ratios = [1.0 if is_head else self.backbone_ratio for is_head in of_head]

    def update_step(
        self, gradient: Tensor, variable: keras.Variable, learning_rate: Tensor
    ) -> None:
        """Updates one variable in place."""
        index = self._get_variable_index(variable)
        m, ratio = self.momentums[index], self._ratios[index]
        self.assign(m, self.momentum * m + ops.cast(gradient, variable.dtype))
        self.assign_sub(variable, ratio * ops.cast(learning_rate, variable.dtype) * m)

    def get_config(self) -> dict[str, Any]:
        """Returns the constructor's arguments."""
        return super().get_config() | {"backbone_ratio": self.backbone_ratio, "head": self.head}


def epoch_rates(
    schedule: str,
    rate: float,
    epochs: int = EPOCHS,
    milestones: Collection[int] | None = None,
    factor: float = 0.2,
) -> list[float]:
    """Computes the learning rate of each epoch.

    The rate of epoch e = 0, 1, … is

        rate · (1 + cos(π e / epochs)) / 2     for "cosine", as in the published code,
        rate · factor^drops                    for "step", with a drop after each of `milestones`.

    >>> [round(rate, 3) for rate in epoch_rates("cosine", 0.5, epochs=4)]
    [0.5, 0.427, 0.25, 0.073]
    >>> epoch_rates("step", 0.3, epochs=5, milestones=(2, 4), factor=0.5)
    [0.3, 0.3, 0.15, 0.15, 0.075]

    Args:
        schedule: "cosine" or "step".
        rate: rate of the first epoch, ≥ 0.
        epochs: number of epochs.
        milestones: epochs after which the rate drops, 1 to epochs − 1, increasing; by default 60%
            and 80% of all, in the paper's fine-tuning 12 and 16 of 20.
        factor: 0 to 1.

    Returns:
        One rate per epoch.

    Raises:
        ValueError: if an argument is out of range.
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
    if milestones is None:
        milestones = [round(share * epochs) for share in _DROPS_AFTER]
    elif list(milestones) != sorted({m for m in milestones if 0 < m < epochs}):
        raise ValueError(
            f"milestones must be increasing and from 1 to {epochs - 1}, for {epochs} epochs. "
            f"Received: {', '.join(map(str, milestones))}."
        )
    if not 0 <= factor <= 1:
        raise ValueError(f"factor must be from 0 to 1. Received: factor={factor}.")
    return [rate * factor ** sum(e >= m for m in milestones) for e in range(epochs)]


def rate_schedule(
    rates: Sequence[float], steps_per_epoch: int
) -> keras.optimizers.schedules.LearningRateSchedule:
    """Builds a schedule for an optimizer, constant within each epoch and after the last.

    >>> halves = rate_schedule([1.0, 0.5], steps_per_epoch=10)
    >>> [float(halves(step)) for step in (0, 9, 10, 19)]
    [1.0, 1.0, 0.5, 0.5]

    Args:
        rates: one learning rate per epoch, such as from `epoch_rates`.
        steps_per_epoch: steps of an epoch.
    """
    # Steps count from 0, and Keras includes a boundary in what precedes it. The extra epoch at the
    # end is for the case of a single epoch, which would have no boundary.
    boundaries = [(e + 1) * steps_per_epoch - 1 for e in range(len(rates))]
    return keras.optimizers.schedules.PiecewiseConstantDecay(boundaries, [*rates, rates[-1]])


@keras.saving.register_keras_serializable("keras_bt")
class CrossEntropy(keras.losses.Loss):
    """Mean cross-entropy of the global batch, from logits and integer labels.

    Each replica returns its share, which is right even if the last batch of an epoch does not
    divide evenly among replicas. (Keras' own takes the mean of the replicas' means.)

    Args:
        name: the loss's name.
        **kwargs: those of `keras.losses.Loss`.
    """

    def __init__(self, name: str = "cross_entropy", **kwargs: Any):
        kwargs["reduction"] = "sum"  # a share must not be divided again
        super().__init__(name=name, **kwargs)

    def call(self, labels: Tensor, logits: Tensor) -> Tensor:
        """Returns this replica's share of the loss of labels (b,) and logits (b, classes)."""
        labels = ops.reshape(ops.cast(labels, "int32"), (-1,))
        images = keras.losses.sparse_categorical_crossentropy(labels, logits, from_logits=True)
        count = ops.cast(ops.shape(logits)[0], images.dtype)
        return ops.sum(images) / current_replicas().sum(count)


@keras.saving.register_keras_serializable("keras_bt")
def in_top_k(labels: Tensor, logits: Tensor, k: int) -> Tensor:
    """Checks whether each image's class is among its k highest logits.

    Among equal logits, the lower class ranks higher, as in `argmax`; NaN is never correct.

    Args:
        labels: integers (b,) or (b, 1).
        logits: floats (b, classes).
        k: number of guesses, at least 1.

    Returns:
        float32 (b,), 1 or 0.
    """
    labels = ops.reshape(ops.cast(labels, "int32"), (-1, 1))
    own = ops.take_along_axis(logits, labels, axis=1)
    lower_class = ops.arange(logits.shape[1], dtype="int32") < labels
    ahead = ops.logical_or(logits > own, ops.logical_and(logits == own, lower_class))
    rank = ops.sum(ops.cast(ahead, "int32"), axis=1)
    return ops.cast(ops.logical_and(rank < k, ops.isfinite(own[:, 0])), "float32")


def classifier(backbone: keras.Model, classes: int, from_scratch: bool = False) -> keras.Model:
    """Builds a classifier from a copy of the backbone and a new linear head.

    Call it inside `strategy.scope()` if there is a strategy; on several replicas BatchNormalization
    then uses the statistics of the global batch. Everything is trainable.

    Args:
        backbone: images (b, h, w, c) → features (b, d); a built functional or sequential model.
        classes: number of classes, at least 2.
        from_scratch: whether the copy is randomly initialized.

    Returns:
        Images (b, h, w, c) → logits float32 (b, classes). The head has a kernel N(0, 0.01) and
        zero biases; it is the last layer.

    Raises:
        ValueError: if there are fewer than two classes, or the backbone cannot be copied.
    """
    copy = copy_of(backbone, from_scratch)
    for layer in copy._flatten_layers():  # one by one: setting the model's own may change nothing
        layer.trainable = True
    images = keras.layers.Input(copy.input_shape[1:], name="images")
    name = "head"  # by which the optimizer tells its variables from those of the backbone
    while any(variable.path.startswith(f"{name}/") for variable in copy.variables):
        name += "_"
    model = keras.Model(images, linear_head(classes, name)(copy(images)), name="classifier")
    prepare_batch_normalization(model)
    return model


def copy_of(backbone: keras.Model, from_scratch: bool = False) -> keras.Model:
    """Copies a backbone with its weights, or newly initialized.

    Raises:
        ValueError: if it is neither a functional nor a sequential model.
    """
    try:
        copy = keras.models.clone_model(backbone)
        copy.input_shape  # noqa: B018  (raises for those that cloning lets pass)
    except Exception as error:  # Keras raises nearly anything for subclassed models
        raise ValueError(
            "The backbone must be a functional or a sequential model. "
            f"Received: a {type(backbone).__name__} ({error})."
        ) from error
    if not from_scratch:
        copy.set_weights(backbone.get_weights())
    return copy


def linear_head(
    classes: int, name: str, seed: int | None = None, **kwargs: Any
) -> keras.layers.Dense:
    """Makes a linear layer with a kernel N(0, 0.01) and zero biases, in float32 under any policy.

    Raises:
        ValueError: if there are fewer than two classes.
    """
    if classes < 2:
        raise ValueError(f"There must be at least two classes. Received: classes={classes}.")
    kernel = keras.initializers.RandomNormal(stddev=0.01, seed=seed)
    return keras.layers.Dense(
        classes, kernel_initializer=kernel, dtype="float32", name=name, **kwargs
    )


def compile_classifier(
    model: keras.Model,
    learning_rate: float | keras.optimizers.schedules.LearningRateSchedule,
    backbone_ratio: float,
) -> None:
    """Compiles a classifier, with top-1 and, from six classes on, top-5 accuracy.

    Args:
        model: logits (b, classes) from a head that is its last layer, as from `classifier`.
        learning_rate: rate of the head.
        backbone_ratio: rate of the backbone divided by that of the head, ≥ 0.
    """
    classes = model.output_shape[-1]
    ks = (1, 5) if classes > 5 else (1,)  # one of five guesses among five classes is always right
    model.compile(
        TwoRateSGD(learning_rate, backbone_ratio, head=model.layers[-1].name),
        loss=CrossEntropy(),
        metrics=[keras.metrics.MeanMetricWrapper(in_top_k, name=f"top{k}", k=k) for k in ks],
    )
