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

    The crop adds a draw from 0..4 to every pixel, the rest one from 0..0.4: of a view's value v,
    v // 10 is the number of the image, and what remains tells the draws.
    """

    def __init__(self, salt=0, crops=True, draws=True):
        self.salt, self.draws = salt, draws
        self.crop = self._crop if crops else None

    def _draw(self, shape, seed):
        return tf.random.stateless_uniform(shape, seed + self.salt) if self.draws else 0.0

    def _crop(self, inputs):
        if inputs["images"].shape.rank == 4:
            draws = self._draw([len(inputs["images"]), 1, 1, 1], inputs["seed"])
            return {"images": inputs["images"] + 4 * draws}
        pixel = tf.cast(inputs["images"][0, 0], tf.float32)
        return {"images": tf.broadcast_to(pixel + 4 * self._draw([], inputs["seed"]), [6, 6, 3])}

    def rest(self, images, seed):
        return images + 0.4 * self._draw([len(images), 1, 1, 1], seed + 1)

    def __call__(self, images, seed):
        return self.rest(images, seed)


def values(batches):
    """The value of each image in batches of views: (steps, views, batch)."""
    stacked = [np.stack([view for view in batch if view.shape.rank == 4]) for batch in batches]
    assert max(np.ptp(batch, axis=(2, 3, 4)).max() for batch in stacked) < 1e-4
    assert {batch.dtype for batch in stacked} == {np.dtype(np.float32)}
    return np.stack(stacked)[..., 0, 0, 0]


def numbers(values):
    """The numbers of the images that have these values."""
    return np.floor(values / 10 + 1e-4).astype(int)
