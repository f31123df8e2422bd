"""The views of Barlow Twins (arXiv 2103.03230, section 3), and custom views.

The layers are in `layers`; what they compute is in `pixels` and `resampling`.
"""

import inspect
import re
from collections.abc import Callable, Iterable, Sequence

import tensorflow as tf

from keras_bt.augmentations.arrays import cast, shape
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
    checked_range,
    seeds_of_images,
)
from keras_bt.preprocessing import IMAGENET_MEAN, IMAGENET_STD, height_and_width
from keras_bt.randomness import uniform_each
from keras_bt.typing import Size, Tensor


class View:
    """A sequence of layers that makes one view of each image.

    Args:
        layers: any Keras or keras-cv layers, or functions of images. This package's layers draw
            from the seed of each image, differently at each place in the sequence. The others get
            only the images, as float32, and draw as they like: a view is only as reproducible as
            they are, and is made on the host.

    Example:
        >>> import keras_cv
        >>> view = View([RandomResizedCrop(32), keras_cv.layers.RandomCutout(0.3, 0.3)])
        >>> view(tf.zeros((8, 40, 50, 3)), seed=(0, 1)).shape
        TensorShape([8, 32, 32, 3])
    """

    def __init__(self, layers: Iterable[Callable[[Tensor], Tensor]]):
        self.layers = tuple(layers)
        self._first_place = 0

    @property
    def crop(self) -> RandomResizedCrop | None:
        """The first layer if it is a `RandomResizedCrop` (for one image of any size), or None."""
        first = self.layers[0] if self.layers else None
        return first if isinstance(first, RandomResizedCrop) else None

    @property
    def rest(self) -> "View":
        """A view of the layers after `crop`, for batches of images of one size.

        With the same seed, `crop` followed by `rest` draws what the whole view draws.
        """
        rest = View(self.layers[self.crop is not None :])
        rest._first_place = self._first_place + len(self.layers) - len(rest.layers)
        return rest

    @property
    def drawn(self) -> bool:
        """True if all layers are this package's: draws decide everything, XLA can compile it."""
        return all(isinstance(layer, ImageLayer) for layer in self.layers)

    def draw(
        self, seeds: Tensor, height: int | Tensor = 0, width: int | Tensor = 0
    ) -> dict[str, dict[str, Tensor]]:
        """Draws all that is random about the view of each image, in TensorFlow.

        Args:
            seeds: integers (b, 2), one for each image; the draws depend on nothing else.
            height: of the images in pixels, int or scalar tensor; only a crop asks for it.
            width: likewise.

        Returns:
            The draws of each layer, by its place and kind: tensors (b, ...) by name.

        Example:
            >>> _, view_b = barlow_twins_views(96)
            >>> draws = view_b.draw([[0, 1], [0, 2]], height=150, width=200)
            >>> sorted(draws)[:3], sorted(draws["1_flip"]), draws["0_resized_crop"]["box"].shape
            (['0_resized_crop', '1_flip', '2_color_jitter'], ['chosen'], TensorShape([2, 4]))
        """
        layers = [(p, layer) for p, layer in self._placed() if isinstance(layer, ImageLayer)]
        # All numbers at once: a hash of a few is not worth an operation.
        uniform = uniform_each(seeds, [n for place, layer in layers for n in layer.places(place)])
        draws, first = {}, 0
        for place, layer in layers:
            own = uniform[:, first : first + layer.number_of_draws]
            first += layer.number_of_draws
            if found := layer.numbers(own, height, width):
                draws[_name(place, layer)] = found
            if isinstance(layer, RandomResizedCrop):
                height, width = layer.size
        return draws

    def apply(self, images: Tensor, draws: dict[str, dict[str, Tensor]]) -> Tensor:
        """Makes the view that was drawn: deterministic, with static shapes.

        Args:
            images: in 0..255, (b, h, w, c), of any real dtype: an array of NumPy, TensorFlow or
                JAX. (Layers of other packages take what they can.)
            draws: those of `draw`, as arrays of the same library.

        Returns:
            float32 (b, h', w', c).
        """
        for place, layer in self._placed():
            if isinstance(layer, ImageLayer):
                layer.check_channels(images.shape[-1])
                images = layer.apply(images, draws.get(_name(place, layer), {}))
            else:
                images = _augment(layer, cast(images, "float32"))
        # Under mixed precision, layers of other packages return 16 bits.
        return cast(images, "float32")

    def __call__(self, images: Tensor, seed: Tensor | None = None) -> Tensor:
        """Makes the view.

        Args:
            images: in 0..255, (b, h, w, c) or (h, w, c), any real dtype.
            seed: integers (2,), or (b, 2) for one per image; None for draws that differ from call
                to call.

        Returns:
            float32 images, (b, h', w', c) or (h', w', c).
        """
        images = tf.convert_to_tensor(images)  # Keras accepts no mix of tensors and others
        seed = None if seed is None else tf.cast(seed, tf.int64)
        if seed is None:
            for layer in self.layers:
                ours = isinstance(layer, ImageLayer)
                images = layer(images) if ours else _augment(layer, cast(images, "float32"))
            return cast(images, "float32")
        if images.shape.rank == 4:
            _, height, width, _ = shape(images)
            seeds = seeds_of_images(seed, shape(images)[0])
            return self.apply(images, self.draw(seeds, height, width))
        if self.crop is not None:
            images = self.crop({"images": images, "seed": seed})["images"]
        height, width, _ = shape(images)
        draws = self.rest.draw(seed[None], height, width)
        return self.rest.apply(images[None], draws)[0]

    def _placed(self):
        return enumerate(self.layers, start=self._first_place)


