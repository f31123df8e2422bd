"""The operations of the views as batched keras-cv layers, each that of torchvision on floats.

What that means for single pixels is in docs/pytorch.md. Each layer is two things: `draw`, a few
random numbers for every image, and `apply`, which changes pixels as they say. A call does one after
the other. `draw` is a function of seeds, one for each image, and of the layer's `salt`, and runs in
TensorFlow, such as in `tf.data`. `apply` is deterministic, has static shapes, and takes arrays of
NumPy, TensorFlow or JAX. Between layers, images are float32 in 0..255, whatever the global dtype
policy.

A layer called takes an image (h, w, c), a batch (b, h, w, c), or a dict of either: given
`{"images": x, "seed": s}` with integers s of shape (2,) for all, or (b, 2), one for each image, the
result depends on these alone. Without "seed" a layer draws one itself and is an ordinary layer of
any keras-cv pipeline.

keras-cv's own layers of these names compute something different (additive brightness, contrast
about each channel's mean, a fixed order, no antialiasing, zero padding around a blur), hence these.
"""

import math
from collections.abc import Sequence
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from keras_bt import preprocessing
from keras_bt.augmentations import pixels, resampling
from keras_bt.augmentations.arrays import cast, choose, namespace, when
from keras_bt.augmentations.keras_cv_base import VectorizedBaseImageAugmentationLayer
from keras_bt.preprocessing import height_and_width
from keras_bt.randomness import between, fold_in_each, uniform_each
from keras_bt.typing import Size, Tensor

# Of each salt and place in a view: its draws lie apart from those of the others.
_MOST_PLACES, _MOST_DRAWS = 1024, 64
_serializable = keras.saving.register_keras_serializable(package="keras_bt")


class ImageLayer(VectorizedBaseImageAugmentationLayer):
    """Base class of the layers, which handles shapes, dtype and seeds.

    Subclasses define `apply`; if they draw, `number_of_draws` and `numbers` as well.
    """

    arguments: tuple[str, ...] = ("seed", "salt")  # the constructor's, for `get_config`
    moves_pixels = False  # if True, boxes and masks would have to move too

    def __init__(self, *, seed: int | None = None, salt: int = 0, **kwargs: Any):
        # keras-cv treats seed 0 as no seed, and without a seed it asks for the global generator,
        # which fails under op determinism. So this layer keeps its own generator.
        super().__init__(seed=1, **{"dtype": "float32", **kwargs})
        self.seed, self.salt = seed, salt
        own = None if seed is None else tf.random.Generator.from_seed(seed, alg="philox")
        self._random_generator = own

    def draw(
        self, seeds: Tensor, height: int | Tensor = 0, width: int | Tensor = 0
    ) -> dict[str, Tensor]:
        """Draws what `apply` does to each image.

        Args:
            seeds: integers (b, 2), one for each image.
            height: of the images in pixels, int or scalar tensor; only a crop asks for it.
            width: likewise.

        Returns:
            Tensors (b, ...) by name; none from a layer that leaves nothing to chance.
        """
        return self.numbers(uniform_each(seeds, self.places()), height, width)

    @property
    def number_of_draws(self) -> int:
        """How many uniform numbers `numbers` takes for an image."""
        return 0

    def places(self, place: int = 0) -> list[int]:
        """Returns where in the sequence of a seed this layer's draws are.

        Args:
            place: of the layer in a view; at each the same layer draws differently.
        """
        first = (self.salt * _MOST_PLACES + place) * _MOST_DRAWS
        return list(range(first, first + self.number_of_draws))

    def numbers(
        self, uniform: Tensor, height: int | Tensor, width: int | Tensor
    ) -> dict[str, Tensor]:
        """Returns the draws that `draw` describes, given uniform numbers (b, number_of_draws)."""
        return {}

    def apply(self, images: Tensor, draws: dict[str, Tensor]) -> Tensor:
        """Changes images as was drawn for them.

        Args:
            images: (b, h, w, c) in 0..255, of any real dtype, an array of NumPy, TensorFlow or JAX.
            draws: what `draw` returned for them, as arrays of the same library.

        Returns:
            float32 (b, h', w', c).
        """
        raise NotImplementedError

    def call(self, inputs: Tensor | dict[str, Tensor]) -> Tensor | dict[str, Tensor]:
        """Augments images, or the "images" of a dict, whose other entries it keeps."""
        if not isinstance(inputs, dict):
            return self.call({"images": inputs})["images"]
        images = self._checked(inputs)
        augment = self._augment_batch if images.shape.rank == 4 else self._augment_one
        return {**inputs, "images": augment(images, inputs.get("seed"))}

    def _augment_batch(self, images, seed):
        b, h, w, _ = tf.unstack(tf.shape(images))
        return self.apply(images, self.draw(seeds_of_images(self._given(seed), b), h, w))

    def _augment_one(self, image, seed):
        seeds = tf.reshape(self._given(seed), [1, 2])
        return self.apply(image[None], self.draw(seeds, *image.shape[:2]))[0]

    def _checked(self, inputs):
        moving = {"bounding_boxes", "keypoints", "segmentation_masks"} & inputs.keys()
        if self.moves_pixels and moving:
            raise ValueError(
                f"{type(self).__name__} moves pixels and accepts no boxes, keypoints or masks, "
                f"which would stay behind. Received: {sorted(moving)}."
            )
        images = inputs["images"]
        if not isinstance(images, tf.RaggedTensor):
            images = tf.convert_to_tensor(images)
            if images.shape.rank in (3, 4) and images.shape[-1] is not None:
                self.check_channels(images.shape[-1])
                return images
        raise ValueError(
            f"{type(self).__name__} needs images of shape (h, w, c), or (b, h, w, c) all of one "
            f"size. Received: {type(images).__name__} of shape {images.shape}."
        )

    def check_channels(self, channels: int) -> None:
        """Raises ValueError if the layer cannot change images of so many channels."""
        return  # AutoGraph does not take a function without a statement

    def _given(self, seed):
        """Returns the given seed, or one drawn now."""
        if seed is not None:
            return tf.cast(seed, tf.int64)
        own = self._random_generator
        if own is None:
            return tf.random.uniform([2], maxval=tf.int64.max, dtype=tf.int64)
        return own.uniform_full_int([2], dtype=tf.int64)

    def get_config(self) -> dict[str, Any]:
        """Returns the constructor's arguments."""
        return super().get_config() | {name: getattr(self, name) for name in self.arguments}


