"""The operations of the views as keras-cv layers, batched, each the reference's to the pixel.

Between layers images are float32 RGB in 0..255, whatever the global dtype policy. Every layer
takes images (h, w, 3) or a batch (b, h, w, 3), or a dict of them: given `{"images": x, "seed": s}`
with an integer tensor s of shape (2,), the result depends on x, s and the layer's `salt` alone,
and each image of a batch gets draws of its own. Without "seed" a layer draws one for itself, and
is an ordinary layer of any keras-cv pipeline.

keras-cv's own layers of these names compute something else (additive brightness, contrast about
each channel's mean, a fixed order, no antialiasing, zeros around a blur), hence these.
"""

import math

import keras
import tensorflow as tf
from keras_cv.layers import VectorizedBaseImageAugmentationLayer

from keras_bt.augmentations import pixels, resampling
from keras_bt.randomness import between, fold_in, uniform

_serializable = keras.saving.register_keras_serializable(package="keras_bt")


class ImageLayer(VectorizedBaseImageAugmentationLayer):
    """What the layers have in common: shapes, dtype and where the seed comes from."""

    arguments = ("seed", "salt")  # of the constructor, for `get_config`
    moves_pixels = False  # where True, boxes and masks would have to move along

    def __init__(self, *, seed=None, salt=0, **kwargs):
        # keras-cv takes seed 0 for no seed at all, and without a seed it asks for a global
        # generator, which fails under op determinism: this layer keeps a generator of its own.
        super().__init__(seed=1, **{"dtype": "float32", **kwargs})
        self.seed, self.salt = seed, salt
        own = None if seed is None else tf.random.Generator.from_seed(seed, alg="philox")
        self._random_generator = own

    def call(self, inputs):
        """Augments images or a dict of them, and keeps what else is in the dict."""
        if not isinstance(inputs, dict):
            return self.call({"images": inputs})["images"]
        images = self._checked(inputs)
        augment = self._augment_batch if images.shape.rank == 4 else self._augment_one
        return {**inputs, "images": augment(images, inputs.get("seed"))}

    def _augment_batch(self, images, seed):
        images = tf.cast(images, tf.float32)
        transformations = self.get_random_transformation_batch(
            tf.shape(images)[0], images=images, seed=seed
        )
        return self.augment_images(images, transformations)

    def _augment_one(self, image, seed):
        return self._augment_batch(image[None], seed)[0]

    def _checked(self, inputs):
        moving = {"bounding_boxes", "keypoints", "segmentation_masks"} & inputs.keys()
        if self.moves_pixels and moving:
            raise ValueError(
                f"{type(self).__name__} moves pixels and takes no boxes, keypoints or masks, which "
                f"would stay behind. Received: {sorted(moving)}."
            )
        images = inputs["images"]
        if not isinstance(images, tf.RaggedTensor):
            images = tf.convert_to_tensor(images)
            if images.shape.rank in (3, 4) and images.shape[-1] == 3:
                return images
        raise ValueError(
            f"{type(self).__name__} needs RGB images of shape (h, w, 3), or (b, h, w, 3) all of "
            f"one size. Received: {type(images).__name__} of shape {images.shape}."
        )

    def _seed(self, seed):
        """The seed that was given, or else one drawn now, with the salt folded in."""
        if seed is None and self._random_generator is None:
            seed = tf.random.uniform([2], maxval=tf.int64.max, dtype=tf.int64)
        elif seed is None:
            seed = self._random_generator.uniform_full_int([2], dtype=tf.int64)
        seed = tf.cast(seed, tf.int64)
        if not seed.shape.is_compatible_with((2,)):
            raise ValueError(f"A seed must have the shape (2,). Received: shape {seed.shape}.")
        return fold_in(seed, self.salt)

    def get_config(self):
        """Returns the constructor's arguments."""
        return super().get_config() | {name: getattr(self, name) for name in self.arguments}


class _ChosenImages(ImageLayer):
    """A layer that transforms each image with a probability of its own.

    Subclasses define `_transform(images, draws)`, where `draws` (b, number_of_draws) is uniform
    in [0, 1), and say in `costly` whether to skip batches in which no image is chosen.
    """

    arguments = (*ImageLayer.arguments, "probability")
    number_of_draws = 0
    costly = False

    def __init__(self, probability, **kwargs):
        super().__init__(**kwargs)
        if not 0 <= probability <= 1:
            raise ValueError(f"probability must be in 0..1. Received: probability={probability}.")
        self.probability = probability

    def _augment_batch(self, images, seed):
        if self.probability == 0:
            return tf.cast(images, tf.float32)
        return super()._augment_batch(images, seed)

    def get_random_transformation_batch(self, batch_size, images=None, seed=None, **kwargs):
        """Draws which images are chosen and what `_transform` needs."""
        shape = (batch_size, 1 + self.number_of_draws)
        draws = uniform(self._seed(seed), shape)
        return {"chosen": draws[:, 0] < self.probability, "draws": draws[:, 1:]}

    def augment_images(self, images, transformations, **kwargs):
        """Transforms the images chosen."""
        chosen, draws = transformations["chosen"], transformations["draws"]
        if self.probability == 1:
            return self._transform(images, draws)

        def mixed():
            # Version 1 of `where` takes one condition per image, and then copies whole images.
            return tf.compat.v1.where(chosen, self._transform(images, draws), images)

        return tf.cond(tf.reduce_any(chosen), mixed, lambda: images) if self.costly else mixed()


