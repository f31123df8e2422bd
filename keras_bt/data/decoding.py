"""Decoding of image files to RGB pixels, with a record of what was noticed.

JPEG and PNG are decoded by TensorFlow, whose accurate inverse DCT gives the pixels of Pillow's
`convert("RGB")` to the last bit, for progressive, gray, CMYK and Adobe-marked JPEG, and for PNG
with a palette or 16 bits. The fast inverse DCT, TensorFlow's default, is off by one level on
average and is no faster. Everything else (GIF, BMP, WebP, TIFF) and everything that TensorFlow
rejects goes to Pillow, which also says why a file cannot be read: `keras_bt.data.image_files`.

Transparent images are shown on a color. As in torchvision, only the first frame of an animation is
used, and the EXIF orientation is ignored unless it is asked for. Unlike Pillow, which clips 16-bit
gray to white, both paths keep the high byte.
"""

import dataclasses
import io
import os
import threading
from typing import Any

import numpy as np
import tensorflow as tf

from keras_bt.data import image_files
from keras_bt.data.image_files import MAX_PIXELS
from keras_bt.typing import Tensor

_JPEG, _PNG = b"\xff\xd8\xff", b"\x89PNG"
_EXIF_WITHIN = 2**17  # bytes from the beginning of a file
# The value of the tag 0x0112, a short integer, in either byte order.
_ORIENTATION = (
    rb"(?s)^\C*?(?:Exif\x00\x00|eXIf)(?:"
    rb"II\*\x00\C*?\x12\x01\x03\x00\x01\x00\x00\x00(\C)|"
    rb"MM\x00\*\C*?\x01\x12\x00\x03\x00\x00\x00\x01\x00(\C))\C*$"
)
_NAMES_SHOWN = 50  # in an error message; `Unreadable.names` has all


class DataError(ValueError):
    """A user's mistake about the data, stated in one line."""


@dataclasses.dataclass(frozen=True)
class Decoding:
    """How image files become pixels.

    Args:
        background: color that transparent images are shown on: `white`, `black` or `#rrggbb`.
        exif: what becomes of the EXIF orientation: "ignore" (the published behavior) or "apply".
        max_pixels: images with more pixels count as unreadable; decoded, a pixel takes 3 bytes.
        max_unreadable: the largest share of unreadable images that is tolerated, 0 to 1.

    Raises:
        DataError: if a value is none of these.

    Example:
        >>> Decoding(background="#ff8000").color
        (255, 128, 0)
    """

    background: str = "white"
    exif: str = "ignore"
    max_pixels: int = MAX_PIXELS
    max_unreadable: float = 0.01

    def __post_init__(self):
        try:
            image_files.color(self.background)
        except ValueError as error:
            raise DataError(str(error)) from error
        if self.exif not in ("ignore", "apply"):
            raise DataError(f"exif must be ignore or apply. Received: {self.exif}.")
        if self.max_pixels < 1 or not 0 <= self.max_unreadable <= 1:
            raise DataError(
                "max_pixels must be at least 1, and max_unreadable from 0 to 1. "
                f"Received: {self.max_pixels}, {self.max_unreadable}."
            )

    @property
    def color(self) -> tuple[int, int, int]:
        """The background's red, green and blue, 0 to 255."""
        return image_files.color(self.background)

    def identity(self) -> tuple[Any, ...]:
        """Returns what the pixels depend on."""
        return *self.color, self.exif, self.max_pixels


class Unreadable:
    """The images of one data set that could not be read; thread-safe.

    At most a share of the data set may be unreadable, and one image in any case, so that a single
    broken file does not stop a run on a few images. One more, and `check` raises.

    Args:
        where: name of the data set, for messages.
        total: number of its images, readable or not.
        share: the share, 0 to 1.
    """

    def __init__(self, where: str, total: int, share: float = 0.01):
        self.where = where
        self.total = total
        self.share = share
        self.limit = max(1, int(total * share + 1e-9))
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
        reasons = self.reasons
        first, *names = sorted(reasons)
        names = [f"{first} ({reasons[first]})", *names]
        more = f" and {len(names) - _NAMES_SHOWN} more" if len(names) > _NAMES_SHOWN else ""
        raise DataError(
            f"At most {100 * self.share:g}% of the images may be unreadable (max_unreadable): "
            "remove or repair them. "
            f"Received: {len(names)} unreadable of {self.total} in {self.where}: "
            f"{', '.join(names[:_NAMES_SHOWN])}{more}."
        )


