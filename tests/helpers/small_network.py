"""A backbone and views that TensorFlow traces in a moment, for runs that do not test theirs.

A ResNet-18 of the same width takes ten seconds more, every time that a run starts, and views with
all layers take two.
"""

import functools
from unittest import mock

import keras

from keras_bt import augmentations

# The random crop remains, so that every step, image and seed still has views of its own.
_LAYERS = ("rotation", "shear", "flip", "jitter", "grayscale")
_LAYERS += ("blur_a", "blur_b", "solarize_a", "solarize_b")
PLAIN_SETTINGS = dict.fromkeys(_LAYERS, 0.0)
PLAIN_VIEWS = [f"--{name}=0" for name in _LAYERS]


def save(path, side=8, shape=None):
    """Writes it as a `.keras` file, and returns the flag to use it.

    It takes images of `side` pixels, or of a shape (h, w, c).

    Without the kinks of a ReLU, so that rounding errors stay small over several steps.
    """
    keras.utils.set_random_seed(0)
    layers = [
        keras.layers.Input(shape or (side, side, 3)),
        keras.layers.Conv2D(16, 3, strides=2, use_bias=False),
        keras.layers.BatchNormalization(momentum=0.9),
        keras.layers.Activation("softplus"),
        keras.layers.GlobalAveragePooling2D(),
    ]
    keras.Sequential(layers).save(path)
    return f"--backbone={path}"


def plain_views():
    """A context in which `barlow_twins_views` has layers of colors that do nothing."""
    views, never = augmentations.barlow_twins_views, (0.0, 0.0)
    chances = {"jitter": 0, "grayscale": 0, "blur": never, "solarize": never}
    plain = functools.partial(views, **chances)
    return mock.patch.object(augmentations, "barlow_twins_views", plain)
