"""The views: what they are made of, what they draw, and the layers they take."""

import keras
import keras_cv
import numpy as np
import pytest
import tensorflow as tf
from places import FIXTURES

from keras_bt import augmentations
from keras_bt.data import IMAGENET_MEAN, IMAGENET_STD


@pytest.fixture
def images():
    """16 times the same colorful image, (16, 32, 40, 3) uint8: all differences are the draws'."""
    fixture = np.load(FIXTURES / "augmentation.npz")
    return tf.tile(fixture["source"][None, 100:132, 60:100], (16, 1, 1, 1))


@pytest.mark.slow
def test_any_keras_layer_fits_into_a_view(images):
    noise = keras.layers.GaussianNoise(1.0)
    view = augmentations.View(
        [
            augmentations.RandomResizedCrop(24),
            keras_cv.layers.RandomCutout(0.3, 0.3),
            noise,
            tf.abs,
            augmentations.RandomFlip(),
        ]
    )
    seed = tf.constant([1, 2])
    for result in (
        view(images, seed),
        view(images),
        next(iter(tf.data.Dataset.from_tensors(images).map(lambda x: view(x, seed)))),
        view(images[0], seed)[None],
    ):
        assert result.dtype == tf.float32
        # A view is for training: the noise does not know unless it is told.
        assert len(np.unique(result[0])) > 1000


def test_the_same_layer_draws_differently_at_each_place(images):
    flips = [augmentations.RandomFlip(0.5), augmentations.RandomFlip(0.5)]
    once = augmentations.View(flips[:1])(images, seed=(1, 2)).numpy()
    twice = augmentations.View(flips)(images, seed=(1, 2)).numpy()
    # Twice the same draws would undo every flip.
    assert not np.array_equal(twice, images)
    assert not np.array_equal(twice, once)


def test_crop_and_rest_make_up_the_view(images):
    view, _ = augmentations.barlow_twins_views(24, jitter=0.5)
    seed = tf.constant([5, 6])
    expected = view(images, seed)
    assert view.crop is view.layers[0]
    cropped = view.crop({"images": images, "seed": seed})["images"]
    np.testing.assert_array_equal(view.rest(cropped, seed), expected)
    assert view.rest.crop is None
    assert view.rest.rest.layers == view.layers[1:]


def test_a_view_without_a_crop_is_all_rest(images):
    view = augmentations.View([augmentations.RandomFlip(), augmentations.RandomGrayscale(0.5)])
    assert view.crop is None
    np.testing.assert_array_equal(view.rest(images, (1, 2)), view(images, (1, 2)))


def test_the_two_views_draw_differently_and_only_b_is_solarized(images):
    view_a, view_b = augmentations.barlow_twins_views(24)
    seed = tf.constant([1, 2])
    crops = [view.crop({"images": images, "seed": seed})["images"] for view in (view_a, view_b)]
    assert (np.abs(crops[0] - crops[1]).mean(axis=(1, 2, 3)) > 1).all()
    flips = [
        view.layers[1]({"images": images, "seed": seed})["images"] for view in (view_a, view_b)
    ]
    assert not np.array_equal(*flips)

    # White stays white, or the solarization turns it black.
    white = np.full((2000, 1, 1, 3), 255, np.uint8)
    black = -np.array(IMAGENET_MEAN) / np.array(IMAGENET_STD)
    shares = []
    for view in (view_a, view_b):
        values = augmentations.View(view.layers[4:])(white, seed)[:, 0, 0]
        shares.append(np.isclose(values, black, atol=1e-3).all(axis=1).mean())
    assert shares[0] == 0
    assert shares[1] == pytest.approx(0.2, abs=0.03)
    assert [view.layers[4].probability for view in (view_a, view_b)] == [1.0, 0.1]


@pytest.mark.slow
def test_views_that_are_not_square_stretch_shapes_no_more_than_square_ones():
    wide, _ = augmentations.barlow_twins_views((24, 48), area=(0.25, 1.0))
    # Both coordinates of every pixel: their steps in the view are those of the crop.
    x, y = np.meshgrid(np.arange(200.0), np.arange(100.0))
    images = np.repeat(np.stack([x, y, y], axis=-1)[None], 300, axis=0)
    crops = wide.crop({"images": images, "seed": (1, 2)})["images"].numpy()
    across = crops[:, 12, 40, 0] - crops[:, 12, 8, 0]  # 32 pixels of the view, in those of images
    down = crops[:, 20, 24, 1] - crops[:, 4, 24, 1]  # 16
    stretch = (across / 32) / (down / 16)
    assert stretch.min() == pytest.approx(3 / 4, abs=0.05)
    assert stretch.max() == pytest.approx(4 / 3, abs=0.05)


def test_the_defaults_are_the_papers():
    for view in augmentations.barlow_twins_views(224):
        crop, flip, jitter, grayscale, blur, _, normalize = view.layers
        assert (crop.size, crop.area, crop.aspect) == ((224, 224), (0.08, 1.0), (3 / 4, 4 / 3))
        assert crop.interpolation == "bicubic"
        assert (flip.probability, jitter.probability, grayscale.probability) == (0.5, 0.8, 0.2)
        strengths = (jitter.brightness, jitter.contrast, jitter.saturation, jitter.hue)
        assert strengths == (0.4, 0.4, 0.2, 0.1)
        assert blur.sigma == (0.1, 2.0)
        assert (normalize.mean, normalize.std) == (IMAGENET_MEAN, IMAGENET_STD)
