"""What is done to an image that is looked at as it is: resize, center crop, normalize."""

import tensorflow as tf

IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)


def normalize(images, mean=IMAGENET_MEAN, std=IMAGENET_STD):
    """Subtracts the mean and divides by the standard deviation of each channel.

    Args:
        images: (..., 3), 0..255, any real dtype.
        mean: Per channel, on the scale 0..1.
        std: Per channel, on the scale 0..1.

    Returns:
        float32 tensor of the same shape.
    """
    mean, std = tf.constant(mean, tf.float32), tf.constant(std, tf.float32)
    return (tf.cast(images, tf.float32) / 255 - mean) / std


def default_resize(image_size: int) -> int:
    """Length of the shorter side before the center crop: 256 for a crop of 224."""
    return round(image_size * 256 / 224)


def center_crop(images, image_size: int, resize: int | None = None):
    """Resizes the shorter side and cuts out the center, as torchvision's evaluation does.

    Bilinear with antialiasing (a triangle as wide as the step between output pixels), which is
    what Pillow computes, but for Pillow's rounding to whole numbers. Only the pixels that
    remain are computed, so that a strip of 1 × 10,000 pixels costs no more than a square.

    Args:
        images: (h, w, 3) or (b, h, w, 3), 0..255, any real dtype; h and w may be unknown.
        image_size: Side of the result.
        resize: Length of the shorter side before cropping, image_size · 256/224 by default.

    Returns:
        float32 (image_size, image_size, 3) or (b, image_size, image_size, 3).

    Raises:
        ValueError: resize is smaller than image_size.
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
    # torchvision: the longer side is rounded down, the corner to nearest, halves to even.
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
