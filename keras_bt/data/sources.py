"""Where images come from, and those that are in memory.

A source knows how many images it has, their labels if there are any, and how to hand out image
number i inside a `tf.data` function. In which order they are taken is for others to decide.
"""

import numpy as np
import tensorflow as tf

from keras_bt.data.decoding import DataError, Unreadable
from keras_bt.data.fingerprint import fingerprint

_SMALL_IMAGE = 128 * 128  # pixels


class Source:
    """A set of images.

    Attributes:
        name: What the user called it, for messages.
        num_examples: Number of images, those that turn out to be unreadable included.
        class_names: One name per class, or None if the images have no labels.
        image_shape: (h, w, 3) if all images are known to be alike, else None.
        unreadable: The images that could not be read so far.
        multilabel: Whether an image may be of several classes at once, or of none.
        role: What it is called where accuracies are measured on it.
    """

    role = "the test set"

    def __init__(
        self,
        name,
        num_examples,
        class_names=None,
        image_shape=None,
        unreadable=None,
        multilabel=False,
    ):
        self.name = name
        self.num_examples = int(num_examples)
        self.class_names = None if class_names is None else tuple(class_names)
        self.image_shape = image_shape
        self.unreadable = Unreadable(name, num_examples) if unreadable is None else unreadable
        self.multilabel = multilabel

    def labels(self) -> np.ndarray:
        """The class of every image, in the order of the source.

        Returns:
            int64 (num_examples,), unreadable images included. Of a `multilabel` source int64
            (num_examples, classes): 1 where the class is in the image, 0 where it is not, -1
            where the image is not to be counted for that class, neither as one that has it nor
            as one that has it not.

        Raises:
            DataError: The images have no labels.
        """
        if self.class_names is None:
            raise DataError(
                "Labeled images are needed here, e.g. one folder per class. "
                f"Received: {self.name}, which has no labels."
            )
        return self._labels()

    def _labels(self):
        raise NotImplementedError

    def fingerprint(self) -> str:
        """64 hexadecimal digits that differ for sources with other images, labels or order."""
        raise NotImplementedError

    def in_order(self) -> tf.data.Dataset:
        """All images once, in a form that `decode` understands."""
        raise NotImplementedError

    def decode(self, *reference):
        """The image that an element of a data set refers to, inside a `tf.data` function.

        Returns:
            uint8 (h, w, 3), one black pixel if it cannot be read; a bool scalar: whether it
            could be; its label as an int64 scalar, -1 without labels, or as a row of `labels`
            if the source is `multilabel`.
        """
        raise NotImplementedError

    def subset(self, indices) -> "Source":
        """The images with the given numbers, in that order."""
        raise NotImplementedError

    def cached(self) -> "Source":
        """The same images decoded in memory, if they fit; else this source itself.

        Raises:
            DataError: More than 1% of the images are unreadable.
        """
        return self


