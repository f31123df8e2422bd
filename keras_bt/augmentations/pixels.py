"""The image operations of the views as pure functions of images and explicit factors.

Images are channels last, in 0..255, and stay float32 between operations, as on torchvision's path
of floats. Pillow, which the published code uses, cuts off fractions after each of them and keeps
the hue in 8 bits: its images are 1.5 levels darker, on average, after a whole color jitter. Every
function takes a whole batch, with one factor per image, as arrays of NumPy, TensorFlow or JAX;
nothing here is random. They run fastest compiled by XLA, on CPU too.
"""

import math

from keras_bt.augmentations.arrays import cast, namespace, shape, take_rows, when
from keras_bt.typing import Tensor

# ITU-R 601-2 luma, the weights of Pillow's "L" mode.
_LUMA = (0.299, 0.587, 0.114)
# The number of each operation in `color_jitter`'s `order`.
BRIGHTNESS, CONTRAST, SATURATION, HUE = range(4)


def brighten(images: Tensor, brightness: Tensor) -> Tensor:
    """Multiplies images (b, h, w, c) by factors (b,), as `color_jitter` does by `brightness`."""
    return _saturate(images * _per_image(brightness)[..., None])


def color_jitter(
    images: Tensor,
    brightness: Tensor,
    contrast: Tensor,
    saturation: Tensor,
    hue: Tensor | None,
    order: Tensor,
) -> Tensor:
    """Applies the four adjustments, to each image in its own order.

    Brightness, contrast and saturation are all f·x + g·luma(x) + m·mean(luma(x)), so one pass does
    for each image whichever of them is next. Hue is the expensive one: it is done once for the
    whole batch, with three of these passes before it and three after, and an image goes unchanged
    (f = 1) through those that its order does not use.

    Args:
        images: (b, h, w, 3) in 0..255.
        brightness: factors (b,); 1 changes nothing.
        contrast: likewise.
        saturation: likewise.
        hue: shifts (b,) in -0.5..0.5, or None for no change of hue.
        order: int (b, 4); row i lists the operations on image i from first to last: 0 brightness,
            1 contrast, 2 saturation, 3 hue.

    Returns:
        float32, the shape of `images`.
    """
    np = namespace(images)
    factors = np.stack([brightness, contrast, saturation], axis=1)
    turn = np.argsort(order, axis=1)
    after_hue = turn[:, :HUE] > turn[:, HUE:]
    # (b, operation, slot): 1 where the operation is the slot-th of the three without hue.
    slot_of = turn[:, :HUE] - cast(after_hue, "int32")
    slots = cast(slot_of[:, :, None] == np.arange(3, dtype=np.int32), "float32")
    after_hue = cast(after_hue, "float32")[:, :, None]

    def three_blends(planes, slots):
        for slot in range(3):
            change = slots[:, :, slot] * (1 - factors)
            factor = _per_image(1 - np.sum(change, axis=1))
            luma, mean = _per_image(change[:, SATURATION]), _per_image(change[:, CONTRAST])
            planes = _blend(planes, factor, luma, mean)
        return planes

    def jitter(planes):
        if hue is None:
            return three_blends(planes, slots)
        planes = three_blends(planes, slots * (1 - after_hue))
        planes = when(np.any(hue != 0), lambda: _turn_hue(planes, _per_image(hue)), lambda: planes)
        return three_blends(planes, slots * after_hue)

    return _on_planes(jitter, images)


def grayscale(images: Tensor) -> Tensor:
    """Replaces all three channels by the luma; images (b, h, w, 3)."""
    return _on_planes(lambda planes: [_luma(planes)] * 3, images)


def solarize(images: Tensor, threshold: float = 128) -> Tensor:
    """Inverts every value at or above the threshold; images in 0..255."""
    return namespace(images).where(images < threshold, images, 255.0 - images)


def flip(images: Tensor) -> Tensor:
    """Mirrors images (b, h, w, c) left to right."""
    return namespace(images).flip(images, axis=2)


def affine(images: Tensor, rotation: Tensor, shear: Tensor) -> Tensor:
    """Rotates counterclockwise and shears to the right about the center, with black outside.

    Args:
        images: float32 (b, h, w, c).
        rotation: float32 (b,), radians.
        shear: float32 (b,), radians by which verticals lean before the rotation.

    Returns:
        float32 (b, h, w, c), bilinearly interpolated.
    """
    np, (b, h, w, c) = namespace(images), shape(images)
    y, x = _centered(np, h)[:, None], _centered(np, w)
    cos, sin = _per_image(np.cos(rotation)), _per_image(np.sin(rotation))
    tan = _per_image(np.tan(shear))
    # The inverse map: with y pointing down, the inverse rotation is [[cos, -sin], [sin, cos]], and
    # the inverse shear moves x by tan · y.
    from_y = sin * x + cos * y
    from_x = cos * x - sin * y + tan * from_y
    # Frame the image with one black pixel, and take no sample from beyond that pixel's center:
    # everything out there is black.
    framed = np.pad(images, [[0, 0], [1, 1], [1, 1], [0, 0]])
    framed = np.reshape(framed, (b, (h + 2) * (w + 2), c))
    from_y, from_x = _within_frame(np, from_y, h), _within_frame(np, from_x, w)
    top, left = np.floor(from_y), np.floor(from_x)
    down, right = (from_y - top)[..., None], (from_x - left)[..., None]
    corner = cast(top, "int32") * (w + 2) + cast(left, "int32")

    def value(below, beside):
        return take_rows(framed, corner + below * (w + 2) + beside)

    upper = value(0, 0) * (1 - right) + value(0, 1) * right
    lower = value(1, 0) * (1 - right) + value(1, 1) * right
    return np.reshape(upper * (1 - down) + lower * down, (b, h, w, c))


