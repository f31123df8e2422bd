"""Sources of images, and those in memory.

A source knows how many images it has, their labels if there are any, and how to produce image
number i inside a `tf.data` function. Others decide in which order images are taken.
"""

from collections.abc import Sequence
from typing import Any, TypeAlias

import numpy as np
import tensorflow as tf

from keras_bt.data.decoding import DataError, Unreadable
from keras_bt.data.fingerprint import fingerprint
from keras_bt.typing import Tensor

Integers: TypeAlias = Sequence[int] | np.ndarray
_SMALL_IMAGE = 128 * 128  # pixels


class Source:
    """A set of images.

    Attributes:
        name: The user's name for it, for messages.
        num_examples: Number of images, including those that turn out to be unreadable.
        class_names: One name per class, or None if the images have no labels.
        image_shape: (h, w, 3) if all images are known to have one size, else None.
        unreadable: The images that could not be read so far.
        multilabel: Whether an image may belong to several classes at once, or to none.
        role: Its name where accuracies are measured on it.
    """

    role = "the test set"

    def __init__(
        self,
        name: str,
        num_examples: int,
        class_names: Sequence[str] | None = None,
        image_shape: tuple[int, int, int] | None = None,
        unreadable: Unreadable | None = None,
        multilabel: bool = False,
    ):
        self.name = name
        self.num_examples = int(num_examples)
        self.class_names = None if class_names is None else tuple(class_names)
        self.image_shape = image_shape
        self.unreadable = Unreadable(name, num_examples) if unreadable is None else unreadable
        self.multilabel = multilabel

    def labels(self) -> np.ndarray:
        """Returns the class of every image, in the order of the source.

        Returns:
            int64 (num_examples,), unreadable images included. For a `multilabel` source, int64
            (num_examples, classes): 1 if the image shows the class, 0 if it does not, -1 if it
            counts neither as a positive nor as a negative of that class.

        Raises:
            DataError: The images have no labels.
        """
        if self.class_names is None:
            raise DataError(
                "Labeled images are required here, e.g. one folder per class. "
                f"Received: {self.name}, which has no labels."
            )
        return self._labels()

    def _labels(self):
        raise NotImplementedError

    def fingerprint(self) -> str:
        """Returns 64 hexadecimal digits that differ if images, labels or their order differ."""
        raise NotImplementedError

    def in_order(self) -> tf.data.Dataset:
        """Returns a data set of all images once, in a form that `decode` understands."""
        raise NotImplementedError

    def decode(self, *reference: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Decodes the image that an element of a data set refers to, inside a `tf.data` function.

        Args:
            *reference: What elements of `in_order` consist of.

        Returns:
            image: uint8 (h, w, 3); one black pixel if it cannot be read.
            readable: bool scalar.
            label: int64 scalar, -1 without labels; a row of `labels` if `multilabel`.
        """
        raise NotImplementedError

    def subset(self, indices: Integers) -> "Source":
        """Returns a source of the images with the given numbers, in that order."""
        raise NotImplementedError

    def cached(self) -> "Source":
        """Returns the same images decoded in memory if they fit, else this source itself.

        Raises:
            DataError: More than 1% of the images are unreadable.
        """
        return self


class MapSource(Source):
    """Images accessible by number."""

    def __init__(
        self, name: str, num_examples: int, labels: Integers | None = None, **attributes: Any
    ):
        labels = np.full(num_examples, -1) if labels is None else labels
        self._label_array = np.asarray(labels, np.int64)
        multilabel = self._label_array.ndim == 2
        super().__init__(name, num_examples, multilabel=multilabel, **attributes)
        # Tensors for tf.data live in host memory, whatever the default device.
        with tf.device("CPU:0"):
            self._label_tensor = tf.constant(self._label_array)

    def _labels(self):
        return self._label_array

    def fingerprint(self) -> str:
        """See `Source.fingerprint`."""
        labels = None if self.class_names is None else self._label_array
        return fingerprint(self._content(), labels)

    def _content(self):
        """Returns what distinguishes these images from others, in a form `fingerprint` takes."""
        raise NotImplementedError

    def in_order(self) -> tf.data.Dataset:
        """See `Source.in_order`; the numbers of the images."""
        return tf.data.Dataset.range(self.num_examples)

    def decode(self, *reference: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """See `Source.decode`; takes the number of an image."""
        (number,) = reference
        return *self.image(number), self.label(number)

    def label(self, numbers: Tensor) -> Tensor:
        """Returns the labels of the images with the given numbers, -1 without labels."""
        return tf.gather(self._label_tensor, numbers)

    def image(self, number: Tensor, stop: bool = True) -> tuple[Tensor, Tensor]:
        """Returns image `number`, inside a `tf.data` function.

        Args:
            number: int64 scalar.
            stop: Whether too many unreadable images end the data set with an error.

        Returns:
            image: uint8 (h, w, 3).
            readable: bool scalar.
        """
        raise NotImplementedError

    def _part(self, indices):
        """Returns the constructor arguments that a part of this source shares with it."""
        return {
            "labels": None if self.class_names is None else self._label_array[indices],
            "class_names": self.class_names,
            "name": self.name,
            "unreadable": self.unreadable,
        }


class ArraySource(MapSource):
    """Images of one size in memory.

    Args:
        images: uint8 (n, h, w, 1) or (n, h, w, 3).
        labels: (n,) integers from 0; or (n, classes) of 1, 0 and -1, see `Source.labels`; or
            None.
        class_names: One name per class, or None.
        name: Name of the source in messages.
        unreadable: The record to continue; a new one by default.

    Raises:
        DataError: Images, labels and class names do not fit together.

    Example:
        >>> source = ArraySource(images[:4], [0, 1, 1, 0], ["cat", "dog"])
        >>> source.num_examples, source.image_shape
        (4, (16, 16, 3))
        >>> source.subset([3, 1]).labels()
        array([0, 1])
    """

    image_shape: tuple[int, int, int]

    def __init__(
        self,
        images: np.ndarray,
        labels: Integers | None = None,
        class_names: Sequence[str] | None = None,
        name: str = "arrays",
        unreadable: Unreadable | None = None,
    ):
        images = np.asarray(images)
        if images.ndim != 4 or images.shape[-1] not in (1, 3) or images.dtype != np.uint8:
            raise DataError(
                "Images must be a uint8 array of shape (n, h, w, 1) or (n, h, w, 3). "
                f"Received: {images.dtype} {images.shape}."
            )
        if (labels is None) != (class_names is None):
            given = "class names" if labels is None else "labels"
            raise DataError(
                f"Labels and class names must be given together. Received: {given} alone."
            )
        if labels is not None and class_names is not None:
            labels = np.asarray(labels)
            if len(labels) != len(images):
                raise DataError(
                    "There must be one label per image. "
                    f"Received: {len(labels)} labels for {len(images)} images in {name}."
                )
            if labels.ndim == 2 and labels.shape[1] != len(class_names):
                raise DataError(
                    "Several labels per image need a column per class name. Received: "
                    f"labels of shape {labels.shape} for {len(class_names)} class names in {name}."
                )
        super().__init__(
            name,
            len(images),
            labels,
            class_names=class_names,
            image_shape=(*images.shape[1:3], 3),
            unreadable=unreadable,
        )
        with tf.device("CPU:0"):
            self._tensor = tf.constant(images)
        # Shares the tensor's memory, so that the caller's array can be freed.
        self.images = np.asarray(self._tensor)

    @property
    def is_small(self) -> bool:
        """True if whole images should be batched before anything else is done to them.

        A batch of large images would be larger than the crops made from it.
        """
        return self.images.shape[1] * self.images.shape[2] <= _SMALL_IMAGE

    def batch(self, numbers: Tensor) -> Tensor:
        """Returns the images with the given numbers: int64 (b,) → float32 (b, h, w, 3), 0..255."""
        images = tf.cast(tf.gather(self._tensor, numbers), tf.float32)
        return images if images.shape[-1] == 3 else tf.image.grayscale_to_rgb(images)

    def image(self, number: Tensor, stop: bool = True) -> tuple[Tensor, Tensor]:
        """See `MapSource.image`."""
        image = self._tensor[number]
        return image if image.shape[-1] == 3 else tf.image.grayscale_to_rgb(image), True

    def _content(self):
        return self.images

    def subset(self, indices: Integers) -> "ArraySource":
        """See `Source.subset`."""
        return ArraySource(self.images[indices], **self._part(indices))


class DecodedSource(MapSource):
    """Decoded images of different sizes in memory.

    Args:
        pixels: uint8 (total,), those of all images one after the other.
        shapes: (h, w, 3) of each image; (0, 0, 3) if it could not be read.
        labels: One integer from 0 per image, or None.
        name: Name of the source in messages.
        **attributes: See `FileSource`.
    """

    def __init__(
        self,
        pixels: np.ndarray,
        shapes: Sequence[tuple[int, ...]] | np.ndarray,
        labels: Integers | None = None,
        name: str = "images",
        **attributes: Any,
    ):
        super().__init__(name, len(shapes), labels, **attributes)
        shapes = np.array(shapes, np.int64)
        # One long tensor, because a tensor cannot have rows of different lengths, and slicing a
        # RaggedTensor takes longer the longer it is.
        with tf.device("CPU:0"):
            self._pixels = tf.constant(pixels)
            self._shapes = tf.constant(shapes)
            self._ends = tf.constant(np.append(0, np.cumsum(shapes.prod(axis=1))))

    def image(self, number: Tensor, stop: bool = True) -> tuple[Tensor, Tensor]:
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
