"""The same draws make the same pixels, whichever library computes them."""

import numpy as np
import pytest
import tensorflow as tf
from places import FIXTURES

from keras_bt import augmentations, preprocessing
from keras_bt.augmentations import pixels, resampling

SEEDS = [(3, image) for image in range(12)]
SCALE = 255 * np.array(preprocessing.IMAGENET_STD)  # from normalized values to gray levels
FIXTURE = dict(np.load(FIXTURES / "augmentation.npz"))


@pytest.fixture(scope="module")
def images():
    """Twelve different cuts of a photograph, uint8 (12, 60, 80, 3)."""
    source = FIXTURE["source"]
    return np.stack([source[12 * i : 12 * i + 60, 15 * i : 15 * i + 80] for i in range(12)])


@pytest.fixture(scope="module")
def view():
    """All operations, each of which some images have and others do not."""
    _, view_b = augmentations.barlow_twins_views(
        48, blur=(1.0, 0.6), solarize=(0.0, 0.4), rotation=15, shear=10
    )
    return view_b


def tensorflow(apply, *arrays):
    return tf.function(apply)(*tf.nest.map_structure(tf.constant, arrays))


def in_a_dataset(apply, *arrays):
    return next(iter(tf.data.Dataset.from_tensors(arrays).map(apply)))


def xla(apply, *arrays):
    return tf.function(apply, jit_compile=True)(*tf.nest.map_structure(tf.constant, arrays))


def jax(apply, *arrays):
    jax = pytest.importorskip("jax", reason="JAX is not installed")
    return jax.jit(apply)(*jax.tree.map(jax.numpy.asarray, arrays))


@pytest.fixture(scope="module")
def drawn(view, images):
    """The draws of a view of each image, and the views that NumPy makes of them."""
    draws = tf.nest.map_structure(np.asarray, view.draw(SEEDS, 60, 80))
    return draws, view.apply(images, draws)


@pytest.mark.slow
@pytest.mark.parametrize("library", [tensorflow, in_a_dataset, xla, jax])
def test_a_whole_view_is_the_same(view, images, drawn, library):
    draws, expected = drawn
    assert expected.dtype == np.float32
    assert expected.shape == (12, 48, 48, 3)
    made = np.asarray(library(view.apply, images, draws))
    assert made.dtype == np.float32
    levels = np.abs(made - expected) * SCALE
    assert levels.max() <= 1
    assert levels.mean() <= 1e-5 * 255


@pytest.mark.slow
@pytest.mark.parametrize("library", [xla, jax])
def test_pixels_are_the_reference_s(library):
    """One image with the factors that torchvision and Pillow were given, see the fixture.

    Those of TensorFlow's graphs: see test_pixels.py and test_resampling.py.
    """
    image = FIXTURE["image"][None].astype(np.float32)
    box = next(key for key in FIXTURE if "bicubic" in key and FIXTURE[key].size)
    size = FIXTURE[box].shape[:2]

    def crop(source, boxes):
        return resampling.crop_and_resize(source, boxes, size)

    def jitter(images, brightness, contrast, saturation, hue, order):
        return pixels.color_jitter(images, brightness, contrast, saturation, hue, order)

    factors = [np.float32([factor]) for factor in (1.3, 0.7, 1.15, -0.07)]
    name = "jitter_saturation1.15_brightness1.3_hue-0.07_contrast0.7"
    boxes = FIXTURE[f"{box.rpartition('/')[0]}/box"][None].astype(np.int32)
    for key, largest, function, *arrays in (
        (box, 2, crop, FIXTURE["source"][None], boxes),
        (name, 9, jitter, image, *factors, np.int32([[2, 0, 3, 1]])),
        ("blur/1.5", 2.5, lambda x, s: pixels.gaussian_blur(x, s, 2.0), image, np.float32([1.5])),
        ("grayscale", 2, pixels.grayscale, image),
    ):
        made = np.asarray(library(function, *arrays))[0]
        difference = np.abs(made - FIXTURE[key].astype(np.float32))
        assert difference.max() <= largest, key
        assert difference.mean() <= 1.5, key
        np.testing.assert_allclose(made, function(*arrays)[0], atol=1)


def test_bfloat16_goes_in(view, images):
    draws = view.draw(SEEDS, 60, 80)
    made = view.apply(tf.cast(images, tf.bfloat16), draws)
    rounded = np.asarray(tf.cast(tf.cast(images, tf.bfloat16), tf.float32))
    np.testing.assert_array_equal(made, view.apply(tf.constant(rounded), draws))