def _name(place, layer):
    """Names a layer's draws, such as "2_color_jitter"."""
    words = re.findall("[A-Z][a-z]*", type(layer).__name__.removeprefix("Random"))
    return "_".join([str(place), *words]).lower()


def _augment(layer, images):
    # Keras layers such as GaussianNoise do nothing outside training.
    if "training" in inspect.signature(getattr(layer, "call", layer)).parameters:
        return layer(images, training=True)
    return layer(images)


def aspect_of_views(aspect: tuple[float, float], image_size: Size) -> tuple[float, float]:
    """Returns ratios of width to height that are given as multiples of that of the views.

    >>> aspect_of_views((0.5, 2.0), (64, 96))
    (0.75, 3.0)
    """
    height, width = height_and_width(image_size)
    least, greatest = checked_range("aspect", aspect, above=0)
    return least * (width / height), greatest * (width / height)


def barlow_twins_views(
    image_size: Size,
    *,
    n: int = 2,
    area: tuple[float, float] = (0.08, 1.0),
    aspect: tuple[float, float] = (3 / 4, 4 / 3),
    flip: float = 0.5,
    jitter: float = 0.8,
    brightness: float = 0.4,
    contrast: float = 0.4,
    saturation: float = 0.2,
    hue: float = 0.1,
    grayscale: float = 0.2,
    blur: tuple[float, float] = (1.0, 0.1),
    blur_sigma: tuple[float, float] = (0.1, 2.0),
    solarize: tuple[float, float] = (0.0, 0.2),
    rotation: float = 0.0,
    shear: float = 0.0,
    mean: Sequence[float] = IMAGENET_MEAN,
    std: Sequence[float] = IMAGENET_STD,
) -> tuple[View, ...]:
    """Makes the two views of Barlow Twins, by default the paper's, or more of them.

    They differ in blur and solarization, and draw differently from the same seed. Images of other
    than three channels need `mean` and `std` of their own, `grayscale=0`, and `jitter=0` or no
    contrast, saturation and hue.

    Args:
        image_size: (height, width) of the views in pixels, or one int for both.
        n: number of views; a third has the settings of A, a fourth those of B, and so on.
        area: (least, greatest) fraction of the image that a crop takes.
        aspect: (least, greatest) ratio of a crop's width to its height, as a multiple of that of
            the views: shapes are stretched by no more than this, whatever `image_size` is.
            (torchvision's, and `RandomResizedCrop`'s, is that of the crop alone.)
        flip: probability of a left-right flip.
        jitter: probability of the color jitter.
        brightness: strength in the jitter; factors are in 1 ± strength, likewise the next two.
        contrast: strength in the jitter.
        saturation: strength in the jitter.
        hue: greatest shift in the jitter, 0..0.5 of the hue circle.
        grayscale: probability of removing color.
        blur: probabilities in view A and in view B.
        blur_sigma: (least, greatest) standard deviation of the blur in pixels.
        solarize: probabilities in view A and in view B.
        rotation: greatest angle either way, in degrees; none in the paper.
        shear: greatest angle either way, in degrees; none in the paper.
        mean: of the values of each channel in 0..1, for the final normalization.
        std: likewise.

    Returns:
        View A, view B and those that follow.

    Raises:
        ValueError: An argument is outside its range.

    Example:
        >>> view_a, view_b = barlow_twins_views(96)
        >>> view_a(tf.zeros((150, 200, 3), tf.uint8), seed=(0, 1)).shape
        TensorShape([96, 96, 3])
    """
    if n < 1:
        raise ValueError(f"n must be at least 1. Received: n={n}.")
    for name, pair in {"blur": blur, "solarize": solarize}.items():
        if not isinstance(pair, (tuple, list)) or len(pair) != 2:
            raise ValueError(
                f"{name} must be two probabilities, for view A and view B. Received: {name}={pair}."
            )

    def view(which):
        affine = [RandomAffine(rotation, shear, salt=which)] if rotation or shear else []
        return View(
            [
                RandomResizedCrop(
                    image_size, area, aspect_of_views(aspect, image_size), salt=which
                ),
                *affine,
                RandomFlip(flip, salt=which),
                RandomColorJitter(brightness, contrast, saturation, hue, jitter, salt=which),
                RandomGrayscale(grayscale, salt=which),
                RandomGaussianBlur(blur_sigma, blur[which % 2], salt=which),
                RandomSolarize(128, solarize[which % 2], salt=which),
                Normalize(mean, std),
            ]
        )

    return tuple(map(view, range(n)))