@_serializable
class RandomResizedCrop(ImageLayer):
    """A random part of the image, resized with antialiasing: torchvision's `RandomResizedCrop`.

    Takes one image of any size, of which only the crop is touched (for `tf.data`; its crop has no
    static shape, which XLA needs), or a batch of one size (static shapes).

    Args:
        size: int, or (height, width), of the result in pixels.
        area: (least, greatest) part of the image's area.
        aspect: (least, greatest) ratio of width to height, drawn log-uniformly.
        interpolation: "bicubic" or "bilinear".
        seed: int or None, of the draws made when a call brings no seed.
        salt: int that sets this layer's draws apart from another's with the same seed.
        **kwargs: `name` and the like.

    Raises:
        ValueError: An argument is outside its range.
    """

    arguments = (*ImageLayer.arguments, "size", "area", "aspect", "interpolation")
    moves_pixels = True

    def __init__(
        self, size, area=(0.08, 1.0), aspect=(3 / 4, 4 / 3), interpolation="bicubic", **kwargs
    ):
        super().__init__(**kwargs)
        self.size = (size, size) if isinstance(size, int) else tuple(size)
        if len(self.size) != 2 or min(self.size) < 1:
            raise ValueError(f"size must be one or two positive ints. Received: size={size}.")
        self.area = _checked_range("area", area, above=0, up_to=1)
        self.aspect = _checked_range("aspect", aspect, above=0)
        if interpolation not in ("bicubic", "bilinear"):
            raise ValueError(
                'interpolation must be "bicubic" or "bilinear". '
                f"Received: interpolation={interpolation!r}."
            )
        self.interpolation = interpolation

    def get_random_transformation_batch(self, batch_size, images=None, seed=None, **kwargs):
        """Draws the boxes, int32 (b, 4)."""
        height, width = tf.shape(images)[1], tf.shape(images)[2]
        return resampling.random_crop_boxes(
            self._seed(seed), batch_size, height, width, self.area, self.aspect
        )

    def augment_images(self, images, transformations, **kwargs):
        """Cuts and resizes."""
        return resampling.crop_and_resize(images, transformations, self.size, self.interpolation)

    def _augment_one(self, image, seed):
        box = self.get_random_transformation_batch(1, images=image[None], seed=seed)
        top, left, height, width = tf.unstack(box[0])
        crop = image[top : top + height, left : left + width]
        return resampling.resize(crop, self.size, self.interpolation)


@_serializable
class RandomFlip(_ChosenImages):
    """Mirrors images left to right.

    Args:
        probability: of each image.
        **kwargs: `seed`, `salt` (see `RandomResizedCrop`), `name` and the like; likewise below.
    """

    moves_pixels = True

    def __init__(self, probability=0.5, **kwargs):
        super().__init__(probability, **kwargs)

    def _transform(self, images, draws):
        return tf.reverse(images, axis=[2])


@_serializable
class RandomAffine(_ChosenImages):
    """Turns and slants images about their center, bilinearly, with black around.

    Not among the paper's operations, for photographs do not need it; handwriting does.

    Args:
        rotation: r ≥ 0, in degrees; the angle is uniform in [-r, r].
        shear: s in 0..89, in degrees; verticals are slanted by an angle uniform in [-s, s].
        probability: of each image.
        **kwargs: see `RandomFlip`.

    Raises:
        ValueError: An argument is outside its range.
    """

    arguments = (*_ChosenImages.arguments, "rotation", "shear")
    moves_pixels = True
    number_of_draws = 2
    costly = True

    def __init__(self, rotation=0, shear=0, probability=1.0, **kwargs):
        super().__init__(probability, **kwargs)
        if not rotation >= 0 or not 0 <= shear < 90:
            raise ValueError(
                "rotation must be at least 0 degrees, and shear from 0 to less than 90. "
                f"Received: rotation={rotation}, shear={shear}."
            )
        self.rotation, self.shear = rotation, shear

    def _transform(self, images, draws):
        if self.rotation == self.shear == 0:
            return images
        rotation, shear = (
            between((-greatest, greatest), draws[:, i]) * (math.pi / 180)
            for i, greatest in enumerate((self.rotation, self.shear))
        )
        return pixels.affine(images, rotation, shear)


