"""Preprocessing of images that are not augmented: resize, center crop, normalize."""

import math
from collections.abc import Sequence
from fractions import Fraction

import numpy as np
import tensorflow as tf

from keras_bt.typing import Size, Tensor

IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)


def normalization(name: str, channels: int = 3) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Returns the mean and standard deviation of each channel that a normalization has.

    >>> normalization("none", channels=2)   # pixels are divided by 255, and no more
    ((0.0, 0.0), (1.0, 1.0))

    Args:
        name: "imagenet", for three channels, or "none".
        channels: number of channels.

    Raises:
        ValueError: for another name, or ImageNet's for other than three channels.
    """
    if name == "none":
        return (0.0,) * channels, (1.0,) * channels
    if name != "imagenet" or channels != 3:
        raise ValueError(
            "The normalization must be imagenet, for images of three channels, or none "
            f"(--normalize=none). Received: {name} for {channels} channels."
        )
    return IMAGENET_MEAN, IMAGENET_STD


def normalize(
    images: Tensor, mean: Sequence[float] = IMAGENET_MEAN, std: Sequence[float] = IMAGENET_STD
) -> Tensor:
    """Subtracts the mean and divides by the standard deviation of each channel.

    Args:
        images: (..., c), 0..255, any real dtype.
        mean: per channel, on the scale 0..1.
        std: per channel, on the scale 0..1.

    Returns:
        float32 tensor of the same shape.

    Raises:
        ValueError: if there is not one mean and one deviation per channel.
    """
    images = tf.convert_to_tensor(images)
    check_channels(images.shape[-1], mean, std)
    mean, std = tf.constant(mean, tf.float32), tf.constant(std, tf.float32)
    return (tf.cast(images, tf.float32) / 255 - mean) / std


def check_channels(channels: int | None, mean: Sequence[float], std: Sequence[float]) -> None:
    """Raises ValueError unless mean and std are those of so many channels, if that is known."""
    if not len(mean) == len(std) == (channels or len(mean)):
        raise ValueError(
            "mean and std must have one number per channel. Received: "
            f"{len(mean)} and {len(std)}"
            + (f" for images of {channels} channels." if channels else ".")
        )


def height_and_width(size: Size) -> tuple[int, int]:
    """Returns a size as (height, width).

    >>> height_and_width(64), height_and_width([64, 96])
    ((64, 64), (64, 96))

    Raises:
        ValueError: if it is not one or two positive ints.
    """
    sides = tuple(size) if isinstance(size, (tuple, list)) else (size, size)
    whole = all(isinstance(side, int | np.integer) and side >= 1 for side in sides)
    if len(sides) != 2 or not whole:
        raise ValueError(f"A size must be one or two positive ints. Received: {size}.")
    return int(sides[0]), int(sides[1])


def default_resize(image_size: Size) -> int:
    """Returns the `resize` of `center_crop` by default: 256 for a crop of 224 × 224."""
    return round(min(height_and_width(image_size)) * 256 / 224)


def center_crop(images: Tensor, image_size: Size, resize: int | None = None) -> Tensor:
    """Resizes images until they cover a frame and crops the center, as in torchvision's evaluation.

    The frame has the proportions of the crop, and `resize` is its shorter side. For a square, this
    is the usual: an image's shorter side becomes `resize`. See `resized_sides`.

    The interpolation is bilinear with antialiasing (a triangle filter as wide as the step between
    output pixels), as in Pillow except for its rounding to integers. Only the pixels inside the
    crop are computed, so a strip of 1 × 10,000 pixels costs no more than a square.

    >>> ramp = np.broadcast_to(np.arange(256)[:, None, None], (256, 256, 3))  # 0 to 255, downwards
    >>> crop = center_crop(ramp, 224)
    >>> crop.shape, float(crop[0, 0, 0]), float(crop[-1, 0, 0])
    (TensorShape([224, 224, 3]), 16.0, 239.0)

    Args:
        images: (h, w, c) or (b, h, w, c), 0..255, any real dtype; h and w may be unknown.
        image_size: (height, width) of the result in pixels, or one int for both.
        resize: shorter side of the frame in pixels; by default 256/224 of the crop's shorter side.

    Returns:
        float32 (height, width, c) or (b, height, width, c).

    Raises:
        ValueError: if resize is smaller than the shorter side of image_size, or that is no size.
    """
    size = height_and_width(image_size)
    resize = default_resize(size) if resize is None else resize
    if min(size) > resize:
        raise ValueError(
            "resize must be at least image_size, of two numbers the smaller one. "
            f"Received: image_size={image_size}, resize={resize}."
        )
    images = tf.convert_to_tensor(images)
    if images.shape.rank == 3:
        return center_crop(images[None], image_size, resize)[0]
    height, width = tf.unstack(tf.shape(images, tf.int64)[1:3])
    sides = tf.stack(resized_sides(height, width, size, resize))
    # As in torchvision, the corner is rounded to nearest, halves to even.
    corner = tf.round(tf.cast(sides - tf.constant(size, tf.int64), tf.float64) / 2)
    cropped = tf.raw_ops.ScaleAndTranslate(
        images=images,
        size=size,
        scale=tf.cast(sides / tf.stack([height, width]), tf.float32),
        translation=tf.cast(-corner, tf.float32),
        kernel_type="triangle",
        antialias=True,
    )
    cropped.set_shape([images.shape[0], *size, images.shape[-1]])
    return cropped


def resized_sides(height: Tensor, width: Tensor, size: Size, resize: int) -> tuple[Tensor, Tensor]:
    """Returns the sides to which `center_crop` resizes an image before it crops it.

    With H × W the size of the crop and s its shorter side, the frame is r·H/s × r·W/s, r being
    `resize`. The image is resized in proportion until it just covers the frame, and both sides are
    rounded down. For a square crop its shorter side is then r, and the longer one rounded down.

    >>> [int(side) for side in resized_sides(375, 500, 224, 256)]
    [256, 341]
    >>> [int(side) for side in resized_sides(375, 500, (64, 96), 73)]   # covers 73 × 109.5
    [82, 109]

    Args:
        height: of the image in pixels, an int or an integer tensor.
        width: likewise.
        size: (height, width) of the crop in pixels, or one int for both.
        resize: shorter side of the frame in pixels.
    """
    h, w = height_and_width(size)
    # In lowest terms, so that products stay small.
    down, across = Fraction(resize * h, min(h, w)), Fraction(resize * w, min(h, w))
    return (
        tf.maximum(across.numerator * height // (across.denominator * width), math.floor(down)),
        tf.maximum(down.numerator * width // (down.denominator * height), math.floor(across)),
    )
