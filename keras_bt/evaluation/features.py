"""Features of a frozen backbone, extracted once and kept in memory as NumPy arrays."""

from collections.abc import Callable, Iterator
from typing import Any, TypeAlias

import keras
import numpy as np
import tensorflow as tf

from keras_bt.messages import progress_bar
from keras_bt.typing import Tensor

# A `tf.function`; on JAX, a `keras_bt.model.jax.inference.Inference`.
InferenceFunction: TypeAlias = Any


def inference_function(backbone: keras.Model) -> InferenceFunction:
    """Returns the backbone in inference mode as one compiled function with float32 output.

    To extract features after every epoch, pass it in place of the backbone: it is compiled once.

    Args:
        backbone: images (b, h, w, c) → features (b, d).

    Returns:
        `tf.function`, or its like on JAX: (b, h, w, c) → float32 (b, d). It reads the backbone's
        current weights.
    """
    if keras.backend.backend() == "jax":
        from keras_bt.model.jax.inference import Inference

        return Inference(backbone)

    # reduce_retracing is not enough: it would trace a full batch and then the short last one.
    # `extract_features` fixes the signature to "any number of images" before the first call.
    @tf.function(autograph=False)
    def forward(images):
        return tf.cast(backbone(images, training=False), tf.float32)

    return forward


def extract_features(
    backbone: keras.Model | InferenceFunction,
    batches: tf.data.Dataset,
    progress: bool = False,
) -> tuple[np.ndarray, np.ndarray | None]:
    """Runs a frozen backbone over a whole data set.

    The backbone runs in inference mode (moving statistics, no dropout), so features do not depend
    on the other images of a batch. Memory: the returned arrays and about one batch.

    >>> batches = keras_bt.data.evaluation_batches(test, image_size=16, batch_size=8)  # 12 images
    >>> features, labels = extract_features(backbone, batches)
    >>> features.shape, labels.shape
    ((12, 16), (12,))

    Args:
        backbone: images (b, h, w, c) → features (b, d); or what `inference_function` returned.
        batches: finite; `(images, labels)` or `images` alone. `images` is what the backbone takes,
            in batches of any size; `labels` are integers, (b,) or, with several labels per image,
            (b, classes).
        progress: whether to show a progress bar, counted in images.

    Returns:
        `(features, labels)`: float32 (n, d) and int64 (n,) or (n, classes), in the order of
        `batches`; labels is None if the data set has none.

    Raises:
        ValueError: if `batches` is not a finite, non-empty `tf.data.Dataset`, or if the backbone
            returns anything but one vector per image.
    """
    features, labels = [], []
    for some_features, some_labels in feature_batches(backbone, batches, progress):
        features.append(some_features)
        labels.append(some_labels)
    if sum(map(len, features)) == 0:
        raise ValueError("batches must hold at least one image. Received: an empty data set.")
    return _join(features), None if labels[0] is None else _join(labels)


def feature_batches(
    backbone: keras.Model | InferenceFunction,
    batches: tf.data.Dataset,
    progress: bool = False,
    num_images: int | None = None,
    done: int = 0,
    keys: bool = False,
) -> Iterator[tuple[Any, ...]]:
    """Runs a frozen backbone over a data set, yielding the batches that `extract_features` joins.

    Arguments and errors are those of `extract_features`, but `batches` may be empty.

    Args:
        backbone: see there.
        batches: see there.
        progress: see there.
        num_images: number of images, for the bar to say what is left.
        done: how many of them were done before.
        keys: whether `batches` have one or two further parts, which
            `keras_bt.data.evaluation_batches` adds if asked to.

    Yields:
        `(features, labels)` of each batch: float32 (b, d) and int64 (b,) or (b, classes), or None;
        and with `keys` the further parts, (b,).
    """
    image_spec = _image_spec(batches, (3, 4) if keys else (1, 2))
    forward = inference_function(backbone) if isinstance(backbone, keras.Layer) else backbone
    forward = on_batches(forward, image_spec)
    with progress_bar(shown=progress, total=num_images, initial=done, unit="image") as bar:
        for batch in batches:
            images, *rest = batch if isinstance(batch, tuple) else (batch,)
            labels, *rest = [part.numpy() for part in rest] or [None]
            features = forward(images)
            bar.update(len(features))
            yield features, None if labels is None else labels.astype(np.int64), *rest


def on_batches(
    forward: InferenceFunction, image_spec: tf.TensorSpec
) -> Callable[[Tensor], np.ndarray]:
    """Returns an inference function as a function to NumPy, compiled for batches of any size.

    Args:
        forward: as `inference_function` returns it.
        image_spec: of the images.

    Raises:
        ValueError: if it returns anything but one vector per image; on JAX when it is called.
    """

    def check(shape):
        if len(shape) != 2:
            raise ValueError(
                "backbone must return one vector per image, of shape (batch, d). "
                f"Received: output shape {tuple(shape)}."
            )

    if keras.backend.backend() == "jax":

        def run(images):
            features = forward(images)
            check(features.shape)
            return features

        return run
    # One trace for every batch size: the short last batch must not compile the network again.
    any_batch = tf.TensorSpec([None, *image_spec.shape[1:]], image_spec.dtype)
    concrete = forward.get_concrete_function(any_batch)
    if concrete.output_shapes.rank is not None:
        check(concrete.output_shapes)
    return lambda images: concrete(images).numpy()


def _image_spec(batches, lengths):
    rule = "batches must be a finite tf.data.Dataset of (images, labels) or of images. Received: "
    if not isinstance(batches, tf.data.Dataset):
        raise ValueError(f"{rule}{type(batches).__name__}.")
    if int(batches.cardinality()) == tf.data.INFINITE_CARDINALITY:
        raise ValueError(f"{rule}an infinite data set.")
    spec = batches.element_spec
    parts = spec if isinstance(spec, tuple) else (spec,)
    if len(parts) not in lengths or not all(isinstance(part, tf.TensorSpec) for part in parts):
        raise ValueError(f"{rule}elements {spec}.")
    if not parts[0].shape.rank:
        raise ValueError(f"{rule}images of shape {parts[0].shape}.")
    return parts[0]


def _join(parts):
    """Concatenates, releasing each part once copied: one copy in memory instead of two."""
    joined = np.empty((sum(map(len, parts)), *parts[0].shape[1:]), parts[0].dtype)
    row = len(joined)
    while parts:
        part = parts.pop()
        joined[row - len(part) : row] = part
        row -= len(part)
    return joined