class MapSource(Source):
    """Images that can be asked for by number."""

    def __init__(self, name, num_examples, labels=None, **attributes):
        labels = np.full(num_examples, -1) if labels is None else labels
        self._label_array = np.asarray(labels, np.int64)
        multilabel = self._label_array.ndim == 2
        super().__init__(name, num_examples, multilabel=multilabel, **attributes)
        # Tensors for tf.data live in the memory of the host, whatever the default device is.
        with tf.device("CPU:0"):
            self._label_tensor = tf.constant(self._label_array)

    def _labels(self):
        return self._label_array

    def fingerprint(self):
        """See `Source.fingerprint`."""
        labels = None if self.class_names is None else self._label_array
        return fingerprint(self._content(), labels)

    def _content(self):
        """What tells the images apart from others, in a form that `fingerprint` takes."""
        raise NotImplementedError

    def in_order(self):
        """See `Source.in_order`; the numbers of the images."""
        return tf.data.Dataset.range(self.num_examples)

    def decode(self, number):
        """See `Source.decode`."""
        return *self.image(number), self.label(number)

    def label(self, numbers):
        """The labels of the images with the given numbers, -1 without labels."""
        return tf.gather(self._label_tensor, numbers)

    def image(self, number, stop: bool = True):
        """Image `number`, inside a `tf.data` function.

        Args:
            number: int64 scalar.
            stop: Whether too many unreadable images end the data set with an error.

        Returns:
            uint8 (h, w, 3), and a bool scalar: whether it could be read.
        """
        raise NotImplementedError

    def _part(self, indices):
        """What a part of this source has in common with it."""
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
        labels: (n,) whole numbers from 0; or (n, classes) of 1, 0 and -1, see `Source.labels`;
            or None.
        class_names: One name per class, or None.
        name: What to call it in messages.
        unreadable: The record to continue; a new one by default.
    """

    def __init__(self, images, labels=None, class_names=None, name="arrays", unreadable=None):
        images = np.asarray(images)
        if images.ndim != 4 or images.shape[-1] not in (1, 3) or images.dtype != np.uint8:
            raise DataError(
                "Images must be a uint8 array of shape (n, h, w, 1) or (n, h, w, 3). "
                f"Received: {images.dtype} {images.shape}."
            )
        if (labels is None) != (class_names is None):
            raise DataError("Labels and class names must be given together.")
        if labels is not None and len(labels) != len(images):
            raise DataError(
                "There must be one label per image. "
                f"Received: {len(labels)} labels for {len(images)} images in {name}."
            )
        if np.ndim(labels) == 2 and np.shape(labels)[1] != len(class_names):
            raise DataError(
                "Several labels per image need a column per class name. Received: "
                f"labels of shape {np.shape(labels)} for {len(class_names)} class names in {name}."
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
        # The same memory, so that the caller's copy need not live on.
        self.images = np.asarray(self._tensor)

    @property
    def is_small(self) -> bool:
        """Whether to gather batches of whole images before anything else is done to them.

        Of large images a batch would be larger than the crops that it is made for.
        """
        return self.images.shape[1] * self.images.shape[2] <= _SMALL_IMAGE

    def batch(self, numbers):
        """The images with the given numbers: int64 (b,) → float32 (b, h, w, 3), 0..255."""
        images = tf.cast(tf.gather(self._tensor, numbers), tf.float32)
        return images if images.shape[-1] == 3 else tf.image.grayscale_to_rgb(images)

    def image(self, number, stop=True):
        """See `MapSource.image`."""
        image = self._tensor[number]
        return image if image.shape[-1] == 3 else tf.image.grayscale_to_rgb(image), True

    def _content(self):
        return self.images

    def subset(self, indices):
        """See `Source.subset`."""
        return ArraySource(self.images[indices], **self._part(indices))


class DecodedSource(MapSource):
    """Decoded images of any sizes in memory.

    Args:
        pixels: uint8, those of all images one after the other.
        shapes: (h, w, 3) of each image; (0, 0, 3) if it could not be read.
        labels: One whole number from 0 per image, or None.
        name: What to call the source in messages.
        **attributes: See `FileSource`.
    """

    def __init__(self, pixels, shapes, labels=None, name="images", **attributes):
        super().__init__(name, len(shapes), labels, **attributes)
        shapes = np.array(shapes, np.int64)
        # One long tensor, because a tensor cannot have rows of different lengths, and to slice
        # a RaggedTensor takes longer the longer it is.
        with tf.device("CPU:0"):
            self._pixels = tf.constant(pixels)
            self._shapes = tf.constant(shapes)
            self._ends = tf.constant(np.append(0, np.cumsum(shapes.prod(axis=1))))

    def image(self, number, stop=True):
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

    def subset(self, indices):
        """See `Source.subset`."""
        pixels, ends = np.asarray(self._pixels), np.asarray(self._ends)
        return DecodedSource(
            np.concatenate([pixels[ends[i] : ends[i + 1]] for i in indices]),
            np.asarray(self._shapes)[indices],
            **self._part(indices),
        )
