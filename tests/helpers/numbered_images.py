"""Numbered images as every kind of source, and views that show which image and which draw it was.

Image n has the value 10 · n everywhere and the label n // 8.
"""

import io

import numpy as np
import pytest
import tensorflow as tf
from PIL import Image

from keras_bt.data.arrays import ArraySource
from keras_bt.data.encoded import BytesSource, FileSource
from keras_bt.data.specs import open_source
from keras_bt.randomness import uniform_each

N, PER_CLASS = 24, 8
CLASSES = ("a", "b", "c")
# Batched first, and cropped first; the others are left to the slow set.
BOTH_WAYS = ["arrays", "files"]
KINDS = BOTH_WAYS + [
    pytest.param(kind, marks=pytest.mark.slow)
    for kind in ("large arrays", "cached files", "bytes", "records")
]


def png(value, size):
    file = io.BytesIO()
    Image.new("RGB", size, (value,) * 3).save(file, "PNG")
    return file.getvalue()


def make(kind, folder, records, n=N, broken=()):
    """Makes a source.

    Args:
        kind: one of KINDS.
        folder: pathlib.Path, for files.
        records: function that returns the folder of tfds, for records (always 24 images).
        n: number of images.
        broken: numbers of the images that cannot be read (not of arrays and records).
    """
    labels = np.arange(n) // PER_CLASS
    if kind == "records":
        return open_source("tfds:imagenet2012", str(records()), cache_bytes=0)[0]
    if "arrays" in kind:
        gray = np.arange(n, dtype=np.uint8)[:, None, None, None] * 10
        side, channels = (5, 1) if kind == "arrays" else (200, 3)
        return ArraySource(np.tile(gray, (1, side, side, channels)), labels, CLASSES)
    images = [b"broken" if i in broken else png(10 * i, (3 + i, 7)) for i in range(n)]
    names = [f"{i:02}.png" for i in range(n)]
    options = {"labels": labels, "class_names": CLASSES, "name": "folder"}
    options["cache_bytes"] = 10**6 if kind == "cached files" else 0
    if kind == "bytes":
        return BytesSource(images, names, **options)
    for name, image in zip(names, images, strict=True):
        (folder / name).write_bytes(image)
    return FileSource([str(folder / name) for name in names], str(folder), **options)


class Look:
    """A stand-in for `augmentations.View`.

    The crop adds a draw from 0..4, a whole level, to every pixel, the rest one from 0..5.5: of a
    view's value v, v // 10 is the number of the image, and what remains tells the draws.
    """

    drawn = True

    def __init__(self, salt=0, crops=True, draws=True):
        self.salt, self.draws = salt, draws
        self.crop = self._crop if crops else None

    @property
    def rest(self):
        return Look(self.salt, crops=False, draws=self.draws)

    def _uniform(self, seeds, salt):
        uniform = uniform_each(seeds, [salt])
        return uniform if self.draws else tf.zeros_like(uniform)

    def _crop(self, inputs):
        level = tf.round(4 * self._uniform(inputs["seed"], self.salt))
        if inputs["images"].shape.rank == 4:
            return {"images": tf.cast(inputs["images"], tf.float32) + level[:, None, None]}
        pixel = tf.cast(inputs["images"][0, 0], tf.float32)
        return {"images": tf.broadcast_to(pixel + level[0], [6, 6, 3])}

    def draw(self, seeds):
        return {"shade": 5.5 * self._uniform(seeds, self.salt + 10)[:, 0]}

    def apply(self, images, draws):
        return images + draws["shade"][:, None, None, None]


def values(batches):
    """The value of each image in batches of views: (steps, views, batch)."""
    stacked = [np.stack([view for view in batch if view.shape.rank == 4]) for batch in batches]
    assert max(np.ptp(batch, axis=(2, 3, 4)).max() for batch in stacked) < 1e-4
    assert {batch.dtype for batch in stacked} == {np.dtype(np.float32)}
    return np.stack(stacked)[..., 0, 0, 0]


def numbers(values):
    """The numbers of the images that have these values."""
    return np.floor(values / 10 + 1e-4).astype(int)