class Noticed:
    """What is odd about the images looked at so far; thread-safe."""

    def __init__(self) -> None:
        self._oddities: dict[str, image_files.Oddities] = {}
        self._lock = threading.Lock()

    def __len__(self):
        return len(self._oddities)

    def add(self, name: str, oddities: image_files.Oddities) -> None:
        """Records what was noticed about an image; one recorded again counts once."""
        with self._lock:
            self._oddities[name] = oddities

    def all(self) -> list[image_files.Oddities]:
        """Returns what was noticed about each image."""
        with self._lock:
            return list(self._oddities.values())


class Decoder:
    """Decodes the images of one data set, and remembers what it could not read or found odd.

    Args:
        where: name of the data set, for messages.
        total: number of its images.
        decoding: how.

    Attributes:
        unreadable: the images that could not be read so far.
        noticed: what is odd about those decoded with `look=True`.
    """

    def __init__(self, where: str, total: int, decoding: Decoding | None = None):
        self.decoding = decoding or Decoding()
        self.unreadable = Unreadable(where, total, self.decoding.max_unreadable)
        self.noticed = Noticed()

    def file(
        self, path: Tensor, root: str, stop: bool = True, look: bool = False
    ) -> tuple[Tensor, Tensor]:
        """Reads and decodes one image file inside a `tf.data` function.

        Args:
            path: string scalar.
            root: the folder that contains it; messages name it relative to that.
            stop: whether too many failures end the data set with an error.
            look: whether to note what is odd about the image.

        Returns:
            image: uint8 (h, w, 3); one black pixel if the file cannot be read.
            readable: bool scalar.
        """

        def opened(path):
            return os.fsdecode(path), printable(os.path.relpath(path, os.fsencode(root)))

        native = _without_errors(lambda path: self._native(tf.io.read_file(path)), path)
        return self._finished(native, [path], opened, stop, look)

    def bytes(
        self, encoded: Tensor, name: Tensor, stop: bool = True, look: bool = False
    ) -> tuple[Tensor, Tensor]:
        """Decodes one image like `file`, from the contents of its file, a string scalar.

        In `unreadable` it has the name `name`, a string scalar.
        """

        def opened(encoded, name):
            return io.BytesIO(encoded), printable(name)

        native = _without_errors(self._native, encoded)
        return self._finished(native, [encoded, name], opened, stop, look)

    def _native(self, encoded):
        return decode_native(encoded, self.decoding)

    def _finished(self, native, arguments, opened, stop, look):
        """Lets Pillow decode what TensorFlow did not, and look at what is odd."""

        def fallback(*arguments):
            file, name = opened(*arguments)
            return self._with_pillow(file, name, stop)

        def looked(*arguments):
            file, name = opened(*arguments)
            found = image_files.oddities(file, self.decoding.max_pixels)
            if found is not None:
                self.noticed.add(name, found)
            return np.True_

        # stateful=False: with op determinism on, TensorFlow runs a map with a stateful function one
        # example at a time.
        image, readable = tf.cond(
            tf.size(native) > 0,
            lambda: (native, True),
            lambda: tuple(
                tf.numpy_function(fallback, arguments, (tf.uint8, tf.bool), stateful=False)
            ),
        )
        if look:  # its result is used, or TensorFlow would not call a function without state
            readable &= tf.numpy_function(looked, arguments, tf.bool, stateful=False)
        return tf.ensure_shape(image, [None, None, 3]), tf.ensure_shape(readable, [])

    def _with_pillow(self, file, name, stop):
        decoding = self.decoding
        try:
            pixels = image_files.pixels(
                file, decoding.color, decoding.exif == "apply", decoding.max_pixels
            )
            return pixels, np.True_
        # Pillow's decoders raise errors of many kinds: OSError, SyntaxError, struct.error…
        except Exception as error:
            self.unreadable.add(name, image_files.reason(error))
            if stop:
                self.unreadable.check()
            return np.zeros([1, 1, 3], np.uint8), np.False_


def printable(path: bytes | str) -> str:
    r"""Returns a path as text that can be printed and written, whatever bytes it consists of.

    Example:
        >>> print(printable(b"caf\xe9.jpg"))   # not UTF-8
        caf\xe9.jpg
    """
    return os.fsencode(path).decode("utf-8", "backslashreplace")


