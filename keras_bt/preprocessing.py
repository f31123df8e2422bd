"""Preprocessing of images that are not augmented: resize, center crop, normalize."""

from collections.abc import Sequence

import tensorflow as tf

from keras_bt.typing import Tensor

IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)


def normalize(
    images: Tensor, mean: Sequence[float] = IMAGENET_MEAN, std: Sequence[float] = IMAGENET_STD
) -> Tensor:
    """Subtracts the mean and divides by the standard deviation of each channel.

    Args:
        images: (..., 3), 0..255, any real dtype.
        mean: per channel, on the scale 0..1.
        std: per channel, on the scale 0..1.

    Returns:
        float32 tensor of the same shape.
    """
    mean, std = tf.constant(mean, tf.float32), tf.constant(std, tf.float32)
    return (tf.cast(images, tf.float32) / 255 - mean) / std


def default_resize(image_size: int) -> int:
    """Returns the length of the shorter side before the center crop: 256 for a crop of 224."""
    return round(image_size * 256 / 224)


def center_crop(images: Tensor, image_size: int, resize: int | None = None) -> Tensor:
    """Resizes the shorter side and crops the center, as torchvision does for evaluation.

    The interpolation is bilinear with antialiasing (a triangle filter as wide as the step between
    output pixels), as in Pillow except for its rounding to integers. Only the pixels inside the
    crop are computed, so a strip of 1 × 10,000 pixels costs no more than a square.

    >>> ramp = np.broadcast_to(np.arange(256)[:, None, None], (256, 256, 3))  # 0 to 255, downwards
    >>> crop = center_crop(ramp, 224)
    >>> crop.shape, float(crop[0, 0, 0]), float(crop[-1, 0, 0])
    (TensorShape([224, 224, 3]), 16.0, 239.0)

    Args:
        images: (h, w, 3) or (b, h, w, 3), 0..255, any real dtype; h and w may be unknown.
        image_size: side of the result, pixels.
        resize: length of the shorter side before cropping, image_size · 256/224 by default.

    Returns:
        float32 (image_size, image_size, 3) or (b, image_size, image_size, 3).

    Raises:
        ValueError: if resize is smaller than image_size, or image_size smaller than 1.
    """
    resize = default_resize(image_size) if resize is None else resize
    if not 0 < image_size <= resize:
        raise ValueError(
            "resize must be at least image_size, and image_size at least 1. "
            f"Received: image_size={image_size}, resize={resize}."
        )
    images = tf.convert_to_tensor(images)
    if images.shape.rank == 3:
        return center_crop(images[None], image_size, resize)[0]
    height, width = tf.unstack(tf.shape(images, tf.int64)[1:3])
    shorter = tf.minimum(height, width)
    # As in torchvision the longer side is rounded down, the corner to nearest, halves to even.
    sides = tf.stack([resize * height // shorter, resize * width // shorter])
    corner = tf.round(tf.cast(sides - image_size, tf.float64) / 2)
    cropped = tf.raw_ops.ScaleAndTranslate(
        images=images,
        size=[image_size, image_size],
        scale=tf.cast(sides / tf.stack([height, width]), tf.float32),
        translation=tf.cast(-corner, tf.float32),
        kernel_type="triangle",
        antialias=True,
    )
    cropped.set_shape([images.shape[0], image_size, image_size, 3])
    return cropped
