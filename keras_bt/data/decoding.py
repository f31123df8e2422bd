"""Decoding of image files to RGB pixels, with a record of the files that cannot be read.

JPEG and PNG are decoded by TensorFlow, whose accurate inverse DCT gives the pixels of Pillow's
`convert("RGB")` to the last bit, for progressive, gray, CMYK and Adobe-marked JPEG, and for PNG
with a palette, with alpha or with 16 bits. The fast inverse DCT, TensorFlow's default, is off by
one level on average and is no faster. Everything else (GIF, BMP, WebP) and everything that
TensorFlow rejects goes to Pillow, which also says why a file cannot be read.

As in torchvision, alpha is dropped, not blended; only the first frame of an animation is used;
EXIF orientation is ignored. Unlike Pillow, which clips 16-bit gray to white, both paths keep the
high byte.
"""

import io
import os
import threading

import numpy as np
import tensorflow as tf
from PIL import Image

from keras_bt.typing import Tensor

_JPEG, _PNG = b"\xff\xd8\xff", b"\x89PNG"
_NAMES_SHOWN = 50  # in an error message; `Unreadable.names` has all


class DataError(ValueError):
    """A user's mistake about the data, stated in one line."""


class Unreadable:
    """The images of one data set that could not be read; thread-safe.

    At most 1% of the data set may be unreadable, and one image in any case, so that a single
    broken file does not stop a run on fewer than 100 images. One more, and `check` raises.

    Args:
        where: name of the data set, for messages.
        total: number of its images, readable or not.
    """

    def __init__(self, where: str, total: int):
        self.where = where
        self.total = total
        self.limit = max(1, total // 100)
        self._reasons: dict[str, str] = {}
        self._lock = threading.Lock()

    def __len__(self):
        return len(self._reasons)

    @property
    def names(self) -> tuple[str, ...]:
        """The names of the unreadable images found so far, sorted."""
        return tuple(sorted(self.reasons))

    @property
    def reasons(self) -> dict[str, str]:
        """Why each could not be read, by name."""
        with self._lock:
            return dict(self._reasons)

    def add(self, name: str, reason: str) -> None:
        """Records an unreadable image; an image recorded again counts once."""
        with self._lock:
            self._reasons[name] = reason

    def check(self) -> None:
        """Raises DataError if more images were unreadable than are tolerated."""
        if len(self) <= self.limit:
            return
        names = self.names
        more = f" and {len(names) - _NAMES_SHOWN} more" if len(names) > _NAMES_SHOWN else ""
        raise DataError(
            "At most 1% of the images may be unreadable: remove or repair them. Received: "
            f"{len(names)} unreadable of {self.total} in {self.where}: "
            f"{', '.join(names[:_NAMES_SHOWN])}{more}."
        )


def decode_file(
    path: Tensor, unreadable: Unreadable, root: str, stop: bool = True
) -> tuple[Tensor, Tensor]:
    """Reads and decodes one image file inside a `tf.data` function.

    Args:
        path: string scalar.
        unreadable: records a failure, under the path relative to `root`.
        root: the folder that contains `path`.
        stop: whether too many failures end the data set with an error.

    Returns:
        image: uint8 (h, w, 3); one black pixel if the file cannot be read.
        readable: bool scalar.
    """

    def fallback(path):
        name = printable(os.path.relpath(path, os.fsencode(root)))
        return _with_pillow(os.fsdecode(path), name, unreadable, stop)

    image = _without_errors(lambda path: decode_native(tf.io.read_file(path)), path)
    return _or_else(image, fallback, [path])


def decode_bytes(
    encoded: Tensor, name: Tensor, unreadable: Unreadable, stop: bool = True
) -> tuple[Tensor, Tensor]:
    """Decodes one image like `decode_file`, from the contents of its file, a string scalar.

    In `unreadable` it has the name `name`, a string scalar.
    """

    def fallback(encoded, name):
        return _with_pillow(io.BytesIO(encoded), printable(name), unreadable, stop)

    return _or_else(_without_errors(decode_native, encoded), fallback, [encoded, name])


def printable(path: bytes | str) -> str:
    r"""Returns a path as text that can be printed and written, whatever bytes it consists of.

    Example:
        >>> print(printable(b"caf\xe9.jpg"))   # not UTF-8
        caf\xe9.jpg
    """
    return os.fsencode(path).decode("utf-8", "backslashreplace")


def decode_native(encoded: Tensor) -> Tensor:
    """Decodes JPEG and PNG to uint8 (h, w, 3); returns an empty image for any other format."""
    return tf.cond(
        (tf.strings.substr(encoded, 0, 3) == _JPEG) | (tf.strings.substr(encoded, 0, 4) == _PNG),
        # decode_jpeg reads PNG as well, and it alone lets us choose the accurate inverse DCT.
        lambda: tf.io.decode_jpeg(encoded, channels=3, dct_method="INTEGER_ACCURATE"),
        lambda: tf.zeros([0, 0, 3], tf.uint8),
    )


def _without_errors(function, argument):
    """Returns `function(argument)`, or an empty image if it raises.

    A graph has no try and except, but `ignore_errors` on a one-element data set does the same. It
    costs less than a tenth of decoding a photograph of 500 × 375 pixels.
    """
    attempt = tf.data.Dataset.from_tensors(argument).map(function).ignore_errors()
    empty = tf.data.Dataset.from_tensors(tf.zeros([0, 0, 3], tf.uint8))
    return attempt.concatenate(empty).take(1).get_single_element()


def _or_else(image, fallback, arguments):
    """Returns a non-empty image as it is, otherwise what the Python function `fallback` returns."""

    def call_fallback():
        # stateful=False: with op determinism on, TensorFlow runs a map with a stateful
        # function one example at a time.
        types = (tf.uint8, tf.bool)
        return tuple(tf.numpy_function(fallback, arguments, types, stateful=False))

    image, readable = tf.cond(tf.size(image) > 0, lambda: (image, True), call_fallback)
    return tf.ensure_shape(image, [None, None, 3]), tf.ensure_shape(readable, [])


def _with_pillow(file, name: str, unreadable: Unreadable, stop: bool):
    try:
        with Image.open(file) as image:
            if image.mode.startswith("I;16"):
                pixels = np.asarray(image) >> 8
                return np.repeat(pixels[..., None], 3, axis=-1).astype(np.uint8), np.True_
            return np.asarray(image.convert("RGB")), np.True_
    # Pillow's decoders raise errors of many kinds: OSError, SyntaxError, struct.error…
    except Exception as error:
        unreadable.add(name, _reason(error))
        if stop:
            unreadable.check()
        return np.zeros([1, 1, 3], np.uint8), np.False_


def _reason(error: Exception) -> str:
    if isinstance(error, Image.UnidentifiedImageError):
        return "not an image"  # Pillow's own text shows the address of a buffer
    return " ".join((getattr(error, "strerror", None) or str(error) or repr(error)).split())