class _ChosenImages(ImageLayer):
    """A layer that transforms each image of a batch independently with a given probability.

    Subclasses define `_numbers(uniform)`, which makes named draws of `more_draws` uniform numbers
    (b, more_draws), and `_transform(images, draws)`; and set `costly` to skip batches in which no
    image is chosen.
    """

    arguments = (*ImageLayer.arguments, "probability")
    more_draws = 0
    costly = False

    def __init__(self, probability, **kwargs):
        super().__init__(**kwargs)
        if not 0 <= probability <= 1:
            raise ValueError(f"probability must be in 0..1. Received: probability={probability}.")
        self.probability = probability

    @property
    def number_of_draws(self) -> int:
        """One for which images to transform, and those that say how."""
        return 0 if self.probability == 0 else 1 + self.more_draws

    def numbers(
        self, uniform: Tensor, height: int | Tensor, width: int | Tensor
    ) -> dict[str, Tensor]:
        """Returns which images to transform, "chosen" (all if it is missing), and how."""
        if self.probability == 0:
            return {}
        chosen = {} if self.probability == 1 else {"chosen": uniform[:, 0] < self.probability}
        return {**chosen, **self._numbers(uniform[:, 1:])}

    def apply(self, images: Tensor, draws: dict[str, Tensor]) -> Tensor:
        """Transforms the images that were chosen."""
        images = cast(images, "float32")
        if self.probability == 0:
            return images
        if "chosen" not in draws:
            return self._transform(images, draws)
        chosen = draws["chosen"]

        def mixed():
            return choose(chosen, self._transform(images, draws), images)

        if not self.costly:
            return mixed()
        return when(namespace(chosen).any(chosen), mixed, lambda: images)

    def _numbers(self, uniform):
        return {}

    def _transform(self, images, draws):
        raise NotImplementedError


