"""Single image files that flags name, read as those of a source are."""

import os

import tensorflow as tf

from keras_bt import data
from keras_bt.data.decoding import Decoder, printable


def read(files, flags, decoding, image_size, resize, normalization):
    """Reads images of any size and prepares them for a network.

    Args:
        files: paths.
        flags: list of the name of the flag that each was given by.
        decoding: `keras_bt.data.Decoding`.
        image_size: int, or (height, width).
        resize: see `keras_bt.data.center_crop`.
        normalization: mean and deviation of each channel.

    Returns:
        Tensor, float32 (n, h, w, 3).

    Raises:
        ValueError: if one is no image that can be read.
    """
    decoder = Decoder("the images", len(files), decoding)
    paths = tf.data.Dataset.from_tensor_slices([os.fsencode(file) for file in files])
    decoded = paths.map(lambda path: decoder.file(path, os.curdir, stop=False))
    images = []
    for file, flag, (image, readable) in zip(files, flags, decoded, strict=True):
        if not readable:
            reason = decoder.unreadable.reasons[printable(os.path.relpath(file))]
            raise ValueError(
                f"--{flag} must be an image file that can be read. Received: {file} ({reason})."
            )
        cropped = data.center_crop(image, image_size, resize)
        images.append(data.normalize(cropped, *normalization))
    return tf.stack(images)