@_serializable
class RandomColorJitter(_ChosenImages):
    """Brightness, contrast, saturation and hue, in a random order: torchvision's `ColorJitter`.

    Args:
        brightness: b ≥ 0; the factor is uniform in [max(0, 1 - b), 1 + b].
        contrast: likewise.
        saturation: likewise.
        hue: h in 0..0.5; the shift is uniform in [-h, h] of the circle.
        probability: of each image.
        **kwargs: see `RandomFlip`.

    Raises:
        ValueError: An argument is outside its range.
    """

    arguments = (*_ChosenImages.arguments, "brightness", "contrast", "saturation", "hue")
    number_of_draws = 8
    costly = True

    def __init__(self, brightness=0, contrast=0, saturation=0, hue=0, probability=1.0, **kwargs):
        super().__init__(probability, **kwargs)
        if not min(brightness, contrast, saturation) >= 0 or not 0 <= hue <= 0.5:
            raise ValueError(
                "brightness, contrast and saturation must not be negative, and hue in 0..0.5. "
                f"Received: brightness={brightness}, contrast={contrast}, "
                f"saturation={saturation}, hue={hue}."
            )
        self.brightness, self.contrast, self.saturation = brightness, contrast, saturation
        self.hue = hue

    def _transform(self, images, draws):
        strengths = (self.brightness, self.contrast, self.saturation)
        factors = [
            between((max(0, 1 - strength), 1 + strength), draws[:, column])
            for column, strength in enumerate(strengths)
        ]
        # With no change of hue its passes over the images are left out.
        hue = between((-self.hue, self.hue), draws[:, 3]) if self.hue else None
        order = tf.argsort(draws[:, 4:], axis=1)
        return pixels.color_jitter(images, *factors, hue, order)


@_serializable
class RandomGrayscale(_ChosenImages):
    """Replaces the three channels by their luma (ITU-R 601-2, as Pillow's "L").

    Args:
        probability: of each image.
        **kwargs: see `RandomFlip`.
    """

    def __init__(self, probability=0.2, **kwargs):
        super().__init__(probability, **kwargs)

    def _transform(self, images, draws):
        return pixels.grayscale(images)


@_serializable
class RandomGaussianBlur(_ChosenImages):
    """Blurs as Pillow's `GaussianBlur`, with σ uniform in a range.

    Args:
        sigma: (least, greatest) standard deviation in pixels.
        probability: of each image.
        **kwargs: see `RandomFlip`.

    Raises:
        ValueError: An argument is outside its range.
    """

    arguments = (*_ChosenImages.arguments, "sigma")
    number_of_draws = 1
    costly = True

    def __init__(self, sigma=(0.1, 2.0), probability=1.0, **kwargs):
        super().__init__(probability, **kwargs)
        self.sigma = _checked_range("sigma", sigma, above=0)

    def _transform(self, images, draws):
        sigmas = between(self.sigma, draws[:, 0])
        return pixels.gaussian_blur(images, sigmas, greatest_sigma=self.sigma[1])


@_serializable
class RandomSolarize(_ChosenImages):
    """Inverts every value at or above a threshold.

    Args:
        threshold: in 0..255.
        probability: of each image.
        **kwargs: see `RandomFlip`.

    Raises:
        ValueError: An argument is outside its range.
    """

    arguments = (*_ChosenImages.arguments, "threshold")

    def __init__(self, threshold=128, probability=1.0, **kwargs):
        super().__init__(probability, **kwargs)
        if not 0 <= threshold <= 255:
            raise ValueError(f"threshold must be in 0..255. Received: threshold={threshold}.")
        self.threshold = threshold

    def _transform(self, images, draws):
        return pixels.solarize(images, self.threshold)


@_serializable
class Normalize(ImageLayer):
    """(x / 255 - mean) / std, the last layer of a view.

    Args:
        mean: of the red, green and blue values in 0..1.
        std: likewise, positive.
        **kwargs: see `RandomFlip`; nothing is drawn here.

    Raises:
        ValueError: An argument is not three numbers, or a deviation is not positive.
    """

    arguments = (*ImageLayer.arguments, "mean", "std")

    def __init__(self, mean, std, **kwargs):
        super().__init__(**kwargs)
        self.mean, self.std = tuple(map(float, mean)), tuple(map(float, std))
        if len(self.mean) != 3 or len(self.std) != 3 or min(self.std) <= 0:
            raise ValueError(
                "mean and std must be three numbers each, and std positive. "
                f"Received: mean={mean}, std={std}."
            )

    def get_random_transformation_batch(self, batch_size, **kwargs):
        """Draws nothing."""
        return None

    def augment_images(self, images, transformations, **kwargs):
        """Shifts and scales the channels."""
        # One multiplication and one addition, with constants worked out in Python's float64.
        scale = [1 / (255 * std) for std in self.std]
        offset = [-mean / std for mean, std in zip(self.mean, self.std, strict=True)]
        return images * tf.constant(scale) + tf.constant(offset)


def _checked_range(name, pair, above, up_to=float("inf")):
    is_pair = isinstance(pair, (tuple, list)) and len(pair) == 2
    if not is_pair or not above < pair[0] <= pair[1] <= up_to:
        bound = f" <= {up_to}" if up_to < float("inf") else ""
        raise ValueError(
            f"{name} must be (least, greatest) with {above} < least <= greatest{bound}. "
            f"Received: {name}={pair}."
        )
    return tuple(pair)
