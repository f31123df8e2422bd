"""Images in memory: of one size in an array, or of many."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import tensorflow as tf

from keras_bt.data.decoding import DataError, Decoder
from keras_bt.data.sources import Integers, MapSource
from keras_bt.typing import Tensor

_SMALL_IMAGE = 128 * 128  # pixels; a batch of larger ones would be larger than the crops of it


class ArraySource(MapSource):
    """Images of one size in memory.

    Those of one channel are gray, and become RGB with three equal channels; all others stay as they
    are.

    Args:
        images: uint8 (n, h, w, c), of any number of channels c.
        labels: (n,) integers from 0 to the number of classes less one; or (n, classes) of 1, 0 and
            -1, see `Source.labels`; or None.
        class_names: one name per class, or None. A test set has those of its training set.
        name: name of the source in messages.
        decoder: the one that decoded them, if they come from files.
        numbers: (n,) number of each image in the data that these are a part of, for its name.

    Raises:
        DataError: if images, labels and class names do not fit together.

    Example:
        >>> source = ArraySource(images[:4], [0, 1, 1, 0], ["cat", "dog"])
        >>> source.num_examples, source.image_shape
        (4, (16, 16, 3))
        >>> source.subset([3, 1]).labels()
        array([0, 1])
    """

    def __init__(
        self,
        images: np.ndarray,
        labels: Integers | None = None,
        class_names: Sequence[str] | None = None,
        name: str = "arrays",
        decoder: Decoder | None = None,
        numbers: Integers | None = None,
    ):
        images = np.asarray(images)
        if images.ndim != 4 or images.dtype != np.uint8 or 0 in images.shape[1:]:
            raise DataError(
                "Images must be a uint8 array of shape (number, height, width, channels). "
                f"Received: {images.dtype} {images.shape}."
            )
        if (labels is None) != (class_names is None):
            given = "class names" if labels is None else "labels"
            raise DataError(
                f"Labels and class names must be given together. Received: {given} alone."
            )
        if labels is not None and class_names is not None:
            labels = _checked_labels(labels, len(images), len(class_names), name)
        super().__init__(
            len(images),
            labels,
            name,
            numbers,
            class_names=class_names,
            image_shape=(*images.shape[1:3], 3 if images.shape[3] == 1 else images.shape[3]),
            decoder=decoder,
        )
        self.is_small = images.shape[1] * images.shape[2] <= _SMALL_IMAGE
        with tf.device("CPU:0"):
            self._tensor = tf.constant(images)
        # Shares the tensor's memory, so that the caller's array can be freed.
        self.images = np.asarray(self._tensor)

    def batch(self, numbers: Tensor) -> Tensor:
        """See `Source.batch`."""
        images = tf.cast(tf.gather(self._tensor, numbers), tf.float32)
        return tf.image.grayscale_to_rgb(images) if images.shape[-1] == 1 else images

    def image(self, number: Tensor, stop: bool = True, look: bool = False) -> tuple[Tensor, Tensor]:
        """See `MapSource.image`."""
        image = self._tensor[number]
        return tf.image.grayscale_to_rgb(image) if image.shape[-1] == 1 else image, True

    def _content(self):
        return self.images

    def subset(self, indices: Integers) -> "ArraySource":
        """See `Source.subset`."""
        return ArraySource(self.images[indices], **self._part(indices))


def _checked_labels(labels, num_images, num_classes, name):
    labels = np.asarray(labels)
    if labels.ndim not in (1, 2) or (labels.size and labels.dtype.kind not in "iub"):
        raise DataError(
            "Labels must be integers, one per image, or several, one per class. "
            f"Received: labels of type {labels.dtype} and shape {labels.shape} in {name}."
        )
    if len(labels) != num_images:
        raise DataError(
            "There must be one label per image. "
            f"Received: {len(labels)} labels for {num_images} images in {name}."
        )
    if labels.ndim == 2 and labels.shape[1] != num_classes:
        raise DataError(
            "Several labels per image need a column per class name. Received: "
            f"labels of shape {labels.shape} for {num_classes} class names in {name}."
        )
    least, most = (0, num_classes - 1) if labels.ndim == 1 else (-1, 1)
    wrong = labels[(labels < least) | (labels > most)]
    if wrong.size:
        per_image = (
            f"Labels must be from 0 to {most}, as there are {num_classes} class names"
            if labels.ndim == 1
            else "Several labels per image must be 1, 0 or -1"
        )
        raise DataError(f"{per_image}. Received: a label {wrong[0]} in {name}.")
    return labels


class DecodedSource(MapSource):
    """Decoded images of different sizes in memory.

    Args:
        pixels: uint8 (total,), those of all images one after the other.
        shapes: (h, w, 3) of each image; (0, 0, 3) if it could not be read.
        **attributes: see `MapSource`.
    """

    def __init__(
        self,
        pixels: np.ndarray,
        shapes: Sequence[tuple[int, ...]] | np.ndarray,
        **attributes: Any,
    ):
        super().__init__(len(shapes), **attributes)
        shapes = np.array(shapes, np.int64)
        # One long tensor, because a tensor cannot have rows of different lengths, and slicing a
        # RaggedTensor takes longer the longer it is.
        with tf.device("CPU:0"):
            self._pixels = tf.constant(pixels)
            self._shapes = tf.constant(shapes)
            self._ends = tf.constant(np.append(0, np.cumsum(shapes.prod(axis=1))))

    def image(self, number: Tensor, stop: bool = True, look: bool = False) -> tuple[Tensor, Tensor]:
        """See `MapSource.image`."""
        pixels = self._pixels[self._ends[number] : self._ends[number + 1]]
        readable = tf.size(pixels) > 0
        image = tf.cond(
            readable,
            lambda: tf.reshape(pixels, self._shapes[number]),
            lambda: tf.zeros([1, 1, 3], tf.uint8),
        )
        image.set_shape([None, None, 3])
        return image, readable

    def _content(self):
        return (np.asarray(self._pixels), np.asarray(self._shapes))

    def subset(self, indices: Integers) -> "DecodedSource":
        """See `Source.subset`."""
        pixels, ends = np.asarray(self._pixels), np.asarray(self._ends)
        return DecodedSource(
            np.concatenate([pixels[ends[i] : ends[i + 1]] for i in indices]),
            np.asarray(self._shapes)[indices],
            **self._part(indices),
        )
