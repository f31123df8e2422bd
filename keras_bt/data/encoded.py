"""Images decoded on demand: from files, or from encoded bytes in memory."""

import hashlib
import os
from collections.abc import Sequence
from typing import Any

import numpy as np
import tensorflow as tf

from keras_bt.data.arrays import ArraySource, DecodedSource
from keras_bt.data.as_written import as_written
from keras_bt.data.decoding import printable
from keras_bt.data.fingerprint import fingerprint
from keras_bt.data.sources import Integers, MapSource, Source
from keras_bt.messages import progress_bar
from keras_bt.typing import Tensor

CACHE_BYTES = 2**30  # decoded images up to this size are kept in memory
_WORTH_SHOWING = 2.0  # seconds of reading
# Files whose sizes and contents identify a source. On a network, a million sizes take minutes.
_SIZES, _CONTENTS = 100_000, 100


class EncodedSource(MapSource):
    """Encoded images, decoded on demand.

    Args:
        num_examples: number of images.
        cache_bytes: decoded images up to this size are kept in memory.
        **attributes: see `MapSource`.
    """

    def __init__(self, num_examples: int, cache_bytes: int = CACHE_BYTES, **attributes: Any):
        super().__init__(num_examples, **attributes)
        self.cache_bytes = cache_bytes
        self._cached: MapSource | None = None

    def fingerprint(self) -> str:
        """See `Source.fingerprint`; from the files and how they are decoded."""
        return fingerprint(super().fingerprint(), self.decoder.decoding.identity())

    def encoded_bytes(self, enough: int) -> int:
        """Returns the size of all encoded images; may stop counting beyond `enough`."""
        raise NotImplementedError

    def cached(self) -> Source:
        """See `Source.cached`."""
        if self._cached is None:
            # Decoded images take at least about three times the space of encoded ones. Nobody with
            # millions of files should wait for an attempt that is bound to fail.
            enough = self.cache_bytes // 3
            fits = self.encoded_bytes(enough) <= enough
            self._cached = (_decode_all(self) if fits else None) or self
        return self._cached


class FileSource(EncodedSource):
    """Image files.

    Args:
        paths: the files.
        root: the folder that contains them; messages name files relative to it.
        **attributes: see `EncodedSource`.
    """

    def __init__(self, paths: Sequence[str], root: str, **attributes: Any):
        super().__init__(len(paths), **attributes)
        self.paths = tuple(paths)
        self.root = root
        with tf.device("CPU:0"):
            # As bytes, which need not be UTF-8.
            self._path_tensor = tf.constant([os.fsencode(path) for path in paths], tf.string)

    def image(self, number: Tensor, stop: bool = True, look: bool = False) -> tuple[Tensor, Tensor]:
        """See `MapSource.image`."""
        return self.decoder.file(self._path_tensor[number], self.root, stop, look)

    def _content(self):
        # Not the bytes: reading a million files takes as long as using them.
        return [(os.path.relpath(path, self.root), *_size_and_time(path)) for path in self.paths]

    def names(self, keys: np.ndarray) -> list[str]:
        """See `Source.names`; the path of each file from `root`."""
        return [printable(self._name(self.paths[number])) for number in keys]

    def _name(self, path):
        above = os.path.join(self.root, "")  # `relpath` takes ten seconds for a million
        return (
            path.removeprefix(above) if path.startswith(above) else os.path.relpath(path, self.root)
        )

    def identity(self) -> str:
        """See `Source.identity`; from names, sizes, and the contents of some, but no times.

        A folder that is copied gets new times. Files whose names and sizes stay but whose pixels
        change, such as BMPs drawn anew, show in the contents, unless they are few.
        """
        names = [self._name(path) for path in self.paths]
        sizes = [_size_and_time(path)[0] for path in _evenly(self.paths, _SIZES)]
        contents = [_checksum(path) for path in _evenly(self.paths, _CONTENTS)]
        labels = None if self.class_names is None else self._label_array
        return fingerprint(names, sizes, contents, labels)

    def subset(self, indices: Integers) -> "FileSource":
        """See `Source.subset`."""
        return FileSource(
            [self.paths[index] for index in indices],
            self.root,
            cache_bytes=self.cache_bytes,
            **self._part(indices),
        )

    def encoded_bytes(self, enough: int) -> int:
        """See `EncodedSource.encoded_bytes`."""
        total = 0
        for path in self.paths:
            total += _size_and_time(path)[0] or 0
            if total > enough:
                break
        return total


class BytesSource(EncodedSource):
    """Encoded images in memory.

    Args:
        encoded: one byte string per image.
        keys: one name per image.
        **attributes: see `EncodedSource`.
    """

    def __init__(
        self,
        encoded: Sequence[bytes] | Tensor,
        keys: Sequence[bytes] | Tensor,
        **attributes: Any,
    ):
        super().__init__(len(encoded), **attributes)
        with tf.device("CPU:0"):
            self._encoded = tf.constant(encoded, tf.string)
            self._keys = tf.constant(keys, tf.string)

    def image(self, number: Tensor, stop: bool = True, look: bool = False) -> tuple[Tensor, Tensor]:
        """See `MapSource.image`."""
        return self.decoder.bytes(self._encoded[number], self._keys[number], stop, look)

    def names(self, keys: np.ndarray) -> list[str]:
        """See `Source.names`."""
        return [printable(name) for name in self._keys.numpy()[keys]]

    def _content(self):
        return list(self._encoded.numpy())

    def subset(self, indices: Integers) -> "BytesSource":
        """See `Source.subset`."""
        return BytesSource(
            tf.gather(self._encoded, indices),
            tf.gather(self._keys, indices),
            cache_bytes=self.cache_bytes,
            image_shape=self.image_shape,
            **self._part(indices),
        )

    def encoded_bytes(self, enough: int) -> int:
        """See `EncodedSource.encoded_bytes`."""
        return int(tf.reduce_sum(tf.strings.length(self._encoded)))


def _size_and_time(path):
    try:
        status = os.stat(path)
    except OSError:
        return None, None  # e.g. a broken link: decoding will record it as unreadable
    return status.st_size, status.st_mtime_ns


def _evenly(paths, most):
    """Returns all of the paths, or `most` to nearly twice as many that lie evenly among them."""
    return paths[:: max(1, len(paths) // most)]


def _checksum(path):
    try:
        with open(path, "rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except OSError:
        return None


def _decode_all(source: EncodedSource) -> MapSource | None:
    """Decodes a whole source into memory; returns None if it exceeds `cache_bytes`."""
    decoded = (
        tf.data.Dataset.range(source.num_examples)
        .map(
            as_written(lambda index: source.image(index, stop=False, look=True)),
            tf.data.AUTOTUNE,
            deterministic=True,
        )
        .prefetch(tf.data.AUTOTUNE)
    )
    parts, shapes, size = [], [], 0
    with progress_bar(
        decoded.as_numpy_iterator(),
        total=source.num_examples,
        desc=f"Reading {source.name}",
        unit="image",
        delay=_WORTH_SHOWING,
    ) as images:
        for image, readable in images:
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
