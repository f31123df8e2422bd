"""Random crops and Pillow's antialiased resizing.

Images are channels last, in 0..255; results are float32 and not rounded.
"""

import math
from collections.abc import Sequence

import tensorflow as tf

from keras_bt.augmentations.arrays import cast, namespace, shape
from keras_bt.randomness import between
from keras_bt.typing import Tensor

_TRIES = 10
BOX_DRAWS = 2 * _TRIES + 2  # numbers that `crop_boxes` needs for each image


def crop_boxes(
    draws: Tensor,
    height: int | Tensor,
    width: int | Tensor,
    area: tuple[float, float],
    aspect: tuple[float, float],
) -> Tensor:
    """Finds crop boxes as torchvision's `RandomResizedCrop.get_params`, for a whole batch.

    Ten tries per image draw an area fraction uniformly and an aspect ratio log-uniformly; the
    first box that fits is placed uniformly. If none fits, the box is the largest central one
    whose aspect ratio is in range.

    Args:
        draws: float32 (b, `BOX_DRAWS`), uniform in [0, 1): the areas, the aspects, the place.
        height: of the images in pixels, int or scalar tensor.
        width: likewise.
        area: (least, greatest) fraction of the image's area.
        aspect: (least, greatest) ratio of width to height, in pixels.

    Returns:
        int32 (b, 4) of top, left, height, width in pixels.

    Example:
        >>> draws = np.random.default_rng(0).random((1000, BOX_DRAWS), np.float32)
        >>> boxes = crop_boxes(draws, 40, 60, area=(0.25, 1), aspect=(3 / 4, 4 / 3))
        >>> top, left, height, width = boxes.numpy().T
        >>> int(max(top + height)), int(max(left + width))   # no box sticks out
        (40, 60)
    """
    # In float64: how a processor rounds logarithms and roots of float32 depends on how many it
    # takes at once, and boxes do not depend on the size of a batch.
    draws = tf.cast(draws, tf.float64)
    rows, columns = tf.cast(height, tf.float64), tf.cast(width, tf.float64)
    target = rows * columns * between(area, draws[:, :_TRIES])
    ratio = tf.exp(between([math.log(r) for r in aspect], draws[:, _TRIES : 2 * _TRIES]))
    # tf.round rounds halves to even, as Python's round does in torchvision.
    widths, heights = tf.round(tf.sqrt(target * ratio)), tf.round(tf.sqrt(target / ratio))
    fits = (widths > 0) & (widths <= columns) & (heights > 0) & (heights <= rows)

    # The fallback is an eleventh column that always fits.
    whole = columns / rows
    fallback_width = tf.where(whole > aspect[1], tf.round(rows * aspect[1]), columns)
    fallback_height = tf.where(whole < aspect[0], tf.round(columns / aspect[0]), rows)
    one = tf.ones_like(draws[:, :1])
    fits = tf.concat([fits, one > 0], axis=1)
    first = tf.argmax(fits, axis=1, output_type=tf.int32)[:, None]
    crop_width = tf.gather(tf.concat([widths, fallback_width * one], 1), first, batch_dims=1)[:, 0]
    crop_height = tf.gather(tf.concat([heights, fallback_height * one], 1), first, batch_dims=1)
    crop_height, found = crop_height[:, 0], first[:, 0] < _TRIES

    room = tf.stack([rows - crop_height, columns - crop_width], axis=1)
    corner = tf.where(found[:, None], draws[:, -2:] * (room + 1), room / 2)
    box = tf.concat([tf.floor(corner), crop_height[:, None], crop_width[:, None]], axis=1)
    return tf.cast(box, tf.int32)


def crop_and_resize(
    images: Tensor, boxes: Tensor, size: Sequence[int], interpolation: str = "bicubic"
) -> Tensor:
    """Cuts a box from each image and resizes it with antialiasing, as Pillow does.

    Resizing is linear and separable, X' = D X Aᵀ, so a batch is two batched matrix products with
    static shapes (XLA and TPU included). The weights see nothing outside the box: torchvision
    crops first.

    Args:
        images: (b, h, w, c), any real dtype.
        boxes: int (b, 4) of top, left, height, width in pixels, inside the images.
        size: (height, width) of the result.
        interpolation: "bicubic" (a = -0.5) or "bilinear".

    Returns:
        float32 (b, *size, c).
    """
    np, (_, *sides, _) = namespace(images), shape(images)
    images = cast(images, "float32")
    pixels = [np.arange(side, dtype=np.int32)[None, None] for side in sides]
    outputs = [np.arange(side, dtype=np.int32)[None, :, None] for side in size]
    top, left, height, width = (boxes[:, column, None, None] for column in range(4))
    rows, columns = _inside(np, pixels[0] - top, height), _inside(np, pixels[1] - left, width)
    down = _resampling_weights(np, rows, height, outputs[0], size[0], interpolation)
    across = _resampling_weights(np, columns, width, outputs[1], size[1], interpolation)
    # Pillow resizes the rows first and saturates in between, which shows next to sharp edges.
    images = np.clip(np.einsum("bpw,bhwc->bhpc", across, images), 0.0, 255.0)
    return np.clip(np.einsum("boh,bhpc->bopc", down, images), 0.0, 255.0)


