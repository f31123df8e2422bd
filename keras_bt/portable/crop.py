"""The center crop of evaluation in operations that every converter and runtime knows."""

import tensorflow as tf


def center_crop(images, image_size: int, resize: int):
    """What `keras_bt.preprocessing.center_crop` computes, as two matrix products.

    Resizing and cropping are linear and separable, X' = D X Aᵀ. TensorFlow's own operation for it,
    `ScaleAndTranslate`, exists neither in ONNX nor in LiteRT. The matrices are dense, so that this
    is slower on large images: a photo of 12 megapixels costs more than the ResNet-50 after it.

    Args:
        images: (b, h, w, 3), 0..255, any real dtype; h and w may be unknown.
        image_size: Side of the result.
        resize: Length of the shorter side before cropping.

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
    """(image_size, length): the weight of each input pixel in each output pixel, along one axis.

    A triangle as wide as the step between output pixels is centered on the output pixel, cut at the
    ends of the input and normalized. Of `side` output pixels the central `image_size` are wanted.
    """
    scale = tf.cast(length, tf.float32) / tf.cast(side, tf.float32)
    corner = tf.round(tf.cast(side - image_size, tf.float32) / 2)  # halves to even
    center = (tf.range(image_size, dtype=tf.float32) + corner + 0.5) * scale
    pixels = tf.cast(tf.range(length), tf.float32) + 0.5
    distance = tf.abs(pixels - center[:, None]) / tf.maximum(scale, 1.0)
    weights = tf.maximum(1 - distance, 0.0)
    return weights / tf.reduce_sum(weights, axis=1, keepdims=True)
