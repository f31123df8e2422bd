"""The center crop of evaluation in operations that every converter and runtime knows."""

import tensorflow as tf

from keras_bt.preprocessing import height_and_width, resized_sides
from keras_bt.typing import Size, Tensor


def center_crop(images: Tensor, image_size: Size, resize: int) -> tf.Tensor:
    """Computes `keras_bt.preprocessing.center_crop` as two matrix products.

    Resizing and cropping are linear and separable, X' = D X Aᵀ. TensorFlow's own operation for it,
    `ScaleAndTranslate`, exists neither in ONNX nor in LiteRT. The matrices are dense, which is
    slower on large images: a 12-megapixel photo costs more than the ResNet-50 after it.

    >>> usual = keras_bt.preprocessing.center_crop(images, image_size=8, resize=10)
    >>> bool(np.allclose(center_crop(images, image_size=8, resize=10), usual, atol=1e-3))
    True

    Args:
        images: (b, h, w, c), 0..255, any real dtype; h and w may be unknown.
        image_size: (height, width) of the result in pixels, or one int for both.
        resize: See `keras_bt.preprocessing.center_crop`.

    Returns:
        float32 (b, *image_size, c).
    """
    out_height, out_width = height_and_width(image_size)
    channels = images.shape[-1]
    batch, height, width = tf.unstack(tf.shape(images)[:3])
    sides = resized_sides(height, width, image_size, resize)
    down, across = _weights(height, sides[0], out_height), _weights(width, sides[1], out_width)
    # Products of matrices alone: (h', h) × (b, h, w·c), then (w', w) × (b·h', w, c).
    rows = tf.reshape(tf.cast(images, tf.float32), (batch, height, width * channels))
    columns = tf.reshape(tf.matmul(down, rows), (batch * out_height, width, channels))
    return tf.reshape(tf.matmul(across, columns), (-1, out_height, out_width, channels))


def _weights(length, side, seen):
    """Returns (seen, length): the weight of each input pixel in each output pixel of an axis.

    A triangle as wide as the step between output pixels is centered on the output pixel, truncated
    at the ends of the input and normalized. Only the central `seen` of the `side` output pixels
    are computed.
    """
    scale = tf.cast(length, tf.float32) / tf.cast(side, tf.float32)
    corner = tf.round(tf.cast(side - seen, tf.float32) / 2)  # halves to even
    center = (tf.range(seen, dtype=tf.float32) + corner + 0.5) * scale
    pixels = tf.cast(tf.range(length), tf.float32) + 0.5
    distance = tf.abs(pixels - center[:, None]) / tf.maximum(scale, 1.0)
    weights = tf.maximum(1 - distance, 0.0)
    return weights / tf.reduce_sum(weights, axis=1, keepdims=True)