@_serializable
class RandomResizedCrop(ImageLayer):
    """A random part of the image, resized with antialiasing: torchvision's `RandomResizedCrop`.

    Takes one image of any size and reads only the crop (for `tf.data`; the crop has no static
    shape, which XLA needs), or a batch of images of one size (static shapes).

    Args:
        size: (height, width) of the result in pixels, or one int for both.
        area: (least, greatest) fraction of the image's area.
        aspect: (least, greatest) ratio of width to height, drawn log-uniformly.
        interpolation: "bicubic" or "bilinear".
        seed: int or None; seeds the draws of calls that bring no seed.
        salt: int that sets this layer's draws apart from another's with the same seed.
        **kwargs: `name` and the like.

    Raises:
        ValueError: An argument is outside its range.

    Example:
        >>> crop = RandomResizedCrop(8, area=(0.25, 1.0))
        >>> crop(images).shape   # of (12, 16, 16, 3)
        TensorShape([12, 8, 8, 3])
        >>> first, second = (crop({"images": images, "seed": [0, 1]})["images"] for _ in range(2))
        >>> bool(tf.reduce_all(first == second))
        True
    """

    arguments = (*ImageLayer.arguments, "size", "area", "aspect", "interpolation")
    moves_pixels = True

    def __init__(
        self,
        size: Size,
        area: tuple[float, float] = (0.08, 1.0),
        aspect: tuple[float, float] = (3 / 4, 4 / 3),
        interpolation: str = "bicubic",
        **kwargs: Any,
    ):
        super().__init__(**kwargs)
        self.size = height_and_width(size)
        self.area = checked_range("area", area, above=0, up_to=1)
        self.aspect = checked_range("aspect", aspect, above=0)
        if interpolation not in ("bicubic", "bilinear"):
            raise ValueError(
                'interpolation must be "bicubic" or "bilinear". '
                f"Received: interpolation={interpolation!r}."
            )
        self.interpolation = interpolation

    @property
    def number_of_draws(self) -> int:
        """Those of a crop's box."""
        return resampling.BOX_DRAWS

    def numbers(
        self, uniform: Tensor, height: int | Tensor, width: int | Tensor
    ) -> dict[str, Tensor]:
        """Returns "box", int32 (b, 4): top, left, height and width in pixels."""
        return {"box": resampling.crop_boxes(uniform, height, width, self.area, self.aspect)}

    def apply(self, images: Tensor, draws: dict[str, Tensor]) -> Tensor:
        """Cuts the boxes out and resizes them."""
        return resampling.crop_and_resize(images, draws["box"], self.size, self.interpolation)

    def _augment_one(self, image, seed):
        rows, columns, _ = tf.unstack(tf.shape(image))
        seeds = tf.reshape(self._given(seed), [1, 2])
        top, left, height, width = tf.unstack(self.draw(seeds, rows, columns)["box"][0])
        crop = image[top : top + height, left : left + width]
        return resampling.resize(crop, self.size, self.interpolation)


@_serializable
class RandomFlip(_ChosenImages):
    """A random flip, left to right.

    Args:
        probability: of flipping an image.
        **kwargs: `seed`, `salt` (see `RandomResizedCrop`), `name` and the like; likewise below.
    """

    moves_pixels = True

    def __init__(self, probability: float = 0.5, **kwargs: Any):
        super().__init__(probability, **kwargs)

    def _transform(self, images, draws):
        return pixels.flip(images)


@_serializable
class RandomAffine(_ChosenImages):
    """A random rotation and shear about the image's center, bilinear, with black outside.

    Not one of the paper's operations: photographs do not need it, handwriting does.

    Args:
        rotation: r ≥ 0, in degrees; the angle is uniform in [-r, r].
        shear: 0 ≤ s < 90, in degrees; verticals lean by an angle uniform in [-s, s].
        probability: of transforming an image.
        **kwargs: see `RandomFlip`.

    Raises:
        ValueError: An argument is outside its range.
    """

    arguments = (*_ChosenImages.arguments, "rotation", "shear")
    moves_pixels = True
    more_draws = 2
    costly = True

    def __init__(
        self, rotation: float = 0, shear: float = 0, probability: float = 1.0, **kwargs: Any
    ):
        super().__init__(probability, **kwargs)
        if not rotation >= 0 or not 0 <= shear < 90:
            raise ValueError(
                "rotation must be at least 0 degrees, and shear from 0 to less than 90. "
                f"Received: rotation={rotation}, shear={shear}."
            )
        self.rotation, self.shear = rotation, shear

    def _numbers(self, uniform):
        return {
            name: between((-greatest, greatest), uniform[:, column]) * (math.pi / 180)
            for column, (name, greatest) in enumerate(
                (("rotation", self.rotation), ("shear", self.shear))
            )
        }

    def _transform(self, images, draws):
        if self.rotation == self.shear == 0:
            return images
        return pixels.affine(images, draws["rotation"], draws["shear"])


