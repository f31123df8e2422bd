"""What a source of images is: the interface that every kind of source fills."""

from collections.abc import Sequence
from typing import Any, TypeAlias

import numpy as np
import tensorflow as tf

from keras_bt.data.as_written import as_written
from keras_bt.data.decoding import DataError, Decoder, Unreadable
from keras_bt.data.fingerprint import fingerprint
from keras_bt.data.pairs import Pairs
from keras_bt.data.sampler import Order
from keras_bt.typing import Tensor

Integers: TypeAlias = Sequence[int] | np.ndarray


class Source:
    """A set of images, and the base of every kind of source.

    What sets a kind of source apart it says in the attributes and methods below; nobody else asks
    which kind a source is. A kind defines `fingerprint`, `in_order`, `in_run`, `decode`, `subset`
    and, if there may be labels, `_labels`. For images that can be read by number, `MapSource`
    defines most of these.

    Attributes:
        name: the user's name for it, for messages.
        num_examples: number of images, including those that turn out to be unreadable.
        class_names: one name per class, or None if the images have no labels.
        image_shape: (h, w, c) if all images are known to have one size, else None.
        decoder: how its image files become pixels, and what was noticed about them.
        multilabel: whether an image may belong to several classes at once, or to none.
        role: its name where accuracies are measured on it.
        root: the folder that the names of its files are relative to; "" if its images are no files.
        remarks: lines of text that the user should know, such as how many files were left out.
        pairs: the pairs of its images that the user named, or None.
        validation: another source with such pairs, to choose a threshold by, or None.
        random_access: whether some of the images can be had without reading all others.
        is_small: whether all images are in memory, of one size, and so small that whole images
            are batched before anything else is done to them. Only then are there `images`, uint8
            (n, h, w, c), or (n, h, w, 1) if they are gray, `batch` and `label`.
    """

    role = "the test set"
    root = ""
    remarks: tuple[str, ...] = ()
    pairs: Pairs | None = None
    validation: "Source | None" = None
    random_access = False
    is_small = False
    images: np.ndarray

    def __init__(
        self,
        name: str,
        num_examples: int,
        class_names: Sequence[str] | None = None,
        image_shape: tuple[int, int, int] | None = None,
        decoder: Decoder | None = None,
        multilabel: bool = False,
    ):
        self.name = name
        self.num_examples = int(num_examples)
        self.class_names = None if class_names is None else tuple(class_names)
        self.image_shape = image_shape
        self.decoder = decoder or Decoder(name, num_examples)
        self.multilabel = multilabel

    @property
    def channels(self) -> int:
        """The number of channels c of all images: 3, red, green and blue, or that of arrays."""
        return 3 if self.image_shape is None else self.image_shape[2]

    @property
    def unreadable(self) -> Unreadable:
        """The images that could not be read so far."""
        return self.decoder.unreadable

    def labels(self) -> np.ndarray:
        """Returns the class of every image, in the order of the source.

        Returns:
            int64 (num_examples,), unreadable images included. For a `multilabel` source, int64
            (num_examples, classes): 1 if the image shows the class, 0 if it does not, -1 if it
            counts neither as a positive nor as a negative of that class.

        Raises:
            DataError: if the images have no labels.
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
        """Returns 64 hexadecimal digits that differ if images, labels or their order differ.

        Images that are decoded in another way are others.
        """
        raise NotImplementedError

    def identity(self) -> str:
        """Returns the same for a copy of the images: what a run that goes on must find again.

        It is `fingerprint` unless that also depends on where or when the images were stored.
        """
        return self.fingerprint()

    def in_order(self) -> tf.data.Dataset:
        """Returns a data set of references to all images once, which `decode` understands."""
        raise NotImplementedError

    def in_run(self, order: Order) -> tf.data.Dataset:
        """Returns an endless data set of the images of one shard, in the order of a run.

        Its elements are (epoch, number, *reference): a number that no other image of the epoch has,
        and what `decode` takes.
        """
        raise NotImplementedError

    def decode(
        self, *reference: Tensor, stop: bool = True, look: bool = False
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Decodes the image that an element of a data set refers to, inside a `tf.data` function.

        Args:
            *reference: what elements of `in_order` consist of.
            stop: whether too many unreadable images end the data set with an error.
            look: whether `decoder.noticed` notes what is odd about the image.

        Returns:
            image: uint8 (h, w, c); one black pixel if it cannot be read.
            readable: bool scalar.
            label: int64 scalar, -1 without labels; a row of `labels` if `multilabel`.
        """
        raise NotImplementedError

    def key(self, *reference: Tensor) -> Tensor:
        """Returns what `names` needs to name an image, inside a `tf.data` function.

        Args:
            *reference: what `decode` takes.

        Returns:
            int64 or string scalar.
        """
        raise NotImplementedError

    def names(self, keys: np.ndarray) -> list[str]:
        """Returns the names of images, those that the list of unreadable images has.

        Args:
            keys: (n,), what `key` returned for each.

        Returns:
            The path of each image's file from the folder or table that was opened, the name or
            place of its record, or the number that it has among images that are no files.
        """
        raise NotImplementedError

    def subset(self, indices: Integers) -> "Source":
        """Returns a source of the images with the given numbers, in that order."""
        raise NotImplementedError

    def sample(self, count: int, seed: int) -> "Source":
        """Returns a source of `count` random images in random order, or of all if there are fewer.

        Without `random_access` they are the first ones, in their order.
        """
        return self.subset(np.random.RandomState(seed).permutation(self.num_examples)[:count])

    def cached(self) -> "Source":
        """Returns the same images decoded in memory if they fit, else this source itself.

        Raises:
            DataError: if more than 1% of the images are unreadable.
        """
        return self

    def batch(self, numbers: Tensor) -> Tensor:
        """Returns the images with the given numbers: int64 (b,) → float32 (b, h, w, c), 0..255."""
        raise NotImplementedError

    def label(self, numbers: Tensor) -> Tensor:
        """Returns the labels of the images with the given numbers, -1 without labels."""
        raise NotImplementedError