def _centered(np, length):
    return np.arange(length, dtype=np.float32) - _float(length - 1) / 2


def _within_frame(np, centered, length):
    """Converts centered coordinates to the frame's indices, from 0 to just below length + 1."""
    length = _float(length)
    return np.clip(centered + (length + 1) / 2, 0.0, length + 1 - 1e-3)


def _float(length):
    """Returns a length as a float: Python's, or TensorFlow's where the length is a tensor."""
    return float(length) if isinstance(length, int) else cast(length, "float32")


def _luma(planes):
    return sum(weight * plane for weight, plane in zip(_LUMA, planes, strict=True))


def _blend(planes, factor, luma=0.0, mean=0.0):
    gray = _luma(planes)
    average = namespace(gray).mean(gray, axis=(1, 2), keepdims=True)
    offset = luma * gray + mean * average
    return [_saturate(factor * plane + offset) for plane in planes]


def _turn_hue(planes, shift):
    red, green, blue = planes
    np = namespace(red)
    greatest = np.maximum(np.maximum(red, green), blue)
    least = np.minimum(np.minimum(red, green), blue)
    chroma = greatest - least
    per_chroma = 1 / np.maximum(chroma, 1e-6)  # gray has no hue: any will do
    hue = np.where(
        greatest == red,
        (green - blue) * per_chroma,
        np.where(
            greatest == green, (blue - red) * per_chroma + 2.0, (red - green) * per_chroma + 4.0
        ),
    )
    hue += 6 * shift
    # On a circle of length 6, a channel is greatest within 1 of its own hue (red 0, green 2,
    # blue 4), least from 2 on, and linear in between. For the sum of any hue in -1..5 and shift in
    # -3..3, the distance on the circle is |3 - ||hue - own| - 3||.
    return [
        least + chroma * np.clip(2 - np.abs(3 - np.abs(np.abs(hue - own) - 3)), 0.0, 1.0)
        for own in (0.0, 2.0, 4.0)
    ]


def _on_planes(function, images):
    # Three contiguous planes are much faster than interleaved colors, and the transposes between
    # two operations cancel.
    np = namespace(images)
    stacked = np.transpose(images, (3, 0, 1, 2))
    planes = [stacked[channel] for channel in range(3)]
    return np.transpose(np.stack(function(planes)), (1, 2, 3, 0))


def gaussian_blur(images: Tensor, sigmas: Tensor, greatest_sigma: float) -> Tensor:
    """Blurs as Pillow's `GaussianBlur`: three box blurs per axis, of total variance σ².

    The boxes have a fractional radius, i.e. a partial weight at both ends, and each pass extends
    the image's border outward (Gwosdek et al., "Theoretical foundations of Gaussian convolution by
    extended box filtering", 2011).

    Args:
        images: float32 (b, h, w, c).
        sigmas: (b,) standard deviations in pixels, positive.
        greatest_sigma: upper bound of `sigmas`, known beforehand because shapes must be static.

    Returns:
        float32, the shape of `images`.
    """
    np = namespace(images)
    variance = np.square(sigmas) / 3
    whole = np.floor((np.sqrt(12 * variance + 1) - 1) / 2)
    part = (2 * whole + 1) * (whole * (whole + 1) - 3 * variance)
    radius = (whole + part / (6 * (variance - np.square(whole + 1))))[:, None]
    reach = 1 + int((math.sqrt(4 * greatest_sigma**2 + 1) - 1) / 2)
    distance = np.arange(reach + 1, dtype=np.float32)
    weights = np.clip(1 + radius - distance, 0.0, 1.0) / (1 + 2 * radius)
    for axis in (1, 1, 1, 2, 2, 2):
        images = _box_blur(images, weights[:, :, None, None, None], axis)
    return images


def _box_blur(images, weights, axis):
    np = namespace(images)
    reach = weights.shape[1] - 1

    def part(of, window):
        return of[:, window] if axis == 1 else of[:, :, window]

    first, last = part(images, slice(0, 1)), part(images, slice(-1, None))
    padded = np.concatenate([first] * reach + [images] + [last] * reach, axis)

    def shifted(by):
        return part(padded, slice(reach + by, by - reach or None))

    def blurred():
        pairs = [weights[:, k] * (shifted(-k) + shifted(k)) for k in range(1, reach + 1)]
        # Not `add_n`, nor a chain of sums, which TensorFlow rewrites to it: it adds in the order in
        # which memory becomes free, so two runs with the same seed would differ in the last bit.
        return np.sum(np.stack([weights[:, 0] * images, *pairs]), axis=0)

    return when(np.any(weights > 0), blurred, lambda: images)


def _saturate(images):
    return namespace(images).clip(images, 0.0, 255.0)


def _per_image(values):
    return values[:, None, None]