def decode_native(encoded: Tensor, decoding: Decoding) -> Tensor:
    """Decodes JPEG and PNG by TensorFlow alone.

    Args:
        encoded: the contents of a file, a string scalar.
        decoding: how.

    Returns:
        uint8 (h, w, 3); an empty image for any other format, or if it has too many pixels. What is
        damaged raises InvalidArgumentError at run time.
    """
    color, max_pixels = decoding.color, decoding.max_pixels
    empty = tf.zeros([0, 0, 3], tf.uint8)

    def jpeg():
        # Its header, and no pixels yet.
        small = tf.reduce_prod(_as_int64(tf.io.extract_jpeg_shape(encoded)[:2])) <= max_pixels
        return tf.cond(
            small,
            lambda: tf.io.decode_jpeg(encoded, channels=3, dct_method="INTEGER_ACCURATE"),
            lambda: empty,
        )

    def png():
        sides = tf.io.decode_raw(tf.strings.substr(encoded, 16, 8), tf.int32, little_endian=False)
        small = tf.reduce_prod(_as_int64(sides)) <= max_pixels
        return tf.case(
            [(~small, lambda: empty), (_has_alpha(encoded), lambda: _on_color(encoded, color))],
            lambda: tf.io.decode_png(encoded, channels=3),
        )

    is_jpeg = tf.strings.substr(encoded, 0, 3) == _JPEG
    is_png = tf.strings.substr(encoded, 0, 4) == _PNG
    image = tf.case([(is_jpeg, jpeg), (is_png, png)], lambda: empty)
    return _upright(image, encoded) if decoding.exif == "apply" else image


def _has_alpha(encoded):
    """Tells from the header of a PNG whether it can be transparent.

    Asked for alpha that a PNG of fewer than 8 bits lacks, TensorFlow gives it a wrong one.
    """
    kind = tf.strings.substr(encoded, 25, 1)
    # A color, or entries of the palette, that are transparent: a chunk before those of the pixels.
    header = tf.strings.split([encoded], b"IDAT", 1).values[0]
    some = tf.strings.regex_full_match(header, r"(?s)\C*tRNS\C*")
    return (kind == b"\x04") | (kind == b"\x06") | some


def _on_color(encoded, color):
    """Decodes a PNG with transparency; `keras_bt.data.image_files.on_background` in TensorFlow."""
    image = tf.io.decode_png(encoded, channels=4)
    alpha = tf.cast(image[..., 3:], tf.uint16)
    background = tf.constant(color, tf.uint16)
    shown = alpha * tf.cast(image[..., :3], tf.uint16) + (255 - alpha) * background
    # (shown + 127) // 255, ten times faster.
    shown += 128
    shift = tf.constant(8, tf.uint16)
    shown += tf.bitwise.right_shift(shown, shift)
    return tf.cast(tf.bitwise.right_shift(shown, shift), tf.uint8)


def _upright(image, encoded):
    """Turns and mirrors an image as its EXIF orientation, 1 to 8, says."""
    start = tf.strings.substr(encoded, 0, _EXIF_WITHIN)
    found = tf.io.decode_raw(tf.strings.regex_replace(start, _ORIENTATION, rb"\1\2"), tf.uint8)
    orientation = tf.cond(tf.size(found) == 1, lambda: found[0], lambda: tf.constant(1, tf.uint8))

    def one_of(*orientations):
        return tf.reduce_any(orientation == tf.constant(orientations, tf.uint8))

    image = tf.cond(one_of(5, 6, 7, 8), lambda: tf.transpose(image, (1, 0, 2)), lambda: image)
    image = tf.cond(one_of(2, 3, 6, 7), lambda: image[:, ::-1], lambda: image)
    return tf.cond(one_of(3, 4, 7, 8), lambda: image[::-1], lambda: image)


def _as_int64(sides):
    return tf.cast(sides, tf.int64)


def _without_errors(function, argument):
    """Returns `function(argument)`, or an empty image if it raises.

    A graph has no try and except, but `ignore_errors` on a one-element data set does the same. It
    costs less than a tenth of decoding a photograph of 500 × 375 pixels.
    """
    attempt = tf.data.Dataset.from_tensors(argument).map(function).ignore_errors()
    empty = tf.data.Dataset.from_tensors(tf.zeros([0, 0, 3], tf.uint8))
    return attempt.concatenate(empty).take(1).get_single_element()