@_serializable
class RandomColorJitter(_ChosenImages):
    """Random brightness, contrast, saturation and hue in random order: torchvision's `ColorJitter`.

    Brightness alone takes images of any number of channels, the others RGB.

    Args:
        brightness: b ≥ 0; the factor is uniform in [max(0, 1 - b), 1 + b].
        contrast: likewise.
        saturation: likewise.
        hue: h in 0..0.5; the shift is uniform in [-h, h], a fraction of the hue circle.
        probability: of transforming an image.
        **kwargs: see `RandomFlip`.

    Raises:
        ValueError: An argument is outside its range.
    """

    arguments = (*_ChosenImages.arguments, "brightness", "contrast", "saturation", "hue")
    more_draws = 8
    costly = True

    def __init__(
        self,
        brightness: float = 0,
        contrast: float = 0,
        saturation: float = 0,
        hue: float = 0,
        probability: float = 1.0,
        **kwargs: Any,
    ):
        super().__init__(probability, **kwargs)
        if not min(brightness, contrast, saturation) >= 0 or not 0 <= hue <= 0.5:
            raise ValueError(
                "brightness, contrast and saturation must not be negative, and hue must be in "
                "0..0.5. "
                f"Received: brightness={brightness}, contrast={contrast}, "
                f"saturation={saturation}, hue={hue}."
            )
        self.brightness, self.contrast, self.saturation = brightness, contrast, saturation
        self.hue = hue

    def check_channels(self, channels: int) -> None:
        """Refuses other than three channels, unless the layer does nothing about colors."""
        if self.probability and (self.contrast or self.saturation or self.hue):
            _check_rgb(self, channels)

    def _numbers(self, uniform):
        strengths = {
            "brightness": self.brightness,
            "contrast": self.contrast,
            "saturation": self.saturation,
        }
        factors = {
            name: between((max(0, 1 - strength), 1 + strength), uniform[:, column])
            for column, (name, strength) in enumerate(strengths.items())
        }
        return factors | {
            "hue": between((-self.hue, self.hue), uniform[:, 3]),
            "order": tf.argsort(uniform[:, 4:], axis=1),
        }

    def _transform(self, images, draws):
        if images.shape[-1] != 3:
            return pixels.brighten(images, draws["brightness"])
        return pixels.color_jitter(
            images,
            draws["brightness"],
            draws["contrast"],
            draws["saturation"],
            draws["hue"] if self.hue else None,  # without one, its passes are skipped
            draws["order"],
        )


@_serializable
class RandomGrayscale(_ChosenImages):
    """A random replacement of the three channels by their luma (ITU-R 601-2, Pillow's "L").

    Args:
        probability: of transforming an image.
        **kwargs: see `RandomFlip`.
    """

    def __init__(self, probability: float = 0.2, **kwargs: Any):
        super().__init__(probability, **kwargs)

    def check_channels(self, channels: int) -> None:
        """Refuses other than three channels, unless the layer does nothing about colors."""
        if self.probability:
            _check_rgb(self, channels)

    def _transform(self, images, draws):
        return pixels.grayscale(images)


@_serializable
class RandomGaussianBlur(_ChosenImages):
    """A random blur: Pillow's `GaussianBlur` with σ uniform in a range.

    Args:
        sigma: (least, greatest) standard deviation in pixels.
        probability: of blurring an image.
        **kwargs: see `RandomFlip`.

    Raises:
        ValueError: An argument is outside its range.
    """

    arguments = (*_ChosenImages.arguments, "sigma")
    more_draws = 1
    costly = True

    def __init__(
        self, sigma: tuple[float, float] = (0.1, 2.0), probability: float = 1.0, **kwargs: Any
    ):
        super().__init__(probability, **kwargs)
        self.sigma = checked_range("sigma", sigma, above=0)

    def _numbers(self, uniform):
        return {"sigma": between(self.sigma, uniform[:, 0])}

    def _transform(self, images, draws):
        return pixels.gaussian_blur(images, draws["sigma"], greatest_sigma=self.sigma[1])