class MapSource(Source):
    """Images that can be read by number; a kind adds `image`, `_content` and `subset`.

    Args:
        num_examples: number of images.
        labels: (n,) integers from 0; or (n, classes) of 1, 0 and -1, see `Source.labels`; or None.
        name: name of the source in messages.
        numbers: (n,) number of each image in the data that this is a part of; None for 0 to n − 1.
        **attributes: `class_names`, `image_shape` and `decoder` of `Source`.
    """

    random_access = True

    def __init__(
        self,
        num_examples: int,
        labels: Integers | None = None,
        name: str = "images",
        numbers: Integers | None = None,
        **attributes: Any,
    ):
        self._numbers = np.arange(num_examples) if numbers is None else np.asarray(numbers)
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

    def in_run(self, order: Order) -> tf.data.Dataset:
        """See `Source.in_run`; every epoch is a permutation of all images."""
        batches = order.numbers(order.local_batch_size)
        return batches.map(as_written(lambda epochs, numbers: (epochs, numbers, numbers))).unbatch()

    def decode(
        self, *reference: Tensor, stop: bool = True, look: bool = False
    ) -> tuple[Tensor, Tensor, Tensor]:
        """See `Source.decode`; takes the number of an image."""
        (number,) = reference
        return *self.image(number, stop, look), self.label(number)

    def key(self, *reference: Tensor) -> Tensor:
        """See `Source.key`; the number of the image in this source."""
        return reference[0]

    def names(self, keys: np.ndarray) -> list[str]:
        """See `Source.names`."""
        return [str(number) for number in self._numbers[keys]]

    def label(self, numbers: Tensor) -> Tensor:
        """See `Source.label`."""
        return tf.gather(self._label_tensor, numbers)

    def image(self, number: Tensor, stop: bool = True, look: bool = False) -> tuple[Tensor, Tensor]:
        """Returns image and readable as `Source.decode` does; `number` is an int64 scalar."""
        raise NotImplementedError

    def _part(self, indices):
        """Returns the constructor arguments that a part of this source shares with it."""
        return {
            "labels": None if self.class_names is None else self._label_array[indices],
            "class_names": self.class_names,
            "name": self.name,
            "numbers": self._numbers[indices],
            "decoder": self.decoder,
        }
