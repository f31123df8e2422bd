"""A backbone, the features of all images of a source, labeled or not, and the pictures themselves.

What the commands work on that search, group and show images.
"""

import dataclasses
import functools
import os

import numpy as np
import tensorflow as tf

from keras_bt.data.decoding import Decoder, printable
from keras_bt.evaluation.whitening import Whitening, too_wide
from trainers.runs import on_disk, opening
from trainers.runs import subject as subjects

_ROWS = 4096  # copied at once


@dataclasses.dataclass(frozen=True, eq=False)
class Collection:
    """All images of a source that could be read, the training images first.

    Attributes:
        subject: `trainers.runs.subject.Subject`, the backbone and how images are read for it.
        features: float32 (n, d), memory-mapped and read-only.
        names: list of n strings: the paths of image files; of other images their names, see
            `keras_bt.data.Source.names`.
        splits: list of n strings, `train` or `test`.
        labels: int64 (n,), or (n, classes) if an image may have several, see
            `keras_bt.data.Source.labels`; None without labels.
        class_names: tuple of one string per class, or None.
    """

    subject: object
    features: np.ndarray
    names: list
    splits: list
    labels: np.ndarray | None
    class_names: tuple | None
    _places: list  # of each image in its source, an int64 array for each source

    def __len__(self):
        """Returns the number n of images."""
        return len(self.names)

    def __str__(self):
        """Describes backbone and data for the terminal."""
        return _described(self.subject)

    @functools.cached_property
    def whitening(self):
        """The `Whitening` fitted to the training images; None where it makes no sense."""
        fitted = self._fitted
        found = None if too_wide(fitted) else Whitening.fit(fitted)
        # Of features that are all equal nothing would be left.
        return found if found is not None and found.matrix.any() else None

    @property
    def _fitted(self):
        return self.features[: self.splits.count("train")]

    def whitened(self):
        """Returns the features whitened, float32 (n, k), or plain with a line that says why."""
        if self.whitening is None:
            wide = too_wide(self._fitted)
            why = f"{self.features.shape[1]:,} dimensions take minutes" if wide else "all are equal"
            print(f"Features are not whitened: {why}.")
            return self.features
        parts = self.whitening.parts(self.features)
        return on_disk.mapped(parts, self.whitening.matrix.shape[1], self.subject.cache)

    def images(self, numbers, size):
        """Reads pictures as people know them: upright, whole, and in their own proportions.

        Args:
            numbers: those of images in this collection, in any order.
            size: most pixels of the longer side; smaller pictures stay as they are.

        Returns:
            List of uint8 (h, w, 3), one for each number. Of more channels they are the first three;
            what can no longer be read is a black pixel.
        """
        numbers = np.asarray(numbers, np.int64)
        found = dict(self.each_image(numbers, size))
        return [found[number] for number in numbers.tolist()]

    def each_image(self, numbers, size):
        """Yields each number once, in order, with its picture: `images`, one at a time."""
        start = 0
        for source, places in zip(_sources(self.subject).values(), self._places, strict=True):
            end = start + len(places)
            wanted = np.unique(numbers[(start <= numbers) & (numbers < end)])
            if len(wanted):
                pictures = pictures_of(source, places[wanted - start], size)
                yield from zip(wanted.tolist(), pictures, strict=True)
            start = end


def read(settings, subject=None):
    """Opens what `CollectionSettings` name, and extracts features or reads those on disk.

    Prints what is opened and how many images could not be read.

    Args:
        settings: the settings.
        subject: what `trainers.runs.subject.opened(settings)` returned, if it was called before.

    Raises:
        ValueError, OSError: if the backbone or the images cannot be opened or read.
    """
    subject = subject or subjects.opened(settings)
    print(_described(subject))
    kinds = {"train": "training", "test": "test"}
    sources = _sources(subject)
    found = [subject.named_features(s, kinds[n], settings.batch_size) for n, s in sources.items()]
    features, labels, names = zip(*found, strict=True)
    class_names = subject.train.class_names
    return Collection(
        subject,
        features[0] if len(found) == 1 else _joined(features, subject.cache),
        [
            printable(os.path.join(source.root, name))
            for source, part in zip(sources.values(), names, strict=True)
            for name in part
        ],
        [split for split, part in zip(sources, names, strict=True) for _ in part],
        None if class_names is None else np.concatenate(labels),
        class_names,
        [_places(source, part) for source, part in zip(sources.values(), names, strict=True)],
    )


def _sources(subject):
    """Returns the sources by the names of their parts."""
    return {"train": subject.train} | ({} if subject.test is None else {"test": subject.test})


def _described(subject):
    counts = f"{subject.train.num_examples:,} training images"
    if subject.test is not None:
        counts += f", {subject.test.num_examples:,} in {subject.test.role}"
    lines = [
        f"Backbone: {subject.file}, {subject.backbone.output_shape[-1]:,} features",
        f"Data: {subject.data}, {counts}",
        opening.remarks(subject.train, subject.test),
    ]
    return "\n".join(lines).rstrip("\n")


def _joined(features, folder):
    parts = (part[i : i + _ROWS] for part in features for i in range(0, len(part), _ROWS))
    return on_disk.mapped(parts, features[0].shape[1], folder)


def _places(source, names):
    """Returns the places of names in a source, int64; they are in its order, with gaps."""
    if len(names) == source.num_examples:
        return np.arange(len(names))
    keys = source.in_order().map(source.key, tf.data.AUTOTUNE, deterministic=True)
    all_names = source.names(np.concatenate(list(keys.batch(4096).as_numpy_iterator())))
    places, rest = [], iter(enumerate(all_names))
    for name in names:
        places.append(next(place for place, other in rest if other == name))
    return np.array(places, np.int64)


def pictures_of(source, places, size):
    """Yields the pictures that have these places in a source, see `Collection.images`."""
    part = source.subset(places)
    decoding = source.decoder.decoding
    part.decoder = Decoder(source.name, part.num_examples, upright(decoding))

    def picture(*reference):
        return smaller(part.decode(*reference, stop=False)[0], size)

    pictures = part.in_order().map(picture, tf.data.AUTOTUNE, deterministic=True)
    return pictures.as_numpy_iterator()


def upright(decoding):
    """Returns how pictures are read for people, whatever the network is given."""
    return dataclasses.replace(decoding, exif="apply", max_unreadable=1.0)


def smaller(image, size):
    """Resizes uint8 (h, w, c) to at most `size` pixels on the longer side, uint8 (h, w, 3)."""
    if image.shape[-1] != 3:
        image = image[..., :3] if image.shape[-1] > 3 else image[..., :1]
        image = image if image.shape[-1] == 3 else tf.image.grayscale_to_rgb(image)
    sides = tf.cast(tf.shape(image)[:2], tf.float32)
    longest = tf.reduce_max(sides)

    def resized():
        new = tf.maximum(tf.cast(tf.round(sides * (size / longest)), tf.int32), 1)
        found = tf.image.resize(image, new, antialias=True)
        return tf.cast(tf.clip_by_value(tf.round(found), 0, 255), tf.uint8)

    return tf.cond(longest > size, resized, lambda: image)