@_serializable
class RandomSolarize(_ChosenImages):
    """A random inversion of every value at or above a threshold.

    Args:
        threshold: in 0..255.
        probability: of transforming an image.
        **kwargs: see `RandomFlip`.

    Raises:
        ValueError: An argument is outside its range.

    Example:
        >>> RandomSolarize(128)(np.array([[[0, 127, 128], [200, 254, 255]]])).numpy()
        array([[[  0., 127., 127.],
                [ 55.,   1.,   0.]]], dtype=float32)
    """

    arguments = (*_ChosenImages.arguments, "threshold")

    def __init__(self, threshold: float = 128, probability: float = 1.0, **kwargs: Any):
        super().__init__(probability, **kwargs)
        if not 0 <= threshold <= 255:
            raise ValueError(f"threshold must be in 0..255. Received: threshold={threshold}.")
        self.threshold = threshold

    def _transform(self, images, draws):
        return pixels.solarize(images, self.threshold)


@_serializable
class Normalize(ImageLayer):
    """The last layer of a view: (x / 255 - mean) / std.

    Args:
        mean: of the values of each channel in 0..1, such as red, green and blue.
        std: likewise, positive.
        **kwargs: see `RandomFlip`; this layer draws nothing.

    Raises:
        ValueError: The two are not equally many numbers, or a deviation is not positive; or, when
            called, images have another number of channels.
    """

    arguments = (*ImageLayer.arguments, "mean", "std")

    def __init__(self, mean: Sequence[float], std: Sequence[float], **kwargs: Any):
        super().__init__(**kwargs)
        self.mean, self.std = tuple(map(float, mean)), tuple(map(float, std))
        if not len(self.mean) == len(self.std) > 0 or min(self.std) <= 0:
            raise ValueError(
                "mean and std must be a number per channel each, and std positive. "
                f"Received: mean={mean}, std={std}."
            )

    def check_channels(self, channels: int) -> None:
        """Refuses another number of channels than that of `mean` and `std`."""
        preprocessing.check_channels(channels, self.mean, self.std)

    def apply(self, images: Tensor, draws: dict[str, Tensor]) -> Tensor:
        """Normalizes the images; nothing is drawn for it."""
        # One multiplication and one addition, with constants computed in Python's float64.
        scale = np.array([1 / (255 * std) for std in self.std], np.float32)
        offset = np.array(
            [-mean / std for mean, std in zip(self.mean, self.std, strict=True)], np.float32
        )
        return cast(images, "float32") * scale + offset


def seeds_of_images(seed: Tensor, count: int | Tensor) -> Tensor:
    """Returns a seed for each of `count` images, int64 (count, 2), given one for all or for each.

    Raises:
        ValueError: if the shape of `seed` is neither (2,) nor (count, 2).
    """
    seed = tf.cast(seed, tf.int64)
    if seed.shape.is_compatible_with((2,)) and seed.shape.rank == 1:
        return fold_in_each(tf.tile(seed[None], [count, 1]), tf.range(count))
    if seed.shape.rank == 2 and seed.shape.is_compatible_with((None, 2)):
        return seed
    raise ValueError(
        f"A seed must have shape (2,), or (b, 2) for one per image. Received: shape {seed.shape}."
    )


def _check_rgb(layer, channels):
    if channels != 3:
        raise ValueError(
            f"{type(layer).__name__} needs RGB images: give it probability 0 for others. "
            f"Received: images of {channels} channels."
        )


def checked_range(
    name: str, pair: tuple[float, float], above: float, up_to: float = float("inf")
) -> tuple[float, float]:
    """Returns an argument `(least, greatest)` as a tuple.

    Raises:
        ValueError: if it is none, least ≤ above, or greatest > up_to.
    """
    is_pair = isinstance(pair, (tuple, list)) and len(pair) == 2
    if not is_pair or not above < pair[0] <= pair[1] <= up_to:
        bound = f" <= {up_to}" if up_to < float("inf") else ""
        raise ValueError(
            f"{name} must be (least, greatest) with {above} < least <= greatest{bound}. "
            f"Received: {name}={pair}."
        )
    least, greatest = pair
    return least, greatest