def resize(image: Tensor, size: Sequence[int], interpolation: str = "bicubic") -> Tensor:
    """Resizes one image of any size with antialiasing, as Pillow does; see `crop_and_resize`.

    Made for the host: the weights are a band around the diagonal, so the outputs are computed in
    blocks, each of which reads only the pixels within reach. The image gets no gradient.

    Args:
        image: (h, w, c), any real dtype; h and w may be unknown until run time.
        size: (height, width) of the result.
        interpolation: "bicubic" or "bilinear".

    Returns:
        float32 (*size, c).
    """
    rows, columns, c = tf.shape(image)[0], tf.shape(image)[1], image.shape[-1]
    # Plain transposes of matrices are fast: (h, w·c) → (w·c, h), and then (w'·c, h) → (h, w'·c).
    across = tf.reshape(_transposed(tf.reshape(image, (rows, columns * c))), (columns, c * rows))
    across = _saturated(_resample_rows(across, size[1], interpolation))
    down = _transposed(tf.reshape(across, (size[1] * c, rows)))
    down = _saturated(_resample_rows(down, size[0], interpolation))
    return tf.reshape(down, (*size, c))


def _transposed(matrix):
    # oneDNN recompiles a transpose of floats for every shape, but leaves integers alone.
    if matrix.dtype != tf.float32:
        return tf.transpose(matrix)
    return tf.bitcast(tf.transpose(tf.bitcast(matrix, tf.int32)), tf.float32)


def _resample_rows(rows, size, interpolation):
    """Resamples (n, m) to (size, m), in blocks of equally many outputs."""
    length = tf.shape(rows)[0]
    block = max(d for d in range(1, 17) if size % d == 0)
    scale = tf.cast(length, tf.float32) / size
    reach = _reach(interpolation) * tf.maximum(scale, 1.0)
    window = tf.cast(tf.math.ceil(block * scale + 2 * reach), tf.int32) + 1
    window = tf.minimum(window, length)
    outputs = tf.reshape(tf.range(size), (size // block, block, 1))
    first = (tf.cast(outputs[:, 0], tf.float32) + 0.5) * scale - reach
    first = tf.clip_by_value(tf.cast(first, tf.int32), 0, length - window)
    pixels = first + tf.range(window)
    weights = _resampling_weights(
        namespace(rows), pixels[:, None], length, outputs, size, interpolation
    )
    seen = tf.cast(tf.gather(rows, pixels), tf.float32)
    # `weights @ seen`, which oneDNN would recompile for every shape; it leaves this op alone.
    blocks = tf.raw_ops.BatchMatMulV3(x=weights, y=seen, Tout=tf.float32)
    return tf.reshape(blocks, (size, tf.shape(rows)[1]))


def _inside(np, pixels, length):
    """Moves pixels outside 0..length-1 beyond the reach of any kernel."""
    return np.where((pixels >= 0) & (pixels < length), pixels, -(10**9))


def _resampling_weights(np, pixels, length, outputs, size, interpolation):
    """Returns the weight of each of the `length` input pixels in each of the `size` output pixels.

    The interpolation kernel, widened by the factor of reduction, is centered on the output pixel,
    cut at the ends of the input and normalized. Arguments broadcast; all pixels within reach must
    be in 0..length-1.
    """
    scale = cast(length, "float32") / size
    center = (cast(outputs, "float32") + 0.5) * scale
    distance = np.abs(cast(pixels, "float32") + 0.5 - center) / np.maximum(scale, 1.0)
    weights = _kernel(np, distance, interpolation)
    return weights / np.sum(weights, axis=-1, keepdims=True)


def _kernel(np, x, interpolation):
    if interpolation == "bilinear":
        return np.maximum(1 - x, 0.0)
    x = np.minimum(x, 2.0)  # where the kernel ends, at 0
    near, far = (1.5 * x - 2.5) * x * x + 1, ((-0.5 * x + 2.5) * x - 4) * x + 2
    return np.where(x < 1, near, far)


def _reach(interpolation):
    return {"bilinear": 1.0, "bicubic": 2.0}[interpolation]


def _saturated(images):
    return tf.clip_by_value(images, 0.0, 255.0)
