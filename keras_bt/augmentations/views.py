"""The two views of Barlow Twins (arXiv 2103.03230, section 3), and views of one's own.

The layers are in `layers`; what they compute is in `pixels` and `resampling`.
"""

import inspect

import tensorflow as tf

from keras_bt.augmentations.layers import (
    ImageLayer,
    Normalize,
    RandomAffine,
    RandomColorJitter,
    RandomFlip,
    RandomGaussianBlur,
    RandomGrayscale,
    RandomResizedCrop,
    RandomSolarize,
)
from keras_bt.preprocessing import IMAGENET_MEAN, IMAGENET_STD
from keras_bt.randomness import fold_in

__all__ = [
    "Normalize",
    "RandomAffine",
    "RandomColorJitter",
    "RandomFlip",
    "RandomGaussianBlur",
    "RandomGrayscale",
    "RandomResizedCrop",
    "RandomSolarize",
    "View",
    "barlow_twins_views",
]


class View:
    """A sequence of layers that makes one view of each image.

    ```python
    view = View([RandomResizedCrop(32), keras_cv.layers.RandomCutout(0.3, 0.3), RandomFlip()])
    view(tf.zeros((8, 40, 50, 3)), seed=(0, 1)).shape  # (8, 32, 32, 3)
    ```

    Args:
        layers: any Keras or keras-cv layers, or functions of images. Those of this package draw
            from the seed of the call, differently at each place of the sequence. The others get
            the images alone, as float32, and draw as they like: a view is only as repeatable as
            they are.
    """

    def __init__(self, layers):
        self.layers = tuple(layers)
        self._first_place = 0

    @property
    def crop(self):
        """The first layer if it is a `RandomResizedCrop` (for one image of any size), or None."""
        is_crop = self.layers and isinstance(self.layers[0], RandomResizedCrop)
        return self.layers[0] if is_crop else None

    @property
    def rest(self):
        """A view of the layers after `crop`, for batches of images of one size.

        With one seed, `crop` and then `rest` draw what the whole view draws.
        """
        rest = View(self.layers[self.crop is not None :])
        rest._first_place = self._first_place + len(self.layers) - len(rest.layers)
        return rest

    @property
    def compilable(self):
        """Whether all layers are this package's, which XLA compiles; others may not let it."""
        return all(isinstance(layer, ImageLayer) for layer in self.layers)

    def __call__(self, images, seed=None):
        """Makes the view.

        Args:
            images: RGB in 0..255, (b, h, w, 3) or (h, w, 3), any real dtype.
            seed: integer tensor of shape (2,), or None for draws that differ from call to call.

        Returns:
            float32 images, (b, h', w', 3) or (h', w', 3).
        """
        images = tf.convert_to_tensor(images)  # Keras takes no mixture of tensors and others
        seed = None if seed is None else tf.convert_to_tensor(seed)
        for place, layer in enumerate(self.layers, start=self._first_place):
            if not isinstance(layer, ImageLayer):
                images = _augment(layer, tf.cast(images, tf.float32))
            elif seed is None:
                images = layer(images)
            else:
                # The first place keeps the seed itself, so that `crop` alone draws the same.
                place_seed = fold_in(seed, place) if place else seed
                images = layer({"images": images, "seed": place_seed})["images"]
        # Under mixed precision the layers of others return 16 bits.
        return tf.cast(images, tf.float32)


def _augment(layer, images):
    # Keras layers such as GaussianNoise do nothing unless told that this is training.
    if "training" in inspect.signature(getattr(layer, "call", layer)).parameters:
        return layer(images, training=True)
    return layer(images)


def barlow_twins_views(
    image_size,
    *,
    area=(0.08, 1.0),
    aspect=(3 / 4, 4 / 3),
    flip=0.5,
    jitter=0.8,
    brightness=0.4,
    contrast=0.4,
    saturation=0.2,
    hue=0.1,
    grayscale=0.2,
    blur=(1.0, 0.1),
    blur_sigma=(0.1, 2.0),
    solarize=(0.0, 0.2),
    rotation=0.0,
    shear=0.0,
    mean=IMAGENET_MEAN,
    std=IMAGENET_STD,
):
    """The two views of Barlow Twins, which differ in blur and solarization; the paper's by default.

    With the same seed the two draw differently.

    ```python
    view_a, view_b = barlow_twins_views(224)
    view_a(tf.zeros((300, 400, 3), tf.uint8), seed=(0, 1)).shape  # (224, 224, 3)
    ```

    Args:
        image_size: int, or (height, width), of the views in pixels.
        area: (least, greatest) part of the image that a crop takes.
        aspect: (least, greatest) ratio of a crop's width to its height.
        flip: probability of mirroring left to right.
        jitter: probability of the color jitter.
        brightness: strength in the jitter; factors are in 1 ± strength, likewise the next two.
        contrast: strength in the jitter.
        saturation: strength in the jitter.
        hue: greatest shift in the jitter, 0..0.5 of the color circle.
        grayscale: probability of losing the colors.
        blur: probabilities in view A and in view B.
        blur_sigma: (least, greatest) standard deviation of the blur in pixels.
        solarize: probabilities in view A and in view B.
        rotation: greatest turn either way, in degrees; none in the paper.
        shear: greatest slant either way, in degrees; none in the paper.
        mean: of the red, green and blue values in 0..1, for the final normalization.
        std: likewise.

    Returns:
        Two `View`s.

    Raises:
        ValueError: An argument is outside its range.
    """
    for name, pair in {"blur": blur, "solarize": solarize}.items():
        if not isinstance(pair, (tuple, list)) or len(pair) != 2:
            raise ValueError(
                f"{name} must be two probabilities, of view A and view B. Received: {name}={pair}."
            )

    def view(which):
        affine = [RandomAffine(rotation, shear, salt=which)] if rotation or shear else []
        return View(
            [
                RandomResizedCrop(image_size, area, aspect, salt=which),
                *affine,
                RandomFlip(flip, salt=which),
                RandomColorJitter(brightness, contrast, saturation, hue, jitter, salt=which),
                RandomGrayscale(grayscale, salt=which),
                RandomGaussianBlur(blur_sigma, blur[which], salt=which),
                RandomSolarize(128, solarize[which], salt=which),
                Normalize(mean, std),
            ]
        )

    return view(0), view(1)
