"""Images that are decoded whenever they are asked for: files, and encoded bytes in memory."""

import os
from collections.abc import Sequence

import numpy as np
import tensorflow as tf

from keras_bt.data.decoding import decode_bytes, decode_file
from keras_bt.data.sources import ArraySource, DecodedSource, MapSource

CACHE_BYTES = 2**30  # decoded images up to this size are kept in memory


class EncodedSource(MapSource):
    """Encoded images, decoded whenever they are asked for."""

    def __init__(self, name, num_examples, labels=None, cache_bytes=CACHE_BYTES, **attributes):
        super().__init__(name, num_examples, labels, **attributes)
        self.cache_bytes = cache_bytes
        self._cached = None

    def encoded_bytes(self, enough: int) -> int:
        """Size of all encoded images together; counting may end beyond `enough`."""
        raise NotImplementedError

    def cached(self):
        """See `Source.cached`."""
        if self._cached is None:
            # Decoded images take at least about three times the space of encoded ones. Whoever
            # has millions of files should not wait for a try that is bound to fail.
            enough = self.cache_bytes // 3
            fits = self.encoded_bytes(enough) <= enough
            self._cached = (_decode_all(self) if fits else None) or self
        return self._cached


class FileSource(EncodedSource):
    """Image files.

    Args:
        paths: The files.
        root: The folder they lie in; messages name them relative to it.
        labels: One whole number from 0 per file, or None.
        class_names: One name per class, or None.
        name: What to call the source in messages.
        cache_bytes: Decoded images up to this size are kept in memory; 0 keeps none.
        unreadable: The record to continue; a new one by default.
    """

    def __init__(
        self,
        paths: Sequence[str],
        root: str,
        labels=None,
        class_names=None,
        name="files",
        cache_bytes=CACHE_BYTES,
        unreadable=None,
    ):
        super().__init__(
            name,
            len(paths),
            labels,
            cache_bytes,
            class_names=class_names,
            unreadable=unreadable,
        )
        self.paths = tuple(paths)
        self.root = root
        with tf.device("CPU:0"):
            # As bytes, which need not be UTF-8.
            self._path_tensor = tf.constant([os.fsencode(path) for path in paths], tf.string)

    def image(self, number, stop=True):
        """See `MapSource.image`."""
        return decode_file(self._path_tensor[number], self.unreadable, self.root, stop)

    def _content(self):
        # Not the bytes: to read a million files takes as long as to use them.
        return [(os.path.relpath(path, self.root), *_size_and_time(path)) for path in self.paths]

    def subset(self, indices):
        """See `Source.subset`."""
        return FileSource(
            [self.paths[index] for index in indices],
            self.root,
            cache_bytes=self.cache_bytes,
            **self._part(indices),
        )

    def encoded_bytes(self, enough):
        """See `EncodedSource.encoded_bytes`."""
        total = 0
        for path in self.paths:
            try:
                total += os.stat(path).st_size
            except OSError:
                continue  # a broken link, say: decoding will note it as unreadable
            if total > enough:
                break
        return total


class BytesSource(EncodedSource):
    """Encoded images in memory.

    Args:
        encoded: One string of bytes per image.
        keys: One name per image.
        **attributes: See `FileSource`.
    """

    def __init__(self, encoded, keys, labels=None, name="bytes", **attributes):
        super().__init__(name, len(encoded), labels, **attributes)
        with tf.device("CPU:0"):
            self._encoded = tf.constant(encoded, tf.string)
            self._keys = tf.constant(keys, tf.string)

    def image(self, number, stop=True):
        """See `MapSource.image`."""
        return decode_bytes(self._encoded[number], self._keys[number], self.unreadable, stop)

    def _content(self):
        return list(self._encoded.numpy())

    def subset(self, indices):
        """See `Source.subset`."""
        return BytesSource(
            tf.gather(self._encoded, indices),
            tf.gather(self._keys, indices),
            cache_bytes=self.cache_bytes,
            image_shape=self.image_shape,
            **self._part(indices),
        )

    def encoded_bytes(self, enough):
        """See `EncodedSource.encoded_bytes`."""
        return int(tf.reduce_sum(tf.strings.length(self._encoded)))


def _size_and_time(path):
    try:
        status = os.stat(path)
    except OSError:
        return None, None  # a broken link, say
    return status.st_size, status.st_mtime_ns


def _decode_all(source: EncodedSource) -> MapSource | None:
    """Decodes a whole source into memory, or gives up where it exceeds `cache_bytes`."""
    decoded = (
        tf.data.Dataset.range(source.num_examples)
        .map(lambda index: source.image(index, stop=False), tf.data.AUTOTUNE, deterministic=True)
        .prefetch(tf.data.AUTOTUNE)
    )
    parts, shapes, size = [], [], 0
    for image, readable in decoded.as_numpy_iterator():
        image = image if readable else image[:0, :0]
        size += image.nbytes
        if size > source.cache_bytes:
            return None
        parts.append(image.ravel())
        shapes.append(image.shape)
    source.unreadable.check()
    pixels = np.concatenate(parts)
    del parts  # as large as all images together
    part = source._part(slice(None))
    if set(shapes) == {shapes[0]} != {(0, 0, 3)}:
        return ArraySource(pixels.reshape(-1, *shapes[0]), **part)
    return DecodedSource(pixels, shapes, **part)
