"""The center crop of evaluation in operations that every converter and runtime knows."""

import tensorflow as tf

from keras_bt.typing import Tensor


def center_crop(images: Tensor, image_size: int, resize: int) -> tf.Tensor:
    """Computes `keras_bt.preprocessing.center_crop` as two matrix products.

    Resizing and cropping are linear and separable, X' = D X Aᵀ. TensorFlow's own operation for it,
    `ScaleAndTranslate`, exists neither in ONNX nor in LiteRT. The matrices are dense, which is
    slower on large images: a 12-megapixel photo costs more than the ResNet-50 after it.

    >>> usual = keras_bt.preprocessing.center_crop(images, image_size=8, resize=10)
    >>> bool(np.allclose(center_crop(images, image_size=8, resize=10), usual, atol=1e-3))
    True

    Args:
        images: (b, h, w, 3), 0..255, any real dtype; h and w may be unknown.
        image_size: Side of the result, in pixels.
        resize: Length of the shorter side before cropping, in pixels.

    Returns:
        float32 (b, image_size, image_size, 3).
    """
    batch, height, width = tf.unstack(tf.shape(images)[:3])
    shorter = tf.minimum(height, width)
    down = _weights(height, resize * height // shorter, image_size)
    across = _weights(width, resize * width // shorter, image_size)
    # Products of matrices alone: (s, h) × (b, h, w·3), then (s, w) × (b·s, w, 3).
    rows = tf.reshape(tf.cast(images, tf.float32), (batch, height, width * 3))
    columns = tf.reshape(tf.matmul(down, rows), (batch * image_size, width, 3))
    return tf.reshape(tf.matmul(across, columns), (-1, image_size, image_size, 3))


def _weights(length, side, image_size):
    """Returns (image_size, length): the weight of each input pixel in each output pixel of an axis.

    A triangle as wide as the step between output pixels is centered on the output pixel, truncated
    at the ends of the input and normalized. Only the central `image_size` of the `side` output
    pixels are computed.
    """
    scale = tf.cast(length, tf.float32) / tf.cast(side, tf.float32)
    corner = tf.round(tf.cast(side - image_size, tf.float32) / 2)  # halves to even
    center = (tf.range(image_size, dtype=tf.float32) + corner + 0.5) * scale
    pixels = tf.cast(tf.range(length), tf.float32) + 0.5
    distance = tf.abs(pixels - center[:, None]) / tf.maximum(scale, 1.0)
    weights = tf.maximum(1 - distance, 0.0)
    return weights / tf.reduce_sum(weights, axis=1, keepdims=True)
